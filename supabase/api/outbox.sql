-- The outbox: events on their way to others. At least once: an event whose sender died after it was delivered is sent again
-- with the same id, by which its receiver tells.

-- Leases due events of these kinds for `lease_s` seconds, the longest due first, and returns them [{id, event, payload,
-- created_at, tries}]. What another sender holds is passed over; events of other kinds are not looked at.
create function api.claim_events(events jsonb, most integer, lease_s integer)
returns jsonb language sql security definer set search_path = '' as $$
  with due as (
    select o.id from gateway.outbox o
     where o.event in (select jsonb_array_elements_text(claim_events.events)) and o.sent_at is null and o.failed_at is null
       and o.next_try_at <= clock_timestamp()
     order by o.next_try_at limit claim_events.most for no key update skip locked
  ), claimed as (
    update gateway.outbox o set next_try_at = clock_timestamp() + make_interval(secs => claim_events.lease_s)
      from due where o.id = due.id returning o.id, o.event, o.payload, o.created_at, o.tries
  )
  select coalesce(jsonb_agg(to_jsonb(c) order by c.id), '[]') from claimed c
$$;
grant execute on function api.claim_events to gateway_jobs, service_role;

-- Ends an event that was delivered; one that has ended stays as it is.
create function api.event_sent(event_id bigint)
returns jsonb language sql security definer set search_path = '' as $$
  with ended as (
    update gateway.outbox o set sent_at = clock_timestamp(), tries = o.tries + 1
     where o.id = event_sent.event_id and o.sent_at is null and o.failed_at is null returning 1
  )
  select jsonb_build_object('ended', count(*) > 0) from ended
$$;
grant execute on function api.event_sent to gateway_jobs, service_role;

-- Counts a failed try, the one after `tries` others, and puts the next off for `wait_s` seconds; null gives the event up.
create function api.event_failed(event_id bigint, tries integer, wait_s integer)
returns jsonb language sql security definer set search_path = '' as $$
  with counted as (
    update gateway.outbox o
       set tries = o.tries + 1, failed_at = case when event_failed.wait_s is null then clock_timestamp() end,
           next_try_at = clock_timestamp() + make_interval(secs => coalesce(event_failed.wait_s, 0))
     where o.id = event_failed.event_id and o.tries = event_failed.tries and o.sent_at is null and o.failed_at is null
    returning 1
  )
  select jsonb_build_object('counted', count(*) > 0) from counted
$$;
grant execute on function api.event_failed to gateway_jobs, service_role;
