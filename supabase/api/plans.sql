-- Plans: the limits that their users share, and what a paid month grants.

-- A plan as everybody sees it.
create function api.plan_shown(p gateway.plans)
returns jsonb language sql immutable as $$
  select to_jsonb(p) - array['created_at']
$$;

-- The plans that are offered, the cheapest first.
create function api.plans()
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(api.plan_shown(p) order by p.monthly_price_cents, p.id), '[]') from gateway.plans p where p.is_active
$$;
grant execute on function api.plans to gateway_billing, service_role;

-- One plan, offered or not; raises 404.
create function api.plan(plan_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare p gateway.plans;
begin
  select * into p from gateway.plans x where x.id = plan.plan_id;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "plan_id"}';
  end if;
  return api.plan_shown(p);
end $$;
grant execute on function api.plan to gateway_billing, service_role;

-- A user's plan, the default one when he has none, and what of its days' and months' limits is used.
create function api.plan_of(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select api.plan_shown(p) || jsonb_build_object(
    'status', case when a.id is null then 'default' else a.status end, 'started_at', a.started_at, 'ends_at', a.ends_at,
    'usage', jsonb_build_object(
      'stored_bytes', coalesce((select s.bytes from gateway.storage s where s.user_id = plan_of.user_id), 0),
      'requests_today', case when b.day = (clock_timestamp() at time zone 'utc')::date then b.day_requests else 0 end,
      'tokens_today', case when b.day = (clock_timestamp() at time zone 'utc')::date then b.day_tokens else 0 end,
      'requests_this_month', case when b.month = date_trunc('month', clock_timestamp() at time zone 'utc')::date then b.month_requests else 0 end,
      'tokens_this_month', case when b.month = date_trunc('month', clock_timestamp() at time zone 'utc')::date then b.month_tokens else 0 end))
    from (select) as one
    left join gateway.user_plans a on a.user_id = plan_of.user_id and a.status = 'active'
                                  and (a.ends_at is null or a.ends_at > clock_timestamp())
    left join gateway.rate_limit_buckets b on b.scope = 'user' and b.id = plan_of.user_id
    join gateway.plans p on p.id = coalesce(a.plan_id, (select d.id from gateway.plans d where d.is_default))
$$;
grant execute on function api.plan_of to gateway_billing, service_role;

-- Makes a plan, or changes what is given of one (`plan_id`). Returns it; raises 404, and 409 for a name that is taken. Audited.
create function api.save_plan(plan_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.plans; p gateway.plans;
begin
  actor := api.confirm(actor, null);
  perform pg_advisory_xact_lock(hashtextextended('plans', 0));
  select * into p from gateway.plans x where x.id = save_plan.plan_id for update;
  was := p;
  if save_plan.plan_id is not null and not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  elsif exists (select from gateway.plans x where x.name = changes ->> 'name' and x.id is distinct from save_plan.plan_id) then
    if save_plan.plan_id is null and api.was_done(actor, 'plan.saved', 'plan:' || (changes ->> 'name')) then
      return (select api.plan_shown(x) from gateway.plans x where x.name = changes ->> 'name');
    end if;
    raise exception using errcode = 'PT409', message = 'conflict', detail = '{"param": "name"}';
  end if;
  if was.id is null then
    insert into gateway.plans (name) values (changes ->> 'name') returning * into p;
  end if;
  p := jsonb_populate_record(p, changes);
  update gateway.plans x set
    name = p.name, plan_type = p.plan_type, description = p.description, features = p.features,
    requests_per_minute = p.requests_per_minute, tokens_per_minute = p.tokens_per_minute, concurrency = p.concurrency,
    monthly_price_cents = p.monthly_price_cents, allowance_nano = p.allowance_nano,
    daily_request_limit = p.daily_request_limit, monthly_request_limit = p.monthly_request_limit,
    daily_token_limit = p.daily_token_limit, monthly_token_limit = p.monthly_token_limit, stored_bytes = p.stored_bytes,
    is_active = p.is_active
   where x.id = p.id returning * into p;
  perform api.audit(actor, 'plan.saved', 'plan:' || p.name, null, case when was.id is not null then api.plan_shown(was) end,
                    api.plan_shown(p));
  return api.plan_shown(p);
end $$;
grant execute on function api.save_plan to gateway_admin, service_role;

-- Gives a user a plan until `ends_at`, for good when that is null; the one before ends. Again it changes nothing. The caller has
-- locked the user.
create function api.set_plan(user_id bigint, plan_id bigint, ends_at timestamptz, actor jsonb)
returns void language plpgsql as $$
declare was gateway.user_plans;
begin
  select * into was from gateway.user_plans a where a.user_id = set_plan.user_id and a.status = 'active';
  if (was.plan_id, was.ends_at) is not distinct from (set_plan.plan_id, set_plan.ends_at) then
    return;
  end if;
  update gateway.user_plans a set status = 'ended' where a.id = was.id;
  insert into gateway.user_plans (user_id, plan_id, ends_at) values (set_plan.user_id, set_plan.plan_id, set_plan.ends_at);
  perform api.audit(set_plan.actor, 'plan.assigned', 'user:' || set_plan.user_id, set_plan.user_id,
                    jsonb_build_object('plan_id', was.plan_id, 'ends_at', was.ends_at),
                    jsonb_build_object('plan_id', set_plan.plan_id, 'ends_at', set_plan.ends_at));
  insert into gateway.outbox (event, payload) values ('plan.assigned', jsonb_build_object(
    'user_id', set_plan.user_id, 'plan_id', set_plan.plan_id, 'ends_at', set_plan.ends_at));
end $$;

-- Ends a user's plan: from here on it is the default one. The caller has locked the user.
create function api.end_plan(user_id bigint, actor jsonb)
returns void language plpgsql as $$
declare was gateway.user_plans;
begin
  update gateway.user_plans a set status = 'ended' where a.user_id = end_plan.user_id and a.status = 'active' returning * into was;
  if found then
    perform api.audit(end_plan.actor, 'plan.ended', 'user:' || end_plan.user_id, end_plan.user_id,
                      jsonb_build_object('plan_id', was.plan_id), null);
  end if;
end $$;

-- Gives a user a plan, as an operator. Returns the user's plan; raises 404 for no such user or plan.
create function api.assign_plan(user_id bigint, plan_id bigint, ends_at timestamptz, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  actor := api.confirm(actor, user_id);
  perform from gateway.users u where u.id = assign_plan.user_id and u.status <> 'deleted' for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "user_id"}';
  end if;
  perform api.plan(assign_plan.plan_id), api.set_plan(assign_plan.user_id, assign_plan.plan_id, assign_plan.ends_at, assign_plan.actor);
  return api.plan_of(assign_plan.user_id);
end $$;
grant execute on function api.assign_plan to gateway_admin, service_role;
