-- Users: made, and what they have.

-- Makes a user with no credits on the default plan and returns its id; raises 409 for a taken name or address, and 403 for
-- a role that may do more than the actor. Audited.
create function api.create_user(username text, email text, role text, actor jsonb, reason text default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare created bigint;
begin
  actor := api.confirm(actor, null);
  perform api.refuse_wider_role(create_user.role, create_user.actor);
  if not exists (select from gateway.users u where lower(u.email) = lower(create_user.email)) then
    insert into gateway.users (username, email, role) values (create_user.username, create_user.email, create_user.role)
    on conflict do nothing returning id into created;
  end if;
  if created is null then
    raise exception using errcode = 'PT409', message = 'conflict',
      detail = '{"message": "An account with this name or e-mail address exists."}';
  end if;
  perform api.audit(create_user.actor, 'user.created', 'user:' || created, created, null, jsonb_build_object(
    'username', create_user.username, 'role', create_user.role, 'reason', create_user.reason));
  return jsonb_build_object('user_id', created);
end $$;
grant execute on function api.create_user to gateway_admin, service_role;

-- Locks an account that is to be changed; raises 403 when it was suspended or deleted meanwhile: nothing is stored after that.
create function api.lock_account(user_id bigint)
returns void language plpgsql as $$
begin
  perform from gateway.users u where u.id = lock_account.user_id and u.status = 'active' for no key update;
  if not found then
    raise exception using errcode = 'PT403', message = 'account_closed';
  end if;
end $$;

-- Whether an account was deleted: what is on its way for it is booked and not kept. In plpgsql, which keeps its plan (see
-- correct_tokens).
create function api.is_deleted(user_id bigint)
returns boolean language plpgsql stable as $$
begin
  return exists (select from gateway.users u where u.id = is_deleted.user_id and u.status = 'deleted');
end $$;

-- What a user was granted and has used in all, and what is held now, in nano-dollars.
create function api.credits(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('credits_nano', u.credits_nano, 'held_nano', u.held_nano, 'granted_nano', g.nano,
                            'used_nano', g.nano - u.credits_nano) -- the balance is the sum of all: what else there is was used
    from gateway.users u cross join lateral (
      select coalesce(sum(t.amount_nano), 0) as nano from gateway.credit_transactions t
       where t.user_id = u.id and t.kind <> 'usage') g
   where u.id = credits.user_id
$$;
grant execute on function api.credits to gateway_account, service_role;

-- A user's balance in nano-dollars, with what is left of each grant in the order in which they are spent, and what open holds
-- bind, the newest hundred of them: {status, credits_nano, held_nano, frozen_nano, grants, holds, open_holds}.
create function api.balance(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'status', u.status, 'credits_nano', u.credits_nano, 'held_nano', u.held_nano, 'frozen_nano', u.frozen_nano,
    'grants', (select coalesce(jsonb_agg(jsonb_build_object(
                        'id', g.id, 'kind', g.kind, 'amount_nano', g.amount_nano, 'left_nano', l.left_nano, 'is_frozen', g.is_frozen,
                        'expires_at', g.expires_at, 'created_at', g.created_at) order by g.priority, g.expires_at nulls last, g.id), '[]')
                 from api.grants_left(u.id) l join gateway.credit_grants g on g.id = l.id where l.left_nano > 0),
    'holds', (select coalesce(jsonb_agg(to_jsonb(h) order by h.created_at desc), '[]')
                from (select x.id, x.key_id, x.bound_nano, x.created_at, x.expires_at from gateway.credit_holds x
                       where x.user_id = u.id and x.state = 'held' order by x.created_at desc limit 100) h),
    'open_holds', (select count(*) from gateway.credit_holds x where x.user_id = u.id and x.state = 'held'))
    from gateway.users u where u.id = balance.user_id
$$;
grant execute on function api.balance to gateway_account, gateway_admin, service_role;
