-- An account as its owner has it: profile, preferences, all that is kept of it, and its end.

-- A user's profile; raises 404 when the user is not there any more.
create function api.profile(user_id bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare found jsonb;
begin
  select jsonb_build_object(
           'user_id', u.id, 'username', u.username, 'display_name', u.display_name, 'email', u.email, 'role', u.role,
           'status', u.status, 'created_at', u.created_at,
           'sign_ins', (select coalesce(jsonb_agg(jsonb_build_object('provider', i.provider, 'email', i.email,
                                  'created_at', i.created_at, 'last_sign_in_at', i.last_sign_in_at) order by i.created_at), '[]')
                          from gateway.identities i where i.user_id = u.id))
    into found from gateway.users u where u.id = profile.user_id and u.status <> 'deleted';
  if found is null then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return found;
end $$;
grant execute on function api.profile to gateway_account, service_role;

-- Changes what is given of {username, display_name}; the audit log has which, and not the names: it outlives the account.
-- Raises what api.confirm raises, and 409 for a name that is taken.
create function api.change_profile(user_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.users;
begin
  actor := api.confirm(actor, user_id);
  select * into was from gateway.users u where u.id = change_profile.user_id;
  if exists (select from gateway.users u where u.username = changes ->> 'username' and u.id <> was.id) then
    raise exception using errcode = 'PT409', message = 'conflict',
      detail = '{"param": "username", "message": "Another account has this name."}';
  end if;
  update gateway.users u set username = coalesce(changes ->> 'username', u.username),
         display_name = coalesce(changes ->> 'display_name', u.display_name)
   where u.id = was.id and (u.username, u.display_name) is distinct from
         (coalesce(changes ->> 'username', u.username), coalesce(changes ->> 'display_name', u.display_name));
  if found then
    perform api.audit(actor, 'profile.changed', 'user:' || was.id, was.id,
                      null, jsonb_build_object('changed', (select jsonb_agg(k order by k) from jsonb_object_keys(changes) k)));
  end if;
  return api.profile(was.id);
end $$;
grant execute on function api.change_profile to gateway_account, service_role;

-- What a user wants to be told of; the defaults where nothing was said.
create function api.preferences(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select to_jsonb(p) - 'user_id' from (select) as one
    cross join lateral (
      select * from gateway.notification_preferences n where n.user_id = preferences.user_id
      union all
      select (jsonb_populate_record(null::gateway.notification_preferences, jsonb_build_object(
        'low_balance', true, 'low_balance_nano', 5000000000, 'key_events', true, 'usage_report', false, 'product_news', false))).*
      limit 1) p
$$;
grant execute on function api.preferences to gateway_account, service_role;

-- Changes what is given of a user's preferences, and returns them all. Raises what api.confirm raises.
create function api.set_preferences(user_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  actor := api.confirm(actor, user_id);
  return api.write_preferences(user_id, changes, actor);
end $$;
grant execute on function api.set_preferences to gateway_account, service_role;

-- Writes a user's preferences, and returns them all. The caller has confirmed the actor.
create function api.write_preferences(user_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql as $$
declare was constant jsonb := api.preferences(write_preferences.user_id); n gateway.notification_preferences;
begin
  n := jsonb_populate_record(null::gateway.notification_preferences,
                             was || changes || jsonb_build_object('user_id', write_preferences.user_id));
  insert into gateway.notification_preferences select n.*
  on conflict on constraint notification_preferences_pkey do update set
    low_balance = excluded.low_balance, low_balance_nano = excluded.low_balance_nano, key_events = excluded.key_events,
    usage_report = excluded.usage_report, product_news = excluded.product_news;
  if api.preferences(write_preferences.user_id) <> was then
    perform api.audit(actor, 'preferences.changed', 'user:' || write_preferences.user_id, write_preferences.user_id, was, changes);
  end if;
  return api.preferences(write_preferences.user_id);
end $$;

-- Turns one preference off, as the link in a mail asks for; {done} is false for a user who is not there any more.
create function api.unsubscribe(user_id bigint, preference text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  perform from gateway.users u where u.id = unsubscribe.user_id and u.status = 'active' for no key update;
  if not found then
    return '{"done": false}';
  end if;
  perform api.write_preferences(unsubscribe.user_id, jsonb_build_object(unsubscribe.preference, false), unsubscribe.actor);
  return '{"done": true}';
end $$;
grant execute on function api.unsubscribe to gateway_account, service_role;

-- What an export begins with: what of a user does not grow without bound. `most` does nothing: functions of the version before send it
-- while a deploy is under way.
create function api.export_user(user_id bigint, most integer default null)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'profile', api.profile(export_user.user_id), 'balance', api.balance(export_user.user_id),
    'preferences', api.preferences(export_user.user_id),
    'provider_keys', (select coalesce(jsonb_agg(to_jsonb(p) - array['sealed', 'user_id'] order by p.id), '[]')
                        from gateway.provider_keys p where p.user_id = export_user.user_id),
    'webhooks', (select coalesce(jsonb_agg(to_jsonb(w) - array['sealed', 'user_id', 'last_ms'] order by w.id), '[]')
                   from gateway.webhooks w where w.user_id = export_user.user_id))
$$;
grant execute on function api.export_user to gateway_account, service_role;

-- A part of what grows without bound of a user: rows of one kind (credit_transactions, requests, audit_log, api_keys, chat_sessions,
-- chat_messages, responses) after the place `after` (null: from the first), the oldest first; at most `most` of them, and of
-- `most_bytes` in an answer, but one at least. Returns {rows, bytes, next}: `next` is the place of the last, null when there are no more.
create function api.export_part(user_id bigint, kind text, after text, most integer, most_bytes bigint)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare part jsonb; size bigint; places text[];
begin
  select array_agg(p.place order by p.n), max(p.upto) into places, size
    from (select x.place, x.n, sum(x.bytes) over (order by x.n) as upto, x.bytes
            from api.export_places(export_part.user_id, kind, after, most + 1) x) p
   where p.n <= most and (p.upto <= most_bytes or p.n = 1);
  part := (select coalesce(jsonb_agg(api.export_row(export_part.user_id, kind, p.place) order by p.n), '[]')
             from unnest(places) with ordinality p (place, n));
  return jsonb_build_object('rows', part, 'bytes', coalesce(size, 0), 'next', case when exists (
    select from api.export_places(export_part.user_id, kind, coalesce(places[cardinality(places)], after), 1))
    then places[cardinality(places)] end);
end $$;
grant execute on function api.export_part to gateway_account, service_role;

-- The places of the rows of one kind after another place, and the bytes that each takes: of what may be large it is written beside it,
-- so that none is read to find out.
create function api.export_places(user_id bigint, kind text, after text, most integer)
returns table (place text, bytes bigint, n bigint) language plpgsql stable as $$
#variable_conflict use_column
declare past constant bigint := case when kind not in ('requests', 'responses') then coalesce(after, '0')::bigint end;
  past_at constant timestamptz := case kind when 'requests' then coalesce(split_part(after, '/', 1), '-infinity')::timestamptz end;
  past_id constant uuid := case kind when 'requests' then coalesce(split_part(after, '/', 2), '00000000-0000-0000-0000-000000000000')::uuid
                                     when 'responses' then coalesce(after, '00000000-0000-0000-0000-000000000000')::uuid end;
begin
  return query select f.place, f.bytes, row_number() over (order by f.ordinal) from (
    select * from (select t.id::text as place, 2048::bigint as bytes, t.id as ordinal from gateway.credit_transactions t
      where export_places.kind = 'credit_transactions' and t.user_id = export_places.user_id and t.id > past order by t.id limit most) t
    union all
    select * from (select a.id::text, 1024 + coalesce(api.answer_bytes(a.before), 0) + coalesce(api.answer_bytes(a.after), 0), a.id
      from gateway.audit_logs a
      where export_places.kind = 'audit_log' and a.user_id = export_places.user_id and a.id > past order by a.id limit most) a
    union all
    select * from (select k.id::text, 1024 + api.answer_bytes(api.key_shown(k)), k.id from gateway.api_keys k
      where export_places.kind = 'api_keys' and k.user_id = export_places.user_id and k.id > past order by k.id limit most) k
    union all
    select * from (select s.id::text, 1024 + api.answer_bytes(to_jsonb(s)), s.id from gateway.chat_sessions s
      where export_places.kind = 'chat_sessions' and s.user_id = export_places.user_id and s.id > past order by s.id limit most) s
    union all
    select * from (select m.id::text, m.bytes::bigint, m.id from gateway.chat_messages m
      where export_places.kind = 'chat_messages' and m.user_id = export_places.user_id and m.id > past order by m.id limit most) m
  ) f
  union all
  select r.place, r.bytes, row_number() over (order by r.created_at, r.id) from (
    select u.created_at || '/' || u.id as place, 2048::bigint as bytes, u.created_at, u.id from gateway.usage_records u
     where export_places.kind = 'requests' and u.user_id = export_places.user_id
       and (u.created_at, u.id) > (past_at, past_id)
     order by u.created_at, u.id limit most) r
  union all
  select r.id::text, r.bytes::bigint, row_number() over (order by r.id) from (
    select x.id, x.bytes from gateway.responses x
     where export_places.kind = 'responses' and x.user_id = export_places.user_id and x.id > past_id
     order by x.id limit most) r;
end $$;

-- The row of one kind at a place, as its owner sees it.
create function api.export_row(user_id bigint, kind text, place text)
returns jsonb language plpgsql stable as $$
<<given>>
declare id constant bigint := case when kind not in ('requests', 'responses') then place::bigint end;
begin
  if kind = 'credit_transactions' then
    return (select to_jsonb(t) - array['user_id', 'actor_id'] from gateway.credit_transactions t where t.id = given.id);
  elsif kind = 'audit_log' then
    return (select api.entry_shown(a, export_row.user_id) from gateway.audit_logs a where a.id = given.id);
  elsif kind = 'api_keys' then
    return (select api.key_shown(k) - 'public_id' from gateway.api_keys k where k.id = given.id);
  elsif kind = 'chat_sessions' then
    return (select to_jsonb(s) - 'user_id' from gateway.chat_sessions s where s.id = given.id);
  elsif kind = 'chat_messages' then
    return (select to_jsonb(m) - array['user_id', 'bytes'] from gateway.chat_messages m where m.id = given.id);
  elsif kind = 'responses' then
    return (select to_jsonb(r) - array['user_id', 'bytes', 'item_bytes'] from gateway.responses r where r.id = place::uuid);
  end if;
  return (select to_jsonb(u) - array['user_id', 'upstream_cost_nano'] from gateway.usage_records u
           where u.created_at = split_part(place, '/', 1)::timestamptz and u.id = split_part(place, '/', 2)::uuid);
end $$;

-- Confirms that an account may be ended, before Stripe is asked to end what it has of it: {customer_id, username, email}. Raises 409
-- for the last admin.
create function api.closing(user_id bigint, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  actor := api.confirm(actor, user_id);
  perform api.refuse_last_admin(closing.user_id);
  return (select jsonb_build_object('customer_id', u.stripe_customer_id, 'username', u.username, 'email', u.email)
            from gateway.users u where u.id = closing.user_id);
end $$;
grant execute on function api.closing to gateway_billing, service_role;

-- Ends an account for good, after Stripe has: keys and sign-ins end, what is personal is erased; the ledger and the audit log stay, without a name.
-- Requests in flight are still settled. Again it changes nothing. Raises 409 for the last admin.
create function api.delete_user(user_id bigint, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  actor := api.confirm(actor, user_id);
  perform from gateway.users u where u.id = delete_user.user_id and u.status <> 'deleted' for no key update;
  if not found then
    return '{"deleted": true}';
  end if;
  perform api.refuse_last_admin(delete_user.user_id);
  update gateway.users u set status = 'deleted', username = 'deleted-' || u.id, email = null, display_name = '', own_providers = null
   where u.id = delete_user.user_id;
  perform api.leave_stripe(delete_user.user_id);
  delete from gateway.key_credentials c using gateway.api_keys k where k.id = c.key_id and k.user_id = delete_user.user_id;
  delete from gateway.key_pickups p using gateway.api_keys k where k.id = p.key_id and k.user_id = delete_user.user_id;
  update gateway.api_keys k set status = 'revoked' where k.user_id = delete_user.user_id;
  delete from gateway.identities i where i.user_id = delete_user.user_id;
  delete from gateway.provider_keys p where p.user_id = delete_user.user_id;
  delete from gateway.notification_preferences n where n.user_id = delete_user.user_id;
  perform api.withdraw_deliveries(w.id) from gateway.webhooks w where w.user_id = delete_user.user_id;
  delete from gateway.webhooks w where w.user_id = delete_user.user_id;
  delete from gateway.recovery_tokens t where t.user_id = delete_user.user_id;
  delete from gateway.idempotency_keys i where i.user_id = delete_user.user_id;
  delete from gateway.auto_top_ups t where t.user_id = delete_user.user_id;
  delete from gateway.chat_sessions c where c.user_id = delete_user.user_id;
  delete from gateway.responses r where r.user_id = delete_user.user_id;
  delete from gateway.storage s where s.user_id = delete_user.user_id;
  perform api.audit(actor, 'user.deleted', 'user:' || delete_user.user_id, delete_user.user_id, null, null);
  insert into gateway.outbox (event, payload) values ('user.deleted', jsonb_build_object('user_id', delete_user.user_id));
  return '{"deleted": true}';
end $$;
grant execute on function api.delete_user to gateway_billing, service_role;
