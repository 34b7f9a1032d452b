-- Payments: written here before Stripe is asked, and recorded as Stripe says whenever it is asked, whatever brought us to ask.

-- Opens a payment of `amount_cents` that credits `credit_nano` nano-dollars, once per user and Idempotency-Key; returns it.
-- Raises 422 when the key stands for another request.
create function api.open_payment(user_id bigint, kind text, amount_cents bigint, credit_nano bigint, key text, request_hash text,
                                 actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare p gateway.payments;
begin
  actor := api.confirm(actor, user_id);
  perform from gateway.users u where u.id = open_payment.user_id for no key update;
  select * into p from gateway.payments x where x.user_id = open_payment.user_id and x.idempotency_key = open_payment.key;
  if found and p.request_hash is distinct from open_payment.request_hash then
    raise exception using errcode = 'PT422', message = 'idempotency_key_reused', detail = '{"param": "Idempotency-Key"}';
  elsif not found then
    perform api.refuse_more_payments(open_payment.user_id);
    insert into gateway.payments (user_id, kind, amount_cents, credit_nano, idempotency_key, request_hash)
    values (open_payment.user_id, open_payment.kind, open_payment.amount_cents, open_payment.credit_nano, open_payment.key,
            open_payment.request_hash) returning * into p;
    perform api.audit(open_payment.actor, 'payment.opened', 'payment:' || p.id, p.user_id, null, api.payment_shown(p));
  end if;
  return api.payment_shown(p);
end $$;
grant execute on function api.open_payment to gateway_billing, service_role;

-- The payments that a user may open in an hour and not pay: each is a call to Stripe.
create function api.max_open_payments()
returns integer language sql immutable as $$ select 20 $$;

-- Raises 429 when a user has opened too many payments lately that are not paid. The caller has locked the user.
create function api.refuse_more_payments(user_id bigint)
returns void language plpgsql as $$
begin
  if (select count(*) from (select from gateway.payments p
        where p.user_id = refuse_more_payments.user_id and p.status = 'pending' and p.created_at > clock_timestamp() - interval '1 hour'
        limit api.max_open_payments()) p) >= api.max_open_payments() then
    raise exception using errcode = 'PT429', message = 'rate_limit_exceeded', detail = jsonb_build_object(
      'scope', 'payments', 'retry_after_ms', 600000,
      'message', 'This account has opened too many payments that are not paid. Pay one of them, or try again in ten minutes.')::text;
  end if;
end $$;

-- A payment as the functions and the audit log see it.
create function api.payment_shown(p gateway.payments)
returns jsonb language sql immutable as $$
  select to_jsonb(p) - array['idempotency_key', 'request_hash', 'card_fingerprint']
$$;

-- Writes down under which ids Stripe has a payment, once; returns the payment.
create function api.attach_payment(payment_id bigint, session_id text, intent_id text)
returns jsonb language sql security definer set search_path = '' as $$
  update gateway.payments p set session_id = coalesce(p.session_id, attach_payment.session_id),
         intent_id = coalesce(p.intent_id, attach_payment.intent_id)
   where p.id = attach_payment.payment_id returning api.payment_shown(p)
$$;
grant execute on function api.attach_payment to gateway_billing, gateway_jobs, service_role;

-- Which customer of Stripe's a user is, {customer_id, email}: the first one that was written down, `customer_id` if there is none.
create function api.customer(user_id bigint, customer_id text)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  update gateway.users u set stripe_customer_id = customer.customer_id
   where u.id = customer.user_id and u.stripe_customer_id is null and customer.customer_id is not null;
  return (select jsonb_build_object('customer_id', u.stripe_customer_id, 'email', u.email)
            from gateway.users u where u.id = customer.user_id);
end $$;
grant execute on function api.customer to gateway_billing, service_role;

-- A payment by whatever of its ids is known; null when it is none of ours.
create function api.find_payment(id bigint, session_id text, intent_id text, invoice_id text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select api.payment_shown(p) from (
    select * from gateway.payments x where x.id = find_payment.id
    union all select * from gateway.payments x where x.session_id = find_payment.session_id
    union all select * from gateway.payments x where x.intent_id = find_payment.intent_id
    union all select * from gateway.payments x where x.invoice_id = find_payment.invoice_id) p limit 1
$$;
grant execute on function api.find_payment to gateway_billing, gateway_stripe_webhook, gateway_jobs, service_role;

-- A user's payments, the last first, those before `cursor`.
create function api.payments_of(user_id bigint, cursor bigint, most integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(api.payment_shown(p) order by p.id desc), '[]')
    from (select * from gateway.payments x
           where x.user_id = payments_of.user_id and x.id < coalesce(payments_of.cursor, 9223372036854775807)
           order by x.id desc limit payments_of.most) p
$$;
grant execute on function api.payments_of to gateway_billing, service_role;

-- Records what Stripe says of a payment, read after `version` was: {status: pending | paid | failed | canceled, paid_cents, currency,
-- session_id, intent_id, card_fingerprint, refunded_cents, lost_cents, is_disputed, ends_at}; and ends the events `event_ids`. What is
-- paid is credited once; what goes back is taken back, whatever the order and however often. Returns the payment, or {stale} when
-- something was recorded since: then Stripe is to be asked again. Raises 404.
create function api.record_payment(payment_id bigint, version bigint, facts jsonb, event_ids jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.payments; p gateway.payments;
begin
  perform api.lock_parties(record_payment.payment_id);
  select * into was from gateway.payments x where x.id = record_payment.payment_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  elsif was.version <> record_payment.version then
    return jsonb_build_object('stale', true);
  end if;
  p := api.write_facts(was, facts);
  if p.status = 'paid' and was.status <> 'paid' then
    perform api.pay_out(p, (facts ->> 'ends_at')::timestamptz, actor);
  end if;
  if p.status = 'paid' and (p.refunded_cents, p.lost_cents, p.is_disputed) is distinct from
     (was.refunded_cents, was.lost_cents, was.is_disputed) then
    perform api.take_back(was, p, actor);
  end if;
  if p.kind = 'auto_top_up' and was.status = 'pending' and p.status <> 'pending' then
    perform api.count_top_up(p);
  end if;
  perform api.tell_payment(was, p, actor);
  perform api.end_events(event_ids, p.id, p.status);
  return api.payment_shown(p);
end $$;
grant execute on function api.record_payment to gateway_billing, gateway_stripe_webhook, gateway_jobs, service_role;

-- Locks the users whom a payment concerns, in the order of their ids.
create function api.lock_parties(payment_id bigint)
returns void language plpgsql as $$
declare payer bigint := (select p.user_id from gateway.payments p where p.id = lock_parties.payment_id);
begin
  perform from gateway.users u where u.id in (payer, api.referrer_of(payer)) order by u.id for no key update;
end $$;

-- Writes what Stripe says into a payment. Paid stays paid: what goes back is told by its amounts. An amount or a currency that
-- is not what we asked for is never credited.
create function api.write_facts(was gateway.payments, facts jsonb)
returns gateway.payments language plpgsql as $$
declare
  p gateway.payments;
  said constant text := facts ->> 'status';
  agrees constant boolean := (facts ->> 'paid_cents')::bigint = was.amount_cents and facts ->> 'currency' = was.currency
    and coalesce(was.intent_id = facts ->> 'intent_id', true) and coalesce(was.session_id = facts ->> 'session_id', true);
begin
  update gateway.payments x set
    version = x.version + 1, checked_at = clock_timestamp(),
    status = case when was.status = 'paid' then 'paid' when said = 'paid' and not coalesce(agrees, false) then 'disagreeing' else said end,
    session_id = coalesce(x.session_id, facts ->> 'session_id'), intent_id = coalesce(x.intent_id, facts ->> 'intent_id'),
    card_fingerprint = coalesce(facts ->> 'card_fingerprint', x.card_fingerprint),
    refunded_cents = least(x.amount_cents, coalesce((facts ->> 'refunded_cents')::bigint, 0)),
    lost_cents = least(x.amount_cents, coalesce((facts ->> 'lost_cents')::bigint, 0)),
    is_disputed = coalesce((facts ->> 'is_disputed')::boolean, false),
    paid_at = coalesce(x.paid_at, case when said = 'paid' then clock_timestamp() end)
   where x.id = was.id returning * into p;
  return p;
end $$;

-- Credits what was paid, with what hangs on it: a coupon's bonus, and rewards for a referral.
create function api.pay_out(p gateway.payments, ends_at timestamptz, actor jsonb)
returns void language plpgsql as $$
begin
  if p.credit_nano > 0 then
    perform api.add_grant(p.user_id, 'payment:' || p.id, p.credit_nano,
                          case p.kind when 'subscription' then 'subscription' else 'paid' end,
                          'payment ' || p.id, actor, p.id, pay_out.ends_at);
  end if;
  perform api.leave_trial(p.user_id, actor), api.add_bonus(p), api.reward_referral(p);
end $$;

-- Takes back what a payment credited, in proportion to what went back of it (rounded up, to us), and freezes the rest while somebody
-- disputes it.
create function api.take_back(was gateway.payments, p gateway.payments, actor jsonb)
returns void language plpgsql as $$
declare
  own bigint := (select g.id from gateway.credit_grants g join gateway.credit_transactions t on t.id = g.transaction_id
                  where g.payment_id = p.id and t.reference = 'payment:' || p.id);
begin
  perform api.freeze_payment(p.id, p.is_disputed);
  if own is not null then
    if p.refunded_cents <> was.refunded_cents then
      perform api.claw_back(own, api.share_nano(p, p.refunded_cents + was.lost_cents), 'refund', actor);
    end if;
    if p.lost_cents <> was.lost_cents then
      perform api.claw_back(own, api.share_nano(p, p.refunded_cents + p.lost_cents), 'dispute', actor);
    end if;
  end if;
  perform api.reverse_rewards(p);
end $$;

-- What of a payment's credits stands for so many cents of it: all of them for all of it, and never more.
create function api.share_nano(p gateway.payments, cents bigint)
returns bigint language sql immutable as $$
  select ceil(p.credit_nano::numeric * least(share_nano.cents, p.amount_cents) / p.amount_cents)::bigint
$$;

-- Audits what a record changed, and tells it to others.
create function api.tell_payment(was gateway.payments, p gateway.payments, actor jsonb)
returns void language plpgsql as $$
declare told constant jsonb := jsonb_build_object('user_id', p.user_id, 'payment_id', p.id, 'kind', p.kind,
  'amount_cents', p.amount_cents, 'credit_nano', p.credit_nano, 'refunded_cents', p.refunded_cents);
begin
  if (was.status, was.refunded_cents, was.lost_cents, was.is_disputed) is not distinct from
     (p.status, p.refunded_cents, p.lost_cents, p.is_disputed) then
    return;
  end if;
  perform api.audit(actor, 'payment.recorded', 'payment:' || p.id, p.user_id, api.payment_shown(was), api.payment_shown(p));
  insert into gateway.outbox (event, payload) select e, told from unnest(array[
    case when p.status <> was.status and p.status in ('paid', 'failed', 'canceled', 'disagreeing') then 'payment.' || p.status end,
    case when p.refunded_cents > was.refunded_cents then 'payment.refunded' end,
    case when p.is_disputed and not was.is_disputed then 'payment.disputed' end,
    case when p.lost_cents > was.lost_cents then 'payment.dispute_lost' end,
    case when was.is_disputed and not p.is_disputed and p.lost_cents = was.lost_cents then 'payment.dispute_won' end]) e
   where e is not null;
  if p.status = 'disagreeing' and was.status <> 'disagreeing' then
    perform api.raise_alert('payment_disagrees', 'payment:' || p.id, told, p.user_id);
  end if;
end $$;

-- Opens the payment of a subscription's invoice, once; what it credits is the plan's allowance, or nothing for an invoice that is not
-- a period's (`is_period`). Returns it. Raises 404 for no such plan.
create function api.open_invoice(invoice_id text, subscription_id text, user_id bigint, plan_id bigint, amount_cents bigint,
                                 is_period boolean, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare p gateway.payments; allowance bigint;
begin
  select case when open_invoice.is_period then l.allowance_nano else 0 end into allowance
    from gateway.plans l where l.id = open_invoice.plan_id;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "plan_id"}';
  end if;
  insert into gateway.payments (user_id, kind, amount_cents, credit_nano, invoice_id, subscription_id)
  values (open_invoice.user_id, 'subscription', open_invoice.amount_cents, allowance, open_invoice.invoice_id,
          open_invoice.subscription_id)
  on conflict on constraint payments_invoice_id_key do nothing returning * into p;
  if p.id is null then
    select * into p from gateway.payments x where x.invoice_id = open_invoice.invoice_id;
  else
    perform api.audit(open_invoice.actor, 'payment.opened', 'payment:' || p.id, p.user_id, null, api.payment_shown(p));
  end if;
  return api.payment_shown(p);
end $$;
grant execute on function api.open_invoice to gateway_stripe_webhook, gateway_jobs, service_role;

-- What of a payment could be refunded without taking back what was spent: {payment_id, user_id, version, amount_cents, refunded_cents,
-- unused_cents}; raises 404 for a payment that was not paid.
create function api.refundable(intent_id text)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare p gateway.payments; left_nano bigint;
begin
  select * into p from gateway.payments x where x.intent_id = refundable.intent_id and x.status = 'paid';
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  select coalesce(sum(l.left_nano), 0) into left_nano
    from api.grants_left(p.user_id) l join gateway.credit_grants g on g.id = l.id
    join gateway.credit_transactions t on t.id = g.transaction_id
   where g.payment_id = p.id and t.reference = 'payment:' || p.id;
  return jsonb_build_object(
    'payment_id', p.id, 'user_id', p.user_id, 'version', p.version, 'amount_cents', p.amount_cents, 'refunded_cents', p.refunded_cents,
    'unused_cents', case when p.credit_nano = 0 then 0 else floor(left_nano::numeric * p.amount_cents / p.credit_nano) end);
end $$;
grant execute on function api.refundable to gateway_billing, service_role;

-- Keeps an event of Stripe's, once; {is_done} says whether it was worked on already.
create function api.receive_event(id text, type text, object_id text, payment_id bigint, created_at timestamptz)
returns jsonb language sql security definer set search_path = '' as $$
  with kept as (
    insert into gateway.stripe_events (id, type, object_id, named_payment_id, created_at)
    values (receive_event.id, receive_event.type, receive_event.object_id, receive_event.payment_id, receive_event.created_at)
    on conflict on constraint stripe_events_pkey do nothing
  )
  select jsonb_build_object('is_done', coalesce(
    (select e.worked_at is not null from gateway.stripe_events e where e.id = receive_event.id), false))
$$;
grant execute on function api.receive_event to gateway_stripe_webhook, service_role;

-- Ends events, with what came of them.
create function api.end_events(event_ids jsonb, payment_id bigint, outcome text)
returns void language sql as $$
  update gateway.stripe_events e
     set worked_at = clock_timestamp(), payment_id = end_events.payment_id, outcome = end_events.outcome, tries = e.tries + 1
   where e.id in (select jsonb_array_elements_text(end_events.event_ids)) and e.worked_at is null
$$;

-- Ends an event that changed nothing here.
create function api.pass_event(event_id text, outcome text)
returns jsonb language sql security definer set search_path = '' as $$
  select '{}'::jsonb from api.end_events(jsonb_build_array(pass_event.event_id), null, pass_event.outcome)
$$;
grant execute on function api.pass_event to gateway_stripe_webhook, gateway_jobs, service_role;

-- Leases events that are due and were not worked on, for two minutes: [{id, type, object_id, payment_id, tries}]. Each try waits twice
-- as long as the one before, an hour at most; after 80 tries, three days, one is left for the operator, who sees it in the monitor.
create function api.claim_stripe_events(most integer)
returns jsonb language sql security definer set search_path = '' as $$
  with due as (
    select e.id from gateway.stripe_events e
     where e.worked_at is null and e.tries < 80 and e.next_try_at <= statement_timestamp()
     order by e.next_try_at limit claim_stripe_events.most for no key update skip locked
  ), claimed as (
    update gateway.stripe_events e
       set tries = e.tries + 1, next_try_at = clock_timestamp() + least(interval '1 hour', interval '2 minutes' * 2 ^ least(e.tries, 10))
      from due where due.id = e.id returning e.*
  )
  select coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'type', c.type, 'object_id', c.object_id,
                                               'payment_id', c.named_payment_id, 'tries', c.tries)), '[]') from claimed c
$$;
grant execute on function api.claim_stripe_events to gateway_jobs, service_role;

-- Payments that are open and were not looked at for `minutes`, at most `most`, the longest first; they count as looked at.
create function api.claim_open_payments(minutes integer, most integer)
returns jsonb language sql security definer set search_path = '' as $$
  with due as (
    select p.id from gateway.payments p
     where p.status = 'pending' and coalesce(p.checked_at, p.created_at) < statement_timestamp() - make_interval(mins => claim_open_payments.minutes)
     order by p.checked_at nulls first limit claim_open_payments.most for no key update skip locked
  ), claimed as (
    update gateway.payments p set checked_at = clock_timestamp() from due where due.id = p.id returning p.*
  )
  select coalesce(jsonb_agg(to_jsonb(c)), '[]') from claimed c
$$;
grant execute on function api.claim_open_payments to gateway_jobs, service_role;

-- Where the reconciliation with Stripe's balance transactions goes on (`read_to` null: nothing is moved), in seconds of Unix time.
create function api.stripe_mark(read_to bigint)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  if stripe_mark.read_to is not null then
    update gateway.rollups r set until = greatest(r.until, to_timestamp(stripe_mark.read_to)) where r.name = 'stripe';
  end if;
  return (select jsonb_build_object('from', floor(extract(epoch from r.until))::bigint) from gateway.rollups r where r.name = 'stripe');
end $$;
grant execute on function api.stripe_mark to gateway_jobs, service_role;

-- The amounts that are offered, the least first.
create function api.credit_packages()
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(c) - 'is_active' order by c.amount_cents), '[]') from gateway.credit_packages c where c.is_active
$$;
grant execute on function api.credit_packages to gateway_billing, service_role;
