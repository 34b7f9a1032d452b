-- Usage added up: by offer and hour, by key and day. Pages read these sums and never the records.

-- Which bucket of a histogram a time in milliseconds belongs to, from 1: bucket n holds 1.25^(n-1) up to 1.25^n, the first
-- what is less, too, the 64th (from 21 minutes on) all that is more.
create function api.bucket(ms bigint)
returns integer language sql immutable as $$
  select least(64, 1 + floor(round(ln(greatest(ms, 1)::numeric) / ln(1.25), 9)))::integer
$$;

-- The time in milliseconds that `share` of a histogram's values do not exceed; null when it is empty. The middle of a bucket
-- is told, so it is off by a factor of sqrt(1.25) at most: 12 %, for values from 1 ms to 21 minutes.
create function api.percentile(histogram bigint[], share numeric)
returns integer language sql immutable as $$
  select round(power(1.25, b.n - 0.5))::integer
    from (select h.n, sum(h.count) over (order by h.n) as reached, sum(h.count) over () as total
            from unnest(percentile.histogram) with ordinality h (count, n)) b
   where b.total > 0 and b.reached >= ceil(b.total * percentile.share) order by b.n limit 1
$$;

-- p50, p95 and p99 of a histogram, in milliseconds.
create function api.percentiles(histogram bigint[])
returns jsonb language sql immutable as $$
  select jsonb_build_object('p50_ms', api.percentile(percentiles.histogram, 0.5),
                            'p95_ms', api.percentile(percentiles.histogram, 0.95),
                            'p99_ms', api.percentile(percentiles.histogram, 0.99))
$$;

-- A histogram of times in milliseconds; nulls are not counted.
create function api.histogram(times integer[])
returns bigint[] language sql immutable as $$
  with counted as (select api.bucket(t) as n, count(*) as count from unnest(histogram.times) t where t is not null group by 1)
  select array(select coalesce(c.count, 0) from generate_series(1, (select max(n) from counted)) b left join counted c on c.n = b
                order by b)
$$;

-- Two histograms as one.
create function api.both(one bigint[], other bigint[])
returns bigint[] language sql immutable as $$
  select array(select coalesce(o.count, 0) + coalesce(p.count, 0)
                 from unnest(one) with ordinality o (count, n) full join unnest(other) with ordinality p (count, n) using (n)
                order by n)
$$;

-- Adds up at most `most` usage records that were not yet, each once, and returns {counted, is_done}. Why once: a record and
-- its place in the queue are written by one transaction, and taking it out and adding it up is one too, so either both
-- happened or neither. A record that is committed late, however late, comes into the queue with its commit; nothing is
-- concluded from clocks. Runs take turns by the row of rollups, and each reads the queue after its turn has come.
create function api.roll_up_usage(most integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare counted bigint; records gateway.usage_records[]; began timestamptz;
begin
  perform from gateway.rollups r where r.name = 'usage' for update;
  began := clock_timestamp();
  with taken as (
    delete from gateway.usage_uncounted q
     where q.ctid = any (array(select u.ctid from gateway.usage_uncounted u limit roll_up_usage.most))
    returning q.id, q.created_at
  )
  select count(*), array_agg(r::gateway.usage_records) filter (where r.id is not null) into counted, records
    from taken t left join lateral (
      select * from gateway.usage_records x where x.id = t.id and x.created_at = t.created_at limit 1) r on true;
  perform api.add_model_users(records), api.add_by_offer(records), api.add_by_key(records), api.add_errors(records), api.add_networks(records),
          api.note_spend(records);
  if counted < most then
    update gateway.rollups r set until = began where r.name = 'usage';
  end if;
  return jsonb_build_object('counted', counted, 'is_done', counted < most);
end $$;
grant execute on function api.roll_up_usage to gateway_jobs, service_role;

-- Whether a request's answer failed or broke off.
create function api.has_failed(record gateway.usage_records)
returns boolean language sql immutable as $$
  select record.outcome in ('failed', 'cut')
$$;

-- Adds records to their offers' hours.
create function api.add_by_offer(records gateway.usage_records[])
returns void language sql as $$
  insert into gateway.usage_by_offer as u (hour, model, provider, requests, errors, byok_requests, prompt_tokens,
    completion_tokens, cached_tokens, reasoning_tokens, cost_nano, upstream_cost_nano, durations, first_bytes)
  select date_trunc('hour', r.created_at, 'UTC'), r.model, r.provider, count(*), count(*) filter (where api.has_failed(r)),
         count(*) filter (where r.is_byok), sum(r.prompt_tokens), sum(r.completion_tokens), sum(r.cached_tokens),
         sum(r.reasoning_tokens), sum(r.cost_nano), coalesce(sum(r.upstream_cost_nano) filter (where not r.is_byok), 0),
         api.histogram(array_agg(r.duration_ms) filter (where r.outcome <> 'failed')), api.histogram(array_agg(r.first_byte_ms))
    from unnest(records) r group by 1, 2, 3 order by 1, 2, 3
  on conflict (hour, model, provider) do update set
    requests = u.requests + excluded.requests, errors = u.errors + excluded.errors,
    byok_requests = u.byok_requests + excluded.byok_requests, prompt_tokens = u.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = u.completion_tokens + excluded.completion_tokens,
    cached_tokens = u.cached_tokens + excluded.cached_tokens, reasoning_tokens = u.reasoning_tokens + excluded.reasoning_tokens,
    cost_nano = u.cost_nano + excluded.cost_nano, upstream_cost_nano = u.upstream_cost_nano + excluded.upstream_cost_nano,
    durations = api.both(u.durations, excluded.durations), first_bytes = api.both(u.first_bytes, excluded.first_bytes)
$$;

-- Adds records to their keys' UTC days.
create function api.add_by_key(records gateway.usage_records[])
returns void language sql as $$
  insert into gateway.usage_by_key as u (user_id, key_id, day, requests, errors, byok_requests, prompt_tokens,
    completion_tokens, cached_tokens, reasoning_tokens, cost_nano, upstream_cost_nano, durations, first_bytes)
  select r.user_id, r.key_id, (r.created_at at time zone 'utc')::date, count(*), count(*) filter (where api.has_failed(r)),
         count(*) filter (where r.is_byok), sum(r.prompt_tokens), sum(r.completion_tokens), sum(r.cached_tokens),
         sum(r.reasoning_tokens), sum(r.cost_nano), coalesce(sum(r.upstream_cost_nano) filter (where not r.is_byok), 0),
         api.histogram(array_agg(r.duration_ms) filter (where r.outcome <> 'failed')), api.histogram(array_agg(r.first_byte_ms))
    from unnest(records) r group by 1, 2, 3 order by 1, 2, 3
  on conflict (user_id, key_id, day) do update set
    requests = u.requests + excluded.requests, errors = u.errors + excluded.errors,
    byok_requests = u.byok_requests + excluded.byok_requests, prompt_tokens = u.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = u.completion_tokens + excluded.completion_tokens,
    cached_tokens = u.cached_tokens + excluded.cached_tokens, reasoning_tokens = u.reasoning_tokens + excluded.reasoning_tokens,
    cost_nano = u.cost_nano + excluded.cost_nano, upstream_cost_nano = u.upstream_cost_nano + excluded.upstream_cost_nano,
    durations = api.both(u.durations, excluded.durations), first_bytes = api.both(u.first_bytes, excluded.first_bytes)
$$;

-- Counts what failed: offers that were tried in vain, of requests that another one saved, too, and answers that broke off.
create function api.add_errors(records gateway.usage_records[])
returns void language sql as $$
  insert into gateway.usage_errors as e (hour, model, provider, error, count)
  select date_trunc('hour', r.created_at, 'UTC'), f.model, f.provider, f.error, count(*)
    from unnest(records) r cross join lateral (
      select coalesce(a ->> 'model', r.model), a ->> 'provider', a ->> 'error' from jsonb_array_elements(coalesce(r.attempts, '[]')) a
      union all
      -- the attempts of a request that failed end with its own failure
      select r.model, r.provider, coalesce(r.error, r.outcome)
       where r.outcome = 'cut' or (r.outcome = 'failed' and r.attempts is null)) f (model, provider, error)
   where f.provider is not null and f.error is not null
   group by 1, 2, 3, 4 order by 1, 2, 3, 4
  on conflict (hour, model, provider, error) do update set count = e.count + excluded.count
$$;

-- Remembers the networks that keys were used from.
create function api.add_networks(records gateway.usage_records[])
returns void language sql as $$
  insert into gateway.key_networks as n (key_id, network, first_seen, last_seen)
  select r.key_id, r.network, min(r.created_at), max(r.created_at)
    from unnest(records) r join gateway.api_keys k on k.id = r.key_id
   where masklen(r.network) > 0 group by 1, 2 order by 1, 2
  on conflict (key_id, network) do update
    set first_seen = least(n.first_seen, excluded.first_seen), last_seen = greatest(n.last_seen, excluded.last_seen)
$$;

-- The name of an offer's row in usage by `group_by`: its model, provider or UTC day.
create function api.usage_name(group_by text, model text, provider text, hour timestamptz)
returns text language sql stable as $$
  select case group_by when 'model' then model when 'provider' then provider when 'day' then (hour at time zone 'utc')::date::text end
$$;

-- Usage of the UTC days `first` to `last` by model, provider or day, of one model or provider where they are given: at most
-- `most` rows after the one named `cursor`, days the last first, and {totals} of all.
create function api.usage_of_offers(group_by text, first date, last date, model text, provider text, cursor text, most integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  with chosen as materialized (
    select u.*, api.usage_name(usage_of_offers.group_by, u.model, u.provider, u.hour) as name from gateway.usage_by_offer u
     where u.hour >= usage_of_offers.first::timestamp at time zone 'utc'
       and u.hour < (usage_of_offers.last + 1)::timestamp at time zone 'utc'
       and (usage_of_offers.model is null or u.model = usage_of_offers.model)
       and (usage_of_offers.provider is null or u.provider = usage_of_offers.provider)
  ), sums as (
    select c.name, grouping(c.name) = 1 as is_total,
           sum(c.requests) as requests, sum(c.errors) as errors, sum(c.byok_requests) as byok_requests,
           sum(c.prompt_tokens) as prompt_tokens, sum(c.completion_tokens) as completion_tokens,
           sum(c.cached_tokens) as cached_tokens, sum(c.reasoning_tokens) as reasoning_tokens,
           sum(c.cost_nano) as cost_nano, sum(c.upstream_cost_nano) as upstream_cost_nano
      from chosen c group by grouping sets ((c.name), ())
  ), page as (
    select row_number() over (order by case usage_of_offers.group_by when 'day' then s.name end desc, s.name) as place, s.*
      from sums s
     where not s.is_total and (usage_of_offers.cursor is null or case usage_of_offers.group_by
             when 'day' then s.name < usage_of_offers.cursor else s.name > usage_of_offers.cursor end)
     order by place limit usage_of_offers.most
  ), buckets as (
    select c.name, b.n, sum(b.duration)::bigint as duration, sum(b.first_byte)::bigint as first_byte
      from chosen c join page p using (name)
           cross join lateral unnest(c.durations, c.first_bytes) with ordinality b (duration, first_byte, n) group by 1, 2
  ), failures as (
    select f.name, jsonb_object_agg(f.error, f.count) as types from (
      select api.usage_name(usage_of_offers.group_by, e.model, e.provider, e.hour) as name, e.error, sum(e.count) as count
        from gateway.usage_errors e
       where e.hour >= usage_of_offers.first::timestamp at time zone 'utc'
         and e.hour < (usage_of_offers.last + 1)::timestamp at time zone 'utc'
         and (usage_of_offers.model is null or e.model = usage_of_offers.model)
         and (usage_of_offers.provider is null or e.provider = usage_of_offers.provider) group by 1, 2) f group by 1
  )
  select jsonb_build_object(
    'rows', coalesce((
      select jsonb_agg(to_jsonb(p) || jsonb_build_object(
               'error_types', coalesce((select f.types from failures f where f.name = p.name), '{}'),
               'latency', (select api.percentiles(array_agg(b.duration order by b.n)) from buckets b where b.name = p.name),
               'first_byte', (select api.percentiles(array_agg(b.first_byte order by b.n)) from buckets b where b.name = p.name))
               order by p.place) from page p), '[]'),
    'totals', (select to_jsonb(s) from sums s where s.is_total))
$$;
grant execute on function api.usage_of_offers to gateway_admin, service_role;

-- Usage of the UTC days `first` to `last` by user or key, of one user or key where they are given: at most `most` rows, the
-- highest id first, from below `cursor`, each with its label, and {totals} of all. The rows of a page are found by their ids
-- first, so that a page costs what its own rows do.
create function api.usage_of_customers(group_by text, first date, last date, user_id bigint, key_id bigint, cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  with ids as materialized (
    select u.id from gateway.users u
     where usage_of_customers.group_by = 'user' and (usage_of_customers.cursor is null or u.id < usage_of_customers.cursor)
       and (usage_of_customers.user_id is null or u.id = usage_of_customers.user_id)
       and exists (select from gateway.usage_by_key k
                    where k.user_id = u.id and k.day between usage_of_customers.first and usage_of_customers.last
                      and (usage_of_customers.key_id is null or k.key_id = usage_of_customers.key_id))
     order by u.id desc limit usage_of_customers.most
  ), key_ids as materialized (
    select a.id, a.user_id from gateway.api_keys a
     where usage_of_customers.group_by = 'key' and (usage_of_customers.cursor is null or a.id < usage_of_customers.cursor)
       and (usage_of_customers.user_id is null or a.user_id = usage_of_customers.user_id)
       and (usage_of_customers.key_id is null or a.id = usage_of_customers.key_id)
       and exists (select from gateway.usage_by_key k
                    where k.user_id = a.user_id and k.key_id = a.id and k.day between usage_of_customers.first and usage_of_customers.last)
     order by a.id desc limit usage_of_customers.most
  ), chosen as materialized (
    select i.id as name, k.* from ids i join gateway.usage_by_key k on k.user_id = i.id
     where k.day between usage_of_customers.first and usage_of_customers.last
       and (usage_of_customers.key_id is null or k.key_id = usage_of_customers.key_id)
    union all
    select i.id, k.* from key_ids i join gateway.usage_by_key k on k.user_id = i.user_id and k.key_id = i.id
     where k.day between usage_of_customers.first and usage_of_customers.last
  ), page as (
    select c.name,
           sum(c.requests) as requests, sum(c.errors) as errors, sum(c.byok_requests) as byok_requests,
           sum(c.prompt_tokens) as prompt_tokens, sum(c.completion_tokens) as completion_tokens,
           sum(c.cached_tokens) as cached_tokens, sum(c.reasoning_tokens) as reasoning_tokens,
           sum(c.cost_nano) as cost_nano, sum(c.upstream_cost_nano) as upstream_cost_nano
      from chosen c group by 1
  ), buckets as (
    select c.name, b.n, sum(b.duration)::bigint as duration, sum(b.first_byte)::bigint as first_byte
      from chosen c cross join lateral unnest(c.durations, c.first_bytes) with ordinality b (duration, first_byte, n) group by 1, 2
  ), counted as (
    select k.requests, k.errors, k.byok_requests, k.prompt_tokens, k.completion_tokens, k.cached_tokens, k.reasoning_tokens,
           k.cost_nano, k.upstream_cost_nano
      from gateway.usage_by_key k
     where (usage_of_customers.user_id is not null or usage_of_customers.key_id is not null)
       and k.day between usage_of_customers.first and usage_of_customers.last
       and k.user_id = coalesce(usage_of_customers.user_id,
                                (select a.user_id from gateway.api_keys a where a.id = usage_of_customers.key_id))
       and (usage_of_customers.key_id is null or k.key_id = usage_of_customers.key_id)
    union all -- all customers' sums are all offers', which are few
    select o.requests, o.errors, o.byok_requests, o.prompt_tokens, o.completion_tokens, o.cached_tokens, o.reasoning_tokens,
           o.cost_nano, o.upstream_cost_nano
      from gateway.usage_by_offer o
     where usage_of_customers.user_id is null and usage_of_customers.key_id is null
       and o.hour >= usage_of_customers.first::timestamp at time zone 'utc'
       and o.hour < (usage_of_customers.last + 1)::timestamp at time zone 'utc'
  ), totals as (
    select sum(c.requests) as requests, sum(c.errors) as errors, sum(c.byok_requests) as byok_requests,
           sum(c.prompt_tokens) as prompt_tokens, sum(c.completion_tokens) as completion_tokens,
           sum(c.cached_tokens) as cached_tokens, sum(c.reasoning_tokens) as reasoning_tokens,
           sum(c.cost_nano) as cost_nano, sum(c.upstream_cost_nano) as upstream_cost_nano
      from counted c
  )
  select jsonb_build_object(
    'rows', coalesce((
      select jsonb_agg(to_jsonb(p) || jsonb_build_object(
               'label', case usage_of_customers.group_by when 'user' then (select u.username from gateway.users u where u.id = p.name)
                             else (select a.name from gateway.api_keys a where a.id = p.name) end,
               'latency', (select api.percentiles(array_agg(b.duration order by b.n)) from buckets b where b.name = p.name),
               'first_byte', (select api.percentiles(array_agg(b.first_byte order by b.n)) from buckets b where b.name = p.name))
               order by p.name desc) from page p), '[]'),
    'totals', (select to_jsonb(t) from totals t)));
end $$;
grant execute on function api.usage_of_customers to gateway_admin, service_role;

-- How things are, each part from an index or a sum: money that is held, how far roll-up and outbox are behind, refusals of
-- this hour and the one before, open alerts, and what offers did in the last `hours` whole hours and this one.
create function api.monitor(hours integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  with offers as materialized (
    select * from gateway.usage_by_offer u
     where u.hour >= date_trunc('hour', statement_timestamp(), 'UTC') - make_interval(hours => monitor.hours)
  ), times as (
    select b.n, sum(b.duration)::bigint as duration
      from offers o cross join lateral unnest(o.durations) with ordinality b (duration, n) group by 1
  )
  select jsonb_build_object(
    'requests', (select coalesce(sum(o.requests), 0) from offers o),
    'errors', (select coalesce(sum(o.errors), 0) from offers o),
    'latency', (select api.percentiles(array_agg(t.duration order by t.n)) from times t),
    'active_users', (select count(distinct k.user_id) from gateway.usage_by_key k
                      where k.day >= (statement_timestamp() at time zone 'utc')::date),
    'providers', (select coalesce(jsonb_agg(to_jsonb(p) order by p.provider), '[]') from (
      select o.provider, sum(o.requests) as requests, sum(o.errors) as errors from offers o group by 1) p),
    'holds', (select jsonb_build_object(
                'open', count(*), 'held_nano', coalesce(sum(h.bound_nano), 0),
                'stale', count(*) filter (where h.expires_at < statement_timestamp() - interval '10 minutes'))
                from gateway.credit_holds h where h.state = 'held'),
    'rolled_up_until', (select r.until from gateway.rollups r where r.name = 'usage' and isfinite(r.until)),
    'outbox', (select coalesce(jsonb_agg(to_jsonb(w) order by w.channel, w.event), '[]') from (
      select e.channel, e.event, count(*) as waiting, min(e.created_at) as oldest from (
        select d.channel, o.event, o.created_at from gateway.deliveries d join gateway.outbox o on o.id = d.event_id
         where d.sent_at is null and d.failed_at is null
        union all
        select 'webhook', o.event, o.created_at from gateway.outbox o where o.to_webhooks and o.event = any (api.hooked_events())
        union all
        select 'alert', o.event, o.created_at from gateway.outbox o where o.to_operator and o.event = 'security.alert') e
       group by 1, 2) w),
    -- a customer's webhook that does not answer is no fault of ours
    'stripe_events_waiting', (select count(*) from gateway.stripe_events e
                               where e.worked_at is null and e.received_at < statement_timestamp() - interval '1 hour'),
    'payments_disagreeing', (select count(*) from gateway.payments p where p.status = 'disagreeing'),
    'outbox_failed', (select count(*) from gateway.deliveries d
                       where d.failed_at > statement_timestamp() - interval '7 days' and d.channel <> 'webhook'
                         and d.reason is distinct from 'withdrawn'),
    'refusals', (select coalesce(jsonb_object_agg(f.code, f.count), '{}') from (
      select r.code, sum(r.count) as count from gateway.refusals r
       where r.hour >= date_trunc('hour', statement_timestamp()) - interval '1 hour' group by 1) f),
    'alerts', (select coalesce(jsonb_object_agg(a.kind, a.count), '{}') from (
      select a.kind, count(*) as count from gateway.alerts a where a.resolved_at is null group by 1) a))
$$;
grant execute on function api.monitor to gateway_admin, service_role;
