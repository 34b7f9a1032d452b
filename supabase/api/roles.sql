-- Roles: what users' keys may do at most. Nobody hands out what he lacks.

-- Raises 404 for a role that is not there and 403 for one that may do more than the actor's key.
create function api.refuse_wider_role(role text, actor jsonb)
returns void language plpgsql stable as $$
declare wanted text[];
begin
  select r.scopes into wanted from gateway.roles r where r.name = refuse_wider_role.role;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "role"}';
  end if;
  perform api.refuse_wider_scopes(to_jsonb(wanted), actor);
end $$;

-- Raises 403 unless the actor has every one of `scopes`.
create function api.refuse_wider_scopes(scopes jsonb, actor jsonb)
returns void language plpgsql stable as $$
begin
  if not coalesce(actor -> 'scopes', '[]') @> scopes then
    perform api.refuse_wider(null, 'Nobody can hand out scopes that his own key lacks.');
  end if;
end $$;

-- Raises 403 for what an actor would give and does not have; `param` null: no one field.
create function api.refuse_wider(param text, message text)
returns void language plpgsql stable as $$
begin
  raise exception using errcode = 'PT403', message = 'insufficient_scope', detail = jsonb_strip_nulls(jsonb_build_object(
    'param', refuse_wider.param, 'message', refuse_wider.message))::text;
end $$;

-- Reports that an actor was refused what he does not have: an alert, and an entry in his account's audit log, one an hour and key.
-- `change` is the function that refused, `about` what it was to change. The refusal was undone; this stays. Returns null.
create function api.report_overreach(kind text, subject text, change text, about text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare acting constant bigint := actor ->> 'user_id'; key constant bigint := actor ->> 'key_id';
  detail constant jsonb := jsonb_build_object('change', change, 'about', about, 'request_id', actor ->> 'request_id');
begin
  perform from gateway.users u where u.id = acting for no key update;
  perform api.raise_alert(kind, subject, detail, acting, key);
  if not exists (select from gateway.audit_logs a where a.actor_id = acting and a.key_id = key and a.action = 'key.overreached'
                                                    and a.created_at > now() - interval '1 hour') then
    perform api.audit(actor, 'key.overreached', 'key:' || key, acting, null, detail);
  end if;
  return 'null'::jsonb;
end $$;
grant execute on function api.report_overreach to gateway_admin, gateway_account, gateway_auth, service_role;

-- Raises 409 when without this user no active admin would be left. Whoever else asks for the same waits for the end of this.
create function api.refuse_last_admin(user_id bigint)
returns void language plpgsql as $$
begin
  if exists (select from gateway.users u where u.id = refuse_last_admin.user_id and u.role = 'admin') then
    perform pg_advisory_xact_lock(hashtextextended('the admins', 0));
    if not exists (select from gateway.users u
                    where u.role = 'admin' and u.status = 'active' and u.id <> refuse_last_admin.user_id) then
      raise exception using errcode = 'PT409', message = 'conflict', detail = '{"message": "This is the last admin."}';
    end if;
  end if;
end $$;

-- A role as it is shown and audited.
create function api.role_shown(r gateway.roles)
returns jsonb language sql immutable as $$
  select jsonb_build_object('role', r.name, 'description', r.description, 'permissions', r.scopes, 'is_builtin', r.is_builtin)
$$;

-- All roles, built-in ones first.
create function api.roles()
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_agg(api.role_shown(r) order by r.is_builtin desc, r.name) from gateway.roles r
$$;
grant execute on function api.roles to gateway_admin, service_role;

-- One role; raises 404.
create function api.role(name text)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare r gateway.roles;
begin
  select * into r from gateway.roles x where x.name = role.name;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return api.role_shown(r);
end $$;
grant execute on function api.role to gateway_admin, service_role;

-- Locks a role that is not built in, if it is there. Raises 409 for one that is built in, and 403 for one that may do more than
-- the actor.
create function api.lock_role(name text, actor jsonb)
returns gateway.roles language plpgsql as $$
declare r gateway.roles;
begin
  perform pg_advisory_xact_lock(hashtextextended('role:' || lock_role.name, 0));
  select * into r from gateway.roles x where x.name = lock_role.name for update;
  if r.is_builtin then
    raise exception using errcode = 'PT409', message = 'conflict', detail = '{"message": "Built-in roles stay as they are."}';
  end if;
  perform api.refuse_wider_scopes(coalesce(to_jsonb(r.scopes), '[]'), lock_role.actor);
  return r;
end $$;

-- Makes a role, or changes what one may do: its users' keys from their next request on. Raises 403 for scopes that the actor
-- lacks, and 409.
create function api.define_role(name text, description text, scopes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.roles; made gateway.roles;
begin
  perform pg_advisory_xact_lock(hashtextextended('role:' || define_role.name, 0)); -- before its users lock the role
  actor := api.confirm(actor, null);
  perform api.refuse_wider_scopes(define_role.scopes, define_role.actor);
  was := api.lock_role(define_role.name, define_role.actor);
  insert into gateway.roles (name, description, scopes)
  values (define_role.name, coalesce(define_role.description, ''),
          array(select distinct s from jsonb_array_elements_text(define_role.scopes) s order by s))
  on conflict on constraint roles_pkey do update set
    description = coalesce(define_role.description, was.description), scopes = excluded.scopes returning * into made;
  if made is distinct from was then
    perform api.audit(define_role.actor, 'role.defined', 'role:' || made.name, null,
                      case when was.name is not null then api.role_shown(was) end, api.role_shown(made));
  end if;
  return api.role_shown(made);
end $$;
grant execute on function api.define_role to gateway_admin, service_role;

-- Deletes a role that nobody has. Raises 404, 403 and 409.
create function api.delete_role(name text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.roles;
begin
  perform pg_advisory_xact_lock(hashtextextended('role:' || delete_role.name, 0)); -- before its users lock the role
  actor := api.confirm(actor, null);
  if api.was_done(actor, 'role.deleted', 'role:' || delete_role.name) then
    return '{"deleted": true}';
  end if;
  was := api.lock_role(delete_role.name, delete_role.actor);
  if was.name is null then
    raise exception using errcode = 'PT404', message = 'not_found';
  elsif exists (select from gateway.users u where u.role = was.name) then
    raise exception using errcode = 'PT409', message = 'conflict', detail = '{"message": "Some users have this role."}';
  end if;
  delete from gateway.roles r where r.name = was.name;
  perform api.audit(delete_role.actor, 'role.deleted', 'role:' || was.name, null, api.role_shown(was), null);
  return '{"deleted": true}';
end $$;
grant execute on function api.delete_role to gateway_admin, service_role;

-- Gives a user a role; {old_role, new_role}. Raises 404, 403 when the role or the user's present one may do more than the
-- actor, and 409 for the last admin.
create function api.assign_role(user_id bigint, role text, reason text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was text;
begin
  actor := api.confirm(actor, user_id);
  select u.role into was from gateway.users u where u.id = assign_role.user_id and u.status <> 'deleted' for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "user_id"}';
  end if;
  perform api.refuse_wider_role(assign_role.role, assign_role.actor), api.refuse_wider_role(was, assign_role.actor);
  if was <> assign_role.role then
    perform api.refuse_last_admin(assign_role.user_id);
    update gateway.users u set role = assign_role.role where u.id = assign_role.user_id;
    perform api.audit(assign_role.actor, 'role.assigned', 'user:' || assign_role.user_id, assign_role.user_id,
                      jsonb_build_object('role', was), jsonb_build_object('role', assign_role.role, 'reason', assign_role.reason));
    insert into gateway.outbox (event, payload) values ('role.assigned', jsonb_build_object(
      'user_id', assign_role.user_id, 'old_role', was, 'new_role', assign_role.role));
  end if;
  return jsonb_build_object('old_role', was, 'new_role', assign_role.role);
end $$;
grant execute on function api.assign_role to gateway_admin, service_role;
