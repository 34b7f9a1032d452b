-- Subscriptions: Stripe's, recorded as they are when it is asked; a live one gives its user its plan.

-- A user's live subscription, with the plan; null for none.
create function api.subscription_of(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select to_jsonb(s) || jsonb_build_object('plan_name', p.name)
    from gateway.subscriptions s join gateway.plans p on p.id = s.plan_id
   where s.user_id = subscription_of.user_id and s.status in ('trialing', 'active', 'past_due', 'unpaid')
$$;
grant execute on function api.subscription_of to gateway_billing, service_role;

-- How often a subscription was recorded, 0 for one that is not known: read it before Stripe is asked.
create function api.subscription_version(subscription_id text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('version', coalesce(
    (select s.version from gateway.subscriptions s where s.id = subscription_version.subscription_id), 0))
$$;
grant execute on function api.subscription_version to gateway_billing, gateway_stripe_webhook, gateway_jobs, service_role;

-- Records a subscription {status, plan_id, period_end, cancel_at_period_end} as Stripe says, read after `version` was, and ends the
-- events `event_ids`: an active one gives the user its plan, one that has ended the default plan. Returns it, or {stale}. A live one is
-- {unwanted} when another of the user's is live, or the account has ended: an alert tells so, and it has to end at Stripe.
create function api.record_subscription(subscription_id text, version bigint, user_id bigint, facts jsonb, event_ids jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.subscriptions; s gateway.subscriptions;
begin
  perform from gateway.users u where u.id = record_subscription.user_id for no key update;
  select * into was from gateway.subscriptions x where x.id = record_subscription.subscription_id for update;
  if coalesce(was.version, 0) <> record_subscription.version then
    return jsonb_build_object('stale', true);
  elsif facts ->> 'status' in ('trialing', 'active', 'past_due', 'unpaid')
        and (exists (select from gateway.subscriptions x where x.user_id = record_subscription.user_id and x.id <> subscription_id
                        and x.status in ('trialing', 'active', 'past_due', 'unpaid'))
             or exists (select from gateway.users u where u.id = record_subscription.user_id and u.status = 'deleted')) then
    perform api.raise_alert('unwanted_subscription', 'subscription:' || record_subscription.subscription_id, facts,
                            record_subscription.user_id);
    return jsonb_build_object('unwanted', true);
  end if;
  insert into gateway.subscriptions as x (id, user_id, plan_id, status, period_end, cancel_at_period_end, version)
  values (record_subscription.subscription_id, record_subscription.user_id, (facts ->> 'plan_id')::bigint, facts ->> 'status',
          (facts ->> 'period_end')::timestamptz, (facts ->> 'cancel_at_period_end')::boolean, 1)
  on conflict on constraint subscriptions_pkey do update set
    plan_id = excluded.plan_id, status = excluded.status, period_end = excluded.period_end,
    cancel_at_period_end = excluded.cancel_at_period_end, version = x.version + 1, updated_at = clock_timestamp()
  returning * into s;
  if s.status in ('trialing', 'active') and (was.status, was.plan_id) is distinct from (s.status, s.plan_id) then
    perform api.set_plan(s.user_id, s.plan_id, null, actor);
  elsif s.status in ('canceled', 'unpaid', 'incomplete_expired') and was.status in ('trialing', 'active', 'past_due') then
    perform api.end_plan(s.user_id, actor);
  end if;
  if to_jsonb(was) - array['version', 'updated_at'] is distinct from to_jsonb(s) - array['version', 'updated_at'] then
    perform api.audit(actor, 'subscription.recorded', 'subscription:' || s.id, s.user_id, to_jsonb(was), to_jsonb(s));
  end if;
  perform api.end_events(event_ids, null, 'subscription ' || s.status);
  return to_jsonb(s);
end $$;
grant execute on function api.record_subscription to gateway_billing, gateway_stripe_webhook, gateway_jobs, service_role;

-- Ends what an account has with Stripe: its subscriptions were canceled there with the customer, and no card is charged any more.
create function api.leave_stripe(user_id bigint)
returns void language plpgsql as $$
begin
  update gateway.subscriptions s set status = 'canceled', version = s.version + 1, updated_at = clock_timestamp()
   where s.user_id = leave_stripe.user_id and s.status in ('trialing', 'active', 'past_due', 'unpaid');
  delete from gateway.auto_top_ups t where t.user_id = leave_stripe.user_id;
  update gateway.users u set stripe_customer_id = null where u.id = leave_stripe.user_id;
end $$;

-- A plan that can be subscribed to {plan_id, name, monthly_price_cents}; raises 404 for one that is not there or not sold, and 400 for
-- one that costs nothing.
create function api.plan_for_sale(plan_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare p gateway.plans;
begin
  select * into p from gateway.plans x where x.id = plan_for_sale.plan_id and x.is_active;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "plan_id"}';
  elsif coalesce(p.monthly_price_cents, 0) = 0 then
    raise exception using errcode = 'PT400', message = 'invalid_request_error',
      detail = '{"param": "plan_id", "message": "This plan costs nothing and is not subscribed to."}';
  end if;
  return jsonb_build_object('plan_id', p.id, 'name', p.name, 'monthly_price_cents', p.monthly_price_cents);
end $$;
grant execute on function api.plan_for_sale to gateway_billing, service_role;
