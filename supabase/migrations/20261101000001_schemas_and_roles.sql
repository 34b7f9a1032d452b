-- Who may do what in the database. Tables live in `gateway`, which no API exposes; functions live in `api`, which is
-- replaced whole on every deploy (supabase/api). Each Lambda has a role of its own that may call its functions and
-- nothing else; service_role, as which both transports run today, may call what any of them may. It is named in every
-- grant, because a Supabase project's service_role does not inherit.

do $$
declare name text;
begin
  foreach name in array array['anon', 'authenticated', 'service_role', 'gateway_owner', 'gateway_chat',
                              'gateway_catalog', 'gateway_account', 'gateway_health', 'gateway_jobs', 'gateway_admin']
  loop
    if not exists (select from pg_roles where rolname = name) then
      execute format('create role %I nologin', name);
    end if;
  end loop;
  if not exists (select from pg_roles where rolname = 'authenticator') then
    create role authenticator login noinherit;
  end if;
end $$;

grant anon, authenticated, service_role to authenticator;
-- the migrating role is no superuser on Supabase and must be a member to hand objects over
grant gateway_owner to current_user;

create schema gateway authorization gateway_owner;
create schema api authorization gateway_owner;

do $$ begin
  execute format('grant create on database %I to gateway_owner', current_database());
end $$;

alter default privileges for role gateway_owner revoke execute on functions from public;
