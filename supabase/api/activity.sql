-- What an account did: requests, sums by day, and what was changed.

-- A user's requests, the newest first: those before (`before_at`, `before_id`), of a model, provider, key or time where these are told.
create function api.activity(user_id bigint, key_id bigint, model text, provider text, since timestamptz, until timestamptz,
                             before_at timestamptz, before_id uuid, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  select coalesce(jsonb_agg(to_jsonb(r) - array['user_id', 'upstream_cost_nano', 'upstream_id', 'attempts']
                            order by r.created_at desc, r.id desc), '[]')
    from (select * from gateway.usage_records x
           where x.user_id = activity.user_id and x.created_at >= activity.since and x.created_at < activity.until
             and (activity.before_at is null or (x.created_at, x.id) < (activity.before_at, activity.before_id))
             and (activity.key_id is null or x.key_id = activity.key_id)
             and (activity.model is null or x.model = activity.model)
             and (activity.provider is null or x.provider = activity.provider)
           order by x.created_at desc, x.id desc limit activity.most) r);
end $$;
grant execute on function api.activity to gateway_account, service_role;

-- What a user's keys used on each UTC day from `since` to `until`: as settle counted it, so with no delay.
create function api.activity_days(user_id bigint, since date, until date)
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(d) order by d.day desc), '[]')
    from (select u.day, sum(u.requests) as requests, sum(u.prompt_tokens) as prompt_tokens,
                 sum(u.completion_tokens) as completion_tokens, sum(u.cost_nano) as cost_nano, sum(u.byok_nano) as byok_nano
            from gateway.api_keys k join gateway.key_usage u on u.key_id = k.id
           where k.user_id = activity_days.user_id and u.day between activity_days.since and activity_days.until
           group by u.day) d
$$;
grant execute on function api.activity_days to gateway_account, service_role;

-- An audit entry as the account's owner may see it: an operator has no name there and no address.
create function api.entry_shown(a gateway.audit_logs, owner bigint)
returns jsonb language sql stable as $$
  select jsonb_build_object('id', a.id, 'action', a.action, 'resource', a.resource, 'before', a.before, 'after', a.after,
                            'key_id', case when a.actor_id = owner then a.key_id end, 'created_at', a.created_at,
                            'actor', case when a.actor_id = owner then 'you' when a.actor_id is null then 'gateway' else 'operator' end,
                            'ip', case when a.actor_id = owner then host(a.ip) end)
$$;

-- What was changed of a user's account and keys, the newest first: entries before `cursor`, of a key, an action or a time where
-- these are told.
create function api.audit_of(user_id bigint, key_id bigint, action text, since timestamptz, until timestamptz, cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  select coalesce(jsonb_agg(api.entry_shown(a, audit_of.user_id) order by a.id desc), '[]')
    from (select * from gateway.audit_logs x
           where x.user_id = audit_of.user_id and (audit_of.cursor is null or x.id < audit_of.cursor)
             and (audit_of.key_id is null or x.resource = 'key:' || audit_of.key_id)
             and (audit_of.action is null or x.action = audit_of.action)
             and (audit_of.since is null or x.created_at >= audit_of.since)
             and (audit_of.until is null or x.created_at < audit_of.until)
           order by x.id desc limit audit_of.most) a);
end $$;
grant execute on function api.audit_of to gateway_account, service_role;

-- A user's ledger, the newest first: entries before `cursor`, of a kind or time where these are told.
create function api.transactions(user_id bigint, kind text, since timestamptz, until timestamptz, cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  select coalesce(jsonb_agg(jsonb_build_object(
           'id', t.id, 'kind', t.kind, 'amount_nano', t.amount_nano, 'reference', t.reference, 'reason', t.reason,
           'created_at', t.created_at) order by t.id desc), '[]')
    from (select * from gateway.credit_transactions x
           where x.user_id = transactions.user_id and (transactions.cursor is null or x.id < transactions.cursor)
             and (transactions.kind is null or x.kind = transactions.kind)
             and (transactions.since is null or x.created_at >= transactions.since)
             and (transactions.until is null or x.created_at < transactions.until)
           order by x.id desc limit transactions.most) t);
end $$;
grant execute on function api.transactions to gateway_account, service_role;

-- One of a user's requests with all that the ledger has of it: {hold, record, entries}, `record` null while it runs or when it took
-- nothing; raises 404, for another user's as for none.
create function api.generation(hold_id uuid, user_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare h gateway.credit_holds;
begin
  select * into h from gateway.credit_holds x where x.id = generation.hold_id and x.user_id = generation.user_id;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "id"}';
  end if;
  return jsonb_build_object(
    'hold', to_jsonb(h) - array['user_id', 'idempotency_key', 'tokens'],
    -- a record is written when its hold ends, which says in which month it is
    'record', (select to_jsonb(r) - array['user_id', 'upstream_cost_nano'] from gateway.usage_records r
                where r.id = h.id and r.created_at between h.created_at - interval '1 minute' and coalesce(h.ended_at, now()) + interval '1 day'
                limit 1),
    'entries', (select coalesce(jsonb_agg(jsonb_build_object('id', t.id, 'kind', t.kind, 'amount_nano', t.amount_nano,
                                                             'reference', t.reference, 'created_at', t.created_at) order by t.id), '[]')
                  from gateway.credit_transactions t where t.kind = 'usage' and t.reference = h.id::text));
end $$;
grant execute on function api.generation to gateway_account, service_role;
