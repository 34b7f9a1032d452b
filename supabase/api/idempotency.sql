-- Idempotency-Key: one key, one effect, one answer, for 24 hours.

-- The stored answer {hold_id, answer} of a request that was served under this key, or null when it is to be served now;
-- raises 409 while it is being served, 409 too when it was served and its answer was not kept, and 422 when the key stands for
-- another request.
create function api.replay(user_id bigint, key text, fingerprint text, hold_id uuid)
returns jsonb language plpgsql stable as $$
declare known record;
begin
  select i.fingerprint, i.answer, i.served_at, i.hold_id, h.state, h.expires_at into known
    from gateway.idempotency_keys i left join gateway.credit_holds h on h.id = i.hold_id
   where i.user_id = replay.user_id and i.key = replay.key and i.created_at > clock_timestamp() - interval '24 hours';
  if not found or known.hold_id = replay.hold_id then
    return null;
  end if;
  if known.fingerprint <> replay.fingerprint then
    raise exception using errcode = 'PT422', message = 'idempotency_key_reused', detail = '{"param": "Idempotency-Key"}';
  end if;
  if known.answer is not null then
    return jsonb_build_object('hold_id', known.hold_id, 'answer', known.answer);
  elsif known.served_at is not null then
    raise exception using errcode = 'PT409', message = 'conflict', detail =
      '{"param": "Idempotency-Key", "message": "This request was served and charged, and its answer was not kept. '
      'Send another Idempotency-Key to be served, and charged, again."}';
  end if;
  if known.state = 'held' and known.expires_at > clock_timestamp() then
    raise exception using errcode = 'PT409', message = 'idempotency_in_progress', detail = '{"retry_after_ms": 1000}';
  end if;
  return null; -- what it stood for died or failed without an answer
end $$;

-- Raises 402, 403 and 422 where a key asks for the answer to another key's request that it could not have made: by its models, its
-- limits, or because it reaches nothing but the sandbox. The key that made a request always gets its answer.
create function api.refuse_replay(who api.caller, hold_id uuid, models jsonb)
returns void language plpgsql stable as $$
declare made record;
begin
  select h.key_id, h.bound_nano, k.environment into made
    from gateway.credit_holds h join gateway.api_keys k on k.id = h.key_id where h.id = refuse_replay.hold_id;
  if made.key_id = who.key_id then
    return;
  elsif who.environment = 'test' and made.environment <> 'test' then
    raise exception using errcode = 'PT422', message = 'idempotency_key_reused', detail = '{"param": "Idempotency-Key"}';
  elsif not models <@ to_jsonb(coalesce(who.allowed_models, array(select jsonb_array_elements_text(models)))) then
    raise exception using errcode = 'PT403', message = 'model_not_allowed', detail = '{"param": "model"}';
  elsif who.limit_nano - api.spent(who.key_id, who.limit_reset) < made.bound_nano then
    raise exception using errcode = 'PT402', message = 'key_limit_reached', detail = '{"limit_source": "key_limit"}';
  elsif who.max_requests is not null then
    perform api.refuse_request_count(who);
  end if;
end $$;

-- Makes the key stand for a hold that has just been taken. In plpgsql, which keeps its plan (see correct_tokens).
create function api.claim(user_id bigint, key text, fingerprint text, hold_id uuid)
returns void language plpgsql as $$
#variable_conflict use_column
begin
  insert into gateway.idempotency_keys as i (user_id, key, fingerprint, hold_id)
  values (claim.user_id, claim.key, claim.fingerprint, claim.hold_id)
  on conflict (user_id, key) do update
    set fingerprint = claim.fingerprint, hold_id = claim.hold_id, answer = null, served_at = null, created_at = clock_timestamp();
end $$;

-- The largest answer that is kept for an Idempotency-Key.
create function api.max_answer_bytes()
returns integer language plpgsql immutable as $$ begin return 1048576; end $$;

-- Keeps the answer of a served hold, or lets the key go when there is none to keep. Where the key that asked keeps nothing, the
-- answer is too large ('' for one that the gateway did not send), or the plan's bytes are used up, only that it was served is kept,
-- and nothing of a deleted account.
create function api.keep_answer(hold gateway.credit_holds, answer text)
returns void language plpgsql as $$
begin
  if hold.idempotency_key is null then
    return;
  elsif keep_answer.answer is null or api.is_deleted(hold.user_id) then
    delete from gateway.idempotency_keys i
     where i.user_id = hold.user_id and i.key = hold.idempotency_key and i.hold_id = hold.id;
  elsif keep_answer.answer = '' or api.retention_of(hold.key_id) <> 'full'
        or octet_length(keep_answer.answer) > least(api.max_answer_bytes(), api.room_of(hold.user_id)) then
    update gateway.idempotency_keys i set served_at = clock_timestamp()
     where i.user_id = hold.user_id and i.key = hold.idempotency_key and i.hold_id = hold.id;
  else
    update gateway.idempotency_keys i set answer = keep_answer.answer
     where i.user_id = hold.user_id and i.key = hold.idempotency_key and i.hold_id = hold.id;
  end if;
end $$;

-- Deletes keys older than 24 hours and says how many there were.
create function api.purge_idempotency_keys()
returns jsonb language sql security definer set search_path = '' as $$
  with gone as (delete from gateway.idempotency_keys where created_at < statement_timestamp() - interval '24 hours' returning 1)
  select jsonb_build_object('purged', count(*)) from gone
$$;
grant execute on function api.purge_idempotency_keys to gateway_jobs, service_role;
