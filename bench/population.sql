-- Fills a database: users `first` to `last` with a key and a grant each, and `each` settled requests a user over the last 28
-- days, as the functions and the roll-up would have left them. Only for bench/scale.py: it goes round every lock and trigger.
create type pg_temp.tally as (bucket integer, count bigint);
create function pg_temp.populate(first bigint, last bigint, each integer)
returns void language plpgsql as $$
begin
  set local session_replication_role = replica;
  set local synchronous_commit = off;
  insert into gateway.users (id, username, email, credits_nano, created_at) overriding system value
  select n, 'user ' || n, 'user' || n || '@example.com', 1000000000 - each * 1000, now() - interval '60 days'
    from generate_series(first, last) n;
  insert into gateway.api_keys (id, user_id, public_id, key_hash, environment, name, scopes) overriding system value
  select n, n, lpad(n::text, 12, '0'), 'v1:' || lpad(to_hex(n), 64, '0'), 'dev', 'key', '{inference,account:read}'
    from generate_series(first, last) n;
  with granted as (
    insert into gateway.credit_transactions (user_id, kind, reference, amount_nano, created_at)
    select n, 'grant', 'start:' || n, 1000000000, now() - interval '60 days' from generate_series(first, last) n
    returning id, user_id
  )
  insert into gateway.credit_grants (user_id, transaction_id, kind, priority, amount_nano, remaining_nano)
  select user_id, id, 'promotional', 10, 1000000000, 1000000000 from granted;
  -- each of a user's requests has a part of the 28 days for itself, so no two are of one UTC day
  create temporary table request on commit drop as
  select r.*, least(64, 1 + floor(ln(greatest(r.duration_ms, 1)) / ln(1.25)))::integer as bucket from (
    select gen_random_uuid() as id, n as user_id, now() - (each - i + random() * 0.5) * interval '28 days' / each as at,
           (array['acme/one', 'acme/two', 'acme/three'])[1 + (n + i) % 3] as model, (random() * 2000)::integer as duration_ms
      from generate_series(1, each) i, generate_series(first, last) n) r;
  insert into gateway.credit_transactions (user_id, kind, reference, amount_nano, created_at)
  select user_id, 'usage', id::text, -1000, at from request;
  insert into gateway.credit_holds (id, user_id, key_id, bound_nano, state, cost_nano, created_at, expires_at, ended_at)
  select id, user_id, user_id, 2000, 'settled', 1000, at, at + interval '26 minutes', at from request;
  insert into gateway.usage_records (id, user_id, key_id, model, provider, prompt_tokens, completion_tokens, cost_nano,
                                     upstream_cost_nano, is_estimated, is_streamed, outcome, first_byte_ms, duration_ms, created_at)
  select id, user_id, user_id, model, 'openrouter', 100, 50, 1000, 800, false, true, 'completed', duration_ms / 4, duration_ms, at
    from request;
  insert into gateway.idempotency_keys (user_id, key, fingerprint, hold_id, created_at)
  select user_id, id::text, 'f', id, now() - interval '1 hour' from request where at > now() - interval '3 days';
  insert into gateway.responses (id, user_id, input, response, created_at, expires_at)
  select id, user_id, '[]', '{}', at, at + interval '30 days' from request where at > now() - interval '3 days';
  insert into gateway.outbox (event, payload, created_at, to_mail, to_webhooks, to_operator, to_bus)
  select 'key.created', jsonb_build_object('user_id', n), now() - interval '20 days', false, false, false, false
    from generate_series(first, last) n;
  insert into gateway.key_networks (key_id, network, first_seen, last_seen)
  select n, '203.0.113.0/24', now() - interval '28 days', now() from generate_series(first, last) n;
  insert into gateway.key_usage (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano, last_used_at)
  select user_id, (at at time zone 'utc')::date, 1, 100, 50, 1000, at from request
  union all
  select n, '-infinity', each, 100 * each, 50 * each, 1000 * each, now() from generate_series(first, last) n;
  insert into gateway.usage_by_key (user_id, key_id, day, requests, errors, byok_requests, prompt_tokens, completion_tokens,
                                    cached_tokens, reasoning_tokens, cost_nano, upstream_cost_nano, durations, first_bytes)
  select user_id, user_id, (at at time zone 'utc')::date, 1, 0, 0, 100, 50, 0, 0, 1000, 800,
         array_fill(0::bigint, array[bucket - 1]) || 1::bigint, '{1}' from request;
  insert into gateway.usage_by_offer as u (hour, model, provider, requests, errors, byok_requests, prompt_tokens, completion_tokens,
                                           cached_tokens, reasoning_tokens, cost_nano, upstream_cost_nano, durations, first_bytes)
  select s.hour, s.model, 'openrouter', s.requests, 0, 0, 100 * s.requests, 50 * s.requests, 0, 0, 1000 * s.requests, 800 * s.requests,
         array(select coalesce(c.count, 0) from generate_series(1, 40) n left join lateral (
                 select x.count from unnest(s.counts) x where x.bucket = n) c on true order by n), '{}'
    from (select hour, model, sum(count)::bigint as requests, array_agg(row(bucket, count)::pg_temp.tally) as counts
            from (select date_trunc('hour', at, 'UTC') as hour, model, bucket, count(*) as count from request group by 1, 2, 3) b
           group by 1, 2) s
  on conflict (hour, model, provider) do update set
    requests = u.requests + excluded.requests, prompt_tokens = u.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = u.completion_tokens + excluded.completion_tokens, cost_nano = u.cost_nano + excluded.cost_nano,
    upstream_cost_nano = u.upstream_cost_nano + excluded.upstream_cost_nano, durations = api.both(u.durations, excluded.durations);
end $$;
