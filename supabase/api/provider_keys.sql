-- Users' own keys of providers. They are kept sealed, and opened by nothing but the request that goes through one.

-- Stores a user's key of a provider, in place of the one there was. Audited, but for the key.
create function api.put_provider_key(user_id bigint, provider text, sealed text, last_four text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare k gateway.provider_keys;
begin
  actor := api.confirm(actor, user_id);
  perform from gateway.users u where u.id = put_provider_key.user_id for no key update;
  insert into gateway.provider_keys (user_id, provider, sealed, last_four)
  values (put_provider_key.user_id, put_provider_key.provider, put_provider_key.sealed, put_provider_key.last_four)
  on conflict on constraint provider_keys_user_id_provider_key do update
    set sealed = excluded.sealed, last_four = excluded.last_four, updated_at = now()
  returning * into k;
  perform api.count_own_providers(k.user_id);
  perform api.audit(actor, 'provider_key.stored', 'provider_key:' || k.provider, k.user_id, null, api.provider_key_shown(k));
  return api.provider_key_shown(k);
end $$;
grant execute on function api.put_provider_key to gateway_account, service_role;

-- A stored key as its owner sees it.
create function api.provider_key_shown(k gateway.provider_keys)
returns jsonb language sql immutable as $$ select to_jsonb(k) - array['id', 'user_id', 'sealed'] $$;

-- Notes at the user which providers it has keys of, so that a request of one who has none does not look for them.
create function api.count_own_providers(user_id bigint)
returns void language sql as $$
  update gateway.users u set own_providers = (
    select array_agg(k.provider order by k.provider) from gateway.provider_keys k where k.user_id = u.id)
   where u.id = count_own_providers.user_id
$$;

-- A user's stored keys, without the keys.
create function api.provider_keys(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(api.provider_key_shown(k) order by k.provider), '[]')
    from gateway.provider_keys k where k.user_id = provider_keys.user_id
$$;
grant execute on function api.provider_keys to gateway_account, service_role;

-- Deletes a user's key of a provider. Requests that already go through it do so to their end. Raises 404.
create function api.delete_provider_key(user_id bigint, provider text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare k gateway.provider_keys;
begin
  actor := api.confirm(actor, user_id);
  perform from gateway.users u where u.id = delete_provider_key.user_id for no key update;
  delete from gateway.provider_keys x
   where x.user_id = delete_provider_key.user_id and x.provider = delete_provider_key.provider returning * into k;
  if found then
    perform api.count_own_providers(k.user_id);
    perform api.audit(actor, 'provider_key.deleted', 'provider_key:' || k.provider, k.user_id, api.provider_key_shown(k), null);
  elsif not api.was_done(actor, 'provider_key.deleted', 'provider_key:' || delete_provider_key.provider) then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return 'null'::jsonb;
end $$;
grant execute on function api.delete_provider_key to gateway_account, service_role;
