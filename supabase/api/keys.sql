-- API keys: found by their public id, verified by their hash, never cached.

create type api.caller as (
  user_id bigint, key_id bigint, environment text, role text, username text,
  allowed_models text[], limit_nano bigint, limit_reset text, max_requests bigint, own_providers text[],
  key_scopes text[], role_scopes text[], retention text
);

-- The caller that a credential (a key, a session key or a secret that was rotated lately) stands for at this moment; raises
-- 401 or 403 when it may not be used for `scope` from here.
create function api.verify(key_id text, key_hashes jsonb, ip inet, referer text, scope text)
returns api.caller language plpgsql stable as $$
declare k record; c gateway.key_credentials; secret text; expires timestamptz;
begin
  select a.*, u.role, u.username, u.status as user_status, u.own_providers, r.scopes as role_scopes into k
    from gateway.api_keys a join gateway.users u on u.id = a.user_id join gateway.roles r on r.name = u.role
   where a.public_id = verify.key_id;
  if found then
    secret := k.key_hash;
    expires := k.expires_at;
  else
    select * into c from gateway.key_credentials x where x.public_id = verify.key_id;
    select a.*, u.role, u.username, u.status as user_status, u.own_providers, r.scopes as role_scopes into k
      from gateway.api_keys a join gateway.users u on u.id = a.user_id join gateway.roles r on r.name = u.role
     where a.id = c.key_id;
    secret := c.key_hash;
    expires := least(c.expires_at, k.expires_at);
    k.scopes := case when c.scopes is null then k.scopes else api.shared(c.scopes, k.scopes) end;
  end if;
  if k.id is null or not key_hashes ? secret or k.status = 'revoked' or k.user_status <> 'active' then
    raise exception using errcode = 'PT401', message = 'invalid_api_key';
  elsif expires <= clock_timestamp() then
    raise exception using errcode = 'PT401', message = 'expired_api_key';
  elsif k.status = 'paused' then
    raise exception using errcode = 'PT403', message = 'key_paused';
  elsif not verify.scope = any (k.scopes) then
    raise exception using errcode = 'PT403', message = 'insufficient_scope';
  elsif not verify.scope = any (k.role_scopes) then
    raise exception using errcode = 'PT403', message = 'role_required';
  elsif k.ip_allowlist is not null and not coalesce(verify.ip <<= any (k.ip_allowlist), false) then
    raise exception using errcode = 'PT403', message = 'ip_not_allowed';
  elsif k.referers is not null and not api.is_allowed_referer(verify.referer, k.referers) then
    raise exception using errcode = 'PT403', message = 'referer_not_allowed';
  end if;
  return row(k.user_id, k.id, k.environment, k.role, k.username, k.allowed_models, k.limit_nano, k.limit_reset,
             k.max_requests, k.own_providers, k.scopes, k.role_scopes, k.retention)::api.caller;
end $$;

-- Confirms that an actor may still act, and returns him with the scopes that he has now. His user, `user_id` and then his role are
-- locked first, users in the order of their ids, and his credential {key_id, key_hashes, referer, scope} is verified under these locks:
-- what ends a credential takes the same locks, so nothing is made after it. Raises 401 and 403, and 503 without a credential. A request that has changed something
-- was confirmed then: it may be sent again after it ended its own key. An actor without a user is a job, Stripe or a seed.
create function api.confirm(actor jsonb, user_id bigint)
returns jsonb language plpgsql as $$
declare acting constant bigint := actor ->> 'user_id'; given constant jsonb := actor -> 'credential'; who api.caller;
begin
  if acting is null then
    return actor;
  elsif given is null then
    raise exception 'a function of the version before asks: a deploy is under way' using errcode = '57P03';
  end if;
  perform from gateway.users u where u.id in (acting, confirm.user_id) order by u.id for no key update;
  perform from gateway.roles r where r.name = (select u.role from gateway.users u where u.id = acting) for share;
  if exists (select from gateway.audit_logs a where a.actor_id = acting and a.request_id = confirm.actor ->> 'request_id'
                                                and a.created_at > now() - interval '5 minutes') then
    return actor;
  end if;
  who := api.verify(given ->> 'key_id', given -> 'key_hashes', (actor ->> 'ip')::inet, given ->> 'referer', given ->> 'scope');
  if who.user_id <> acting then
    raise exception using errcode = 'PT401', message = 'invalid_api_key';
  end if;
  return actor || jsonb_build_object('key_id', who.key_id, 'scopes', api.shared(who.key_scopes, who.role_scopes));
end $$;

-- Whether a caller may do `scope`: his key and his role.
create function api.may(who api.caller, scope text)
returns boolean language sql immutable as $$
  select scope = any (who.key_scopes) and scope = any (who.role_scopes)
$$;

-- The scopes that are in both sets.
create function api.shared(one text[], other text[])
returns text[] language sql immutable as $$
  select array(select s from unnest(one) s where s = any (other) order by s)
$$;

-- Whether a Referer's host is one of `hosts`, each exact or `*.` and a domain.
create function api.is_allowed_referer(referer text, hosts text[])
returns boolean language sql immutable as $$
  select coalesce(bool_or(host = h or (h like '*.%' and right(host, length(h) - 1) = substr(h, 2))), false)
    from unnest(hosts) h, substring(lower(referer) from '^https?://([a-z0-9._-]+)(?::[0-9]*)?(?:[/?#]|$)') host
$$;

-- Confirms, before the rest of a long body is read, that its key is good: {user_id, key_id}. It takes no management request: what the
-- body asks for takes its own, when it is admitted. Raises 401 and 403.
create function api.check_key(key_id text, key_hashes jsonb, ip inet, referer text, scope text)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare c constant api.caller := api.verify(key_id, key_hashes, ip, referer, scope);
begin
  return jsonb_build_object('user_id', c.user_id, 'key_id', c.key_id);
end $$;
grant execute on function api.check_key to gateway_chat, service_role;

-- The caller of a key: {user_id, key_id, environment, role, username, scopes}, scopes being what key and role both allow;
-- raises 401, 403, or 429 when the user makes too many management requests.
create function api.authenticate(key_id text, key_hashes jsonb, ip inet, referer text, scope text)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare c constant api.caller := api.verify(key_id, key_hashes, ip, referer, scope);
begin
  perform api.take_management(c.user_id, c.key_id);
  return jsonb_build_object('user_id', c.user_id, 'key_id', c.key_id, 'environment', c.environment, 'role', c.role,
                            'username', c.username, 'scopes', api.shared(c.key_scopes, c.role_scopes));
end $$;
grant execute on function api.authenticate to gateway_auth, gateway_chat, gateway_catalog, gateway_account, gateway_admin,
  gateway_billing, gateway_history, gateway_trials, service_role;

-- What a key spent since the start of its present limit_reset period (UTC days, weeks from Monday, months), in nano-dollars.
-- In plpgsql, which keeps its plan (see correct_tokens).
create function api.spent(key_id bigint, period text)
returns bigint language plpgsql stable as $$
declare
  today constant date := (clock_timestamp() at time zone 'utc')::date;
  since constant date := case spent.period when 'daily' then today when 'weekly' then date_trunc('week', today::timestamp)
                                           when 'monthly' then date_trunc('month', today::timestamp) else '-infinity' end;
begin
  return (select coalesce(sum(k.cost_nano), 0)::bigint from gateway.key_usage k
           where k.key_id = spent.key_id
             and k.day between since and case when spent.period is null then '-infinity'::date else 'infinity'::date end);
end $$;

-- A key's own figures as OpenRouter's GET /key has them, amounts in nano-dollars.
create function api.key_status(key_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'label', k.name, 'environment', k.environment, 'public_id', k.public_id, 'last_four', k.last_four, 'expires_at', k.expires_at,
    'limit_nano', k.limit_nano, 'limit_reset', k.limit_reset, 'period_nano', api.spent(k.id, k.limit_reset),
    'usage_nano', api.spent(k.id, null), 'daily_nano', api.spent(k.id, 'daily'),
    'weekly_nano', api.spent(k.id, 'weekly'), 'monthly_nano', api.spent(k.id, 'monthly'),
    'byok_nano', coalesce((select d.byok_nano from gateway.key_usage d where d.key_id = k.id and d.day = '-infinity'), 0),
    'is_free_tier', not exists (select from gateway.credit_transactions t where t.user_id = k.user_id and t.amount_nano > 0))
  from gateway.api_keys k where k.id = key_status.key_id
$$;
grant execute on function api.key_status to gateway_account, service_role;
