-- The audit log: who did what to what, in the transaction of what it records; and refused credentials, counted.

-- The changes that a user may make to the account in a UTC day: keys, rotations, sessions, webhooks, payments, preferences.
create function api.max_changes()
returns integer language sql immutable as $$ select 10000 $$;

-- Counts a change that `actor` made to the own account `user_id`; raises 429 above what a day may have. What others change of it, an
-- operator or a job, counts for nobody; nor does what ends something, what was refused, and a recovery: a thief with a key cannot
-- use up what its owner needs against it.
create function api.count_change(actor jsonb, action text, user_id bigint)
returns void language plpgsql as $$
declare at constant timestamptz := clock_timestamp(); today constant date := (at at time zone 'utc')::date;
begin
  if count_change.user_id is distinct from (actor ->> 'user_id')::bigint or count_change.user_id is null
     or action like any (array['%.deleted', '%.ended', '%.overreached', 'recovery.%']) or (actor ->> 'is_recovery')::boolean then
    return;
  end if;
  insert into gateway.rate_limit_buckets as b (scope, id, requests_tat, tokens_tat, day, day_requests)
  values ('changes', count_change.user_id, at, at, today, 1)
  on conflict (scope, id) do update
    set day = today, day_requests = case when b.day = today then b.day_requests else 0 end + 1
    where b.day <> today or b.day_requests < api.max_changes();
  if not found then
    raise exception using errcode = 'PT429', message = 'rate_limit_exceeded', detail = jsonb_build_object(
      'scope', 'changes', 'message', 'This account was changed too often today. Try again tomorrow (UTC).',
      'retry_after_ms', ceil(1000 * extract(epoch from (today + 1)::timestamp at time zone 'utc' - at)))::text;
  end if;
end $$;

-- Appends an entry: what `actor` {name, user_id, key_id, ip, request_id, scopes} did to something of the account `user_id`
-- (null: nobody's). The chain is made at the commit. Raises 429 when a user has changed the own account too often today.
create function api.audit(actor jsonb, action text, resource text, user_id bigint, before jsonb, after jsonb)
returns void language sql as $$
  select api.count_change(actor, action, audit.user_id);
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
  gateway_billing, gateway_history, gateway_trials, service_role;

-- Audit entries with their places in the chain, the last first, those before `cursor`: by whom, about whom, what, about what, and
-- when, where that is given.
create function api.audit_logs(actor_id bigint, user_id bigint, actions jsonb, resource text, since timestamptz, until timestamptz,
                               cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  select coalesce(jsonb_agg(to_jsonb(a) - array['created_at', 'ip'] || jsonb_build_object(
           'ts', a.created_at, 'ip', host(a.ip), 'prev_hash', encode(c.prev_hash, 'hex'), 'hash', encode(c.hash, 'hex'))
           order by a.id desc), '[]')
    from (select * from gateway.audit_logs x
           where (audit_logs.cursor is null or x.id < audit_logs.cursor)
             and (audit_logs.actor_id is null or x.actor_id = audit_logs.actor_id)
             and (audit_logs.user_id is null or x.user_id = audit_logs.user_id)
             and (audit_logs.actions is null or x.action in (select jsonb_array_elements_text(audit_logs.actions)))
             and (audit_logs.resource is null or x.resource = audit_logs.resource)
             and (audit_logs.since is null or x.created_at >= audit_logs.since)
             and (audit_logs.until is null or x.created_at < audit_logs.until)
           order by x.id desc limit audit_logs.most) a
    left join gateway.audit_chain c on c.audit_id = a.id);
end $$;
grant execute on function api.audit_logs to gateway_admin, service_role;

-- Computes the chain of a UTC day again, at most `most` entries from after `place`: {entries, next_place, broken}. `broken` is null,
-- or the first {place, audit_id, why}; the last part of a day also tells entries that are in no chain, and an end cut off.
create function api.verify_audit(day date, place bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare link record; broken jsonb; head gateway.audit_days; stray bigint; seen integer := 0; last_place bigint := verify_audit.place;
  hash bytea := coalesce((select c.hash from gateway.audit_chain c where c.day = verify_audit.day and c.place = verify_audit.place),
                         decode(repeat('00', 32), 'hex'));
begin
  for link in select c.place, c.audit_id, c.prev_hash, c.hash, gateway.audit_entry(a) as entry, a.id
                from gateway.audit_chain c left join gateway.audit_logs a on a.id = c.audit_id
               where c.day = verify_audit.day and c.place > verify_audit.place order by c.place limit verify_audit.most loop
    broken := case when link.place <> last_place + 1 then '"an entry before it was taken out of the chain"'::jsonb
                   when link.id is null then '"the entry was taken out"'
                   when link.prev_hash <> hash then '"it does not follow the one before"'
                   when link.hash <> sha256(link.prev_hash || link.entry) then '"the entry was changed"' end;
    if broken is not null then
      return jsonb_build_object('entries', seen, 'next_place', null, 'broken', jsonb_build_object(
        'place', link.place, 'audit_id', link.audit_id, 'why', broken));
    end if;
    seen := seen + 1;
    last_place := link.place;
    hash := link.hash;
  end loop;
  if seen = verify_audit.most then
    return jsonb_build_object('entries', seen, 'next_place', last_place, 'broken', null);
  end if;
  select * into head from gateway.audit_days d where d.day = verify_audit.day;
  select min(a.id) into stray from gateway.audit_logs a
   where a.created_at >= verify_audit.day::timestamp at time zone 'utc'
     and a.created_at < (verify_audit.day + 1)::timestamp at time zone 'utc'
     and not exists (select from gateway.audit_chain c where c.audit_id = a.id);
  broken := case when coalesce(head.rows, 0) <> last_place or coalesce(head.hash, hash) <> hash then
                   jsonb_build_object('place', last_place + 1, 'audit_id', null, 'why', 'the end of the day was cut off')
                 when stray is not null then
                   jsonb_build_object('place', null, 'audit_id', stray, 'why', 'the entry is in no chain') end;
  return jsonb_build_object('entries', seen, 'next_place', null, 'broken', broken);
end $$;
grant execute on function api.verify_audit to gateway_admin, service_role;

-- Deletes the oldest UTC day of the audit log that is over `days` days old, its chain too; {day, entries}, null for none. 90 days
-- are the least, whatever is asked for.
create function api.purge_audit_day(days integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare gone date; entries bigint;
begin
  select d.day into gone from gateway.audit_days d
   where d.day < (statement_timestamp() at time zone 'utc')::date - greatest(purge_audit_day.days, 90)
   order by d.day limit 1 for update skip locked;
  if not found then
    return jsonb_build_object('day', null, 'entries', 0);
  end if;
  delete from gateway.audit_logs a using gateway.audit_chain c where c.day = gone and a.id = c.audit_id;
  get diagnostics entries = row_count;
  delete from gateway.audit_chain c where c.day = gone;
  delete from gateway.audit_days d where d.day = gone;
  return jsonb_build_object('day', gone, 'entries', entries);
end $$;
grant execute on function api.purge_audit_day to gateway_jobs, service_role;
