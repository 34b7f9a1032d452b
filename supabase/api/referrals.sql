-- Referrals: who came by whom, and what both get for the first real payment.

-- A user's own code and what came of it: {code, referred, rewarded, earned_nano}; made when it is first asked for (`code` is what it is
-- to be then; with `renew` it is another one from here on).
create function api.referral_code(user_id bigint, code text, renew boolean)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  insert into gateway.referral_codes as r (user_id, code) values (referral_code.user_id, referral_code.code)
  on conflict on constraint referral_codes_pkey do update set code = excluded.code where referral_code.renew;
  return (
    select jsonb_build_object(
      'code', c.code, 'rewards', c.rewards,
      'referred', (select count(*) from gateway.referrals r where r.referrer_id = c.user_id),
      'rewarded', (select count(*) from gateway.referrals r where r.referrer_id = c.user_id and r.rewarded_at is not null),
      'earned_nano', (select coalesce(sum(g.amount_nano - g.clawed_nano), 0) from gateway.credit_grants g
                       where g.user_id = c.user_id and g.kind = 'referral'),
      'terms', (select to_jsonb(t) - 'is_one' from gateway.referral_terms t))
      from gateway.referral_codes c where c.user_id = referral_code.user_id);
end $$;
grant execute on function api.referral_code to gateway_account, service_role;

-- Whether a code is somebody's, and not the user's own.
create function api.is_referral_code(code text, user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('is_valid', exists (
    select from gateway.referral_codes c where c.code = upper(is_referral_code.code) and c.user_id <> is_referral_code.user_id))
$$;
grant execute on function api.is_referral_code to gateway_account, service_role;

-- Writes down by whose code a user came who signs up just now; an unknown code is passed over.
create function api.attribute(user_id bigint, code text)
returns void language sql as $$
  insert into gateway.referrals (user_id, referrer_id)
  select attribute.user_id, c.user_id from gateway.referral_codes c join gateway.users u on u.id = c.user_id and u.status = 'active'
   where c.code = upper(attribute.code) and c.user_id <> attribute.user_id
  on conflict do nothing
$$;

-- Who referred a user; null for nobody.
create function api.referrer_of(user_id bigint)
returns bigint language sql stable as $$
  select r.referrer_id from gateway.referrals r where r.user_id = referrer_of.user_id
$$;

-- Rewards both for a referred user's first real payment, once; not when the card is one that the referrer paid with, not for more
-- than the terms' number of users, and nothing while the terms give nothing. The caller has locked both users.
create function api.reward_referral(paid gateway.payments)
returns void language plpgsql as $$
declare r gateway.referrals; terms gateway.referral_terms; why text;
begin
  select * into r from gateway.referrals x
   where x.user_id = paid.user_id and x.payment_id is null and x.refused_reason is null for no key update;
  select * into terms from gateway.referral_terms;
  if r.user_id is null or paid.amount_cents < terms.least_cents or terms.referrer_nano + terms.referee_nano = 0 then
    return;
  end if;
  why := case
    when paid.card_fingerprint is null then 'no card'
    when exists (select from gateway.payments p where p.card_fingerprint = paid.card_fingerprint and p.user_id <> paid.user_id)
      then 'the card paid for another account'
    when exists (select from gateway.referral_codes c where c.user_id = r.referrer_id and c.rewards >= terms.most_rewards)
      then 'the code has had its rewards' end;
  update gateway.referrals x set refused_reason = why, payment_id = case when why is null then paid.id end,
         rewarded_at = case when why is null then clock_timestamp() end where x.user_id = r.user_id;
  if why is null then
    update gateway.referral_codes c set rewards = c.rewards + 1 where c.user_id = r.referrer_id;
    perform api.reward(r.referrer_id, 'referral:' || r.user_id || ':referrer', terms.referrer_nano, paid.id);
    perform api.reward(r.user_id, 'referral:' || r.user_id || ':referee', terms.referee_nano, paid.id);
  end if;
end $$;

-- Grants one side of a referral's reward.
create function api.reward(user_id bigint, reference text, amount_nano bigint, payment_id bigint)
returns void language plpgsql as $$
begin
  if reward.amount_nano > 0 then
    perform api.add_grant(reward.user_id, reward.reference, reward.amount_nano, 'referral', 'referral', '{"name": "gateway"}',
                          reward.payment_id, null);
  end if;
end $$;

-- Takes back what hangs on a payment of which something went back: a coupon's bonus in proportion, a referral's rewards whole; and gives
-- it again when it came back. What is disputed is frozen with the payment. The caller has locked the users.
create function api.reverse_rewards(returned gateway.payments)
returns void language plpgsql as $$
declare g record; gone bigint := least(returned.amount_cents, returned.refunded_cents + returned.lost_cents);
begin
  for g in select x.id, x.kind, x.amount_nano from gateway.credit_grants x join gateway.credit_transactions t on t.id = x.transaction_id
            where x.payment_id = returned.id and t.reference <> 'payment:' || returned.id order by x.user_id, x.id loop
    perform api.claw_back(g.id, case when g.kind = 'referral' then case when gone > 0 then g.amount_nano else 0 end
                                     else ceil(g.amount_nano::numeric * gone / returned.amount_cents)::bigint end,
                          'refund', '{"name": "gateway"}');
  end loop;
  update gateway.referrals r set reversed_at = case when gone > 0 then coalesce(r.reversed_at, clock_timestamp()) end
   where r.payment_id = returned.id;
end $$;

-- What a referral gives; changed where `changes` says so. Audited.
create function api.referral_terms(changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.referral_terms; made gateway.referral_terms;
begin
  actor := api.confirm(actor, null);
  select * into was from gateway.referral_terms for update;
  made := jsonb_populate_record(was, coalesce(changes, '{}'));
  if made is distinct from was then
    update gateway.referral_terms set referrer_nano = made.referrer_nano, referee_nano = made.referee_nano,
           least_cents = made.least_cents, most_rewards = made.most_rewards;
    perform api.audit(actor, 'referral_terms.changed', 'referral_terms', null, to_jsonb(was) - 'is_one', to_jsonb(made) - 'is_one');
  end if;
  return to_jsonb(made) - 'is_one';
end $$;
grant execute on function api.referral_terms to gateway_admin, service_role;
