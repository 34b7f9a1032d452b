-- Alerts: what looks like an attack or a leaked key, told once. While an alert is open, the same thing again is no news.

-- Opens an alert about `subject` unless one of this kind is open, tells it to the webhook, and returns {alert_id, opened};
-- `detail` holds numbers and ids, no secret and no address of mail. Called after a refusal, it stays when that is undone.
create function api.raise_alert(kind text, subject text, detail jsonb, user_id bigint default null, key_id bigint default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
declare a gateway.alerts;
begin
  insert into gateway.alerts (kind, subject, detail, user_id, key_id)
  values (raise_alert.kind, left(raise_alert.subject, 200), raise_alert.detail, raise_alert.user_id, raise_alert.key_id)
  on conflict (kind, subject) where resolved_at is null do nothing returning * into a;
  if a.id is null then
    return jsonb_build_object('opened', false, 'alert_id', (
      select o.id from gateway.alerts o
       where o.kind = raise_alert.kind and o.subject = left(raise_alert.subject, 200) and o.resolved_at is null));
  end if;
  insert into gateway.outbox (event, payload) values ('security.alert', jsonb_build_object(
    'alert_id', a.id, 'kind', a.kind, 'subject', a.subject, 'user_id', a.user_id, 'key_id', a.key_id, 'detail', a.detail,
    'created_at', a.created_at));
  return jsonb_build_object('opened', true, 'alert_id', a.id);
end $$;
grant execute on function api.raise_alert to gateway_admin, service_role;

-- Whether an alert of this kind and subject is open, or was resolved at or after `at`: what had happened by then was known.
create function api.is_known(kind text, subject text, at timestamptz)
returns boolean language sql stable as $$
  select exists (select from gateway.alerts a
                  where a.kind = is_known.kind and a.subject = is_known.subject
                    and (a.resolved_at is null or a.resolved_at >= is_known.at))
$$;

-- Looks for what is out of the ordinary, opens an alert for each and returns how many of each kind; with `pause`, what an alert
-- is about stops. Run twice, or at once, it is as run once: an open alert is opened no second time.
create function api.raise_alerts(pause boolean)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare found jsonb;
begin
  select coalesce(jsonb_object_agg(s.kind, s.opened), '{}') into found from (
    select o.kind, count(*) filter (where (o.raised ->> 'opened')::boolean) as opened from (
      select f.kind, api.raise_alert(f.kind, f.subject, f.detail, f.user_id, f.key_id) as raised from (
        select * from (select * from api.refusal_bursts() union all select * from api.unusual_networks()
                       union all select * from api.unusual_spend()) seen
         where not api.is_known(seen.kind, seen.subject, seen.since)
         order by seen.kind, seen.subject, seen.since limit 500) f) o group by 1) s;
  return jsonb_build_object('opened', found, 'paused', case when raise_alerts.pause then api.pause_alerted_keys() else 0 end);
end $$;
grant execute on function api.raise_alerts to gateway_jobs, service_role;

-- Networks that sent 100 or more refused credentials in this hour or the one before; and keys that were named in as many.
create function api.refusal_bursts()
returns table (kind text, subject text, since timestamptz, detail jsonb, user_id bigint, key_id bigint)
language sql stable as $$
  with refused as materialized (
    select * from gateway.refusals r
     where r.hour >= date_trunc('hour', statement_timestamp()) - interval '1 hour'
       and r.code in ('invalid_api_key', 'expired_api_key', 'invalid_token', 'ip_not_allowed', 'referer_not_allowed')
  )
  select 'refusals_burst', 'network:' || r.network, r.hour, jsonb_build_object('hour', r.hour, 'refusals', sum(r.count)),
         null::bigint, null::bigint
    from refused r group by r.network, r.hour having sum(r.count) >= 100
  union all
  select 'refusals_burst', 'key:' || k.id, r.hour, jsonb_build_object('hour', r.hour, 'refusals', sum(r.count)), k.user_id, k.id
    from refused r join gateway.api_keys k on k.public_id = r.subject group by k.id, k.user_id, r.hour having sum(r.count) >= 100
$$;

-- Keys that were used today or yesterday from a network where they never were. The first 7 days of a key are for learning,
-- and one that is used from 20 networks or more is at home everywhere.
create function api.unusual_networks()
returns table (kind text, subject text, since timestamptz, detail jsonb, user_id bigint, key_id bigint)
language sql stable as $$
  select 'unusual_network', 'key:' || k.id, max(n.first_seen), jsonb_build_object('networks', jsonb_agg(n.network order by n.network)),
         k.user_id, k.id
    from gateway.key_networks n join gateway.api_keys k on k.id = n.key_id cross join lateral (
           select min(o.first_seen) as first, count(*) as count from (
             select * from gateway.key_networks x where x.key_id = n.key_id order by x.network limit 20) o) learnt
   where n.first_seen > statement_timestamp() - interval '1 day' and learnt.count < 20
     and n.first_seen > learnt.first + interval '7 days'
   group by k.id, k.user_id
$$;

-- Keys that spent $10 or more in a UTC day, today or yesterday, and 5 times the median of the days that they were used in
-- the 28 before it. Fewer than 5 such days are no habit.
create function api.unusual_spend()
returns table (kind text, subject text, since timestamptz, detail jsonb, user_id bigint, key_id bigint)
language sql stable as $$
  select 'unusual_spend', 'key:' || d.key_id, (d.day + 1)::timestamp at time zone 'utc',
         jsonb_build_object('day', d.day, 'spent_nano', d.cost_nano, 'median_nano', habit.median), d.user_id, d.key_id
    from gateway.usage_by_key d cross join lateral (
           select percentile_disc(0.5) within group (order by b.cost_nano) as median, count(*) as days
             from gateway.usage_by_key b
            where b.user_id = d.user_id and b.key_id = d.key_id and b.day between d.day - 28 and d.day - 1) habit
   where d.day >= (statement_timestamp() at time zone 'utc')::date - 1 and d.cost_nano >= 10000000000
     and habit.days >= 5 and d.cost_nano >= 5 * habit.median
     and exists (select from gateway.api_keys k where k.id = d.key_id)
$$;

-- Pauses the active keys that open alerts of the last day are about, each alert once, and tells their owners; how many. Not
-- for bursts of refusals: whoever knows a key's public id could have it paused.
create function api.pause_alerted_keys()
returns integer language plpgsql as $$
declare a gateway.alerts; was gateway.api_keys; k gateway.api_keys; paused integer := 0;
begin
  for a in select * from gateway.alerts x
            where x.resolved_at is null and x.paused_at is null and x.key_id is not null and x.kind <> 'refusals_burst'
              and x.created_at > statement_timestamp() - interval '1 day'
            order by x.user_id, x.id limit 100 loop
    perform from gateway.users u where u.id = a.user_id for no key update;
    select * into was from gateway.api_keys x where x.id = a.key_id and x.status = 'active' for no key update;
    update gateway.alerts x set paused_at = clock_timestamp() where x.id = a.id and x.paused_at is null;
    if found and was.id is not null then
      update gateway.api_keys x set status = 'paused' where x.id = was.id returning * into k;
      perform api.audit('{"name": "job:raise_alerts"}', 'key.paused', 'key:' || k.id, k.user_id, api.key_shown(was),
                        api.key_shown(k) || jsonb_build_object('alert_id', a.id));
      insert into gateway.outbox (event, payload) values ('key.paused', jsonb_build_object(
        'user_id', k.user_id, 'key_id', k.id, 'name', k.name, 'alert_id', a.id, 'kind', a.kind));
      paused := paused + 1;
    end if;
  end loop;
  return paused;
end $$;

-- Alerts, the last first, those before `cursor`: of one kind, of one user, open or resolved, where that is given.
create function api.alerts(kind text, user_id bigint, is_open boolean, cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  select coalesce(jsonb_agg(to_jsonb(a) order by a.id desc), '[]') from (
    select * from gateway.alerts x
     where (alerts.cursor is null or x.id < alerts.cursor) and (alerts.kind is null or x.kind = alerts.kind)
       and (alerts.user_id is null or x.user_id = alerts.user_id)
       and (alerts.is_open is null or (x.resolved_at is null) = alerts.is_open)
     order by x.id desc limit alerts.most) a);
end $$;
grant execute on function api.alerts to gateway_admin, service_role;

-- Resolves an alert, with a note of what it was, and returns it; who came first stands. Raises 404.
create function api.resolve_alert(alert_id bigint, note text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.alerts; a gateway.alerts;
begin
  actor := api.confirm(actor, null);
  select * into was from gateway.alerts x where x.id = resolve_alert.alert_id for update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  elsif was.resolved_at is not null then
    return to_jsonb(was);
  end if;
  update gateway.alerts x set resolved_at = clock_timestamp(), resolved_by = actor ->> 'name', note = resolve_alert.note
   where x.id = was.id returning * into a;
  perform api.audit(actor, 'alert.resolved', 'alert:' || a.id, a.user_id, to_jsonb(was), to_jsonb(a));
  return to_jsonb(a);
end $$;
grant execute on function api.resolve_alert to gateway_admin, service_role;

-- Sums up refused credentials in the audit log, an entry for each hour that is over and had some: their number by code, and the
-- 20 largest sources. Each hour once, at most 48 a call; counts are kept for 30 days. Returns {hours}.
create function api.audit_refusals()
returns jsonb language plpgsql security definer set search_path = '' as $$
declare audited timestamptz; h timestamptz; hours integer := 0;
  -- an hour ends five minutes late: who counted at its end has committed by then
  over constant timestamptz := date_trunc('hour', clock_timestamp() - interval '5 minutes');
begin
  select r.until into audited from gateway.rollups r where r.name = 'refusals' for update;
  for h in select distinct r.hour from gateway.refusals r where r.hour >= audited and r.hour < over order by 1 limit 48 loop
    perform api.audit('{"name": "job:audit_refusals"}', 'refusals.counted',
                      'refusals:' || to_char(h at time zone 'utc', 'YYYY-MM-DD"T"HH24"Z"'), null, null, api.refusals_of(h));
    audited := h + interval '1 hour';
    hours := hours + 1;
  end loop;
  update gateway.rollups r set until = case when hours < 48 then greatest(over, audited) else audited end where r.name = 'refusals';
  delete from gateway.refusals r where r.hour < least(audited, over - interval '30 days');
  return jsonb_build_object('hours', hours);
end $$;
grant execute on function api.audit_refusals to gateway_jobs, service_role;

-- The refusals of an hour: {codes, sources}.
create function api.refusals_of(hour timestamptz)
returns jsonb language sql stable as $$
  select jsonb_build_object(
    'codes', (select jsonb_object_agg(c.code, c.count) from (
      select r.code, sum(r.count) as count from gateway.refusals r where r.hour = refusals_of.hour group by 1) c),
    'sources', (select jsonb_agg(to_jsonb(s) order by s.count desc, s.network, s.code, s.subject) from (
      select r.code, r.network, r.subject, r.count from gateway.refusals r where r.hour = refusals_of.hour
       order by r.count desc, r.network, r.code, r.subject limit 20) s))
$$;
