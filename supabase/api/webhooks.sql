-- Webhooks: where users have events of their accounts sent. The secret that signs them is kept sealed, and shown once.

-- The webhooks that a user may have.
create function api.max_webhooks()
returns integer language sql immutable as $$ select 10 $$;

-- A webhook as its owner and the audit log see it.
create function api.webhook_shown(w gateway.webhooks)
returns jsonb language sql immutable as $$ select to_jsonb(w) - array['user_id', 'sealed', 'last_ms'] $$;

-- Raises 400 for an event that nobody can have sent.
create function api.refuse_unknown_events(events jsonb)
returns void language plpgsql as $$
begin
  if not events <@ to_jsonb(api.hooked_events()) then
    raise exception using errcode = 'PT400', message = 'invalid_request_error',
      detail = '{"param": "events", "message": "One of these events does not exist."}';
  end if;
end $$;

-- Stores a webhook and returns it. Audited. Raises what api.confirm raises, 400 for an unknown event, and 409 when the user has as
-- many as one may have.
create function api.create_webhook(user_id bigint, url text, events jsonb, sealed text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare w gateway.webhooks;
begin
  actor := api.confirm(actor, user_id);
  select * into w from gateway.webhooks x where x.user_id = create_webhook.user_id and x.sealed = create_webhook.sealed;
  if found then
    return api.webhook_shown(w); -- sent again
  end if;
  perform api.refuse_unknown_events(create_webhook.events);
  if (select count(*) from gateway.webhooks x where x.user_id = create_webhook.user_id) >= api.max_webhooks() then
    raise exception using errcode = 'PT409', message = 'conflict', detail = '{"message": "You have as many webhooks as you may."}';
  end if;
  insert into gateway.webhooks as x (user_id, url, events, sealed)
  values (create_webhook.user_id, create_webhook.url, array(select jsonb_array_elements_text(create_webhook.events)),
          create_webhook.sealed)
  returning * into w;
  perform api.audit(actor, 'webhook.created', 'webhook:' || w.id, w.user_id, null, api.webhook_shown(w));
  return api.webhook_shown(w);
end $$;
grant execute on function api.create_webhook to gateway_account, service_role;

-- A user's webhooks, the first made first.
create function api.webhooks_of(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(api.webhook_shown(w) order by w.id), '[]') from gateway.webhooks w where w.user_id = webhooks_of.user_id
$$;
grant execute on function api.webhooks_of to gateway_account, service_role;

-- Locks a webhook of a user's, after the user; raises 404.
create function api.lock_webhook(webhook_id bigint, user_id bigint)
returns gateway.webhooks language plpgsql as $$
declare w gateway.webhooks;
begin
  perform from gateway.users u where u.id = lock_webhook.user_id for no key update;
  select * into w from gateway.webhooks x where x.id = lock_webhook.webhook_id and x.user_id = lock_webhook.user_id for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return w;
end $$;

-- Changes what is given of {url, events, is_active}; one that is turned on begins without failures. Audited. Raises 400 and 404.
create function api.change_webhook(webhook_id bigint, user_id bigint, changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.webhooks; w gateway.webhooks;
begin
  actor := api.confirm(actor, user_id);
  was := api.lock_webhook(change_webhook.webhook_id, change_webhook.user_id);
  perform api.refuse_unknown_events(coalesce(changes -> 'events', '[]'));
  update gateway.webhooks x set
    url = coalesce(changes ->> 'url', x.url), is_active = coalesce((changes ->> 'is_active')::boolean, x.is_active),
    events = case when changes ? 'events' then array(select jsonb_array_elements_text(changes -> 'events')) else x.events end,
    failures = case when (changes ->> 'is_active')::boolean then 0 else x.failures end,
    disabled_at = case when (changes ->> 'is_active')::boolean then null else x.disabled_at end
   where x.id = was.id returning * into w;
  if w is distinct from was then
    perform api.audit(actor, 'webhook.changed', 'webhook:' || w.id, w.user_id, api.webhook_shown(was), api.webhook_shown(w));
  end if;
  return api.webhook_shown(w);
end $$;
grant execute on function api.change_webhook to gateway_account, service_role;

-- Deletes a webhook; what was on its way to it is withdrawn. Audited. Raises 404.
create function api.delete_webhook(webhook_id bigint, user_id bigint, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare w gateway.webhooks;
begin
  actor := api.confirm(actor, user_id);
  if api.was_done(actor, 'webhook.deleted', 'webhook:' || delete_webhook.webhook_id) then
    return 'null'::jsonb;
  end if;
  w := api.lock_webhook(delete_webhook.webhook_id, delete_webhook.user_id);
  delete from gateway.webhooks x where x.id = w.id;
  perform api.withdraw_deliveries(w.id);
  perform api.audit(actor, 'webhook.deleted', 'webhook:' || w.id, w.user_id, api.webhook_shown(w), null);
  return 'null'::jsonb;
end $$;
grant execute on function api.delete_webhook to gateway_account, service_role;

-- Has a `webhook.test` sent to a webhook, or waits for the one that is on its way; returns {event_id}. Raises 404, and 409 for one
-- that is turned off.
create function api.test_webhook(webhook_id bigint, user_id bigint, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare w gateway.webhooks; sent_event bigint;
begin
  actor := api.confirm(actor, user_id);
  w := api.lock_webhook(test_webhook.webhook_id, test_webhook.user_id);
  if not w.is_active then
    raise exception using errcode = 'PT409', message = 'conflict', detail = '{"message": "This webhook is turned off."}';
  end if;
  select d.event_id into sent_event from gateway.deliveries d join gateway.outbox o on o.id = d.event_id
   where d.channel = 'webhook' and d.target = w.id and o.event = 'webhook.test' and d.sent_at is null and d.failed_at is null
   limit 1;
  if not found then
    insert into gateway.outbox (event, payload, to_mail, to_webhooks, to_operator)
    values ('webhook.test', jsonb_build_object('user_id', w.user_id, 'webhook_id', w.id), false, false, false)
    returning id into sent_event;
    insert into gateway.deliveries (event_id, channel, target) values (sent_event, 'webhook', w.id);
    perform api.audit(actor, 'webhook.tested', 'webhook:' || w.id, w.user_id, null, jsonb_build_object('event_id', sent_event));
  end if;
  return jsonb_build_object('event_id', sent_event);
end $$;
grant execute on function api.test_webhook to gateway_account, service_role;

-- What was sent to a webhook and what is on its way, the newest first, before `cursor`. Raises 404.
create function api.deliveries_of(webhook_id bigint, user_id bigint, cursor bigint, most integer)
returns jsonb language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan' as $$
begin
  if not exists (select from gateway.webhooks w where w.id = deliveries_of.webhook_id and w.user_id = deliveries_of.user_id) then
    raise exception using errcode = 'PT404', message = 'not_found';
  end if;
  return (
  select coalesce(jsonb_agg(jsonb_build_object(
           'id', d.id, 'event_id', 'evt_' || d.event_id, 'event', d.event, 'tries', d.tries, 'created_at', d.created_at,
           'sent_at', d.sent_at, 'failed_at', d.failed_at, 'reason', d.reason,
           'next_try_at', case when d.sent_at is null and d.failed_at is null then d.next_try_at end) order by d.id desc), '[]')
    from (select x.*, o.event from gateway.deliveries x join gateway.outbox o on o.id = x.event_id
           where x.channel = 'webhook' and x.target = deliveries_of.webhook_id
             and (deliveries_of.cursor is null or x.id < deliveries_of.cursor)
           order by x.id desc limit deliveries_of.most) d);
end $$;
grant execute on function api.deliveries_of to gateway_account, service_role;
