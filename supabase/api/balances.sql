-- Balances, watched for those who want to be told: when one falls below its owner's mark, when parts of a top-up are spent, when
-- money goes faster than it usually does. Only users who have spent since the last run are looked at.

-- Adds what records cost to their users' last hours, and has the watch look at them.
create function api.note_spend(records gateway.usage_records[])
returns void language sql as $$
  insert into gateway.recent_spend as s (user_id, slot, cost_nano)
  select r.user_id, date_bin('10 minutes', r.created_at, '2000-01-01 00:00:00+00'), sum(r.cost_nano)
    from unnest(records) r where r.cost_nano > 0 group by 1, 2 order by 1, 2
  on conflict (user_id, slot) do update set cost_nano = s.cost_nano + excluded.cost_nano, is_watched = false
$$;

-- Looks at the balances of users who have spent since they were last looked at, of at most `most` ten minutes of somebody's, and
-- returns {watched}, how many of those there were. Runs at once look at different ones; what is told is told once.
create function api.watch_balances(most integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare spender bigint; spenders bigint[]; watched integer;
begin
  with taken as (
    update gateway.recent_spend s set is_watched = true where (s.user_id, s.slot) in (
      select x.user_id, x.slot from gateway.recent_spend x where not x.is_watched
       order by x.user_id, x.slot limit watch_balances.most for update skip locked)
    returning s.user_id
  )
  select count(*), array_agg(distinct t.user_id order by t.user_id) into watched, spenders from taken t;
  foreach spender in array coalesce(spenders, '{}') loop
    perform api.watch_balance(spender);
  end loop;
  delete from gateway.recent_spend s where s.is_watched and s.slot < statement_timestamp() - interval '3 hours';
  return jsonb_build_object('watched', watched);
end $$;
grant execute on function api.watch_balances to gateway_jobs, service_role;

-- Tells what there is to tell of one user's balance, and notes that it was told.
create function api.watch_balance(user_id bigint)
returns void language plpgsql as $$
declare u gateway.users; m gateway.spend_marks; top_up gateway.credit_grants;
begin
  insert into gateway.spend_marks (user_id) values (watch_balance.user_id) on conflict on constraint spend_marks_pkey do nothing;
  -- whoever watches the same user waits here, and then sees what is there now
  select * into m from gateway.spend_marks x where x.user_id = watch_balance.user_id for update;
  select * into u from gateway.users x where x.id = watch_balance.user_id and x.status <> 'deleted';
  if not found then
    return;
  end if;
  m := api.tell_low(u, m);
  top_up := api.last_top_up(u.id);
  if top_up.id is distinct from m.top_up_id then
    m.top_up_id := top_up.id;
    m.percent := 0;
    m.is_burst := false;
  end if;
  m.percent := api.tell_spent(u, m.percent, top_up);
  m.is_burst := m.is_burst or api.tell_burst(u);
  update gateway.spend_marks x set grant_id = m.grant_id, top_up_id = m.top_up_id, percent = m.percent, is_low = m.is_low,
         is_burst = m.is_burst where x.user_id = u.id;
end $$;

-- Tells a balance that fell below its owner's mark, once until it was above again, were that for a moment between two runs. What
-- requests in flight hold is not counted as gone: most of it comes back. A balance that was never above has not fallen.
create function api.tell_low(u gateway.users, m gateway.spend_marks)
returns gateway.spend_marks language plpgsql as $$
declare
  mark constant bigint := (api.preferences(u.id) ->> 'low_balance_nano')::bigint;
  available constant bigint := u.credits_nano - u.frozen_nano;
  newest gateway.credit_grants; was_above boolean;
begin
  select * into newest from gateway.credit_grants g where g.user_id = u.id order by g.id desc limit 1;
  if newest.id is distinct from m.grant_id then
    was_above := available + (select coalesce(-sum(t.amount_nano), 0) from gateway.credit_transactions t
                               where t.user_id = u.id and t.id > newest.transaction_id and t.kind = 'usage') >= mark;
    m.is_low := case when was_above then false when m.grant_id is null then true else m.is_low end;
    m.grant_id := newest.id;
  end if;
  if available >= mark then
    m.is_low := false;
  elsif not m.is_low then
    m.is_low := true;
    insert into gateway.outbox (event, payload) values ('balance.low', jsonb_build_object(
      'user_id', u.id, 'available_nano', available, 'low_balance_nano', mark));
  end if;
  return m;
end $$;

-- The grant whose spending is told by percents: the last that was paid for, of who has paid for none the last of all.
create function api.last_top_up(user_id bigint)
returns gateway.credit_grants language plpgsql stable as $$
declare found_grant gateway.credit_grants;
begin
  select * into found_grant from gateway.credit_grants g
   where g.user_id = last_top_up.user_id and g.kind in ('paid', 'subscription') order by g.id desc limit 1;
  if not found then
    select * into found_grant from gateway.credit_grants g where g.user_id = last_top_up.user_id order by g.id desc limit 1;
  end if;
  return found_grant;
end $$;

-- Tells which of 50, 80, 95 and 100 % of a top-up are spent and were not told, an event each; returns the last that is told. What
-- was taken back or has ended is no part of it.
create function api.tell_spent(u gateway.users, told smallint, top_up gateway.credit_grants)
returns smallint language plpgsql as $$
declare
  whole constant bigint := top_up.amount_nano - top_up.clawed_nano - top_up.expired_nano;
  left_nano constant bigint := coalesce((select l.left_nano from api.grants_left(u.id) l where l.id = top_up.id), 0);
  mark smallint; reached smallint := told;
begin
  foreach mark in array array[50, 80, 95, 100]::smallint[] loop
    if whole > 0 and mark > told and (whole - left_nano)::numeric * 100 >= whole::numeric * mark then
      insert into gateway.outbox (event, payload) values ('balance.spent', jsonb_build_object(
        'user_id', u.id, 'percent', mark, 'grant_id', top_up.id, 'top_up_nano', whole, 'left_nano', left_nano));
      reached := mark;
    end if;
  end loop;
  return reached;
end $$;

-- Tells whether more than a dollar, and more than five times the average hour of the last seven days, was spent in the last hour.
-- The first day of an account is for learning.
create function api.tell_burst(u gateway.users)
returns boolean language plpgsql as $$
declare
  today constant date := (clock_timestamp() at time zone 'utc')::date;
  days constant integer := least(7, today - (u.created_at at time zone 'utc')::date);
  hour_nano bigint; average_nano bigint;
begin
  select coalesce(sum(s.cost_nano), 0) into hour_nano from gateway.recent_spend s
   where s.user_id = u.id and s.slot > statement_timestamp() - interval '1 hour';
  if days < 1 or hour_nano <= 1000000000 then
    return false;
  end if;
  select coalesce(sum(k.cost_nano), 0) / (days * 24) into average_nano from gateway.usage_by_key k
   where k.user_id = u.id and k.day between today - days and today - 1;
  if hour_nano <= 5 * average_nano then
    return false;
  end if;
  insert into gateway.outbox (event, payload) values ('spend.burst', jsonb_build_object(
    'user_id', u.id, 'last_hour_nano', hour_nano, 'average_hour_nano', average_nano));
  return true;
end $$;

-- Reports the last week (Monday to Sunday, UTC) to at most `most` of the users who want that and used something; each once. Does
-- nothing until the week's usage is added up. Returns {reported, is_done}.
create function api.report_usage(most integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  monday constant date := date_trunc('week', clock_timestamp() at time zone 'utc')::date;
  began constant timestamptz := monday::timestamp at time zone 'utc';
  reader bigint; seen integer := 0; reported integer := 0; done_until timestamptz; report jsonb;
begin
  select r.until into done_until from gateway.rollups r where r.name = 'usage_reports' for update;
  if done_until >= began or not exists (select from gateway.rollups r where r.name = 'usage' and r.until >= began) then
    return jsonb_build_object('reported', 0, 'is_done', true);
  end if;
  for reader in select n.user_id from gateway.notification_preferences n left join gateway.spend_marks m using (user_id)
                 where n.usage_report and m.reported_week is distinct from monday order by n.user_id limit report_usage.most loop
    insert into gateway.spend_marks as x (user_id, reported_week) values (reader, monday)
    on conflict on constraint spend_marks_pkey do update set reported_week = excluded.reported_week;
    report := api.week_of(reader, monday - 7);
    if (report ->> 'requests')::bigint > 0 then
      insert into gateway.outbox (event, payload) values ('usage.report', report);
      reported := reported + 1;
    end if;
    seen := seen + 1;
  end loop;
  if seen < report_usage.most then
    update gateway.rollups r set until = began where r.name = 'usage_reports';
  end if;
  return jsonb_build_object('reported', reported, 'is_done', seen < report_usage.most);
end $$;
grant execute on function api.report_usage to gateway_jobs, service_role;

-- What a user used in the seven days from `first`: {user_id, from, to, requests, tokens, cost_nano, keys}, of the keys the five
-- that spent most.
create function api.week_of(user_id bigint, first date)
returns jsonb language sql stable as $$
  with used as (
    select k.key_id, sum(k.requests) as requests, sum(k.prompt_tokens + k.completion_tokens) as tokens, sum(k.cost_nano) as cost_nano
      from gateway.usage_by_key k
     where k.user_id = week_of.user_id and k.day between week_of.first and week_of.first + 6 group by 1
  )
  select jsonb_build_object(
    'user_id', week_of.user_id, 'from', week_of.first, 'to', week_of.first + 6,
    'requests', coalesce(sum(s.requests), 0), 'tokens', coalesce(sum(s.tokens), 0), 'cost_nano', coalesce(sum(s.cost_nano), 0),
    'keys', (select coalesce(jsonb_agg(jsonb_build_object('name', a.name, 'requests', t.requests, 'cost_nano', t.cost_nano)
                                       order by t.cost_nano desc, a.id), '[]')
               from (select * from used x order by x.cost_nano desc, x.key_id limit 5) t join gateway.api_keys a on a.id = t.key_id))
    from used s
$$;
