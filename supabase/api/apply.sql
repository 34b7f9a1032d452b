-- Replaces every function at once: what is in this folder is what runs, and nothing stale survives.
-- What is granted to a role runs as the owner of the tables, with no search_path; its parts run as it does and are granted
-- to nobody. Locks are taken in one order everywhere: rate_limit_buckets, users, credit_holds, idempotency_keys, key_usage,
-- chat_sessions, storage (several in order of user_id), offer_health (which nobody waits for).
-- A condition that finds rows by an index on time compares with statement_timestamp(): clock_timestamp() is volatile, so no index
-- serves it and the whole table is read (tests/database/test_scans.py). A condition that must hold after a wait for a lock
-- compares with clock_timestamp(), which has gone on during the wait; so does what is written down as the time of an event.
begin;
set local role gateway_owner;
drop schema api cascade;
create schema api;
grant usage on schema api to service_role, gateway_auth, gateway_chat, gateway_catalog, gateway_account, gateway_admin,
  gateway_health, gateway_jobs, gateway_billing, gateway_stripe_webhook, gateway_trials,
  gateway_history;
\ir audit.sql
\ir rate_limits.sql
\ir keys.sql
\ir catalog.sql
\ir idempotency.sql
\ir chats.sql
\ir responses.sql
\ir credits.sql
\ir grants.sql
\ir roles.sql
\ir users.sql
\ir keyring.sql
\ir rotation.sql
\ir sign_in.sql
\ir recovery.sql
\ir activity.sql
\ir accounts.sql
\ir provider_keys.sql
\ir administration.sql
\ir plans.sql
\ir trials.sql
\ir coupons.sql
\ir referrals.sql
\ir top_ups.sql
\ir payments.sql
\ir subscriptions.sql
\ir outbox.sql
\ir webhooks.sql
\ir usage.sql
\ir offer_health.sql
\ir balances.sql
\ir alerts.sql
\ir catalogue.sql
\ir ranking.sql
\ir partitions.sql
\ir ledger.sql
\ir health.sql
notify pgrst, 'reload schema';
commit;
