-- Chats: a user's sessions and the messages in them. Another's session is as if it were not; and, where `own_key` is given, so is what
-- any other key made: a key that may not read the account has no more of it.

-- A session as it is shown.
create function api.session_shown(s gateway.chat_sessions)
returns jsonb language sql immutable as $$
  select to_jsonb(s) - array['user_id', 'key_id', 'deleted_at']
$$;

-- A user's session, locked where it is to be changed; raises 404.
create function api.own_session(session_id bigint, user_id bigint, own_key bigint)
returns gateway.chat_sessions language plpgsql as $$
declare s gateway.chat_sessions;
begin
  select * into s from gateway.chat_sessions x
   where x.id = own_session.session_id and x.user_id = own_session.user_id and x.deleted_at is null
     and (own_session.own_key is null or x.key_id = own_session.own_key) for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "session_id"}';
  end if;
  return s;
end $$;

-- Makes a session by a key and returns it; raises 400 above 10,000 of a user (20,000 with those deleted in the last thirty days), and
-- 403 for an account that was closed meanwhile.
create function api.create_session_of(user_id bigint, title text, description text, model text, key_id bigint default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare s gateway.chat_sessions;
begin
  perform api.lock_account(create_session_of.user_id);
  if (select count(*) from gateway.chat_sessions x where x.user_id = create_session_of.user_id and x.deleted_at is null) >= 10000 then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail = '{"message": "You have 10,000 sessions."}';
  elsif (select count(*) from gateway.chat_sessions x where x.user_id = create_session_of.user_id) >= 20000 then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail =
      '{"message": "You have deleted over 10,000 sessions in the last thirty days. Use one of those that you have."}';
  end if;
  insert into gateway.chat_sessions (user_id, key_id, title, description, model)
  values (create_session_of.user_id, create_session_of.key_id, create_session_of.title, create_session_of.description, create_session_of.model) returning * into s;
  return api.session_shown(s);
end $$;
grant execute on function api.create_session_of to gateway_history, service_role;

-- A user's sessions, the last changed first: {sessions, count}, the latter of all.
create function api.sessions(user_id bigint, most integer, skipped integer, own_key bigint default null)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'count', (select count(*) from gateway.chat_sessions x where x.user_id = sessions.user_id and x.deleted_at is null
                                                             and (sessions.own_key is null or x.key_id = sessions.own_key)),
    'sessions', (select coalesce(jsonb_agg(api.session_shown(s) order by s.updated_at desc, s.id desc), '[]') from (
      select * from gateway.chat_sessions x where x.user_id = sessions.user_id and x.deleted_at is null
                                              and (sessions.own_key is null or x.key_id = sessions.own_key)
       order by x.updated_at desc, x.id desc limit sessions.most offset sessions.skipped) s))
$$;
grant execute on function api.sessions to gateway_history, service_role;

-- A session with its latest messages before the one with the id `before`, oldest first: at most `most` of them, and of
-- `most_bytes` in all, but one at least. `has_more` says whether there are earlier ones. Raises 404.
create function api.session(session_id bigint, user_id bigint, most integer, before bigint, own_key bigint default null,
                            most_bytes bigint default 5500000)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare s constant gateway.chat_sessions := api.own_session(session_id, user_id, own_key); first_id bigint;
begin
  select min(p.id) into first_id from api.latest_messages(s.id, session.before, session.most, session.most_bytes) p;
  return api.session_shown(s) || jsonb_build_object(
    'has_more', exists (select from gateway.chat_messages x where x.session_id = s.id and x.id < first_id),
    'messages', (
      select coalesce(jsonb_agg(api.message_shown(m) order by m.id), '[]') from gateway.chat_messages m
       where m.session_id = s.id and m.id >= first_id and (session.before is null or m.id < session.before)));
end $$;
grant execute on function api.session to gateway_history, service_role;

-- The latest messages of a session before the one with the id `before`: at most `most`, and of `most_bytes` in all, but one at
-- least. Nothing of what was said is read to find them.
create function api.latest_messages(session_id bigint, before bigint, most integer, most_bytes bigint)
returns table (id bigint, bytes integer) language sql stable as $$
  select p.id, p.bytes from (
    select x.id, x.bytes, sum(x.bytes) over (order by x.id desc) as upto from (
      select m.id, m.bytes from gateway.chat_messages m
       where m.session_id = latest_messages.session_id and (latest_messages.before is null or m.id < latest_messages.before)
       order by m.id desc limit latest_messages.most) x) p
   where p.upto <= latest_messages.most_bytes or p.upto = p.bytes
$$;

-- A message as its owner sees it.
create function api.message_shown(m gateway.chat_messages)
returns jsonb language sql immutable as $$
  select to_jsonb(m) - array['hold_id', 'session_id', 'user_id', 'bytes']
$$;

-- Changes what is given of {title, description, model} of a session and returns it; raises 404.
create function api.change_session(session_id bigint, user_id bigint, changes jsonb, own_key bigint default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare s gateway.chat_sessions := jsonb_populate_record(api.own_session(session_id, user_id, own_key), changes);
begin
  update gateway.chat_sessions x set title = s.title, description = s.description, model = s.model, updated_at = clock_timestamp()
   where x.id = change_session.session_id returning * into s;
  return api.session_shown(s);
end $$;
grant execute on function api.change_session to gateway_history, service_role;

-- Takes a session from everybody's sight, and deletes its messages: their bytes are free again. Raises 404.
create function api.delete_session(session_id bigint, user_id bigint, own_key bigint default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare s constant gateway.chat_sessions := api.own_session(session_id, user_id, own_key);
begin
  update gateway.chat_sessions x set deleted_at = clock_timestamp() where x.id = s.id;
  delete from gateway.chat_messages m where m.session_id = s.id;
  return jsonb_build_object('deleted', true);
end $$;
grant execute on function api.delete_session to gateway_history, service_role;

-- A user's sessions whose title or messages hold a text, in whatever case, the last changed first: at most `most`. Of the messages the
-- newest 5 MB are searched, without those that are larger than 250 kB: photos hold no text.
create function api.search_sessions(user_id bigint, wanted text, most integer, own_key bigint default null)
returns jsonb language sql stable security definer set search_path = '' as $$
  with searched as (
    select n.id from (select m.id, sum(m.bytes) over (order by m.id desc) as upto from gateway.chat_messages m
                       where m.user_id = search_sessions.user_id and m.bytes <= 250000
                         and (search_sessions.own_key is null or m.session_id in (
                           select o.id from gateway.chat_sessions o
                            where o.user_id = search_sessions.user_id and o.key_id = search_sessions.own_key))) n
     where n.upto <= 5000000
  )
  select coalesce(jsonb_agg(api.session_shown(s) order by s.updated_at desc, s.id desc), '[]') from (
    select * from gateway.chat_sessions x
     where x.user_id = search_sessions.user_id and x.deleted_at is null
       and (search_sessions.own_key is null or x.key_id = search_sessions.own_key)
       and (position(lower(wanted) in lower(x.title)) > 0
            or x.id in (select m.session_id from gateway.chat_messages m join searched n on n.id = m.id
                         where position(lower(wanted) in lower(m.content #>> '{}')) > 0))
     order by x.updated_at desc, x.id desc limit search_sessions.most) s
$$;
grant execute on function api.search_sessions to gateway_history, service_role;

-- How many sessions and messages a user has, and what he used in them: {sessions, messages, tokens, by_model}.
create function api.session_stats(user_id bigint, own_key bigint default null)
returns jsonb language sql stable security definer set search_path = '' as $$
  with said as (
    select m.* from gateway.chat_sessions s join gateway.chat_messages m on m.session_id = s.id
     where s.user_id = session_stats.user_id and s.deleted_at is null
       and (session_stats.own_key is null or s.key_id = session_stats.own_key)
  )
  select jsonb_build_object(
    'sessions', (select count(*) from gateway.chat_sessions s where s.user_id = session_stats.user_id and s.deleted_at is null
                                                                and (session_stats.own_key is null or s.key_id = session_stats.own_key)),
    'messages', (select count(*) from said), 'tokens', (select coalesce(sum(tokens), 0) from said),
    'by_model', (select coalesce(jsonb_object_agg(model, count), '{}') from (
      select model, count(*) from said where model is not null group by model) m))
$$;
grant execute on function api.session_stats to gateway_history, service_role;

-- Stores a message {role, content, tool_calls, tool_call_id, model, tokens, message_id} in a session and returns it, once by its
-- message_id; raises 404, 400 when the key keeps nothing or the session is full, and 413 when the plan's bytes are used up.
create function api.add_message(user_id bigint, key_id bigint, session_id bigint, message jsonb, own_key bigint default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare s constant gateway.chat_sessions := api.own_session(session_id, user_id, own_key); made gateway.chat_messages; kept text := api.retention_of(key_id);
begin
  perform api.refuse_no_retention(kept);
  select * into made from gateway.chat_messages m where m.session_id = s.id and m.message_id = add_message.message ->> 'message_id';
  if not found then
    if s.message_count >= 10000 then
      raise exception using errcode = 'PT400', message = 'invalid_request_error', detail = '{"message": "The session has 10,000 messages."}';
    end if;
    if api.room_of(s.user_id) < api.message_bytes(message) then
      perform api.refuse_full_storage();
    end if;
    made := api.store_message(s, message, kept, null, null);
    update gateway.chat_sessions x set message_count = x.message_count + 1, updated_at = clock_timestamp() where x.id = s.id;
  end if;
  return api.message_shown(made);
end $$;
grant execute on function api.add_message to gateway_history, service_role;

-- What a key lets be kept. In plpgsql, which keeps its plan (see correct_tokens).
create function api.retention_of(key_id bigint)
returns text language plpgsql stable as $$
begin
  return (select k.retention from gateway.api_keys k where k.id = retention_of.key_id);
end $$;

-- Raises 400 where a key keeps nothing.
create function api.refuse_no_retention(retention text)
returns void language plpgsql immutable as $$
begin
  if retention = 'none' then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail =
      '{"param": "session_id", "message": "This API key lets nothing be kept (retention: none)."}';
  end if;
end $$;

-- The bytes that a value takes in an answer of a Lambda function, where the answer is a JSON string; null for a null. What is far
-- larger than any answer is not written out: its size is that of its binary form. In plpgsql, as those below, which keeps its plan
-- (see correct_tokens).
create function api.answer_bytes(value jsonb)
returns bigint language plpgsql immutable as $$
begin
  return case when pg_column_size(value) > 8000000 then pg_column_size(value) else octet_length(to_json(value::text)::text) end;
end $$;

-- The largest message, and the largest response with its input, that is kept: an answer that has nothing else passes Lambda.
create function api.max_kept_bytes()
returns integer language plpgsql immutable as $$ begin return 5500000; end $$;

-- What a message {content, tool_calls, tool_call_id} takes, with its row.
create function api.message_bytes(message jsonb)
returns bigint language plpgsql immutable as $$
begin
  return 1024 + coalesce(api.answer_bytes(message -> 'content'), 0) + coalesce(api.answer_bytes(message -> 'tool_calls'), 0)
       + coalesce(api.answer_bytes(message -> 'tool_call_id'), 0);
end $$;

-- The bytes that a user may still store by the plan; below zero when a smaller plan came since.
create function api.room_of(user_id bigint)
returns bigint language plpgsql stable as $$
begin
  return (
  select coalesce(p.stored_bytes, 9000000000000000000) - coalesce(s.bytes, 0)
    from (select) as one
    left join gateway.user_plans a on a.user_id = room_of.user_id and a.status = 'active'
                                  and (a.ends_at is null or a.ends_at > clock_timestamp())
    join gateway.plans p on p.id = coalesce(a.plan_id, (select d.id from gateway.plans d where d.is_default))
    left join gateway.storage s on s.user_id = room_of.user_id);
end $$;

-- Raises 413: what the account has stored has reached its plan's limit.
create function api.refuse_full_storage()
returns void language plpgsql immutable as $$
begin
  raise exception using errcode = 'PT413', message = 'storage_full';
end $$;

-- Inserts a message of a session, without what was said where the key keeps only that it was, where it is too large to be shown, and
-- where the plan's bytes are used up.
create function api.store_message(s gateway.chat_sessions, message jsonb, retention text, hold_id uuid, model text)
returns gateway.chat_messages language plpgsql as $$
declare m gateway.chat_messages := jsonb_populate_record(null::gateway.chat_messages, message);
  size constant bigint := api.message_bytes(message);
  is_kept constant boolean := retention = 'full' and size <= least(api.max_kept_bytes(), api.room_of(s.user_id));
begin
  insert into gateway.chat_messages (session_id, user_id, role, content, tool_calls, tool_call_id, model, tokens, message_id, hold_id,
                                     bytes)
  values (s.id, s.user_id, m.role, case when is_kept then nullif(m.content, 'null') end, case when is_kept then m.tool_calls end,
          left(m.tool_call_id, 200), coalesce(m.model, store_message.model), coalesce(m.tokens, 0), m.message_id,
          store_message.hold_id, case when is_kept then size else 1024 end)
  returning * into m;
  return m;
end $$;

-- What a completion in one of the caller's sessions follows: {messages, context_length}, the latest messages that have content,
-- oldest first, at most `most` of them and of `most_bytes` (and of what the shortest context of `models` could hold); `own_bytes` are
-- to be kept of the request. Raises what verify raises, 404, 400 when the key keeps nothing, 413 when the plan's bytes are used up,
-- and 429 for a request that could not be admitted now: it reads nothing.
create function api.session_context(key_id text, key_hashes jsonb, ip inet, referer text, session_id bigint, models jsonb, most integer,
                                    most_bytes bigint default 8000000, own_bytes bigint default 0)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare who constant api.caller := api.verify(key_id, key_hashes, ip, referer, 'inference');
  context constant bigint := (select min(m.context_length) from gateway.models m where models ? m.id);
begin
  perform api.refuse_no_retention(api.retention_of(who.key_id));
  if not exists (select from gateway.chat_sessions s
                  where s.id = session_context.session_id and s.user_id = who.user_id and s.deleted_at is null
                    and (s.key_id = who.key_id or api.may(who, 'account:read'))) then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "session_id"}';
  elsif api.room_of(who.user_id) < own_bytes then
    perform api.refuse_full_storage();
  end if;
  perform api.refuse_busy(who.user_id, who.key_id);
  return jsonb_build_object(
    'context_length', context,
    'messages', (select coalesce(jsonb_agg(jsonb_build_object('role', m.role, 'content', m.content) || jsonb_strip_nulls(
      jsonb_build_object('tool_calls', m.tool_calls, 'tool_call_id', m.tool_call_id)) order by m.id), '[]')
        from gateway.chat_messages m
       where m.id in (select l.id from api.latest_messages(session_context.session_id, null, session_context.most,
                                                           least(most_bytes, 8 * context)) l)
         and (m.content is not null or m.tool_calls is not null)));
end $$;
grant execute on function api.session_context to gateway_chat, service_role;

-- Appends a turn {session_id, model, messages} to its session, once for its hold, as the key lets it be kept.
create function api.keep_turn(hold_id uuid, user_id bigint, key_id bigint, turn jsonb)
returns void language plpgsql as $$
declare s gateway.chat_sessions; kept constant text := api.retention_of(key_id);
begin
  if turn is null or kept = 'none' then
    return;
  end if;
  select * into s from gateway.chat_sessions x
   where x.id = (turn ->> 'session_id')::bigint and x.user_id = keep_turn.user_id and x.deleted_at is null for no key update;
  if not found or s.message_count >= 10000
     or exists (select from gateway.chat_messages m where m.session_id = s.id and m.hold_id = keep_turn.hold_id) then
    return;
  end if;
  perform api.store_message(s, m.message, kept, keep_turn.hold_id, case when m.message ->> 'role' = 'assistant' then turn ->> 'model' end)
    from jsonb_array_elements(turn -> 'messages') with ordinality m (message, n);
  update gateway.chat_sessions x set message_count = x.message_count + jsonb_array_length(turn -> 'messages'), updated_at = clock_timestamp()
   where x.id = s.id;
end $$;

-- Deletes sessions that were deleted thirty days ago, with their messages, at most 1000 a call, and says how many.
create function api.purge_chats()
returns jsonb language sql security definer set search_path = '' as $$
  with gone as (
    delete from gateway.chat_sessions where id in (
      select id from gateway.chat_sessions where deleted_at < statement_timestamp() - interval '30 days' limit 1000 for update skip locked)
    returning 1)
  select jsonb_build_object('purged', count(*)) from gone
$$;
grant execute on function api.purge_chats to gateway_jobs, service_role;
