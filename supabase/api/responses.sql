-- Responses that are kept, for previous_response_id and to be read again: thirty days, by their owner only; by a key that may not
-- read or change the account, only what it made itself.

-- Keeps a response {previous_id, input, response} for thirty days, once; null keeps nothing. Nor is anything kept where the key does
-- not let it be, of an account that was deleted, above the plan's bytes, and of what is too large to be read again.
create function api.keep_response(hold_id uuid, user_id bigint, key_id bigint, kept jsonb)
returns void language plpgsql as $$
declare input_bytes bigint; response_bytes bigint; output_bytes bigint;
begin
  if not coalesce(kept ? 'response', false) or api.retention_of(key_id) <> 'full' or api.is_deleted(user_id) then
    return;
  end if;
  input_bytes := api.answer_bytes(kept -> 'input');
  response_bytes := api.answer_bytes(kept -> 'response');
  output_bytes := coalesce(api.answer_bytes(kept #> '{response,output}'), 0);
  if input_bytes + response_bytes + 1024 <= least(api.max_kept_bytes(), api.room_of(user_id)) then
    insert into gateway.responses (id, user_id, key_id, previous_id, input, response, expires_at, bytes, item_bytes)
    values (keep_response.hold_id, keep_response.user_id, keep_response.key_id, (kept ->> 'previous_id')::uuid, kept -> 'input',
            kept -> 'response', clock_timestamp() + interval '30 days', input_bytes + response_bytes + 1024,
            input_bytes + output_bytes)
    on conflict (id) do nothing;
  end if;
end $$;

-- Raises 404 unless a response is stored, and this caller's: of another key's where his own may do `scope`. One of somebody else is as
-- if it were not.
create function api.refuse_foreign_response(response_id uuid, who api.caller, scope text)
returns void language plpgsql stable as $$
begin
  if not exists (select from gateway.responses r
                  where r.id = refuse_foreign_response.response_id and r.user_id = who.user_id and r.expires_at > clock_timestamp()
                    and (r.key_id = who.key_id or api.may(who, refuse_foreign_response.scope))) then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "response_id"}';
  end if;
end $$;

-- Takes a management request from the caller of a stored response; raises what verify raises, 429, and 404.
create function api.ask_for_response(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid,
                                     scope text default 'account:read')
returns void language plpgsql as $$
declare who constant api.caller := api.verify(key_id, key_hashes, ip, referer, 'inference');
begin
  perform api.take_management(who.user_id, who.key_id), api.refuse_foreign_response(response_id, who, ask_for_response.scope);
end $$;

-- A stored response {response}: what came out. Raises what verify raises, 429, and 404.
create function api.response(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  perform api.ask_for_response(key_id, key_hashes, ip, referer, response_id);
  return (select jsonb_build_object('response', r.response) from gateway.responses r where r.id = response.response_id);
end $$;
grant execute on function api.response to gateway_chat, service_role;

-- A page of what went into a stored response {items, has_more}: after `skipped` items at most `most`, and of `most_bytes` in all, but
-- one at least. Raises what verify raises, 429, and 404.
create function api.response_inputs(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid, skipped integer,
                                    most integer, most_bytes bigint default 5500000)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare items jsonb; shown jsonb; place integer := skipped; size bigint := 0;
begin
  perform api.ask_for_response(key_id, key_hashes, ip, referer, response_id);
  items := (select r.input from gateway.responses r where r.id = response_inputs.response_id);
  while place < least(jsonb_array_length(items), skipped + most) loop
    size := size + api.answer_bytes(items -> place) + 100; -- with the item's id
    exit when size > most_bytes and place > skipped;
    place := place + 1;
  end loop;
  shown := (select coalesce(jsonb_agg(i.item order by i.n), '[]') from jsonb_array_elements(items) with ordinality i (item, n)
             where i.n > skipped and i.n <= place);
  return jsonb_build_object('items', shown, 'has_more', place < jsonb_array_length(items));
end $$;
grant execute on function api.response_inputs to gateway_chat, service_role;

-- The items that a response follows, with its own: of at most 200 responses before it, oldest first. Raises what verify raises, 404,
-- 400 for more than `most_bytes` of them, and 429 for a request that could not be admitted now: it reads nothing.
create function api.response_items(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid,
                                   most_bytes bigint default 8000000)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare who constant api.caller := api.verify(key_id, key_hashes, ip, referer, 'inference'); chain uuid[]; size bigint;
begin
  perform api.refuse_foreign_response(response_id, who, 'account:read'), api.refuse_busy(who.user_id, who.key_id);
  with recursive link as (
    select r.id, r.previous_id, r.item_bytes::bigint as upto, 1 as depth
      from gateway.responses r where r.id = response_items.response_id
    union all
    select r.id, r.previous_id, l.upto + r.item_bytes, l.depth + 1
      from link l join gateway.responses r on r.id = l.previous_id and r.user_id = who.user_id
     where l.depth < 200 and l.upto <= most_bytes
  )
  select array_agg(l.id order by l.depth desc), max(l.upto) into chain, size from link l;
  if size > most_bytes then
    raise exception using errcode = 'PT400', message = 'context_length_exceeded', detail = jsonb_build_object(
      'param', 'previous_response_id', 'message', 'The responses before this one hold more than ' || most_bytes
      || ' bytes. Send what matters of them as input, without previous_response_id.')::text;
  end if;
  return (select coalesce(jsonb_agg(i.item order by c.place, i.n), '[]')
            from unnest(chain) with ordinality c (id, place) join gateway.responses r on r.id = c.id
           cross join lateral jsonb_array_elements(r.input || (r.response -> 'output')) with ordinality i (item, n));
end $$;
grant execute on function api.response_items to gateway_chat, service_role;

-- Deletes one of the caller's stored responses; raises what verify raises, 429, and 404.
create function api.delete_response(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  perform api.ask_for_response(key_id, key_hashes, ip, referer, response_id, 'account:write');
  delete from gateway.responses r where r.id = delete_response.response_id;
  return jsonb_build_object('deleted', true);
end $$;
grant execute on function api.delete_response to gateway_chat, service_role;

-- Deletes stored responses whose time is over, at most 10,000 a call, and says how many.
create function api.purge_responses()
returns jsonb language sql security definer set search_path = '' as $$
  with gone as (
    delete from gateway.responses where id in (
      select id from gateway.responses where expires_at <= statement_timestamp() limit 10000 for update skip locked) returning 1)
  select jsonb_build_object('purged', count(*)) from gone
$$;
grant execute on function api.purge_responses to gateway_jobs, service_role;
