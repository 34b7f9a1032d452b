-- Grants: what each credit came from, what is left of it, and how it ends. Spending takes the lowest priority number first,
-- then what ends soonest, then the oldest. Requests do not touch grants: what was spent since somebody last looked is
-- sum(remaining_nano) - credits_nano, and is taken from the grants that are there before one comes, ends or is taken back.

-- The number by which spending takes a kind of grant.
create function api.priority(kind text)
returns smallint language sql immutable as $$
  select case kind when 'paid' then 30 when 'correction' then 30 when 'subscription' then 20 else 10 end
$$;

-- What is left of each of a user's open grants, in the order in which they are spent, with all that was spent until now taken
-- from them; what is frozen is not spent.
create function api.grants_left(user_id bigint)
returns table (id bigint, left_nano bigint) language sql stable rows 8 as $$
  with open as (
    select g.*, sum(g.remaining_nano) filter (where not g.is_frozen)
                  over (order by g.priority, g.expires_at nulls last, g.id) - g.remaining_nano as before_nano
      from gateway.credit_grants g where g.user_id = grants_left.user_id and g.remaining_nano > 0
  ), spent as (
    select coalesce(sum(o.remaining_nano), 0) - (select u.credits_nano from gateway.users u where u.id = grants_left.user_id) as nano
      from open o
  )
  select o.id, case when o.is_frozen then o.remaining_nano
                    else o.remaining_nano - least(o.remaining_nano, greatest(0, s.nano - o.before_nano)) end::bigint
    from open o, spent s order by o.priority, o.expires_at nulls last, o.id
$$;

-- Takes what was spent from a user's grants. The caller has locked the user.
create function api.allocate(user_id bigint)
returns void language sql as $$
  update gateway.credit_grants g set remaining_nano = l.left_nano
    from api.grants_left(allocate.user_id) l where g.id = l.id and g.remaining_nano <> l.left_nano
$$;

-- Adds a grant, once per reference, with its ledger entry, an audit entry and an event; returns it, or null when the reference
-- was granted before. Raises 404 for no such user.
create function api.add_grant(user_id bigint, reference text, amount_nano bigint, kind text, reason text, actor jsonb,
                              payment_id bigint, expires_at timestamptz)
returns gateway.credit_grants language plpgsql as $$
declare balance bigint; entry bigint; made gateway.credit_grants;
begin
  select u.credits_nano into balance from gateway.users u where u.id = add_grant.user_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  insert into gateway.credit_transactions (user_id, kind, reference, amount_nano, reason, actor_id)
  values (add_grant.user_id, 'grant', add_grant.reference, add_grant.amount_nano, add_grant.reason,
          (add_grant.actor ->> 'user_id')::bigint)
  on conflict on constraint credit_transactions_kind_reference_key do nothing returning id into entry;
  if entry is null then
    return null;
  end if;
  perform api.allocate(add_grant.user_id);
  update gateway.users u set credits_nano = u.credits_nano + add_grant.amount_nano where u.id = add_grant.user_id;
  insert into gateway.credit_grants (user_id, transaction_id, kind, payment_id, priority, amount_nano, remaining_nano, expires_at)
  values (add_grant.user_id, entry, add_grant.kind, add_grant.payment_id, api.priority(add_grant.kind), add_grant.amount_nano,
          add_grant.amount_nano, add_grant.expires_at)
  returning * into made;
  perform api.audit(add_grant.actor, 'credits.granted', 'user:' || add_grant.user_id, add_grant.user_id,
                    jsonb_build_object('credits_nano', balance),
                    jsonb_build_object('credits_nano', balance + add_grant.amount_nano, 'kind', add_grant.kind,
                                       'reference', add_grant.reference, 'expires_at', add_grant.expires_at));
  insert into gateway.outbox (event, payload) values ('credits.granted', jsonb_build_object(
    'user_id', add_grant.user_id, 'amount_nano', add_grant.amount_nano, 'kind', add_grant.kind, 'transaction_id', entry));
  return made;
end $$;

-- Grants credits, once per reference; returns {granted, credits_nano, transaction_id}. Raises 400 and 404.
create function api.grant(user_id bigint, reference text, amount_nano bigint, reason text, actor jsonb,
                          kind text default 'promotional', expires_at timestamptz default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare made gateway.credit_grants;
begin
  actor := api.confirm(actor, user_id);
  if "grant".amount_nano <= 0 then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail = '{"param": "amount_nano"}';
  elsif "grant".expires_at <= clock_timestamp() then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail = '{"param": "expires_at"}';
  end if;
  made := api.add_grant("grant".user_id, "grant".reference, "grant".amount_nano, "grant".kind, "grant".reason, "grant".actor,
                        null, "grant".expires_at);
  return (select jsonb_build_object('granted', made.id is not null, 'credits_nano', u.credits_nano,
                                    'transaction_id', t.id)
            from gateway.users u
            left join gateway.credit_transactions t on t.user_id = u.id and t.kind = 'grant' and t.reference = "grant".reference
           where u.id = "grant".user_id);
end $$;
grant execute on function api.grant to gateway_admin, service_role;

-- Freezes or frees what is left of a payment's grants: what is frozen can neither be spent nor end.
create function api.freeze_payment(payment_id bigint, is_frozen boolean)
returns void language plpgsql as $$
declare g gateway.credit_grants;
begin
  for g in select * from gateway.credit_grants x where x.payment_id = freeze_payment.payment_id and x.is_frozen <> freeze_payment.is_frozen
            order by x.user_id, x.id loop
    perform from gateway.users u where u.id = g.user_id for no key update;
    perform api.allocate(g.user_id);
    update gateway.credit_grants x set is_frozen = freeze_payment.is_frozen
     where x.id = g.id and x.is_frozen <> freeze_payment.is_frozen returning * into g;
    if found then
      update gateway.users u set frozen_nano = u.frozen_nano + case when g.is_frozen then 1 else -1 end * g.remaining_nano
       where u.id = g.user_id;
    end if;
  end loop;
end $$;

-- Makes `target_nano` what of a grant has been taken back in all, by a debit or, when it is less than before, a credit. What
-- ended by expiry is not there to be taken. The balance may go below zero by this. `kind` is refund or dispute.
create function api.claw_back(grant_id bigint, target_nano bigint, kind text, actor jsonb)
returns void language plpgsql as $$
declare g gateway.credit_grants; taken bigint; change bigint;
begin
  perform from gateway.users u
    where u.id = (select x.user_id from gateway.credit_grants x where x.id = claw_back.grant_id) for no key update;
  perform api.allocate(x.user_id) from gateway.credit_grants x where x.id = claw_back.grant_id;
  select * into g from gateway.credit_grants x where x.id = claw_back.grant_id;
  taken := least(claw_back.target_nano, g.amount_nano - g.expired_nano) - g.clawed_nano;
  if taken = 0 then
    return;
  end if;
  change := case when taken > 0 then -least(taken, g.remaining_nano) else -taken end;
  update gateway.credit_grants x
     set clawed_nano = x.clawed_nano + taken, entries = x.entries + 1, remaining_nano = x.remaining_nano + change
   where x.id = g.id;
  insert into gateway.credit_transactions (user_id, kind, reference, amount_nano, reason, actor_id)
  values (g.user_id, claw_back.kind, 'grant:' || g.id || ':' || g.entries + 1, -taken, '', (claw_back.actor ->> 'user_id')::bigint);
  update gateway.users u set credits_nano = u.credits_nano - taken,
         frozen_nano = u.frozen_nano + case when g.is_frozen then change else 0 end
   where u.id = g.user_id;
  perform api.audit(claw_back.actor, 'credits.taken_back', 'user:' || g.user_id, g.user_id,
                    jsonb_build_object('taken_back_nano', g.clawed_nano),
                    jsonb_build_object('taken_back_nano', g.clawed_nano + taken, 'grant_id', g.id, 'kind', claw_back.kind));
end $$;

-- Ends up to `most` grants whose time is over, each by a ledger entry for what is left of it; what requests in flight hold is
-- left to them, and to the next run. Returns {expired}.
create function api.expire_grants(most integer default 500)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare g gateway.credit_grants; purse gateway.users; ending bigint; expired integer := 0;
begin
  for g in select * from gateway.credit_grants x
            where x.expires_at <= statement_timestamp() and x.remaining_nano > 0 and not x.is_frozen
            order by x.expires_at limit expire_grants.most loop
    select * into purse from gateway.users u where u.id = g.user_id for no key update skip locked;
    continue when not found;
    perform api.allocate(g.user_id);
    select * into g from gateway.credit_grants x where x.id = g.id;
    ending := least(g.remaining_nano, purse.credits_nano - purse.held_nano - purse.frozen_nano);
    continue when g.is_frozen or ending <= 0;
    update gateway.credit_grants x set remaining_nano = x.remaining_nano - ending, expired_nano = x.expired_nano + ending,
           entries = x.entries + 1 where x.id = g.id;
    insert into gateway.credit_transactions (user_id, kind, reference, amount_nano)
    values (g.user_id, 'expiry', 'grant:' || g.id || ':' || g.entries + 1, -ending);
    update gateway.users u set credits_nano = u.credits_nano - ending where u.id = g.user_id;
    insert into gateway.outbox (event, payload) values ('credits.expired', jsonb_build_object(
      'user_id', g.user_id, 'amount_nano', ending, 'grant_id', g.id));
    expired := expired + 1;
  end loop;
  return jsonb_build_object('expired', expired);
end $$;
grant execute on function api.expire_grants to gateway_jobs, service_role;
