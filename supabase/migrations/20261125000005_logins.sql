-- Each function logs in as its own role, so that one which is broken into can do what its grants say and nothing else.
-- None has a password yet, and without one nobody gets in: `make logins` gives them out.

do $$
declare name text;
begin
  foreach name in array array['gateway_account', 'gateway_admin', 'gateway_auth', 'gateway_billing', 'gateway_catalog',
                              'gateway_chat', 'gateway_health', 'gateway_history', 'gateway_jobs',
                              'gateway_stripe_webhook', 'gateway_trials']
  loop
    continue when exists (select from pg_roles where rolname = name and rolcanlogin);
    -- Roles are the whole server's. A comment locks its role: who migrates another database of this server at the same time
    -- waits here and finds the rest done, where two that alter a role at once would end with "tuple concurrently updated".
    execute format('comment on role %I is %L', name, 'One function of the gateway logs in as this.');
    continue when exists (select from pg_roles where rolname = name and rolcanlogin);
    execute format('alter role %I login', name);
    -- the functions wait 10 s for an answer, and nobody reads one that comes later
    execute format('alter role %I set statement_timeout = %L', name, '9s');
    execute format('alter role %I set idle_in_transaction_session_timeout = %L', name, '10s');
    -- for PostgREST, whose tokens may name a function's role in the place of service_role
    execute format('grant %I to authenticator', name);
  end loop;
end $$;
