-- Users and what is written about what is done to them.

-- Appends one row to the audit log, in the transaction of what it records.
create function api.audit(actor text, action text, resource text, before jsonb, after jsonb)
returns void language sql as $$
  insert into gateway.audit_logs (actor, action, resource, before, after) values (actor, action, resource, before, after)
$$;

-- Makes a user with no credits on the default plan and returns its id; raises 409 for a taken name or address. Audited.
create function api.create_user(username text, email text, role text, actor text)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare created bigint;
begin
  insert into gateway.users (username, email, role) values (create_user.username, create_user.email, create_user.role)
  on conflict do nothing returning id into created;
  if created is null then
    raise exception using errcode = 'PT409', message = 'conflict';
  end if;
  perform api.audit(create_user.actor, 'user.created', 'user:' || created, null,
                    jsonb_build_object('username', create_user.username, 'role', create_user.role));
  return jsonb_build_object('user_id', created);
end $$;
grant execute on function api.create_user to gateway_admin, service_role;

-- What a user was granted and has used in all, and what is held now, in nano-dollars.
create function api.credits(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'credits_nano', u.credits_nano, 'held_nano', u.held_nano,
    'granted_nano', coalesce(sum(t.amount_nano) filter (where t.kind <> 'usage'), 0),
    'used_nano', coalesce(-sum(t.amount_nano) filter (where t.kind = 'usage'), 0))
  from gateway.users u left join gateway.credit_transactions t on t.user_id = u.id
  where u.id = credits.user_id group by u.id
$$;
grant execute on function api.credits to gateway_account, service_role;
