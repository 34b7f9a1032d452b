-- Coupons: a credit at once, or a percentage of the next top-up; each user once.

-- A coupon as operators see it.
create function api.coupon_shown(c gateway.coupons)
returns jsonb language sql immutable as $$
  select to_jsonb(c)
$$;

-- Makes a coupon from columns of coupons, or changes what is given of one (`coupon_id`). Returns it; raises 404, and 409 for a code that
-- is taken. Audited.
create function api.save_coupon(coupon_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.coupons; c gateway.coupons;
begin
  actor := api.confirm(actor, null);
  if save_coupon.coupon_id is null then
    c := jsonb_populate_record(null::gateway.coupons, changes);
    insert into gateway.coupons (code, kind, description, credit_nano, percent, most_nano, user_id, max_uses, starts_at, ends_at,
                                 credit_days, created_by)
    values (c.code, c.kind, coalesce(c.description, ''), c.credit_nano, c.percent, c.most_nano, c.user_id, c.max_uses, c.starts_at, c.ends_at,
            c.credit_days, (actor ->> 'user_id')::bigint)
    on conflict do nothing returning * into c;
    if c.id is null then
      if api.was_done(actor, 'coupon.saved', 'coupon:' || (changes ->> 'code')) then
        return (select api.coupon_shown(x) from gateway.coupons x where x.code = changes ->> 'code');
      end if;
      raise exception using errcode = 'PT409', message = 'conflict', detail = '{"param": "code", "message": "This code is taken."}';
    end if;
  else
    select * into was from gateway.coupons x where x.id = save_coupon.coupon_id for update;
    if not found then
      raise exception using errcode = 'PT404', message = 'not_found';
    end if;
    c := jsonb_populate_record(was, changes);
    if c.max_uses < was.uses then
      raise exception using errcode = 'PT409', message = 'conflict',
        detail = '{"param": "max_uses", "message": "It was redeemed more often than that."}';
    end if;
    update gateway.coupons x set description = c.description, max_uses = c.max_uses, starts_at = c.starts_at, ends_at = c.ends_at,
           is_active = c.is_active where x.id = was.id returning * into c;
  end if;
  if c is distinct from was then
    perform api.audit(actor, 'coupon.saved', 'coupon:' || c.code, c.user_id, case when was.id is not null then api.coupon_shown(was) end,
                      api.coupon_shown(c));
  end if;
  return api.coupon_shown(c);
end $$;
grant execute on function api.save_coupon to gateway_admin, service_role;

-- Coupons, the last made first, those before `cursor`: of one kind, active or not, where that is given.
create function api.coupons(kind text, is_active boolean, cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  select coalesce(jsonb_agg(api.coupon_shown(c) order by c.id desc), '[]')
    from (select * from gateway.coupons x
           where (coupons.cursor is null or x.id < coupons.cursor) and (coupons.kind is null or x.kind = coupons.kind)
             and (coupons.is_active is null or x.is_active = coupons.is_active)
           order by x.id desc limit coupons.most) c);
end $$;
grant execute on function api.coupons to gateway_admin, service_role;

-- One coupon with what came of it: {…coupon, redemptions, waiting, given_nano, paid_cents}; raises 404.
create function api.coupon(coupon_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare c gateway.coupons;
begin
  select * into c from gateway.coupons x where x.id = coupon.coupon_id;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return api.coupon_shown(c) || (
    select jsonb_build_object('redemptions', count(*), 'waiting', count(*) filter (where r.credit_nano is null),
                              'given_nano', coalesce(sum(r.credit_nano), 0), 'paid_cents', coalesce(sum(p.amount_cents), 0))
      from gateway.coupon_redemptions r left join gateway.payments p on p.id = r.payment_id where r.coupon_id = c.id);
end $$;
grant execute on function api.coupon to gateway_admin, service_role;

-- All coupons by kind: [{kind, coupons, active, uses, given_nano}].
create function api.coupon_overview()
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(k) order by k.kind), '[]') from (
    select c.kind, count(*) as coupons, count(*) filter (where c.is_active) as active, sum(c.uses) as uses,
           coalesce(sum(r.nano), 0) as given_nano
      from gateway.coupons c left join lateral (
             select sum(x.credit_nano) as nano from gateway.coupon_redemptions x where x.coupon_id = c.id) r on true
     group by c.kind) k
$$;
grant execute on function api.coupon_overview to gateway_admin, service_role;

-- Redeems a code for a user: all of it, or nothing. Returns {coupon, credit_nano (null for a bonus that waits)}. Raises 404 for a code
-- that is not there, or another's; 400 for one that is off, not begun, over or used up; 409 for one that was redeemed, and for a second
-- bonus that would wait. A person has redeemed it when any account of his did. Raises 403 for who signed in without an address, unless
-- the coupon is his own.
create function api.redeem(user_id bigint, code text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare c gateway.coupons; r gateway.coupon_redemptions; person gateway.users;
begin
  actor := api.confirm(actor, user_id);
  select * into person from gateway.users u where u.id = redeem.user_id for no key update;
  select * into c from gateway.coupons x where x.code = upper(redeem.code) for no key update;
  if not found or (c.user_id is not null and c.user_id <> redeem.user_id) then
    raise exception using errcode = 'PT404', message = 'coupon_not_found';
  end if;
  select * into r from gateway.coupon_redemptions x where x.coupon_id = c.id and x.user_id = redeem.user_id;
  if not found then
    perform api.refuse_coupon(c, redeem.user_id), api.refuse_person(c, person);
    insert into gateway.coupon_redemptions (coupon_id, user_id, credit_nano) values (c.id, redeem.user_id, c.credit_nano)
    returning * into r;
    update gateway.coupons x set uses = x.uses + 1 where x.id = c.id;
    if c.credit_nano is not null then
      perform api.add_grant(redeem.user_id, 'coupon:' || r.id, c.credit_nano, 'promotional', 'coupon ' || c.code, redeem.actor, null,
                            clock_timestamp() + make_interval(days => c.credit_days));
    end if;
    perform api.audit(redeem.actor, 'coupon.redeemed', 'coupon:' || c.code, redeem.user_id, null,
                      jsonb_build_object('credit_nano', c.credit_nano, 'percent', c.percent));
  elsif not api.was_done(redeem.actor, 'coupon.redeemed', 'coupon:' || c.code) then
    raise exception using errcode = 'PT409', message = 'coupon_already_redeemed';
  end if;
  return jsonb_build_object('code', c.code, 'kind', c.kind, 'description', c.description, 'percent', c.percent,
                            'most_nano', c.most_nano, 'credit_nano', r.credit_nano);
end $$;
grant execute on function api.redeem to gateway_account, service_role;

-- Raises 409 when a person redeemed a coupon by another account, and writes down who redeems it now. The caller has locked the coupon.
create function api.refuse_person(c gateway.coupons, person gateway.users)
returns void language plpgsql as $$
declare hashes constant bytea[] := api.identity_hashes(person);
begin
  if c.user_id is null then
    perform api.refuse_free_identity(person);
  end if;
  if exists (select from gateway.coupon_identities i where i.coupon_id = c.id and i.hash = any (hashes)) then
    raise exception using errcode = 'PT409', message = 'coupon_already_redeemed';
  end if;
  insert into gateway.coupon_identities (coupon_id, hash) select c.id, h from unnest(hashes) h;
end $$;

-- Raises why a coupon cannot be redeemed now.
create function api.refuse_coupon(c gateway.coupons, user_id bigint)
returns void language plpgsql stable as $$
declare why constant text := case
  when not c.is_active then 'coupon_inactive'
  when c.starts_at > clock_timestamp() then 'coupon_not_yet_valid'
  when c.ends_at <= clock_timestamp() then 'coupon_expired'
  when c.uses >= c.max_uses then 'coupon_max_uses_reached' end;
begin
  if why is not null then
    raise exception using errcode = 'PT400', message = why;
  elsif c.percent is not null and exists (select from gateway.coupon_redemptions x
                                           where x.user_id = refuse_coupon.user_id and x.credit_nano is null) then
    raise exception using errcode = 'PT409', message = 'coupon_bonus_waiting';
  end if;
end $$;

-- Coupons that a user could redeem now and that are his own, or everybody's and told (not found by guessing: only his own).
create function api.coupons_for(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('code', c.code, 'kind', c.kind, 'description', c.description, 'credit_nano', c.credit_nano,
                                               'percent', c.percent, 'most_nano', c.most_nano, 'ends_at', c.ends_at) order by c.id), '[]')
    from gateway.coupons c
   where c.user_id = coupons_for.user_id and c.is_active and coalesce(c.starts_at <= clock_timestamp(), true)
     and coalesce(c.ends_at > clock_timestamp(), true) and coalesce(c.uses < c.max_uses, true)
     and not exists (select from gateway.coupon_redemptions r where r.coupon_id = c.id and r.user_id = coupons_for.user_id)
$$;
grant execute on function api.coupons_for to gateway_account, service_role;

-- What a user redeemed, the last first, those before `cursor`.
create function api.redemptions_of(user_id bigint, cursor bigint, most integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(r) order by r.id desc), '[]') from (
    select x.id, c.code, c.kind, c.description, c.percent, x.credit_nano, x.payment_id, x.redeemed_at
      from gateway.coupon_redemptions x join gateway.coupons c on c.id = x.coupon_id
     where x.user_id = redemptions_of.user_id and x.id < coalesce(redemptions_of.cursor, 9223372036854775807)
     order by x.id desc limit redemptions_of.most) r
$$;
grant execute on function api.redemptions_of to gateway_account, service_role;

-- Pays the bonus that waits for a top-up, once. The caller has locked the user.
create function api.add_bonus(paid gateway.payments)
returns void language plpgsql as $$
declare r record; bonus bigint;
begin
  select x.id, c.percent, c.most_nano, c.code, c.credit_days into r
    from gateway.coupon_redemptions x join gateway.coupons c on c.id = x.coupon_id
   where x.user_id = paid.user_id and x.credit_nano is null for no key update of x;
  if found and paid.kind <> 'subscription' then
    bonus := least(r.most_nano, paid.credit_nano * r.percent / 100);
    update gateway.coupon_redemptions x set credit_nano = bonus, payment_id = paid.id where x.id = r.id;
    if bonus > 0 then
      perform api.add_grant(paid.user_id, 'coupon:' || r.id, bonus, 'promotional', 'coupon ' || r.code, '{"name": "gateway"}', paid.id,
                            clock_timestamp() + make_interval(days => r.credit_days));
    end if;
  end if;
end $$;
