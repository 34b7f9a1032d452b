-- Administration: what operators do to accounts. Each change is audited with its reason.

-- A user as an operator sees it.
create function api.user_shown(u gateway.users)
returns jsonb language sql immutable as $$
  select jsonb_build_object('user_id', u.id, 'username', u.username, 'display_name', u.display_name, 'email', u.email, 'role', u.role,
                            'status', u.status, 'credits_nano', u.credits_nano, 'held_nano', u.held_nano, 'created_at', u.created_at)
$$;

-- Makes an account with its first key (`minted` {public_id, key_hash, last_four, environment}) and start credit, if any is given
-- and the actor may; once per minted key. Returns the user. Raises 409 for a taken name or address, and 403.
create function api.create_account(username text, email text, role text, minted jsonb, scopes jsonb, credit_nano bigint,
                                   most_a_day_nano bigint, reason text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare made bigint;
begin
  actor := api.confirm(actor, null);
  select k.user_id into made from gateway.api_keys k where k.public_id = minted ->> 'public_id';
  if not found then
    made := (api.create_user(create_account.username, create_account.email, create_account.role, create_account.actor,
                             create_account.reason) ->> 'user_id')::bigint;
    perform api.create_key(made, minted ->> 'public_id', minted ->> 'key_hash', minted ->> 'last_four', minted ->> 'environment',
                           'default', create_account.scopes, actor);
    if create_account.credit_nano > 0 then
      perform api.refuse_wider_scopes('["admin:credits"]', actor);
      perform api.add_credits(made, create_account.credit_nano, 'promotional', create_account.reason, null,
                              'start ' || made, create_account.most_a_day_nano, actor);
    end if;
    insert into gateway.outbox (event, payload) values ('user.created', jsonb_build_object('user_id', made, 'provider', null));
  end if;
  return (select api.user_shown(u) from gateway.users u where u.id = made);
end $$;
grant execute on function api.create_account to gateway_admin, service_role;

-- Users, the last made first, those before `cursor`; of one status, role, name or address, where that is given.
create function api.users(status text, role text, username text, email text, cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  return (
  select coalesce(jsonb_agg(api.user_shown(u) order by u.id desc), '[]')
    from (select * from gateway.users x
           where (users.cursor is null or x.id < users.cursor) and (users.status is null or x.status = users.status)
             and (users.role is null or x.role = users.role) and (users.username is null or x.username = users.username)
             and (users.email is null or lower(x.email) = lower(users.email))
           order by x.id desc limit users.most) u);
end $$;
grant execute on function api.users to gateway_admin, service_role;

-- A user with plan, sign-ins and the number of keys; raises 404.
create function api.user(user_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare u gateway.users;
begin
  select * into u from gateway.users x where x.id = "user".user_id;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return api.user_shown(u) || jsonb_build_object(
    'plan', (select p.name from gateway.user_plans a join gateway.plans p on p.id = a.plan_id
              where a.user_id = u.id and a.status = 'active' and (a.ends_at is null or a.ends_at > clock_timestamp())),
    'sign_ins', (select coalesce(jsonb_agg(jsonb_build_object(
                          'provider', i.provider, 'subject', i.subject, 'email', i.email, 'created_at', i.created_at,
                          'last_sign_in_at', i.last_sign_in_at) order by i.created_at), '[]')
                   from gateway.identities i where i.user_id = u.id));
end $$;
grant execute on function api.user to gateway_admin, service_role;

-- Whose a key is: {user_id, key_id}, of its id or its secret's hashes; raises 404.
create function api.holder(id bigint, public_id text, key_hashes jsonb)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare k gateway.api_keys;
begin
  select * into k from gateway.api_keys x
   where x.id = holder.id or (x.public_id = holder.public_id and holder.key_hashes ? x.key_hash);
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return jsonb_build_object('user_id', k.user_id, 'key_id', k.id);
end $$;
grant execute on function api.holder to gateway_admin, service_role;

-- Suspends a user ('suspended': no key of his works from this moment) or restores one ('active'); again changes nothing. Raises
-- 404, 403 for a user who may do more than the actor, and 409 for the last admin.
create function api.set_user_status(user_id bigint, status text, reason text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.users; made gateway.users;
begin
  actor := api.confirm(actor, user_id);
  select * into was from gateway.users u
   where u.id = set_user_status.user_id and u.status <> 'deleted' for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  perform api.refuse_wider_role(was.role, actor);
  if was.status = set_user_status.status then
    return api.user_shown(was);
  elsif set_user_status.status = 'suspended' then
    perform api.refuse_last_admin(was.id);
  end if;
  update gateway.users u set status = set_user_status.status where u.id = was.id returning * into made;
  perform api.audit(actor, case made.status when 'active' then 'user.restored' else 'user.suspended' end, 'user:' || made.id, made.id,
                    jsonb_build_object('status', was.status),
                    jsonb_build_object('status', made.status, 'reason', set_user_status.reason));
  insert into gateway.outbox (event, payload) values (
    case made.status when 'active' then 'user.restored' else 'user.suspended' end, jsonb_build_object('user_id', made.id));
  return api.user_shown(made);
end $$;
grant execute on function api.set_user_status to gateway_admin, service_role;

-- Credits a user, or debits one where the amount is negative, once per actor and Idempotency-Key (`key`); returns
-- {credits_nano, transaction_id}. Raises 404; 422 when the key stands for something else; 409 for a debit of more than what is
-- free of the balance, and when the actor's credits and debits of this UTC day would come to more than `most_a_day_nano`.
create function api.add_credits(user_id bigint, amount_nano bigint, kind text, reason text, expires_at timestamptz, key text,
                                most_a_day_nano bigint, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  mine constant text := 'admin:' || (actor ->> 'user_id') || ':';
  entry gateway.credit_transactions;
begin
  actor := api.confirm(actor, user_id);
  perform pg_advisory_xact_lock(hashtextextended(mine, 0)); -- one operator's turns: the day's sum stays true
  select * into entry from gateway.credit_transactions t where t.kind in ('grant', 'correction') and t.reference = mine || key;
  if found then
    perform api.refuse_other_credit(entry, add_credits.user_id, add_credits.amount_nano, add_credits.kind, add_credits.reason,
                                    add_credits.expires_at);
  elsif not exists (select from gateway.users u where u.id = add_credits.user_id and u.status <> 'deleted') then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "user_id"}';
  else
    perform api.refuse_daily_excess(mine, abs(add_credits.amount_nano), add_credits.most_a_day_nano, actor);
    if add_credits.amount_nano > 0 then
      perform api.grant(add_credits.user_id, mine || key, add_credits.amount_nano, add_credits.reason, actor, add_credits.kind,
                        add_credits.expires_at);
    else
      perform api.debit(add_credits.user_id, mine || key, -add_credits.amount_nano, add_credits.reason, actor);
    end if;
    select * into entry from gateway.credit_transactions t where t.kind in ('grant', 'correction') and t.reference = mine || key;
  end if;
  return (select jsonb_build_object('credits_nano', u.credits_nano, 'transaction_id', entry.id)
            from gateway.users u where u.id = entry.user_id);
end $$;
grant execute on function api.add_credits to gateway_admin, service_role;

-- Raises 422 unless an entry is what these arguments ask for.
create function api.refuse_other_credit(entry gateway.credit_transactions, user_id bigint, amount_nano bigint, kind text, reason text,
                                        expires_at timestamptz)
returns void language plpgsql stable as $$
declare g gateway.credit_grants;
begin
  select * into g from gateway.credit_grants x where x.transaction_id = entry.id;
  if (entry.user_id, entry.amount_nano, entry.reason, coalesce(g.kind, 'correction'), g.expires_at) is distinct from
     (refuse_other_credit.user_id, refuse_other_credit.amount_nano, refuse_other_credit.reason, refuse_other_credit.kind,
      refuse_other_credit.expires_at) then
    raise exception using errcode = 'PT422', message = 'idempotency_key_reused', detail = '{"param": "Idempotency-Key"}';
  end if;
end $$;

-- Raises 409 when what an operator moved since midnight UTC, and this, is more than `most_nano`.
create function api.refuse_daily_excess(prefix text, amount_nano bigint, most_nano bigint, actor jsonb)
returns void language plpgsql stable as $$
declare moved numeric;
begin
  select coalesce(sum(abs(t.amount_nano)), 0) into moved from gateway.credit_transactions t
   where t.actor_id = (actor ->> 'user_id')::bigint and t.created_at >= date_trunc('day', statement_timestamp(), 'UTC')
     and t.kind in ('grant', 'correction') and starts_with(t.reference, prefix);
  if moved + refuse_daily_excess.amount_nano > most_nano then
    raise exception using errcode = 'PT409', message = 'conflict', detail = jsonb_build_object(
      'param', 'credits', 'limit_source', 'operator_day',
      'message', 'This is more than one operator may credit or debit in a UTC day.')::text;
  end if;
end $$;

-- Takes credits back from what is free of a balance. Raises 404 and 409. The caller sees to it that it happens once.
create function api.debit(user_id bigint, reference text, amount_nano bigint, reason text, actor jsonb)
returns void language plpgsql as $$
declare was gateway.users;
begin
  select * into was from gateway.users u where u.id = debit.user_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  elsif was.credits_nano - was.held_nano - was.frozen_nano < debit.amount_nano then
    raise exception using errcode = 'PT409', message = 'conflict',
      detail = '{"param": "credits", "message": "The account has less than that to take."}';
  end if;
  insert into gateway.credit_transactions (user_id, kind, reference, amount_nano, reason, actor_id)
  values (debit.user_id, 'correction', debit.reference, -debit.amount_nano, debit.reason, (debit.actor ->> 'user_id')::bigint);
  update gateway.users u set credits_nano = u.credits_nano - debit.amount_nano where u.id = debit.user_id;
  perform api.audit(debit.actor, 'credits.debited', 'user:' || debit.user_id, debit.user_id,
                    jsonb_build_object('credits_nano', was.credits_nano),
                    jsonb_build_object('credits_nano', was.credits_nano - debit.amount_nano, 'reason', debit.reason));
end $$;
