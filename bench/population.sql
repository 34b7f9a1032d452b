-- Fills a database: users `first` to `last` with a key and a grant each, and `each` settled requests a user over the last 28 days,
-- in the order of time, as the functions would have left them. Only for bench/scale.py: it goes round every lock and trigger.
create or replace function pg_temp.populate(first bigint, last bigint, each integer)
returns void language plpgsql as $$
begin
  set local session_replication_role = replica;
  set local synchronous_commit = off;
  insert into gateway.users (id, username, email, credits_nano, created_at) overriding system value
  select n, 'user ' || n, 'user' || n || '@example.com', 1000000000 - each * 1000, now() - interval '60 days'
    from generate_series(first, last) n;
  insert into gateway.api_keys (id, user_id, public_id, key_hash, environment, name) overriding system value
  select n, n, lpad(n::text, 12, '0'), 'v1:' || lpad(to_hex(n), 64, '0'), 'dev', 'key'
    from generate_series(first, last) n;
  insert into gateway.credit_transactions (user_id, kind, reference, amount_nano, created_at)
  select n, 'grant', 'start:' || n, 1000000000, now() - interval '60 days' from generate_series(first, last) n;
  create temporary table request on commit drop as
  select gen_random_uuid() as id, n as user_id, now() - (each - i + random()) * interval '28 days' / each as at,
         (array['acme/one', 'acme/two', 'acme/three'])[1 + (n + i) % 3] as model, (random() * 2000)::integer as duration_ms
    from generate_series(1, each) i, generate_series(first, last) n;
  insert into gateway.credit_transactions (user_id, kind, reference, amount_nano, created_at)
  select user_id, 'usage', id::text, -1000, at from request;
  insert into gateway.credit_holds (id, user_id, key_id, bound_nano, state, cost_nano, created_at, expires_at, ended_at)
  select id, user_id, user_id, 2000, 'settled', 1000, at, at + interval '26 minutes', at from request;
  insert into gateway.usage_records (id, user_id, key_id, model, provider, prompt_tokens, completion_tokens, cost_nano,
                                     upstream_cost_nano, is_estimated, is_streamed, outcome, first_byte_ms, duration_ms, created_at)
  select id, user_id, user_id, model, 'openrouter', 100, 50, 1000, 800, false, true, 'completed', duration_ms / 4, duration_ms, at
    from request;
  insert into gateway.key_usage (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano, last_used_at)
  select user_id, (at at time zone 'utc')::date, count(*), 100 * count(*), 50 * count(*), 1000 * count(*), max(at)
    from request group by 1, 2;
end $$;
