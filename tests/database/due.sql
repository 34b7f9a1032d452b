-- Something to do for every job, around user 1000: tests/database/test_scans.py. It goes round every key and trigger.
set local session_replication_role = replica;
insert into gateway.users (id, username, email, credits_nano, role) overriding system value values
  (1000, 'due', 'due@example.com', 50000000000, 'user'), (1001, 'admin', 'admin@example.com', 0, 'admin');
insert into gateway.api_keys (id, user_id, public_id, key_hash, environment, name, scopes, rotation_days, rotated_at, rotation_told_at)
overriding system value values
  (1000, 1000, 'abcdefghijkl', 'v1:' || repeat('0', 64), 'dev', 'due', '{inference}', 30, now() - interval '31 days', now()),
  (1001, 1000, 'abcdefghijkm', 'v1:' || repeat('1', 64), 'dev', 'soon', '{inference}', 30, now() - interval '29 days', null);
insert into gateway.credit_transactions (id, user_id, kind, reference, amount_nano, created_at) overriding system value values
  (1000, 1000, 'grant', 'one', 20000000000, now() - interval '60 days'),
  (1001, 1000, 'grant', 'two', 30000000000, now() - interval '60 days');
insert into gateway.credit_grants (id, user_id, transaction_id, kind, priority, amount_nano, remaining_nano, expires_at, created_at)
overriding system value values
  (1000, 1000, 1000, 'promotional', 10, 20000000000, 20000000000, now() - interval '1 day', now() - interval '60 days'),
  (1001, 1000, 1001, 'paid', 20, 30000000000, 30000000000, null, now() - interval '60 days');
insert into gateway.credit_holds (id, user_id, key_id, bound_nano, created_at, expires_at, tokens, idempotency_key) values
  ('00000000-0000-0000-0000-00000000000a', 1000, 1000, 100, now() - interval '1 hour', now() - interval '30 minutes', 10, 'once'),
  ('00000000-0000-0000-0000-00000000000b', 1000, 1000, 100, now(), now() + interval '30 minutes', 10, null);
update gateway.users set held_nano = 200 where id = 1000;
insert into gateway.idempotency_keys (user_id, key, fingerprint, hold_id, created_at) values
  (1000, 'once', 'f', '00000000-0000-0000-0000-00000000000a', now()),
  (1000, 'old', 'f', gen_random_uuid(), now() - interval '2 days');
insert into gateway.usage_records (id, user_id, key_id, model, provider, prompt_tokens, completion_tokens, cost_nano, is_estimated,
                                   is_streamed, outcome, duration_ms, created_at, network, attempts)
select gen_random_uuid(), 1000, 1000, 'acme/one', 'openrouter', 10, 10, 5000000000, false, false, 'completed', 5,
       now() - n * interval '1 minute', '198.51.100.0/24', '[{"model": "acme/one", "provider": "openrouter", "error": "timeout"}]'
  from generate_series(1, 3) n;
insert into gateway.usage_uncounted select id, created_at from gateway.usage_records where user_id = 1000;
insert into gateway.usage_by_key (user_id, key_id, day, requests, errors, byok_requests, prompt_tokens, completion_tokens,
                                  cached_tokens, reasoning_tokens, cost_nano, upstream_cost_nano, durations, first_bytes)
select 1000, 1000, (now() at time zone 'utc')::date - n, 1, 0, 0, 1, 1, 0, 0, case n when 0 then 90000000000 else 1000 end, 0, '{1}', '{1}'
  from generate_series(0, 10) n;
insert into gateway.usage_by_offer (hour, model, provider, requests, errors, byok_requests, prompt_tokens, completion_tokens,
                                    cached_tokens, reasoning_tokens, cost_nano, upstream_cost_nano, durations, first_bytes)
values (date_trunc('hour', now()), 'acme/one', 'openrouter', 1, 0, 0, 1, 1, 0, 0, 1000, 0, '{1}', '{1}');
insert into gateway.key_usage (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano, last_used_at)
values (1000, '-infinity', 1, 1, 1, 1, now());
insert into gateway.key_networks values
  (1000, '203.0.113.0/24', now() - interval '60 days', now()), (1000, '192.0.2.0/24', now() - interval '1 hour', now());
insert into gateway.recent_spend values (1000, date_bin('10 minutes', now(), '2000-01-01 00:00:00+00'), 40000000000, false),
  (1000, date_bin('10 minutes', now(), '2000-01-01 00:00:00+00') - interval '1 day', 1, true);
insert into gateway.notification_preferences (user_id, usage_report) values (1000, true);
insert into gateway.refusals (hour, code, network, subject, count, last_at)
select date_trunc('hour', now()) - n * interval '1 hour', 'invalid_api_key', '198.51.100.0/24', 'abcdefghijkl', 500, now()
  from generate_series(0, 3) n;
insert into gateway.alerts (kind, subject, detail, user_id, key_id) values ('unusual_network', 'key:1001', '{}', 1000, 1001);
insert into gateway.chat_sessions (id, user_id, title, deleted_at) overriding system value
values (1000, 1000, 'gone', now() - interval '40 days');
insert into gateway.responses (id, user_id, input, response, expires_at)
values (gen_random_uuid(), 1000, '[]', '{}', now() - interval '1 day');
insert into gateway.key_credentials (public_id, key_hash, key_id, kind, expires_at)
values ('abcdefghijkn', 'v1:' || repeat('2', 64), 1000, 'session', now() - interval '1 day');
insert into gateway.key_pickups (key_id, sealed, expires_at) values (1001, 'sealed', now() - interval '1 day');
insert into gateway.trials (id, user_id, grant_id, started_at, ends_at) overriding system value values
  (1000, 1000, 1000, now() - interval '15 days', now() - interval '1 day'),
  (1001, 1001, 1001, now() - interval '12 days', now() + interval '1 day');
insert into gateway.user_plans (user_id, plan_id, ends_at) select 1000, p.id, now() - interval '1 day' from gateway.plans p limit 1;
insert into gateway.audit_logs (id, actor, action, resource, created_at) overriding system value
values (1000, 'test', 'test', 'user:1000', now() - interval '400 days');
insert into gateway.audit_chain select 1000, (now() - interval '400 days')::date, 1, '\x00', '\x01';
insert into gateway.audit_days select (now() - interval '400 days')::date, 1, '\x01';
insert into gateway.webhooks (id, user_id, url, events, sealed, created_at) overriding system value
values (1000, 1000, 'https://example.com/', api.hooked_events(), 'sealed', now() - interval '2 days');
insert into gateway.outbox (id, event, payload, created_at, to_mail, to_webhooks, to_operator, to_bus) overriding system value
select 5000 + n, e, '{"user_id": 1000, "key_id": 1000}', now() - interval '1 hour', true, true, e = 'security.alert', true
  from unnest(array['key.created', 'balance.low', 'security.alert', 'key.paused']) with ordinality x (e, n);
insert into gateway.outbox (id, event, payload, created_at) overriding system value
values (-1, 'key.created', '{"user_id": 1000}', now() - interval '40 days');
insert into gateway.deliveries (id, event_id, channel, target, next_try_at) overriding system value values
  (1000, 5001, 'mail', 1000, now() - interval '1 hour'), (1001, 5002, 'webhook', 1000, now() - interval '1 hour');
update gateway.webhooks set failures = 30 where id = 1000;
insert into gateway.payments (id, user_id, kind, amount_cents, credit_nano, status, session_id, created_at) overriding system value
values (1000, 1000, 'checkout', 500, 5000000000, 'pending', 'cs_1', now() - interval '2 days'),
       (1001, 1000, 'checkout', 500, 5000000000, 'pending', null, now() - interval '2 days');
insert into gateway.stripe_events (id, type, object_id, named_payment_id, created_at, next_try_at) values
  ('evt_1', 'checkout.session.completed', 'cs_1', 1000, now(), now() - interval '1 hour');
insert into gateway.stripe_events (id, type, object_id, created_at, worked_at)
values ('evt_2', 'x', 'y', now() - interval '100 days', now() - interval '100 days');
insert into gateway.auto_top_ups (user_id, threshold_nano, amount_cents, payment_method_id, last_at)
values (1000, 90000000000, 500, 'pm_1', now() - interval '1 day');
update gateway.users set stripe_customer_id = 'cus_1' where id = 1000;
insert into gateway.subscriptions (id, user_id, plan_id, status) select 'sub_1', 1000, p.id, 'active' from gateway.plans p limit 1;
insert into gateway.referrals (user_id, referrer_id) values (1000, 1001);
-- and what is done, so that the planner knows how few are left
insert into gateway.users (id, username) overriding system value select n, 'user ' || n from generate_series(2000, 4999) n;
insert into gateway.api_keys (id, user_id, public_id, key_hash, environment, name, scopes) overriding system value
select n, n, lpad(n::text, 12, '0'), 'v1:' || lpad(to_hex(n), 64, '0'), 'dev', 'key', '{inference}' from generate_series(2000, 4999) n;
insert into gateway.outbox (id, event, payload, created_at, to_mail, to_webhooks, to_operator, to_bus) overriding system value
select n, 'key.created', '{"user_id": 2000}', now() - interval '10 days', false, false, false, false from generate_series(2000, 4999) n;
insert into gateway.key_networks
select n, '203.0.113.0/24', now() - interval '60 days', now() from generate_series(2000, 4999) n;
set local session_replication_role = origin;
analyze gateway.users, gateway.api_keys, gateway.outbox, gateway.key_networks;
