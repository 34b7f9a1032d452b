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
    raise exception using errcode = 'PT403', message = 'insufficient_scope',
      detail = '{"message": "Nobody can hand out scopes that his own key lacks."}';
  end if;
end $$;

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
