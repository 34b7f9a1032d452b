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
    raise exception using errcode = 'PT409', message = 'conflict', detail = '{"param": "Idempotency-Key", "message": "A request with this Idempotency-Key was answered and charged, and its answer was not kept. Send another key to ask again."}';
  end if;
  if known.state = 'held' and known.expires_at > clock_timestamp() then
    raise exception using errcode = 'PT409', message = 'idempotency_in_progress', detail = '{"retry_after_ms": 1000}';
  end if;
  return null; -- what it stood for died or failed without an answer
end $$;

-- Makes the key stand for a hold that has just been taken.
create function api.claim(user_id bigint, key text, fingerprint text, hold_id uuid)
returns void language sql as $$
  insert into gateway.idempotency_keys as i (user_id, key, fingerprint, hold_id)
  values (claim.user_id, claim.key, claim.fingerprint, claim.hold_id)
  on conflict (user_id, key) do update
    set fingerprint = claim.fingerprint, hold_id = claim.hold_id, answer = null, served_at = null, created_at = clock_timestamp()
$$;

-- The largest answer that is kept for an Idempotency-Key.
create function api.max_answer_bytes()
returns integer language sql immutable as $$ select 1048576 $$;

-- Keeps the answer of a served hold, or lets the key go when there is none to keep. Where the key that asked keeps nothing, the
-- answer is too large, or the plan's bytes are used up, only that it was served is kept, and nothing of a deleted account.
create function api.keep_answer(hold gateway.credit_holds, answer text)
returns void language plpgsql as $$
begin
  if hold.idempotency_key is null then
    return;
  elsif keep_answer.answer is null or api.is_deleted(hold.user_id) then
    delete from gateway.idempotency_keys i
     where i.user_id = hold.user_id and i.key = hold.idempotency_key and i.hold_id = hold.id;
  elsif api.retention_of(hold.key_id) <> 'full' or octet_length(answer) > least(api.max_answer_bytes(), api.room_of(hold.user_id)) then
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
  with gone as (delete from gateway.idempotency_keys where created_at < clock_timestamp() - interval '24 hours' returning 1)
  select jsonb_build_object('purged', count(*)) from gone
$$;
grant execute on function api.purge_idempotency_keys to gateway_jobs, service_role;
