-- The outbox: events on their way to others. An event becomes a delivery for each of its receivers, once; a delivery is tried until
-- it is taken. At least once: one whose sender died after it was taken is sent again with the same id, by which its receiver tells.

-- The events that go out by mail.
create function api.mailed_events()
returns text[] language sql immutable as $$
  select array['user.created', 'payment.paid', 'payment.refunded', 'balance.low', 'trial.ending', 'key.created', 'key.rotated',
               'key.rotation_due', 'key.leaked', 'key.paused', 'account.recovery', 'usage.report', 'webhook.disabled', 'security.alert']
$$;

-- The events that users may have sent to their webhooks.
create function api.hooked_events()
returns text[] language sql immutable as $$
  select array['balance.low', 'balance.spent', 'spend.burst', 'key.created', 'key.rotated', 'key.rotation_due', 'key.deleted',
               'key.leaked', 'key.paused', 'payment.paid', 'payment.refunded']
$$;

-- The events that go to the operator's bus: all that happened, but for letters and what is in them.
create function api.bus_events()
returns text[] language sql immutable as $$
  select array['user.created', 'user.suspended', 'user.restored', 'user.deleted', 'role.assigned', 'plan.assigned', 'key.created',
               'key.rotated', 'key.rotation_due', 'key.deleted', 'key.leaked', 'key.paused', 'credits.granted', 'credits.expired',
               'balance.low', 'balance.spent', 'spend.burst', 'trial.started', 'trial.ending', 'trial.ended', 'payment.paid',
               'payment.failed', 'payment.canceled', 'payment.disagreeing', 'payment.refunded', 'payment.disputed',
               'payment.dispute_lost', 'payment.dispute_won', 'webhook.disabled', 'security.alert']
$$;

-- The mails that go before all others: a flood of mails holds up neither a recovery nor an alert.
create function api.urgent_events()
returns text[] language sql immutable as $$ select array['account.recovery', 'security.alert'] $$;

-- The mails of one kind that a user gets in a day; of urgent ones all.
create function api.max_mails_a_day()
returns integer language sql immutable as $$ select 20 $$;

-- Which preference decides whether an event is mailed; null: it always is.
create function api.preference_of(event text)
returns text language sql immutable as $$
  select case when event in ('key.created', 'key.rotated', 'key.rotation_due') then 'key_events'
              when event = 'balance.low' then 'low_balance'
              when event = 'usage.report' then 'usage_report' end
$$;

-- Where a mail about an event goes now; null when the user has no address, is not active, or does not want it, and for a
-- recovery that is over.
create function api.mail_address(u gateway.users, event text, payload jsonb)
returns text language sql stable as $$
  select u.email where u.status = 'active'
     and case when api.preference_of(event) is not null then (api.preferences(u.id) ->> api.preference_of(event))::boolean
              when event = 'account.recovery' then (payload ->> 'expires_at')::timestamptz > clock_timestamp()
              when event = 'security.alert' then u.role = 'admin'
              else true end
$$;

-- Makes deliveries of at most `most` waiting events for each of `channels`, each event once a channel; returns how many events were
-- taken of each channel, so that the caller knows whether others wait.
-- Events older than three days are not mailed any more: who turns mail on does not send what nobody waits for.
create function api.fan_out(channels jsonb, most integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  return jsonb_build_object(
    'mail', case when channels ? 'mail' then api.fan_out_mail(most) else 0 end,
    'webhook', case when channels ? 'webhook' then api.fan_out_webhooks(most) else 0 end,
    'alert', case when channels ? 'alert' then api.fan_out_alerts(most) else 0 end,
    'bus', case when channels ? 'bus' then api.fan_out_bus(most) else 0 end);
end $$;
grant execute on function api.fan_out to gateway_jobs, service_role;

-- The mails of one kind that were made for a user within a day.
create function api.mails_of_a_day(user_id bigint, event text)
returns bigint language sql stable as $$
  select count(*) from gateway.deliveries d join gateway.outbox o on o.id = d.event_id
   where d.channel = 'mail' and d.target = mails_of_a_day.user_id and d.created_at > statement_timestamp() - interval '1 day'
     and o.event = mails_of_a_day.event
$$;

-- A mail to the user whom an event is about, unless the user got as many of its kind within a day as one gets; an alert's go to every
-- admin. Urgent events are taken first.
create function api.fan_out_mail(most integer)
returns bigint language sql as $$
  with taken as (
    update gateway.outbox o set to_mail = false where o.id in (
      select x.id from gateway.outbox x where x.to_mail and x.event = any (api.mailed_events())
       order by x.event = any (api.urgent_events()) desc, x.id limit most for no key update skip locked)
    returning o.*
  ), due as (
    select t.*, t.event = any (api.urgent_events()) as is_urgent from taken t where t.created_at > clock_timestamp() - interval '3 days'
  ), read_by as (
    select d.id, d.event, d.is_urgent, u.id as reader,
           row_number() over (partition by u.id, d.event order by d.id) + api.mails_of_a_day(u.id, d.event) as nth
      from due d join gateway.users u on u.id = (d.payload ->> 'user_id')::bigint
     where d.event <> 'security.alert' and api.mail_address(u, d.event, d.payload) is not null
    union all
    select d.id, d.event, d.is_urgent, u.id, 1 from due d join gateway.users u on u.role = 'admin'
     where d.event = 'security.alert' and api.mail_address(u, d.event, d.payload) is not null
  ), made as (
    insert into gateway.deliveries (event_id, channel, target, is_urgent)
    select r.id, 'mail', r.reader, r.is_urgent from read_by r where r.is_urgent or r.nth <= api.max_mails_a_day()
     order by r.id, r.reader
    on conflict do nothing
  )
  select count(*) from taken
$$;

-- To each webhook of the user's that asked for the event before it happened.
create function api.fan_out_webhooks(most integer)
returns bigint language sql as $$
  with taken as (
    update gateway.outbox o set to_webhooks = false where o.id in (
      select x.id from gateway.outbox x where x.to_webhooks and x.event = any (api.hooked_events())
       order by x.id limit most for no key update skip locked)
    returning o.*
  ), made as (
    insert into gateway.deliveries (event_id, channel, target)
    select t.id, 'webhook', w.id from taken t join gateway.webhooks w on w.user_id = (t.payload ->> 'user_id')::bigint
     where w.is_active and t.event = any (w.events) and w.created_at <= t.created_at
     order by t.id, w.id
    on conflict do nothing
  )
  select count(*) from taken
$$;

-- Security alerts to the operator's own webhook.
create function api.fan_out_alerts(most integer)
returns bigint language sql as $$
  with taken as (
    update gateway.outbox o set to_operator = false where o.id in (
      select x.id from gateway.outbox x where x.to_operator and x.event = 'security.alert'
       order by x.id limit most for no key update skip locked)
    returning o.id
  ), made as (
    insert into gateway.deliveries (event_id, channel, target) select t.id, 'alert', 0 from taken t order by t.id
    on conflict do nothing
  )
  select count(*) from taken
$$;

-- To the operator's bus; who turns it on gets the events of the last three days.
create function api.fan_out_bus(most integer)
returns bigint language sql as $$
  with taken as (
    update gateway.outbox o set to_bus = false where o.id in (
      select x.id from gateway.outbox x where x.to_bus and x.event = any (api.bus_events())
       order by x.id limit most for no key update skip locked)
    returning o.*
  ), made as (
    insert into gateway.deliveries (event_id, channel, target)
    select t.id, 'bus', 0 from taken t where t.created_at > clock_timestamp() - interval '3 days' order by t.id
    on conflict do nothing
  )
  select count(*) from taken
$$;

-- Who receives a delivery at this moment: {address, name, preference} of a mail, {url, sealed} of a webhook, {} of the operator's webhook and bus;
-- null when nobody does any more.
create function api.receiver(channel text, target bigint, event text, payload jsonb)
returns jsonb language sql stable as $$
  select case receiver.channel
    when 'alert' then '{}'::jsonb
    when 'bus' then '{}'::jsonb
    when 'mail' then (
      select jsonb_build_object('address', m.address, 'name', coalesce(nullif(u.display_name, ''), u.username),
                                'preference', api.preference_of(receiver.event))
        from gateway.users u cross join lateral (select api.mail_address(u, receiver.event, receiver.payload) as address) m
       where u.id = receiver.target and m.address is not null)
    when 'webhook' then (
      select jsonb_build_object('url', w.url, 'sealed', w.sealed, 'user_id', w.user_id)
        from gateway.webhooks w join gateway.users u on u.id = w.user_id
       where w.id = receiver.target and w.is_active and u.status = 'active') end
$$;

-- How many deliveries of a channel may be under way: to one receiver, to all receivers of one owner, and in all to those that are
-- slow. The operator's own receivers have no share.
create function api.shares(channel text)
returns table (receivers integer, owners integer, slow integer) language sql immutable rows 1 as $$
  select case shares.channel when 'webhook' then 2 when 'mail' then 1 else 1000 end,
         case shares.channel when 'webhook' then 4 when 'mail' then 1 else 1000 end, 5
$$;

-- The milliseconds after which a webhook counts as slow: until a delivery takes less, it has its place among the slow ones only.
create function api.slow_ms()
returns integer language sql immutable as $$ select 2000 $$;

-- The due deliveries of a channel that may be begun now, at most `most`. Receivers are found by steps of an index, one a receiver, and
-- no more is read of each than its share: a million that wait for one are in nobody's way.
create function api.fair_deliveries(channel text, most integer)
returns table (id bigint) language sql stable as $$
  with recursive step as (
    (select d.target from gateway.deliveries d
      where d.channel = fair_deliveries.channel and d.sent_at is null and d.failed_at is null order by d.target limit 1)
    union all
    select (select d.target from gateway.deliveries d
             where d.channel = fair_deliveries.channel and d.sent_at is null and d.failed_at is null and d.target > s.target
             order by d.target limit 1)
      from step s where s.target is not null
  ), under_way as (
    select d.target, count(*) as n from gateway.deliveries d
     where d.channel = fair_deliveries.channel and d.sent_at is null and d.failed_at is null and d.leased_until > statement_timestamp()
     group by d.target
  ), known as (
    select s.target, coalesce(w.user_id, s.target) as owner, coalesce(w.last_ms >= api.slow_ms(), false) as is_slow, coalesce(u.n, 0) as n
      from step s left join gateway.webhooks w on fair_deliveries.channel = 'webhook' and w.id = s.target
      left join under_way u on u.target = s.target where s.target is not null
  ), receiver as (
    select k.*, sum(k.n) over (partition by k.owner) as of_owner, sum(case when k.is_slow then k.n else 0 end) over () as of_slow from known k
  ), waiting as (
    select d.id, d.is_urgent, d.next_try_at, r.owner, r.is_slow, share.owners - r.of_owner as owners, share.slow - r.of_slow as slow
      from receiver r cross join api.shares(fair_deliveries.channel) share
     cross join lateral (
       select x.id, x.is_urgent, x.next_try_at from gateway.deliveries x
        where x.channel = fair_deliveries.channel and x.target = r.target and x.sent_at is null and x.failed_at is null
          and x.next_try_at <= statement_timestamp()
        order by x.is_urgent desc, x.next_try_at limit greatest(0, share.receivers - r.n)) d
  ), placed as (
    select w.*, row_number() over (partition by w.owner order by w.is_urgent desc, w.next_try_at, w.id) as of_owner,
           row_number() over (partition by w.owner, w.is_slow order by w.is_urgent desc, w.next_try_at, w.id) as of_lane
      from waiting w
  ), allowed as (
    select p.*, row_number() over (partition by p.is_slow order by p.of_lane, p.next_try_at, p.id) as in_lane
      from placed p
     where p.of_owner <= p.owners
  )
  select a.id from allowed a
   where not a.is_slow or a.in_lane <= a.slow
   order by a.is_urgent desc, a.next_try_at, a.id limit fair_deliveries.most
$$;

-- Leases what may be begun now, and withdraws what nobody receives: what is left to send, and how many there were of both.
create function api.lease_deliveries(channel text, most integer, lease_s integer)
returns table (found jsonb, taken bigint) language sql rows 1 as $$
  with due as (
    select d.id, d.is_urgent, o.event, o.payload, o.created_at, api.receiver(d.channel, d.target, o.event, o.payload) as receiver
      from gateway.deliveries d join gateway.outbox o on o.id = d.event_id
     where d.id in (select f.id from api.fair_deliveries(lease_deliveries.channel, lease_deliveries.most) f)
       and d.sent_at is null and d.failed_at is null
       for no key update of d skip locked -- what is just being ended, or withdrawn
  ), claimed as (
    update gateway.deliveries d
       set next_try_at = clock_timestamp() + make_interval(secs => lease_deliveries.lease_s),
           leased_until = case when due.receiver is not null then clock_timestamp() + make_interval(secs => lease_deliveries.lease_s) end,
           failed_at = case when due.receiver is null then clock_timestamp() end,
           reason = case when due.receiver is null then 'withdrawn' else d.reason end
      from due where d.id = due.id
    returning d.id, d.target, d.tries, d.event_id, due.is_urgent, due.event, due.payload, due.created_at, due.receiver
  )
  select coalesce(jsonb_agg(to_jsonb(c) - 'is_urgent' order by c.is_urgent desc, c.id) filter (where c.receiver is not null), '[]'),
         count(*) from claimed c
$$;

-- Leases a channel's due deliveries for `lease_s` seconds, urgent ones first, then the longest due, and returns them [{id, target,
-- tries, event_id, event, payload, created_at, receiver}]. No receiver has more than its share under way, no owner of receivers and
-- not all slow ones together: what they hold up is their own. What nobody receives any more is withdrawn.
create function api.claim_deliveries(channel text, most integer, lease_s integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare found jsonb; taken bigint;
begin
  -- one sender at a time counts what is under way
  perform pg_advisory_xact_lock(hashtextextended('deliveries:' || channel, 0));
  for round in 1..50 loop
    select c.found, c.taken into found, taken from api.lease_deliveries(channel, most, lease_s) c;
    exit when taken = 0 or found <> '[]'; -- where all were withdrawn, others may be due
  end loop;
  return found;
end $$;
grant execute on function api.claim_deliveries to gateway_jobs, service_role;

-- Ends a delivery that was taken, after `took_ms`; one that has ended stays as it is.
create function api.delivery_sent(delivery_id bigint, took_ms integer default 0)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare d gateway.deliveries;
begin
  update gateway.deliveries x set sent_at = clock_timestamp(), tries = x.tries + 1, reason = null, leased_until = null
   where x.id = delivery_sent.delivery_id and x.sent_at is null and x.failed_at is null returning * into d;
  if d.channel = 'webhook' then
    update gateway.webhooks w set failures = 0, last_ms = took_ms
     where w.id = d.target and (w.failures > 0 or (w.last_ms >= api.slow_ms()) <> (took_ms >= api.slow_ms()));
  end if;
  return jsonb_build_object('ended', d.id is not null);
end $$;
grant execute on function api.delivery_sent to gateway_jobs, service_role;

-- Withdraws all that waits for a webhook which is no more.
create function api.withdraw_deliveries(webhook_id bigint)
returns void language sql as $$
  update gateway.deliveries d set failed_at = clock_timestamp(), reason = 'withdrawn', leased_until = null
   where d.channel = 'webhook' and d.target = withdraw_deliveries.webhook_id and d.sent_at is null and d.failed_at is null
$$;

-- Counts a failed try, the one after `tries` others, and puts the next off for `wait_s` seconds; null gives the delivery up. A
-- webhook that failed 20 times in a row is turned off, and its owner is told. `took_ms` is how long the try took.
create function api.delivery_failed(delivery_id bigint, tries integer, wait_s integer, reason text, took_ms integer default 0)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare d gateway.deliveries; w gateway.webhooks;
begin
  update gateway.deliveries x
     set tries = x.tries + 1, failed_at = case when delivery_failed.wait_s is null then clock_timestamp() end,
         next_try_at = clock_timestamp() + make_interval(secs => coalesce(delivery_failed.wait_s, 0)),
         reason = left(delivery_failed.reason, 200), leased_until = null
   where x.id = delivery_failed.delivery_id and x.tries = delivery_failed.tries and x.sent_at is null and x.failed_at is null
  returning * into d;
  if d.channel = 'webhook' then
    update gateway.webhooks x set failures = x.failures + 1, last_ms = took_ms, is_active = x.failures + 1 < 20,
           disabled_at = case when x.failures + 1 >= 20 then clock_timestamp() end
     where x.id = d.target and x.is_active returning * into w;
    if not w.is_active then
      perform api.audit('{"name": "job:send_outbox"}', 'webhook.disabled', 'webhook:' || w.id, w.user_id, null,
                        jsonb_build_object('url', w.url, 'failures', w.failures, 'reason', d.reason));
      insert into gateway.outbox (event, payload) values ('webhook.disabled', jsonb_build_object(
        'user_id', w.user_id, 'webhook_id', w.id, 'url', w.url, 'failures', w.failures, 'reason', d.reason));
    end if;
  end if;
  return jsonb_build_object('counted', d.id is not null);
end $$;
grant execute on function api.delivery_failed to gateway_jobs, service_role;

-- Deletes events of 30 days ago and more with their deliveries, and Stripe's events that were worked on 90 days ago and more, at most
-- 10,000 of each; {events, stripe_events}. By then every delivery has ended.
create function api.purge_outbox()
returns jsonb language plpgsql security definer set search_path = '' as $$
declare old bigint[]; told bigint;
begin
  old := array(select o.id from (select x.id, x.created_at from gateway.outbox x order by x.id limit 10000) o
                where o.created_at < statement_timestamp() - interval '30 days');
  delete from gateway.deliveries d where d.event_id = any (old);
  delete from gateway.outbox o where o.id = any (old);
  delete from gateway.stripe_events e where e.id in (
    select x.id from gateway.stripe_events x where x.worked_at < statement_timestamp() - interval '90 days' limit 10000);
  get diagnostics told = row_count;
  return jsonb_build_object('events', cardinality(old), 'stripe_events', told);
end $$;
grant execute on function api.purge_outbox to gateway_jobs, service_role;
