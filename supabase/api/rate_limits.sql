-- Requests and tokens per minute by GCRA (a leaky bucket as a meter), per user and per key; by UTC day and month per user, in the
-- same row.

-- What a UTC day may have, and a period (the month, or a trial) that began on the day `since` and ends at `until`: requests, then
-- tokens; null for no limit.
create type api.caps as (day_requests bigint, day_tokens bigint, month_requests bigint, month_tokens bigint, since date, until timestamptz);

-- Takes one request and `tokens` tokens from a bucket and says what is left; raises 429 and takes nothing when it is full.
-- A full bucket admits its whole limit at once and refills evenly: any t seconds admit at most limit * (1 + t / 60). A day or a month
-- whose tokens are not used up admits one more request, however long it is.
create function api.take(scope text, id bigint, requests_per_minute integer, tokens_per_minute bigint, tokens bigint, caps api.caps)
returns jsonb language plpgsql as $$
#variable_conflict use_column
declare
  minute constant interval := '1 minute';
  at constant timestamptz := clock_timestamp();
  today constant date := (at at time zone 'utc')::date;
  this_month constant date := coalesce((take.caps).since, date_trunc('month', today)::date);
  request_step constant interval := make_interval(secs => coalesce(60.0 / take.requests_per_minute, 0));
  -- more tokens than the limit are admitted when the bucket is empty, or they never would be
  token_step constant interval := make_interval(
    secs => coalesce(60.0 * least(take.tokens, take.tokens_per_minute) / take.tokens_per_minute, 0));
  requests_used interval;
  tokens_used interval;
begin
  insert into gateway.rate_limit_buckets as b (scope, id, requests_tat, tokens_tat, day, day_requests, day_tokens, month, month_requests,
                                               month_tokens)
  values (take.scope, take.id, at + request_step, at + token_step, today, 1, take.tokens, this_month, 1, take.tokens)
  on conflict (scope, id) do update
    set requests_tat = greatest(b.requests_tat, at) + request_step, tokens_tat = greatest(b.tokens_tat, at) + token_step,
        day = today, day_requests = case when b.day = today then b.day_requests else 0 end + 1,
        day_tokens = case when b.day = today then b.day_tokens else 0 end + take.tokens,
        month = this_month, month_requests = case when b.month = this_month then b.month_requests else 0 end + 1,
        month_tokens = case when b.month = this_month then b.month_tokens else 0 end + take.tokens
    where (take.caps is null or b.day <> today or ((b.day_requests < (take.caps).day_requests) is not false
                                                   and (b.day_tokens < (take.caps).day_tokens) is not false))
      and (take.caps is null or b.month <> this_month or ((b.month_requests < (take.caps).month_requests) is not false
                                                          and (b.month_tokens < (take.caps).month_tokens) is not false))
      and (take.requests_per_minute is null or greatest(b.requests_tat, at) + request_step <= at + minute)
      and (take.tokens_per_minute is null or greatest(b.tokens_tat, at) + token_step <= at + minute)
  returning b.requests_tat - at, b.tokens_tat - at into requests_used, tokens_used;
  if not found then
    perform api.refuse_plan(take.id, take.caps, today, this_month, at);
    perform api.refuse_rate(take.scope, take.id, take.requests_per_minute, take.tokens_per_minute, request_step, token_step, at);
  end if;
  return jsonb_build_object(
    'requests', api.level(take.requests_per_minute, requests_used), 'tokens', api.level(take.tokens_per_minute, tokens_used));
end $$;

-- Raises the 429 of a day or a month that is used up, with the time until the next one.
create function api.refuse_plan(user_id bigint, caps api.caps, today date, this_month date, at timestamptz)
returns void language plpgsql as $$
declare b gateway.rate_limit_buckets; used_up text; ends timestamptz;
begin
  select * into b from gateway.rate_limit_buckets x where x.scope = 'user' and x.id = refuse_plan.user_id;
  used_up := case when b.month = this_month and b.month_requests >= caps.month_requests then 'monthly_requests'
                  when b.month = this_month and b.month_tokens >= caps.month_tokens then 'monthly_tokens'
                  when b.day = today and b.day_requests >= caps.day_requests then 'daily_requests'
                  when b.day = today and b.day_tokens >= caps.day_tokens then 'daily_tokens' end;
  if used_up is not null then
    ends := case when used_up like 'monthly%' then caps.until else (today + 1)::timestamp at time zone 'utc' end;
    raise exception using errcode = 'PT429', message = 'plan_limit_exceeded', detail = jsonb_build_object(
      'scope', 'plan', 'limit', used_up, 'retry_after_ms', ceil(1000 * extract(epoch from ends - at)))::text;
  end if;
end $$;

-- Raises the 429 of a full bucket, with the true time after which the same request would pass.
create function api.refuse_rate(scope text, id bigint, requests_per_minute integer, tokens_per_minute bigint,
                                request_step interval, token_step interval, at timestamptz)
returns void language plpgsql as $$
declare wait interval; kind text;
begin
  select greatest(requests, tokens), case when requests >= tokens then 'requests' else 'tokens' end into wait, kind
    from (select case when refuse_rate.requests_per_minute is null then interval '0'
                      else b.requests_tat + request_step - at - interval '1 minute' end as requests,
                 case when refuse_rate.tokens_per_minute is null then interval '0'
                      else greatest(b.tokens_tat, at) + token_step - at - interval '1 minute' end as tokens
            from gateway.rate_limit_buckets b where b.scope = refuse_rate.scope and b.id = refuse_rate.id) waits;
  raise exception using errcode = 'PT429', message = 'rate_limit_exceeded', detail = jsonb_build_object(
    'scope', refuse_rate.scope, 'limit', kind,
    'retry_after_ms', ceil(1000 * greatest(extract(epoch from wait), 0.001)))::text;
end $$;

-- What a limit per minute has left once `used` of its minute is taken; null when there is no limit. Stable and not immutable,
-- because jsonb_build_object is stable: Postgres inlines no function that promises more than its body does.
create function api.level(per_minute bigint, used interval)
returns jsonb language sql stable as $$
  select case when per_minute is not null then jsonb_build_object(
    'limit', per_minute,
    'remaining', greatest(0, floor(round(per_minute * (1 - extract(epoch from used) / 60), 3))),
    'reset_ms', ceil(1000 * extract(epoch from used))) end
$$;

-- The limits of a user, and of a key where it has further ones: a row each, the user's first.
create function api.limits_of(user_id bigint, key_id bigint)
returns table (scope text, id bigint, requests_per_minute integer, tokens_per_minute bigint, concurrency integer, caps api.caps)
language sql stable rows 2 as $$
  select 'user', limits_of.user_id, coalesce(own.requests_per_minute, p.requests_per_minute),
         coalesce(own.tokens_per_minute, p.tokens_per_minute), coalesce(own.concurrency, p.concurrency),
         row(p.daily_request_limit, p.daily_token_limit, p.monthly_request_limit, p.monthly_token_limit,
             case p.plan_type when 'trial' then (a.started_at at time zone 'utc')::date else m.since end,
             case p.plan_type when 'trial' then a.ends_at else (m.since + interval '1 month') at time zone 'utc' end)::api.caps
    from (select date_trunc('month', clock_timestamp() at time zone 'utc')::date as since) m
    left join gateway.user_plans a on a.user_id = limits_of.user_id and a.status = 'active'
                                  and (a.ends_at is null or a.ends_at > clock_timestamp())
    join gateway.plans p on p.id = coalesce(a.plan_id, (select d.id from gateway.plans d where d.is_default))
    left join gateway.rate_limit_configs own on own.user_id = limits_of.user_id and own.key_id is null
                                            and (own.expires_at is null or own.expires_at > clock_timestamp())
  union all
  select 'key', limits_of.key_id, c.requests_per_minute, c.tokens_per_minute, c.concurrency, null
    from gateway.rate_limit_configs c where c.user_id = limits_of.user_id and c.key_id = limits_of.key_id
     and (c.expires_at is null or c.expires_at > clock_timestamp())
$$;

-- A user's limits, and those of each key that has further ones: {user, keys: [{key_id, …}]}.
create function api.rate_limits(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'user', (select to_jsonb(l) - array['scope', 'id', 'caps'] from api.limits_of(rate_limits.user_id, 0) l where l.scope = 'user'),
    'keys', coalesce((select jsonb_agg(to_jsonb(c) - array['id', 'user_id'] || jsonb_build_object('key_name', k.name) order by k.id)
                        from gateway.rate_limit_configs c join gateway.api_keys k on k.id = c.key_id
                       where c.user_id = rate_limits.user_id and k.status <> 'revoked'
                         and (c.expires_at is null or c.expires_at > clock_timestamp())), '[]'))
$$;
grant execute on function api.rate_limits to gateway_account, gateway_admin, service_role;

-- The limits under which a key of a user's is: {key_id, user, key}, `key` null where it has no further ones. Raises 404.
create function api.key_limits(key_id bigint, user_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  perform api.key_of(key_limits.key_id, key_limits.user_id);
  return jsonb_build_object('key_id', key_limits.key_id) || (
    select jsonb_build_object('user', null, 'key', null) || jsonb_object_agg(l.scope, to_jsonb(l) - array['scope', 'id', 'caps'])
      from api.limits_of(key_limits.user_id, key_limits.key_id) l);
end $$;
grant execute on function api.key_limits to gateway_account, service_role;

-- Sets a key's own limits: those that are given of {requests_per_minute, tokens_per_minute, concurrency}, null for none. Raises
-- 404, 403, and 400 for one above the user's own, or above what an operator set for the key.
create function api.limit_key(key_id bigint, user_id bigint, limits jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  actor := api.confirm(actor, user_id);
  return api.write_limits(api.lock_key(key_id, user_id), limits, actor);
end $$;
grant execute on function api.limit_key to gateway_account, service_role;

-- Writes a key's own limits, and returns those in force. The caller has confirmed the actor and locked the key.
create function api.write_limits(k gateway.api_keys, limits jsonb, actor jsonb)
returns jsonb language plpgsql as $$
declare was jsonb := api.key_limits(k.id, k.user_id);
  operators constant jsonb := (select to_jsonb(c) from gateway.rate_limit_configs c where c.key_id = k.id and c.is_operators
                                  and (c.expires_at is null or c.expires_at > clock_timestamp()));
  wanted constant jsonb := coalesce(nullif(was -> 'key', 'null'), '{}') || limits;
  name text;
begin
  perform api.refuse_own_change(k, actor), api.refuse_wider_key(k, actor);
  foreach name in array array['requests_per_minute', 'tokens_per_minute', 'concurrency'] loop
    if coalesce((wanted ->> name)::bigint, case when operators ->> name is not null then 'infinity' end::numeric)
       > least((was #>> array['user', name])::bigint, (operators ->> name)::bigint) then
      raise exception using errcode = 'PT400', message = 'invalid_request_error', detail = jsonb_build_object(
        'param', name, 'message', 'A key''s limit may not be above the account''s.')::text;
    end if;
  end loop;
  insert into gateway.rate_limit_configs as c (user_id, key_id, requests_per_minute, tokens_per_minute, concurrency)
  values (k.user_id, k.id, (wanted ->> 'requests_per_minute')::integer, (wanted ->> 'tokens_per_minute')::bigint,
          (wanted ->> 'concurrency')::integer)
  on conflict on constraint rate_limit_configs_user_id_key_id_key do update set
    requests_per_minute = excluded.requests_per_minute, tokens_per_minute = excluded.tokens_per_minute,
    concurrency = excluded.concurrency, is_operators = operators is not null,
    expires_at = case when operators is not null then c.expires_at end;
  if api.key_limits(k.id, k.user_id) is distinct from was then
    perform api.audit(actor, 'key.limited', 'key:' || k.id, k.user_id, was -> 'key', wanted);
  end if;
  return api.key_limits(k.id, k.user_id);
end $$;

-- Sets, as an operator, limits {requests_per_minute, tokens_per_minute, concurrency} in place of a user's plan's or, when a key
-- is named, what its owner cannot lift, until `expires_at`; null, or not told, is none of its own. Returns the limits in force
-- {user, key}. Raises 404.
create function api.set_limits(user_id bigint, key_id bigint, limits jsonb, expires_at timestamptz, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was jsonb; made gateway.rate_limit_configs;
begin
  -- what was used up of the limits before counts no more; buckets are locked before users
  delete from gateway.rate_limit_buckets b
   where (b.scope, b.id) = (case when set_limits.key_id is null then 'user' else 'key' end, coalesce(set_limits.key_id, set_limits.user_id));
  actor := api.confirm(actor, user_id);
  perform from gateway.users u where u.id = set_limits.user_id and u.status <> 'deleted' for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "user_id"}';
  end if;
  select to_jsonb(c) into was from gateway.rate_limit_configs c
   where c.user_id = set_limits.user_id and c.key_id is not distinct from set_limits.key_id;
  made := jsonb_populate_record(null::gateway.rate_limit_configs, set_limits.limits);
  if (made.requests_per_minute, made.tokens_per_minute, made.concurrency) is null then
    delete from gateway.rate_limit_configs c
     where c.user_id = set_limits.user_id and c.key_id is not distinct from set_limits.key_id;
  else
    insert into gateway.rate_limit_configs (user_id, key_id, requests_per_minute, tokens_per_minute, concurrency, expires_at, is_operators)
    values (set_limits.user_id, set_limits.key_id, made.requests_per_minute, made.tokens_per_minute, made.concurrency,
            set_limits.expires_at, true)
    on conflict on constraint rate_limit_configs_user_id_key_id_key do update set
      requests_per_minute = excluded.requests_per_minute, tokens_per_minute = excluded.tokens_per_minute,
      concurrency = excluded.concurrency, expires_at = excluded.expires_at, is_operators = true;
  end if;
  perform api.audit(actor, 'limits.set', coalesce('key:' || set_limits.key_id, 'user:' || set_limits.user_id), set_limits.user_id,
                    was - array['id', 'user_id', 'key_id'],
                    set_limits.limits || jsonb_build_object('expires_at', set_limits.expires_at));
  return (select jsonb_build_object('user', null, 'key', null) || jsonb_object_agg(l.scope, to_jsonb(l) - array['scope', 'id', 'caps'])
            from api.limits_of(set_limits.user_id, coalesce(set_limits.key_id, 0)) l);
end $$;
grant execute on function api.set_limits to gateway_admin, service_role;

-- Puts the tokens really used in place of those taken at admission, of which a limit took no more than itself. The caller
-- has locked the buckets; one that was made since and is locked by another is left alone: to wait for it could deadlock.
-- In plpgsql, which keeps its plans: a function in SQL that cannot be inlined is planned anew by each call before Postgres 18.
create function api.correct_tokens(user_id bigint, key_id bigint, taken bigint, used bigint)
returns void language plpgsql as $$
begin
  with mine as (
    select m.scope, m.id from gateway.rate_limit_buckets m
     where (m.scope = 'user' and m.id = correct_tokens.user_id) or (m.scope = 'key' and m.id = correct_tokens.key_id)
       for no key update skip locked
  )
  update gateway.rate_limit_buckets b
     set tokens_tat = case when l.tokens_per_minute is null then b.tokens_tat else b.tokens_tat + make_interval(secs =>
           60.0 * (correct_tokens.used - least(correct_tokens.taken, l.tokens_per_minute)) / l.tokens_per_minute) end,
         day_tokens = greatest(0, b.day_tokens + correct_tokens.used - correct_tokens.taken),
         month_tokens = greatest(0, b.month_tokens + correct_tokens.used - correct_tokens.taken)
    from mine join api.limits_of(correct_tokens.user_id, correct_tokens.key_id) l using (scope, id)
   where b.scope = mine.scope and b.id = mine.id and not (l.tokens_per_minute is null and l.caps is null);
end $$;

-- Takes from the user's bucket and then from the key's, after checking how many requests run at once (leases are holds
-- that have not expired, but for the caller's own when it asks again); returns the levels of the tighter one. Nothing is
-- served when limits cannot be evaluated.
create function api.admit(user_id bigint, key_id bigint, tokens bigint, hold_id uuid)
returns jsonb language plpgsql as $$
declare l record; running bigint; level jsonb; tightest jsonb;
begin
  for l in select * from api.limits_of(admit.user_id, admit.key_id) loop
    level := api.take(l.scope, l.id, l.requests_per_minute, l.tokens_per_minute, admit.tokens, l.caps);
    if tightest is null
       or (level #>> '{requests,remaining}')::numeric < coalesce((tightest #>> '{requests,remaining}')::numeric, 'infinity') then
      tightest := level;
    end if;
    if l.concurrency is not null then
      select count(*) into running from gateway.credit_holds h
       where h.user_id = admit.user_id and h.state = 'held' and h.expires_at > clock_timestamp()
         and (l.scope = 'user' or h.key_id = admit.key_id) and h.id <> admit.hold_id;
      if running >= l.concurrency then
        raise exception using errcode = 'PT429', message = 'concurrency_limit_exceeded',
          detail = jsonb_build_object('scope', l.scope, 'retry_after_ms', 1000)::text;
      end if;
    end if;
  end loop;
  if tightest is null then
    raise exception 'no plan gives this user limits' using errcode = 'P0001';
  end if;
  return tightest;
end $$;

-- Raises the 429 of a request that could not be admitted at this moment, and takes nothing: what it would read is then not read.
create function api.refuse_busy(user_id bigint, key_id bigint)
returns void language plpgsql stable as $$
declare l record; b gateway.rate_limit_buckets; at constant timestamptz := clock_timestamp(); step interval;
begin
  for l in select * from api.limits_of(refuse_busy.user_id, refuse_busy.key_id) loop
    select * into b from gateway.rate_limit_buckets x where x.scope = l.scope and x.id = l.id;
    step := make_interval(secs => coalesce(60.0 / l.requests_per_minute, 0));
    if (l.requests_per_minute is not null and greatest(b.requests_tat, at) + step > at + interval '1 minute')
       or (l.tokens_per_minute is not null and b.tokens_tat >= at + interval '1 minute') then
      perform api.refuse_rate(l.scope, l.id, l.requests_per_minute, l.tokens_per_minute, step, interval '0', at);
    elsif l.concurrency <= (select count(*) from gateway.credit_holds h
                             where h.user_id = refuse_busy.user_id and h.state = 'held' and h.expires_at > at
                               and (l.scope = 'user' or h.key_id = refuse_busy.key_id)) then
      raise exception using errcode = 'PT429', message = 'concurrency_limit_exceeded',
        detail = jsonb_build_object('scope', l.scope, 'retry_after_ms', 1000)::text;
    end if;
  end loop;
end $$;

-- The management requests (all that is no inference) that one key may make in a minute, and all keys of a user together. A key is
-- less than its user: a thief with one cannot keep its owner from ending it.
create function api.max_management(of_key boolean)
returns integer language sql immutable as $$ select case when of_key then 300 else 1200 end $$;

-- Takes one management request of a user's key; raises 429. The buckets are of their own: who lists keys completes all the same.
create function api.take_management(user_id bigint, key_id bigint)
returns void language plpgsql as $$
begin
  perform api.take('management', take_management.user_id, api.max_management(false), null, 0, null);
  perform api.take('management_key', take_management.key_id, api.max_management(true), null, 0, null);
end $$;
