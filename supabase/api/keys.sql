-- API keys: found by their public id, verified by their hash, never cached.

create type api.caller as (
  user_id bigint, key_id bigint, environment text, role text, username text,
  allowed_models text[], limit_nano bigint, limit_reset text
);

-- The caller that a key stands for at this moment; raises 401 or 403 when it may not be used for `scope` from here.
create function api.verify(key_id text, key_hashes jsonb, ip inet, referer text, scope text)
returns api.caller language plpgsql stable as $$
declare k record; host text;
begin
  select a.*, u.role, u.username, u.status as user_status into k
    from gateway.api_keys a join gateway.users u on u.id = a.user_id where a.public_id = verify.key_id;
  if not found or not key_hashes ? k.key_hash or k.status <> 'active' or k.user_status <> 'active' then
    raise exception using errcode = 'PT401', message = 'invalid_api_key';
  end if;
  if k.expires_at <= clock_timestamp() then
    raise exception using errcode = 'PT401', message = 'expired_api_key';
  end if;
  if not verify.scope = any (k.scopes) then
    raise exception using errcode = 'PT403', message = 'insufficient_scope';
  end if;
  if k.ip_allowlist is not null and not coalesce(verify.ip <<= any (k.ip_allowlist), false) then
    raise exception using errcode = 'PT403', message = 'ip_not_allowed';
  end if;
  if k.referers is not null and not api.is_allowed_referer(verify.referer, k.referers) then
    raise exception using errcode = 'PT403', message = 'referer_not_allowed';
  end if;
  return row(k.user_id, k.id, k.environment, k.role, k.username, k.allowed_models, k.limit_nano, k.limit_reset)::api.caller;
end $$;

-- Whether a Referer's host is one of `hosts`, each exact or `*.` and a domain.
create function api.is_allowed_referer(referer text, hosts text[])
returns boolean language sql immutable as $$
  select coalesce(bool_or(host = h or (h like '*.%' and right(host, length(h) - 1) = substr(h, 2))), false)
    from unnest(hosts) h, substring(lower(referer) from '^https?://([a-z0-9._-]+)(?::[0-9]*)?(?:[/?#]|$)') host
$$;

-- The caller of a key as an object: {user_id, key_id, environment, role, username, …}; raises 401 or 403.
create function api.authenticate(key_id text, key_hashes jsonb, ip inet, referer text, scope text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select to_jsonb(c) from api.verify(key_id, key_hashes, ip, referer, scope) c
$$;
grant execute on function api.authenticate to gateway_chat, gateway_catalog, gateway_account, service_role;

-- What a key spent since the start of its present limit_reset period (UTC days, weeks from Monday, months), in nano-dollars.
create function api.spent(key_id bigint, period text)
returns bigint language sql stable as $$
  select coalesce(sum(cost_nano), 0)::bigint from gateway.key_usage k
   where k.key_id = spent.key_id and k.day >= case spent.period
     when 'daily' then (clock_timestamp() at time zone 'utc')::date
     when 'weekly' then date_trunc('week', clock_timestamp() at time zone 'utc')::date
     when 'monthly' then date_trunc('month', clock_timestamp() at time zone 'utc')::date
     else '-infinity'::date end
$$;

-- A key's own figures as OpenRouter's GET /key has them, amounts in nano-dollars.
create function api.key_status(key_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'label', k.name, 'environment', k.environment, 'public_id', k.public_id, 'expires_at', k.expires_at,
    'limit_nano', k.limit_nano, 'limit_reset', k.limit_reset, 'period_nano', api.spent(k.id, k.limit_reset),
    'usage_nano', api.spent(k.id, null), 'daily_nano', api.spent(k.id, 'daily'),
    'weekly_nano', api.spent(k.id, 'weekly'), 'monthly_nano', api.spent(k.id, 'monthly'),
    'is_free_tier', not exists (select from gateway.credit_transactions t where t.user_id = k.user_id and t.amount_nano > 0))
  from gateway.api_keys k where k.id = key_status.key_id
$$;
grant execute on function api.key_status to gateway_account, service_role;

-- Stores a minted key (its hash only) and returns its row id; audited.
create function api.create_key(user_id bigint, public_id text, key_hash text, environment text, name text, scopes jsonb, actor text)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare created bigint;
begin
  insert into gateway.api_keys (user_id, public_id, key_hash, environment, name, scopes)
  values (create_key.user_id, create_key.public_id, create_key.key_hash, create_key.environment, create_key.name,
          array(select jsonb_array_elements_text(create_key.scopes)))
  returning id into created;
  perform api.audit(create_key.actor, 'key.created', 'key:' || created, null,
                    jsonb_build_object('user_id', create_key.user_id, 'name', create_key.name, 'scopes', create_key.scopes));
  return jsonb_build_object('key_id', created);
end $$;
grant execute on function api.create_key to gateway_admin, service_role;
