-- Responses that are kept, for previous_response_id and to be read again: thirty days, by their owner only; by a key that may not
-- read or change the account, only what it made itself.

-- Keeps a response {previous_id, input, response} for thirty days, once, if its key lets it be kept; null keeps nothing.
-- In plpgsql, which keeps its plan (see correct_tokens).
create function api.keep_response(hold_id uuid, user_id bigint, key_id bigint, kept jsonb)
returns void language plpgsql as $$
begin
  insert into gateway.responses (id, user_id, key_id, previous_id, input, response, expires_at)
  select keep_response.hold_id, keep_response.user_id, keep_response.key_id, (kept ->> 'previous_id')::uuid, kept -> 'input', kept -> 'response',
         clock_timestamp() + interval '30 days'
   where kept ? 'response' and api.retention_of(keep_response.key_id) = 'full'
  on conflict (id) do nothing;
end $$;

-- One of the caller's stored responses, of another key's where his own may do `scope`; raises 404, for another's as for none, and what
-- verify raises.
create function api.own_response(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid, scope text default 'account:read')
returns gateway.responses language plpgsql stable as $$
declare who constant api.caller := api.verify(key_id, key_hashes, ip, referer, 'inference'); found_one gateway.responses;
begin
  select * into found_one from gateway.responses r
   where r.id = own_response.response_id and r.user_id = who.user_id and r.expires_at > clock_timestamp()
     and (r.key_id = who.key_id or api.may(who, own_response.scope));
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "response_id"}';
  end if;
  return found_one;
end $$;

-- A stored response {response, input}: what came out and what went in.
create function api.response(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object('response', r.response, 'input', r.input)
    from api.own_response(key_id, key_hashes, ip, referer, response_id) r
$$;
grant execute on function api.response to gateway_chat, service_role;

-- The items that a response follows, with its own: of at most 200 responses before it, oldest first.
create function api.response_items(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid)
returns jsonb language sql stable security definer set search_path = '' as $$
  with recursive chain as (
    select r.user_id, r.previous_id, r.input, r.response, 1 as depth
      from api.own_response(key_id, key_hashes, ip, referer, response_id) r
    union all
    select r.user_id, r.previous_id, r.input, r.response, c.depth + 1
      from chain c join gateway.responses r on r.id = c.previous_id and r.user_id = c.user_id where c.depth < 200
  )
  select coalesce(jsonb_agg(i.item order by c.depth desc, i.n), '[]')
    from chain c cross join lateral jsonb_array_elements(c.input || (c.response -> 'output')) with ordinality i (item, n)
$$;
grant execute on function api.response_items to gateway_chat, service_role;

-- Deletes one of the caller's stored responses; raises 404.
create function api.delete_response(key_id text, key_hashes jsonb, ip inet, referer text, response_id uuid)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  delete from gateway.responses r
   where r.id = (select o.id from api.own_response(delete_response.key_id, key_hashes, ip, referer, response_id, 'account:write') o);
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
