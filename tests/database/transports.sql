-- A schema api of its own, in place of the product's: functions that echo, refuse, count and break.

drop schema if exists api cascade;
drop schema if exists probe cascade;
create schema api;
create schema probe;
create table probe.effects (id uuid primary key);
create sequence probe.runs;

create function api.echo(label text, number bigint, flag boolean, moment timestamptz, id uuid, members jsonb)
returns jsonb language sql as $$
  select jsonb_build_object('label', label, 'number', number, 'flag', flag, 'id', id, 'members', members,
                            'moment', extract(epoch from moment), 'role', current_user)
$$;

create function api.nothing() returns jsonb language sql as 'select null::jsonb';

create function api.refuse(code text, message text, detail text) returns jsonb language plpgsql as $$
begin
  perform nextval('probe.runs');
  raise exception using errcode = code, message = message, detail = detail;
end $$;

create function api.effect(id uuid) returns jsonb language plpgsql as $$
begin
  perform nextval('probe.runs');
  insert into probe.effects values (id) on conflict do nothing;
  return to_jsonb(id);
end $$;

create function api.cross(first bigint, second bigint) returns jsonb language plpgsql as $$
begin
  perform nextval('probe.runs');
  perform pg_advisory_xact_lock(first);
  for i in 1..100 loop
    exit when 2 <= (select count(*) from pg_locks
                     where locktype = 'advisory' and objid in (first, second) and granted
                       and database = (select oid from pg_database where datname = current_database()));
    perform pg_sleep(0.005);
  end loop;
  perform pg_advisory_xact_lock(second);
  return to_jsonb(true);
end $$;

create function api.sleep(seconds double precision) returns jsonb language plpgsql as $$
begin
  perform pg_sleep(seconds);
  return to_jsonb(true);
end $$;

create function api.prepared() returns jsonb language sql as $$
  select to_jsonb(count(*)) from pg_prepared_statements where name <> ''
$$;

-- What happens to prepared statements behind a pooler: the server that is met has none of ours.
create function api.forget() returns jsonb language plpgsql as $$
begin
  deallocate all;
  return to_jsonb(true);
end $$;

grant usage on schema api, probe to service_role;
grant usage on sequence probe.runs to service_role;
grant select, insert on probe.effects to service_role;
grant execute on all functions in schema api to service_role;
