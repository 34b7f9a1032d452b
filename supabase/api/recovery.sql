-- Recovery: who has lost all keys gets one by his address. What is mailed is kept as a hash, and sealed until it is mailed.

-- The tokens that a user may have at once, and for how long each works.
create function api.max_recoveries()
returns integer language sql immutable as $$ select 3 $$;

-- Stores a token's hash for the active account with this address, and has the sealed token mailed. Does nothing for any other
-- address, and for an account that has as many as it may. Audited. Returns null, always.
create function api.start_recovery(email text, hash text, sealed text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare person bigint; ends constant timestamptz := clock_timestamp() + interval '1 hour'; acting jsonb;
begin
  select u.id into person from gateway.users u
   where lower(u.email) = lower(start_recovery.email) and u.status = 'active' order by u.id limit 1 for no key update;
  if not found or exists (select from gateway.recovery_tokens t where t.hash = start_recovery.hash) then
    return 'null'::jsonb;
  end if;
  delete from gateway.recovery_tokens t where t.user_id = person and t.expires_at <= statement_timestamp();
  if (select count(*) from gateway.recovery_tokens t where t.user_id = person and t.used_by is null) >= api.max_recoveries() then
    return 'null'::jsonb;
  end if;
  insert into gateway.recovery_tokens (hash, user_id, expires_at) values (start_recovery.hash, person, ends);
  acting := actor || jsonb_build_object('name', 'user:' || person || ' (not signed in)');
  perform api.audit(acting, 'recovery.started', 'user:' || person, person, null, jsonb_build_object('expires_at', ends));
  insert into gateway.outbox (event, payload) values ('account.recovery', jsonb_build_object(
    'user_id', person, 'sealed', start_recovery.sealed, 'expires_at', ends));
  return 'null'::jsonb;
end $$;
grant execute on function api.start_recovery to gateway_auth, service_role;

-- Ends a user's session keys and makes him a key, once for a token: {user_id, username, key_id, name}. Its name is `name`, with a
-- number where that is taken. The user's other tokens end, too. Audited. Raises 401.
create function api.recover_account(hash text, minted jsonb, environment text, name text, scopes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare person gateway.users; token gateway.recovery_tokens; key_name text := recover_account.name; made bigint; acting jsonb;
  number integer := 1;
begin
  select u.* into person from gateway.recovery_tokens t join gateway.users u on u.id = t.user_id
   where t.hash = recover_account.hash for no key update of u;
  select * into token from gateway.recovery_tokens t where t.hash = recover_account.hash for update;
  if token.used_by = minted ->> 'public_id' then -- sent again
    return (select jsonb_build_object('user_id', k.user_id, 'username', person.username, 'key_id', k.id, 'name', k.name)
              from gateway.api_keys k where k.public_id = token.used_by);
  elsif token.hash is null or token.used_by is not null or token.expires_at <= clock_timestamp() or person.status <> 'active' then
    raise exception using errcode = 'PT401', message = 'invalid_token',
      detail = '{"param": "token", "message": "The token is not valid: it was used, is over, or never was."}';
  end if;
  update gateway.recovery_tokens t set used_by = minted ->> 'public_id' where t.hash = token.hash;
  delete from gateway.recovery_tokens t where t.user_id = person.id and t.hash <> token.hash;
  delete from gateway.key_credentials c using gateway.api_keys k
   where k.id = c.key_id and k.user_id = person.id and c.kind = 'session';
  while exists (select from gateway.api_keys k where k.user_id = person.id and k.name = key_name and k.status <> 'revoked') loop
    number := number + 1;
    key_name := recover_account.name || ' ' || number;
  end loop;
  acting := actor || jsonb_build_object('name', 'user:' || person.id, 'user_id', person.id, 'scopes', scopes,
                                        'is_recovery', true);
  perform api.audit(acting, 'recovery.ended', 'user:' || person.id, person.id, null,
                    jsonb_build_object('public_id', minted ->> 'public_id'));
  made := api.add_key(person.id, minted, environment, key_name, scopes, acting, '{}');
  return jsonb_build_object('user_id', person.id, 'username', person.username, 'key_id', made, 'name', key_name);
end $$;
grant execute on function api.recover_account to gateway_auth, service_role;
