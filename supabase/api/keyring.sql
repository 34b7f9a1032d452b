-- A user's keys: made, changed, rotated and ended. Each change is audited, and no secret is ever among what is kept.

-- The keys that a user may have at once.
create function api.max_keys()
returns integer language sql immutable as $$ select 500 $$;

-- The former secrets of a key that may still work beside its own.
create function api.max_former_secrets()
returns integer language sql immutable as $$ select 10 $$;

-- Stores a minted key (its hash only) and returns {key_id}; `settings` are further columns of api_keys, and `limits` as
-- api.limit_key takes them. A restriction of the key that asks is the made key's, too, where `settings` do not name it. Raises 403 for
-- more than the actor has, 400 for a name that is taken, and 409 for one key more than a user may have.
create function api.create_key(user_id bigint, public_id text, key_hash text, last_four text, environment text, name text,
                               scopes jsonb, actor jsonb, settings jsonb default '{}')
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  actor := api.confirm(actor, user_id);
  return jsonb_build_object('key_id', api.add_key(user_id, jsonb_build_object(
    'public_id', public_id, 'key_hash', key_hash, 'last_four', last_four), environment, name, scopes, actor, settings));
end $$;
grant execute on function api.create_key to gateway_admin, gateway_account, service_role;

-- Makes a key from what was minted {public_id, key_hash, last_four}, and returns its id. The caller has confirmed the actor.
create function api.add_key(user_id bigint, minted jsonb, environment text, name text, scopes jsonb, actor jsonb, settings jsonb)
returns bigint language plpgsql as $$
declare k gateway.api_keys; own constant gateway.api_keys := api.acting_key(add_key.actor, add_key.user_id);
begin
  perform api.refuse_wider_scopes(add_key.scopes, add_key.actor);
  select * into k from gateway.api_keys x where x.public_id = minted ->> 'public_id' and x.user_id = add_key.user_id;
  if found then
    return k.id; -- sent again
  end if;
  perform api.refuse_taken_name(add_key.user_id, add_key.name, null);
  if (add_key.actor ->> 'is_recovery') is null then -- a thief who made 500 keys keeps nobody from recovering the account
    perform api.refuse_more_keys(add_key.user_id);
  end if;
  insert into gateway.api_keys as x (user_id, public_id, key_hash, last_four, environment, name, scopes, expires_at, ip_allowlist,
                                     referers, allowed_models, retention)
  values (add_key.user_id, minted ->> 'public_id', minted ->> 'key_hash', minted ->> 'last_four', add_key.environment, add_key.name,
          array(select jsonb_array_elements_text(add_key.scopes)), own.expires_at, own.ip_allowlist, own.referers, own.allowed_models,
          coalesce(own.retention, 'full'))
  returning * into k;
  k := api.set_key(k, add_key.settings);
  perform api.refuse_wider_key(k, add_key.actor);
  if add_key.settings ? 'limits' then
    perform api.write_limits(k, add_key.settings -> 'limits', add_key.actor);
  end if;
  perform api.audit(add_key.actor, 'key.created', 'key:' || k.id, k.user_id, null, api.key_shown(k));
  insert into gateway.outbox (event, payload) values ('key.created', jsonb_build_object(
    'user_id', k.user_id, 'key_id', k.id, 'name', k.name));
  return k.id;
end $$;

-- Writes settings to a key: columns of api_keys that its owner may choose, and no other.
create function api.set_key(k gateway.api_keys, settings jsonb)
returns gateway.api_keys language plpgsql as $$
declare made constant gateway.api_keys := jsonb_populate_record(k, settings);
begin
  update gateway.api_keys x set
    name = made.name, scopes = made.scopes, status = made.status, expires_at = made.expires_at, ip_allowlist = made.ip_allowlist,
    referers = made.referers, allowed_models = made.allowed_models, limit_nano = made.limit_nano, limit_reset = made.limit_reset,
    max_requests = made.max_requests, rotation_days = made.rotation_days,
    retention = made.retention
   where x.id = k.id returning * into k;
  return k;
end $$;

-- Raises 400 when another key of the user's that was not ended has this name.
create function api.refuse_taken_name(user_id bigint, name text, key_id bigint)
returns void language plpgsql as $$
begin
  -- names of one user are given out in turn
  perform from gateway.users u where u.id = refuse_taken_name.user_id for no key update;
  if exists (select from gateway.api_keys k where k.user_id = refuse_taken_name.user_id and k.name = refuse_taken_name.name
                and k.status <> 'revoked' and k.id is distinct from refuse_taken_name.key_id) then
    raise exception using errcode = 'PT400', message = 'invalid_request_error',
      detail = '{"param": "key_name", "message": "Another key has this name."}';
  end if;
end $$;

-- Raises 409 when a user has as many keys as one may have. The caller has locked the user.
create function api.refuse_more_keys(user_id bigint)
returns void language plpgsql as $$
begin
  if (select count(*) from gateway.api_keys k
       where k.user_id = refuse_more_keys.user_id and k.status <> 'revoked' and k.kind = 'secret') >= api.max_keys() then
    raise exception using errcode = 'PT409', message = 'conflict', detail = jsonb_build_object(
      'message', 'The account has ' || api.max_keys() || ' API keys. Delete one before you make another.')::text;
  end if;
end $$;

-- A key as its owner and the audit log see it.
create function api.key_shown(k gateway.api_keys)
returns jsonb language sql immutable as $$
  select to_jsonb(k) - array['key_hash', 'rotation_told_at']
$$;

-- A key with what it has used: requests and nano-dollars over its life, and when last.
create function api.key_with_usage(k gateway.api_keys)
returns jsonb language sql stable as $$
  select api.key_shown(k) || jsonb_build_object('requests', 0, 'used_nano', 0, 'last_used_at', null) || coalesce((
    select jsonb_build_object('requests', u.requests, 'used_nano', u.cost_nano, 'last_used_at', u.last_used_at)
      from gateway.key_usage u where u.key_id = k.id and u.day = '-infinity'), '{}')
      || jsonb_build_object('period_nano', api.spent(k.id, k.limit_reset),
                            'has_pickup', exists (select from gateway.key_pickups p where p.key_id = k.id and p.taken_by is null
                                                     and p.expires_at > clock_timestamp()))
$$;

-- A user's keys that were not ended, the last made first, those before `cursor`; {total, keys}. Browser keys are not among them.
create function api.keys_of(user_id bigint, cursor bigint, most integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'total', (select count(*) from gateway.api_keys k
               where k.user_id = keys_of.user_id and k.status <> 'revoked' and k.kind = 'secret'),
    'keys', coalesce((select jsonb_agg(api.key_with_usage(k) order by k.id desc)
                        from (select * from gateway.api_keys x
                               where x.user_id = keys_of.user_id and x.status <> 'revoked' and x.kind = 'secret'
                                 and (keys_of.cursor is null or x.id < keys_of.cursor)
                               order by x.id desc limit keys_of.most) k), '[]'))
$$;
grant execute on function api.keys_of to gateway_account, gateway_admin, service_role;

-- One key of a user's that was not ended; raises 404.
create function api.key_of(key_id bigint, user_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare k gateway.api_keys;
begin
  select * into k from gateway.api_keys x where x.id = key_of.key_id and x.user_id = key_of.user_id and x.status <> 'revoked'
                                            and x.kind = 'secret';
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return api.key_with_usage(k);
end $$;
grant execute on function api.key_of to gateway_account, service_role;

-- Locks a key of a user's that was not ended, after the user; raises 404.
create function api.lock_key(key_id bigint, user_id bigint)
returns gateway.api_keys language plpgsql as $$
declare k gateway.api_keys;
begin
  perform from gateway.users u where u.id = lock_key.user_id for no key update;
  select * into k from gateway.api_keys x where x.id = lock_key.key_id and x.user_id = lock_key.user_id and x.status <> 'revoked'
                                            and x.kind = 'secret' for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return k;
end $$;

-- The key by which an actor acts on his own account; null on another's, and for an actor without a key. A session key, or a secret
-- that was rotated, ends before its key does, and what it makes ends with it. The session of a sign-in stands for a person and has no
-- such end.
create function api.acting_key(actor jsonb, user_id bigint)
returns gateway.api_keys language plpgsql stable as $$
declare k gateway.api_keys;
begin
  select * into k from gateway.api_keys x where x.id = (actor ->> 'key_id')::bigint and x.user_id = acting_key.user_id;
  if k.kind = 'secret' then
    k.expires_at := least(k.expires_at, (select c.expires_at from gateway.key_credentials c
                                          where c.public_id = actor #>> '{credential,key_id}' and c.key_id = k.id));
  end if;
  return k;
end $$;

-- Whether a key has a limit that another key would have anew: of money, of requests, or of its own by the minute.
create function api.has_budget(k gateway.api_keys)
returns boolean language sql stable as $$
  select k.limit_nano is not null or k.max_requests is not null or exists (
    select from gateway.rate_limit_configs c
     where c.key_id = k.id and (c.expires_at is null or c.expires_at > now())
       and num_nonnulls(c.requests_per_minute, c.tokens_per_minute, c.concurrency) > 0)
$$;

-- Raises 403 when a key may do more than the actor's: who made, changed or rotated it would have what he lacks.
create function api.refuse_wider_key(k gateway.api_keys, actor jsonb)
returns void language plpgsql stable as $$
declare own constant gateway.api_keys := api.acting_key(actor, k.user_id); wider text;
begin
  perform api.refuse_wider_scopes(to_jsonb(api.shared(k.scopes, r.scopes)), actor)
    from gateway.users u join gateway.roles r on r.name = u.role where u.id = k.user_id;
  if own.id is null then
    return;
  elsif own.id <> k.id and api.has_budget(own) then
    perform api.refuse_wider(null, 'This API key has a limit of its own, and other keys would have it anew. '
      'Make and change keys with a key that has no limit_usd, max_requests or rate limit.');
  end if;
  wider := case
    when own.environment = 'test' and k.environment <> 'test' then 'environment_tag'
    when coalesce(k.expires_at, 'infinity') > own.expires_at then 'expiration_days'
    when not coalesce(k.allowed_models <@ own.allowed_models, own.allowed_models is null) then 'allowed_models'
    when not api.is_within_networks(k.ip_allowlist, own.ip_allowlist) then 'ip_allowlist'
    when not api.is_within_hosts(k.referers, own.referers) then 'domain_referrers'
    when array_position('{none,metadata,full}', k.retention) > array_position('{none,metadata,full}', own.retention) then 'retention' end;
  if wider is not null then
    perform api.refuse_wider(wider, 'The key would have a wider ' || wider || ' than the API key that asks. '
      'Leave it out, send what is inside, or use a key without this restriction.');
  end if;
end $$;

-- Whether every one of `networks` (null: all there are) is inside one of `bounds` (null: there are none).
create function api.is_within_networks(networks cidr[], bounds cidr[])
returns boolean language sql immutable as $$
  select bounds is null or bool_and(n <<= any (bounds)) from unnest(coalesce(networks, '{0.0.0.0/0,::/0}')) n
$$;

-- Whether every one of `hosts` (null: all there are) is one of `bounds` (null: there are none), or below a `*.` of them.
create function api.is_within_hosts(hosts text[], bounds text[])
returns boolean language sql immutable as $$
  select bounds is null or coalesce(bool_and(exists (
    select from unnest(bounds) b where b = h or (b like '*.%' and right(h, length(b) - 1) = substr(b, 2)))), false)
    from unnest(hosts) h
$$;

-- Raises 403 when the key that acts would change itself, and is restricted in anything but its scopes: none lifts its own restrictions.
create function api.refuse_own_change(k gateway.api_keys, actor jsonb)
returns void language plpgsql stable as $$
begin
  if (api.acting_key(actor, k.user_id)).id = k.id and (api.has_budget(k) or k.retention <> 'full'
     or num_nonnulls(k.expires_at, k.ip_allowlist, k.referers, k.allowed_models) > 0) then
    perform api.refuse_wider(null, 'An API key that is restricted does not change itself. Use another key, or sign in.');
  end if;
end $$;

-- Changes a key: `changes` are columns of api_keys that its owner may choose, and `limits`. Raises 404, 403 for more than the actor has
-- and for a restricted key that would change itself, and 400 for a name that is taken. A change that only pauses is everybody's who may
-- write keys.
create function api.change_key(key_id bigint, user_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.api_keys; made gateway.api_keys;
begin
  actor := api.confirm(actor, user_id);
  was := api.lock_key(change_key.key_id, change_key.user_id);
  if changes <> '{"status": "paused"}' then
    perform api.refuse_own_change(was, actor), api.refuse_wider_key(was, actor);
  end if;
  perform api.refuse_wider_scopes(coalesce(changes -> 'scopes', '[]'), actor);
  perform api.refuse_taken_name(was.user_id, coalesce(changes ->> 'name', was.name), was.id);
  made := api.set_key(was, changes);
  if changes <> '{"status": "paused"}' then
    perform api.refuse_wider_key(made, actor);
  end if;
  if changes ? 'limits' then
    perform api.write_limits(was, changes -> 'limits', actor);
  end if;
  if made is distinct from was then
    perform api.audit(actor, 'key.changed', 'key:' || was.id, was.user_id, api.key_shown(was), api.key_shown(made));
  end if;
  return api.key_with_usage(made);
end $$;
grant execute on function api.change_key to gateway_account, service_role;

-- Gives a key another secret, and lets the one before go on for `overlap_s` seconds; 0 ends everything that stood for the key at
-- once, session keys too. The key stays the same: its id, limits and usage. Raises 404, 403, and 409 when too many former secrets
-- still work.
create function api.rotate_key(key_id bigint, user_id bigint, minted jsonb, overlap_s integer, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.api_keys;
begin
  actor := api.confirm(actor, user_id);
  was := api.lock_key(rotate_key.key_id, rotate_key.user_id);
  if was.public_id <> minted ->> 'public_id' then -- else sent again
    perform api.refuse_wider_key(was, actor);
    if overlap_s > 0 and (select count(*) from gateway.key_credentials c
                           where c.key_id = was.id and c.kind = 'rotated' and c.expires_at > clock_timestamp()) >= api.max_former_secrets() then
      raise exception using errcode = 'PT409', message = 'conflict', detail = jsonb_build_object(
        'message', api.max_former_secrets() || ' former secrets of this key still work. Rotate with overlap_hours 0, which ends them.')::text;
    end if;
    perform api.replace_secret(was, minted, overlap_s, actor);
  end if;
  return api.key_of(was.id, was.user_id);
end $$;
grant execute on function api.rotate_key to gateway_account, service_role;

-- The part of a rotation that owners and the job share: the caller has locked the key.
create function api.replace_secret(was gateway.api_keys, minted jsonb, overlap_s integer, actor jsonb)
returns void language plpgsql as $$
declare ends constant timestamptz := clock_timestamp() + make_interval(secs => overlap_s);
begin
  if overlap_s > 0 then
    insert into gateway.key_credentials (public_id, key_hash, key_id, kind, expires_at)
    values (was.public_id, was.key_hash, was.id, 'rotated', ends);
  else
    delete from gateway.key_credentials c where c.key_id = was.id;
  end if;
  delete from gateway.key_pickups p where p.key_id = was.id;
  update gateway.api_keys k set public_id = minted ->> 'public_id', key_hash = minted ->> 'key_hash', last_four = minted ->> 'last_four',
         rotated_at = clock_timestamp(), rotation_told_at = null where k.id = was.id;
  perform api.audit(actor, 'key.rotated', 'key:' || was.id, was.user_id, jsonb_build_object('public_id', was.public_id),
                    jsonb_build_object('public_id', minted ->> 'public_id', 'former_ends_at', ends));
  insert into gateway.outbox (event, payload) values ('key.rotated', jsonb_build_object(
    'user_id', was.user_id, 'key_id', was.id, 'name', was.name, 'former_ends_at', ends));
end $$;

-- Ends a key and everything that stands for it. Raises 404, and 409 when the key that asks is the user's last, unless `force`.
create function api.delete_key(key_id bigint, user_id bigint, force boolean, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.api_keys;
begin
  actor := api.confirm(actor, user_id);
  if api.was_done(actor, 'key.deleted', 'key:' || delete_key.key_id) then
    return jsonb_build_object('key_id', delete_key.key_id);
  end if;
  was := api.lock_key(delete_key.key_id, delete_key.user_id);
  if not force and was.id = (actor ->> 'key_id')::bigint and not exists (
       select from gateway.api_keys k where k.user_id = was.user_id and k.id <> was.id and k.kind = 'secret'
                                        and k.status = 'active' and coalesce(k.expires_at > clock_timestamp(), true)) then
    raise exception using errcode = 'PT409', message = 'conflict',
      detail = '{"message": "This is your last key. Send \"force\": true to delete it all the same."}';
  end if;
  update gateway.api_keys k set status = 'revoked' where k.id = was.id;
  delete from gateway.key_credentials c where c.key_id = was.id;
  delete from gateway.key_pickups p where p.key_id = was.id;
  perform api.audit(actor, 'key.deleted', 'key:' || was.id, was.user_id, api.key_shown(was), null);
  insert into gateway.outbox (event, payload) values ('key.deleted', jsonb_build_object(
    'user_id', was.user_id, 'key_id', was.id, 'name', was.name));
  return jsonb_build_object('key_id', was.id);
end $$;
grant execute on function api.delete_key to gateway_account, service_role;

-- Hands out the sealed secret that a job rotated a key to: to one request, however often that is sent. The secret before it may ask
-- for it while it still works. Raises 404 and 403.
create function api.take_secret(key_id bigint, user_id bigint, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare k gateway.api_keys; taken text;
begin
  actor := api.confirm(actor, user_id);
  k := api.lock_key(take_secret.key_id, take_secret.user_id);
  if not exists (select from gateway.key_credentials c
                  where c.public_id = actor #>> '{credential,key_id}' and c.key_id = k.id and c.kind = 'rotated') then
    perform api.refuse_wider_key(k, actor);
  end if;
  update gateway.key_pickups p set taken_by = actor ->> 'request_id'
   where p.key_id = k.id and coalesce(p.taken_by = actor ->> 'request_id', true) and p.expires_at > clock_timestamp()
  returning p.sealed into taken;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  if not api.was_done(actor, 'key.secret_taken', 'key:' || k.id) then
    perform api.audit(actor, 'key.secret_taken', 'key:' || k.id, k.user_id, null, null);
  end if;
  return jsonb_build_object('sealed', taken);
end $$;
grant execute on function api.take_secret to gateway_account, service_role;

-- What a user's keys used, a row per key and UTC day from `since` until `until`, of one key when it is named.
create function api.key_days(user_id bigint, key_id bigint, since date, until date)
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object(
           'key_id', k.id, 'key_name', k.name, 'day', u.day, 'requests', u.requests, 'prompt_tokens', u.prompt_tokens,
           'completion_tokens', u.completion_tokens, 'cost_nano', u.cost_nano, 'byok_nano', u.byok_nano)
           order by u.day desc, k.id desc), '[]')
    from gateway.api_keys k join gateway.key_usage u on u.key_id = k.id
   where k.user_id = key_days.user_id and (key_days.key_id is null or k.id = key_days.key_id)
     and u.day between key_days.since and key_days.until
$$;
grant execute on function api.key_days to gateway_account, service_role;
