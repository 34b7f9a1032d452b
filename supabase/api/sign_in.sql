-- Sign-in: verified identities, the session keys that browsers get for them, and keys that leaked.

-- The newest session keys that a key may have at once; with a further one the oldest ends.
create function api.max_sessions()
returns integer language sql immutable as $$ select 100 $$;

-- Signs in who was verified as `identity` {provider, subject, email, display_name}: whoever is not known yet gets an account,
-- a first key and a welcome, once. Everybody gets a session key on the account's browser key for `seconds`. Raises 403 for
-- accounts that are closed and 409 for an address that another account has.
-- `made` is what the caller minted {username, environment, first, browser, session}; its parts are {public_id, key_hash,
-- last_four}. Returns {user_id, username, email, display_name, credits_nano, has_plan, is_first, key, expires_at}.
create function api.sign_in(identity jsonb, made jsonb, scopes jsonb, browser_scopes jsonb, seconds integer, note jsonb,
                            actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare known bigint; person gateway.users; acting jsonb; expires timestamptz;
begin
  known := api.identified(identity);
  if known is null then
    -- whoever else signs in as the same person waits here, and then finds the account
    perform pg_advisory_xact_lock(hashtextextended(identity ->> 'provider' || ':' || (identity ->> 'subject'), 0));
    known := coalesce(api.identified(identity), api.welcome(identity, made, scopes, note, actor));
  end if;
  select * into person from gateway.users u where u.id = known for no key update;
  if person.status <> 'active' then
    raise exception using errcode = 'PT403', message = 'account_closed';
  end if;
  person.email := api.keep_address(person, identity ->> 'email');
  update gateway.identities i set last_sign_in_at = now(), email = coalesce(identity ->> 'email', i.email)
   where i.provider = identity ->> 'provider' and i.subject = identity ->> 'subject';
  acting := actor || jsonb_build_object('name', 'user:' || known, 'user_id', known);
  expires := api.start_session(known, api.browser_key(known, made, browser_scopes), made -> 'session', null,
                               now() + make_interval(secs => seconds), acting);
  return jsonb_build_object(
    'user_id', known, 'username', person.username, 'email', person.email, 'display_name', person.display_name,
    'credits_nano', person.credits_nano, 'expires_at', expires,
    'has_plan', exists (select from gateway.user_plans up where up.user_id = known and up.status = 'active'),
    -- told by the key, so that a call that is sent again is told the same
    'is_first', exists (select from gateway.api_keys k
                       where k.public_id = made #>> '{first,public_id}' and k.user_id = known),
    'key', (select jsonb_build_object('environment', k.environment, 'public_id', k.public_id, 'last_four', k.last_four)
              from gateway.api_keys k where k.user_id = known and k.kind = 'secret' and k.status = 'active'
             order by k.id limit 1));
end $$;
grant execute on function api.sign_in to gateway_auth, service_role;

-- The user that an identity is linked to; null if none.
create function api.identified(identity jsonb)
returns bigint language sql stable as $$
  select i.user_id from gateway.identities i
   where i.provider = identity ->> 'provider' and i.subject = identity ->> 'subject'
$$;

-- Makes the account of an identity with its first key, on the default plan, and returns its id; raises 409.
create function api.welcome(identity jsonb, made jsonb, scopes jsonb, note jsonb, actor jsonb)
returns bigint language plpgsql as $$
declare created bigint; first_key bigint; acting jsonb;
begin
  perform api.refuse_taken_address(identity ->> 'email');
  insert into gateway.users (username, email, display_name)
  values (made ->> 'username', identity ->> 'email', coalesce(identity ->> 'display_name', ''))
  on conflict do nothing returning id into created;
  if created is null then
    perform api.refuse_address();
  end if;
  insert into gateway.identities (provider, subject, user_id, email)
  values (identity ->> 'provider', identity ->> 'subject', created, identity ->> 'email');
  acting := actor || jsonb_build_object('name', 'user:' || created, 'user_id', created);
  perform api.audit(acting, 'user.created', 'user:' || created, created, null,
                    jsonb_build_object('username', made ->> 'username', 'provider', identity ->> 'provider'));
  insert into gateway.api_keys (user_id, public_id, key_hash, last_four, environment, name, scopes)
  values (created, made #>> '{first,public_id}', made #>> '{first,key_hash}', made #>> '{first,last_four}',
          made ->> 'environment', 'default', array(select jsonb_array_elements_text(welcome.scopes)))
  returning id into first_key;
  perform api.audit(acting, 'key.created', 'key:' || first_key, created, null,
                    jsonb_build_object('name', 'default', 'scopes', scopes));
  insert into gateway.outbox (event, payload) values ('user.created',
    note || jsonb_build_object('user_id', created, 'provider', identity ->> 'provider'));
  perform api.attribute(created, note ->> 'referral_code');
  return created;
end $$;

-- Raises 409 for an address that an account has: whose it is shows itself by the way it signs in, not by an address.
create function api.refuse_taken_address(email text)
returns void language plpgsql stable as $$
begin
  if exists (select from gateway.users u where lower(u.email) = lower(refuse_taken_address.email)) then
    perform api.refuse_address();
  end if;
end $$;

-- Raises 409.
create function api.refuse_address()
returns void language plpgsql stable as $$
begin
  raise exception using errcode = 'PT409', message = 'conflict', detail = '{"param": "email", "message":
    "An account with this e-mail address exists. Sign in the way you did first."}';
end $$;

-- Gives an account without an address its owner's proved one, if no other account has it; returns the account's.
create function api.keep_address(person gateway.users, email text)
returns text language plpgsql as $$
begin
  if person.email is not null or keep_address.email is null
     or exists (select from gateway.users u where lower(u.email) = lower(keep_address.email)) then
    return person.email;
  end if;
  update gateway.users u set email = keep_address.email where u.id = person.id;
  return keep_address.email;
end $$;

-- A user's browser key, made at the first sign-in and when it was revoked: the user's row is locked.
create function api.browser_key(user_id bigint, made jsonb, scopes jsonb)
returns bigint language plpgsql as $$
declare found_id bigint;
begin
  select k.id into found_id from gateway.api_keys k
   where k.user_id = browser_key.user_id and k.kind = 'browser' and k.status <> 'revoked';
  if not found then
    insert into gateway.api_keys (user_id, kind, public_id, key_hash, environment, name, scopes)
    values (browser_key.user_id, 'browser', made #>> '{browser,public_id}', made #>> '{browser,key_hash}',
            made ->> 'environment', 'browser ' || (made #>> '{browser,public_id}'),
            array(select jsonb_array_elements_text(browser_key.scopes)))
    returning id into found_id;
  end if;
  return found_id;
end $$;

-- Lets a minted session key {public_id, key_hash} stand for a key until a moment, which is returned; again changes nothing.
-- `scopes` null: those of the key. Where a key has too many, those that expired go first, then the oldest. The user's row
-- must be locked. Audited.
create function api.start_session(user_id bigint, key_id bigint, minted jsonb, scopes text[], expires_at timestamptz, actor jsonb)
returns timestamptz language plpgsql as $$
declare until timestamptz;
begin
  insert into gateway.key_credentials (public_id, key_hash, key_id, kind, scopes, expires_at)
  values (minted ->> 'public_id', minted ->> 'key_hash', start_session.key_id, 'session', start_session.scopes,
          start_session.expires_at)
  on conflict do nothing returning key_credentials.expires_at into until;
  if not found then
    return (select c.expires_at from gateway.key_credentials c where c.public_id = minted ->> 'public_id');
  end if;
  delete from gateway.key_credentials c where c.public_id in (
    select x.public_id from gateway.key_credentials x
     where x.key_id = start_session.key_id and x.kind = 'session' and x.public_id <> minted ->> 'public_id'
     order by x.expires_at > now() desc, x.created_at desc offset api.max_sessions() - 1);
  perform api.audit(actor, 'session.started', 'key:' || start_session.key_id, start_session.user_id, null,
    jsonb_build_object('session', minted ->> 'public_id', 'expires_at', until, 'scopes', start_session.scopes));
  return until;
end $$;

-- Lets a minted session key stand for the key that asks, for `scopes` and `seconds`; raises 403 for scopes that the actor
-- lacks. One that a session key asked for ends with that: none prolongs itself. Returns {expires_at}.
create function api.create_session(asked_by text, minted jsonb, scopes jsonb, seconds integer, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare latest timestamptz;
begin
  actor := api.confirm(actor, null);
  perform api.refuse_wider_scopes(create_session.scopes, actor);
  perform from gateway.users u where u.id = (actor ->> 'user_id')::bigint for no key update;
  select least(c.expires_at, now() + make_interval(secs => seconds)) into latest
    from (select) as one left join gateway.key_credentials c on c.public_id = asked_by;
  return jsonb_build_object('expires_at', api.start_session(
    (actor ->> 'user_id')::bigint, (actor ->> 'key_id')::bigint, minted,
    array(select jsonb_array_elements_text(create_session.scopes)), latest, actor));
end $$;
grant execute on function api.create_session to gateway_auth, service_role;

-- Ends a session key of the actor's; again changes nothing. Audited.
create function api.end_session(public_id text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  actor := api.confirm(actor, null);
  delete from gateway.key_credentials c using gateway.api_keys k
   where c.public_id = end_session.public_id and c.kind = 'session' and k.id = c.key_id
     and k.user_id = (actor ->> 'user_id')::bigint;
  if found then
    perform api.audit(actor, 'session.ended', 'key:' || (actor ->> 'key_id'), (actor ->> 'user_id')::bigint,
                      jsonb_build_object('session', end_session.public_id), null);
  end if;
  return 'null'::jsonb;
end $$;
grant execute on function api.end_session to gateway_auth, service_role;

-- Ends what leaked, of `leaks` [{public_id, key_hashes, url}]: a key by its secret, a session key or a secret that was
-- rotated by itself. Owners are told; what is not known, or has ended, is passed over. Audited. Returns null.
create function api.revoke_leaked(leaks jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare leak record; hit record;
begin
  -- what stands for a key that leaked makes nothing after this
  perform from gateway.users u where u.id in (
    select k.user_id from gateway.api_keys k left join gateway.key_credentials c on c.key_id = k.id
     where leaks @> jsonb_build_array(jsonb_build_object('public_id', k.public_id))
        or leaks @> jsonb_build_array(jsonb_build_object('public_id', c.public_id))) order by u.id for no key update;
  for leak in
    select l ->> 'public_id' as public_id, l -> 'key_hashes' as hashes, l ->> 'url' as url
      from jsonb_array_elements(leaks) l order by 1
  loop
    update gateway.api_keys k set status = 'revoked'
     where k.public_id = leak.public_id and leak.hashes ? k.key_hash and k.status <> 'revoked'
    returning k.id, k.user_id, k.name, 'key' as what into hit;
    if not found then
      delete from gateway.key_credentials c using gateway.api_keys k
       where c.public_id = leak.public_id and leak.hashes ? c.key_hash and k.id = c.key_id
      returning k.id, k.user_id, k.name, c.kind as what into hit;
    end if;
    if found then
      perform api.audit(actor, 'key.leaked', 'key:' || hit.id, hit.user_id, null,
                        jsonb_build_object('ended', hit.what, 'public_id', leak.public_id, 'url', leak.url));
      insert into gateway.outbox (event, payload) values ('key.leaked', jsonb_build_object(
        'user_id', hit.user_id, 'key_id', hit.id, 'name', hit.name, 'ended', hit.what, 'url', leak.url));
    end if;
  end loop;
  return 'null'::jsonb;
end $$;
grant execute on function api.revoke_leaked to gateway_auth, service_role;
