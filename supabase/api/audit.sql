-- The audit log: who did what to what, in the transaction of what it records; and refused credentials, counted.

-- Appends an entry: what `actor` {name, user_id, key_id, ip, request_id, scopes} did to something of the account `user_id`
-- (null: nobody's). The chain is made at the commit.
create function api.audit(actor jsonb, action text, resource text, user_id bigint, before jsonb, after jsonb)
returns void language sql as $$
  insert into gateway.audit_logs (actor, action, resource, before, after, actor_id, user_id, key_id, ip, request_id)
  values (actor ->> 'name', action, resource, before, after, (actor ->> 'user_id')::bigint, audit.user_id,
          (actor ->> 'key_id')::bigint, (actor ->> 'ip')::inet, actor ->> 'request_id')
$$;

-- Whether a request has made this audit entry: it is then sent again.
create function api.was_done(actor jsonb, action text, resource text)
returns boolean language sql stable as $$
  select exists (select from gateway.audit_logs a
                  where a.actor_id = (was_done.actor ->> 'user_id')::bigint and a.request_id = was_done.actor ->> 'request_id'
                    and a.action = was_done.action and a.resource = was_done.resource
                    and a.created_at > now() - interval '5 minutes')
$$;

-- The network of an address: what one subscriber usually has, /24 or /48; everything for no address.
create function api.network(ip inet)
returns cidr language sql immutable as $$
  select coalesce(network(set_masklen(ip, case family(ip) when 4 then 24 else 48 end)), '0.0.0.0/0'::cidr)
$$;

-- Counts a refused credential by hour, code, network and subject (a key's public id). Over 10,000 rows an hour, all further
-- ones are one row: an attack cannot fill the disk.
create function api.record_refusal(code text, ip inet, subject text)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  this_hour constant timestamptz := date_trunc('hour', clock_timestamp());
  source cidr := api.network(ip);
  about text := left(coalesce(subject, ''), 64);
begin
  perform set_config('synchronous_commit', 'off', true);
  if not exists (select from gateway.refusals r where r.hour = this_hour and r.code = record_refusal.code
                    and r.network = source and r.subject = about)
     and (select count(*) from (select from gateway.refusals r where r.hour = this_hour limit 10000) seen) = 10000 then
    source := '0.0.0.0/0';
    about := '';
  end if;
  insert into gateway.refusals as r (hour, code, network, subject, count, last_at)
  values (this_hour, record_refusal.code, source, about, 1, clock_timestamp())
  on conflict on constraint refusals_pkey do update set count = r.count + 1, last_at = excluded.last_at;
  return 'null'::jsonb;
end $$;
grant execute on function api.record_refusal to gateway_auth, gateway_chat, gateway_catalog, gateway_account, gateway_admin,
  service_role;
