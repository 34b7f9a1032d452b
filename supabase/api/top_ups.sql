-- Automatic top-ups: when a balance falls below what its owner chose, the saved card is charged, one payment at a time.

-- A user's automatic top-up; null for none.
create function api.auto_top_up(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select to_jsonb(t) - array['user_id', 'payment_method_id'] from gateway.auto_top_ups t where t.user_id = auto_top_up.user_id
$$;
grant execute on function api.auto_top_up to gateway_billing, service_role;

-- Chooses a user's automatic top-up, or turns it off (`payment_method_id` null). Returns it. Audited.
create function api.set_auto_top_up(user_id bigint, threshold_nano bigint, amount_cents bigint, payment_method_id text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was constant jsonb := api.auto_top_up(set_auto_top_up.user_id);
begin
  actor := api.confirm(actor, user_id);
  if set_auto_top_up.payment_method_id is null then
    delete from gateway.auto_top_ups t where t.user_id = set_auto_top_up.user_id;
  else
    insert into gateway.auto_top_ups (user_id, threshold_nano, amount_cents, payment_method_id)
    values (set_auto_top_up.user_id, set_auto_top_up.threshold_nano, set_auto_top_up.amount_cents, set_auto_top_up.payment_method_id)
    on conflict on constraint auto_top_ups_pkey do update set
      threshold_nano = excluded.threshold_nano, amount_cents = excluded.amount_cents,
      payment_method_id = excluded.payment_method_id, is_on = true, failures = 0;
  end if;
  if api.auto_top_up(set_auto_top_up.user_id) is distinct from was then
    perform api.audit(actor, 'auto_top_up.changed', 'user:' || set_auto_top_up.user_id, set_auto_top_up.user_id, was,
                      api.auto_top_up(set_auto_top_up.user_id));
  end if;
  return api.auto_top_up(set_auto_top_up.user_id);
end $$;
grant execute on function api.set_auto_top_up to gateway_billing, service_role;

-- Opens a payment for each user who is below his threshold, has none open, and was not charged in the last 10 minutes:
-- [{…payment, customer_id, payment_method_id}], at most `most`. Twice at once it opens each once.
create function api.open_top_ups(most integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare t record; p gateway.payments; opened jsonb := '[]';
begin
  for t in select a.user_id, a.amount_cents, a.payment_method_id, u.stripe_customer_id
             from gateway.auto_top_ups a join gateway.users u on u.id = a.user_id
            where a.is_on and u.status = 'active' and u.credits_nano - u.held_nano - u.frozen_nano < a.threshold_nano
              and coalesce(a.last_at < statement_timestamp() - interval '10 minutes', true)
            order by a.user_id limit open_top_ups.most for no key update of a skip locked loop
    insert into gateway.payments (user_id, kind, amount_cents, credit_nano)
    values (t.user_id, 'auto_top_up', t.amount_cents, t.amount_cents * 10000000)
    on conflict do nothing returning * into p;
    if p.id is not null then
      update gateway.auto_top_ups a set last_at = clock_timestamp() where a.user_id = t.user_id;
      perform api.audit('{"name": "job:top_up"}', 'payment.opened', 'payment:' || p.id, p.user_id, null, api.payment_shown(p));
      opened := opened || jsonb_build_array(api.payment_shown(p) || jsonb_build_object(
        'customer_id', t.stripe_customer_id, 'payment_method_id', t.payment_method_id));
    end if;
  end loop;
  return opened;
end $$;
grant execute on function api.open_top_ups to gateway_jobs, service_role;

-- Counts how an automatic top-up ended: the third failure in a row turns it off.
create function api.count_top_up(p gateway.payments)
returns void language sql as $$
  update gateway.auto_top_ups t
     set failures = case p.status when 'paid' then 0 else t.failures + 1 end, is_on = p.status = 'paid' or t.failures < 2
   where t.user_id = p.user_id
$$;
