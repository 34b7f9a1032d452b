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

-- Changes what is given of {username, display_name}. Raises 409 for a name that is taken.
create function api.change_profile(user_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.users;
begin
  actor := api.confirm(actor, user_id);
  select * into was from gateway.users u where u.id = change_profile.user_id for no key update;
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
                      jsonb_build_object('username', was.username, 'display_name', was.display_name), changes);
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

-- Changes what is given of a user's preferences, and returns them all.
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
  perform from gateway.users u where u.id = unsubscribe.user_id and u.status <> 'deleted' for no key update;
  if not found then
    return '{"done": false}';
  end if;
  perform api.write_preferences(unsubscribe.user_id, jsonb_build_object(unsubscribe.preference, false), unsubscribe.actor);
  return '{"done": true}';
end $$;
grant execute on function api.unsubscribe to gateway_account, service_role;

-- Everything that is kept of a user, of what grows without bound the newest `most` rows of each kind; prompts and answers are
-- not kept. `is_whole` says whether that was all.
create function api.export_user(user_id bigint, most integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  with transactions as (select * from gateway.credit_transactions t where t.user_id = export_user.user_id order by t.id desc limit most),
       requests as (select * from gateway.usage_records r where r.user_id = export_user.user_id order by r.created_at desc limit most),
       entries as (select * from gateway.audit_logs a where a.user_id = export_user.user_id order by a.id desc limit most)
  select jsonb_build_object(
    'profile', api.profile(export_user.user_id), 'balance', api.balance(export_user.user_id),
    'preferences', api.preferences(export_user.user_id),
    'api_keys', (select coalesce(jsonb_agg(api.key_shown(k) - 'public_id' order by k.id), '[]')
                   from gateway.api_keys k where k.user_id = export_user.user_id),
    'provider_keys', (select coalesce(jsonb_agg(to_jsonb(p) - array['sealed', 'user_id'] order by p.id), '[]')
                        from gateway.provider_keys p where p.user_id = export_user.user_id),
    'webhooks', (select coalesce(jsonb_agg(to_jsonb(w) - array['sealed', 'user_id'] order by w.id), '[]')
                   from gateway.webhooks w where w.user_id = export_user.user_id),
    'credit_transactions', (select coalesce(jsonb_agg(to_jsonb(t) - array['user_id', 'actor_id'] order by t.id desc), '[]') from transactions t),
    'requests', (select coalesce(jsonb_agg(to_jsonb(r) - array['user_id', 'upstream_cost_nano'] order by r.created_at desc), '[]') from requests r),
    'audit_log', (select coalesce(jsonb_agg(api.entry_shown(a, export_user.user_id) order by a.id desc), '[]') from entries a),
    'is_whole', greatest((select count(*) from transactions), (select count(*) from requests), (select count(*) from entries)) < most)
$$;
grant execute on function api.export_user to gateway_account, service_role;

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
  delete from gateway.webhooks w where w.user_id = delete_user.user_id;
  delete from gateway.recovery_tokens t where t.user_id = delete_user.user_id;
  delete from gateway.chat_sessions c where c.user_id = delete_user.user_id;
  delete from gateway.responses r where r.user_id = delete_user.user_id;
  perform api.audit(actor, 'user.deleted', 'user:' || delete_user.user_id, delete_user.user_id, null, null);
  insert into gateway.outbox (event, payload) values ('user.deleted', jsonb_build_object('user_id', delete_user.user_id));
  return '{"deleted": true}';
end $$;
grant execute on function api.delete_user to gateway_billing, service_role;
