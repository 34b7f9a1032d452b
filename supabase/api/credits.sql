-- The ledger. A request's cost is held before the provider is called, and settled, released or expired after, once.

-- Admits one completion: verifies the key, takes from its limits, finds the model's offers and holds the most that the
-- request can cost. Returns {hold_id, user_id, key_id, credits_nano, bound_nano, max_tokens, offers, limits, retention}, or {replay}
-- for an Idempotency-Key that was served before. Raises 4xx and 503 and then has changed nothing. Commits asynchronously:
-- a crash of the database may lose the last holds whole, and settle books their cost all the same.
create function api.authorize(
  hold_id uuid, key_id text, key_hashes jsonb, ip inet, referer text, models jsonb, providers jsonb, preferences jsonb,
  prompt_tokens bigint, expected_tokens bigint, max_tokens bigint, choices integer, max_cost_nano bigint,
  idempotency_key text, fingerprint text, kind text default 'chat', image jsonb default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare who api.caller; limits jsonb; kept jsonb; offers api.offer[]; h jsonb;
begin
  perform set_config('synchronous_commit', 'off', true);
  who := api.verify(key_id, key_hashes, ip, referer, 'inference');
  limits := api.admit(who.user_id, who.key_id, expected_tokens, hold_id);
  if idempotency_key is not null then
    kept := api.replay(who.user_id, idempotency_key, fingerprint, hold_id);
    if kept is not null then
      perform api.refuse_replay(who, (kept ->> 'hold_id')::uuid, models);
      return jsonb_build_object('replay', kept, 'limits', limits);
    end if;
  end if;
  offers := api.offers_for(who, models, providers, preferences, kind, image);
  h := api.hold(who, hold_id, offers, prompt_tokens, expected_tokens, max_tokens, choices, max_cost_nano, idempotency_key);
  if idempotency_key is not null then
    perform api.claim(who.user_id, idempotency_key, fingerprint, hold_id);
  end if;
  return h || jsonb_build_object('hold_id', hold_id, 'user_id', who.user_id, 'key_id', who.key_id, 'limits', limits,
                                 'retention', who.retention);
end $$;
grant execute on function api.authorize to gateway_chat, service_role;

-- What a completion would be offered: {offers, available_nano}, the latter being free of the balance and of the key's own limit. Raises
-- what authorize would, but for money and limits, and takes a management request.
create function api.quote(key_id text, key_hashes jsonb, ip inet, referer text, models jsonb, providers jsonb, preferences jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare who constant api.caller := api.verify(key_id, key_hashes, ip, referer, 'inference');
begin
  perform api.take_management(who.user_id, who.key_id);
  return (select jsonb_build_object(
    'offers', (select jsonb_agg(jsonb_strip_nulls(to_jsonb(o))) from unnest(api.offers_for(who, models, providers, preferences, 'chat', null)) o),
    'available_nano', greatest(0, least(u.credits_nano - u.held_nano - u.frozen_nano,
                                        who.limit_nano - api.spent(who.key_id, who.limit_reset))))
    from gateway.users u where u.id = who.user_id);
end $$;
grant execute on function api.quote to gateway_chat, service_role;

-- The offers open to this caller, best first: by the user's own keys of providers before all others, unless preferences say
-- {own_keys: only | never}. Raises 403, 404, 400 or 503 when there is none.
create function api.offers_for(who api.caller, models jsonb, providers jsonb, preferences jsonb, kind text, image jsonb)
returns api.offer[] language plpgsql stable as $$
declare found api.offer[] := '{}'; own_keys constant text := coalesce(preferences ->> 'own_keys', 'prefer');
begin
  if not models <@ to_jsonb(coalesce(who.allowed_models, array(select jsonb_array_elements_text(models)))) then
    raise exception using errcode = 'PT403', message = 'model_not_allowed', detail = '{"param": "model"}';
  end if;
  if who.environment = 'test' then
    found := array(select o from api.sandbox_offers(models, kind) o);
  elsif own_keys <> 'only' then
    found := array(select o from api.offers_of(models, providers, preferences, kind, image) o);
  end if;
  if who.own_providers is not null and own_keys <> 'never' and who.environment <> 'test' then
    found := array(select o from api.own_offers(who.user_id, who.own_providers, models, preferences, kind, image) o) || found;
    found := case when (preferences ->> 'allow_fallbacks')::boolean is false then found[1:1] else found end;
  end if;
  if cardinality(found) = 0 and own_keys = 'only' then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail =
      '{"param": "provider", "message": "You stored no key of your own for a provider of this model."}';
  elsif cardinality(found) = 0 then
    perform api.refuse_models(models, providers, preferences, kind, image);
  end if;
  return found;
end $$;

-- Holds the dearest outcome among `offers` on the user's balance; when that does not fit, fewer completion tokens for the
-- offer that allows most. Raises 402 (400 when max_cost_nano is what does not fit). Repeated with the same id it holds once
-- and answers the same; raises 409 for the id of a hold that has ended, or is another user's.
create function api.hold(who api.caller, hold_id uuid, offers api.offer[], prompt_tokens bigint, expected_tokens bigint,
                         max_tokens bigint, choices integer, max_cost_nano bigint, idempotency_key text)
returns jsonb language plpgsql as $$
declare purse gateway.users; key_left bigint; before bigint; fit record;
begin
  select * into purse from gateway.users u where u.id = who.user_id for no key update;
  select h.bound_nano into before from gateway.credit_holds h
   where h.id = hold.hold_id and h.user_id = who.user_id and h.state = 'held';
  if who.limit_nano is not null then
    select who.limit_nano - api.spent(who.key_id, who.limit_reset) - coalesce(sum(h.bound_nano), 0) into key_left
      from gateway.credit_holds h where h.user_id = who.user_id and h.key_id = who.key_id and h.state = 'held';
  end if;
  if who.max_requests is not null then
    perform api.refuse_request_count(who);
  end if;
  select * into fit from api.fit(
    offers, prompt_tokens, max_tokens, choices,
    coalesce(before, least(purse.credits_nano - purse.held_nano - purse.frozen_nano, key_left, max_cost_nano)));
  if fit.offers is null then
    perform api.refuse_cost(offers, prompt_tokens, max_tokens, choices, purse, key_left, max_cost_nano);
  end if;
  insert into gateway.credit_holds (id, user_id, key_id, bound_nano, tokens, idempotency_key, expires_at)
  values (hold.hold_id, who.user_id, who.key_id, fit.bound_nano, hold.expected_tokens, hold.idempotency_key,
          clock_timestamp() + interval '26 minutes') -- a Lambda's 11 minutes and 15 more
  on conflict (id) do nothing;
  if found then
    update gateway.users u set held_nano = u.held_nano + fit.bound_nano where u.id = who.user_id;
  elsif before is null then
    raise exception using errcode = 'PT409', message = 'conflict';
  end if;
  return jsonb_build_object('offers', fit.offers, 'bound_nano', fit.bound_nano, 'max_tokens', fit.max_tokens,
                            'credits_nano', purse.credits_nano);
end $$;

-- Which offers fit a budget, and the bound of the dearest. All that fit whole; else the one that allows most completion
-- tokens (16 at least, or all it may write), with max_tokens saying how many; else no offers (null).
create function api.fit(candidates api.offer[], prompt_tokens bigint, asked_tokens bigint, choices integer, budget_nano bigint)
returns table (offers jsonb, bound_nano bigint, max_tokens bigint)
language sql stable rows 1 as $$
  with priced as (
    select jsonb_strip_nulls(to_jsonb(o) - 'n') as offer, o.n, least(coalesce(fit.asked_tokens, o.max_output_tokens), o.max_output_tokens)::numeric as cap,
           case when o.sealed is null then fit.prompt_tokens::numeric * greatest(o.prompt_price, o.cache_read_price, o.cache_write_price, t.prompt)
             + o.request_price else 0 end as fixed,
           case when o.sealed is null then greatest(o.completion_price, t.completion)::numeric * fit.choices else 0 end as rate, fit.budget_nano::numeric * 1000000 as budget
      from unnest(fit.candidates) with ordinality o (model, provider, upstream_id, max_output_tokens, prompt_price,
             completion_price, request_price, cache_read_price, cache_write_price, sealed, tiers, context_length, n)
      left join lateral (
        select max(greatest(x.prompt_price, x.cache_read_price, x.cache_write_price)) as prompt, max(x.completion_price) as completion
          from jsonb_to_recordset(o.tiers) x (above_tokens bigint, prompt_price bigint, completion_price bigint,
                                              cache_read_price bigint, cache_write_price bigint)
         where x.above_tokens < fit.prompt_tokens) t on o.tiers is not null
  ), allowed as (
    select *, case when fixed > budget then -1 when rate = 0 then cap else least(cap, floor((budget - fixed) / rate)) end as tokens
      from priced
  ), ranked as (
    select *, bool_or(tokens = cap) over () as whole, row_number() over (order by tokens desc, n) as place from allowed
  )
  select jsonb_agg(offer order by n), max(ceil((fixed + rate * tokens) / 1000000))::bigint,
         max(tokens) filter (where not whole)::bigint
    from ranked
   where case when whole then tokens = cap else place = 1 and tokens >= least(cap, 16) end
$$;

-- Raises 402 when a key has made all requests that it may, those in flight among them. The caller has locked the user.
create function api.refuse_request_count(who api.caller)
returns void language plpgsql stable as $$
begin
  if who.max_requests <= coalesce((select k.requests from gateway.key_usage k where k.key_id = who.key_id and k.day = '-infinity'), 0)
                       + (select count(*) from gateway.credit_holds h
                           where h.user_id = who.user_id and h.key_id = who.key_id and h.state = 'held') then
    raise exception using errcode = 'PT402', message = 'key_limit_reached',
      detail = '{"limit_source": "key_limit", "message": "The API key has made all the requests that it may."}';
  end if;
end $$;

-- Raises why no offer fits: the caller's own ceiling, the key's limit, other requests in flight, or the balance.
create function api.refuse_cost(offers api.offer[], prompt_tokens bigint, max_tokens bigint, choices integer,
                                purse gateway.users, key_left bigint, max_cost_nano bigint)
returns void language plpgsql stable as $$
declare available constant bigint := purse.credits_nano - purse.held_nano - purse.frozen_nano;
begin
  if max_cost_nano < least(available, key_left) then
    raise exception using errcode = 'PT400', message = 'invalid_request_error',
      detail = '{"param": "X-Max-Cost-Usd", "message": "The request can cost more than X-Max-Cost-Usd allows."}';
  elsif key_left < available then
    raise exception using errcode = 'PT402', message = 'key_limit_reached', detail = '{"limit_source": "key_limit"}';
  elsif exists (select from api.fit(offers, prompt_tokens, max_tokens, choices, purse.credits_nano) f where f.offers is not null) then
    raise exception using errcode = 'PT402', message = 'in_flight_budget',
      detail = '{"limit_source": "in_flight", "retry_after_ms": 1000}';
  end if;
  perform api.refuse_ended_trial(purse.id);
  raise exception using errcode = 'PT402', message = 'insufficient_credits', detail = '{"limit_source": "balance"}';
end $$;

-- Books what a request cost, once per hold: charges the balance, ends the hold, writes the ledger entry and the usage
-- record, corrects the limits and keeps the answer. Usage is a fact: it is booked above the bound, after an expiry, and
-- when the hold was lost in a crash. `usage` is {model, provider, cost_nano, prompt_tokens, …}, the columns of
-- usage_records; `memory` is what the caller asked to be kept, {response, turn}. Returns {state, credits_nano}; state is 'repeated'
-- when it had been booked before.
create function api.settle(hold_id uuid, user_id bigint, key_id bigint, usage jsonb, answer text, memory jsonb default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare
  u constant gateway.usage_records := api.usage_record(hold_id, user_id, key_id, usage);
  was gateway.credit_holds;
  balance bigint;
begin
  if u.cost_nano is null or u.cost_nano < 0 then
    raise exception 'a settlement has a cost' using errcode = '22023';
  end if;
  perform from gateway.rate_limit_buckets b
    where (b.scope = 'user' and b.id = settle.user_id) or (b.scope = 'key' and b.id = settle.key_id)
    order by b.scope desc for no key update;
  perform from gateway.users x where x.id = settle.user_id for no key update;
  was := api.end_hold(hold_id, user_id, key_id, u.cost_nano);
  if was.id is null then
    return jsonb_build_object('state', 'repeated', 'credits_nano',
                              (select x.credits_nano from gateway.users x where x.id = settle.user_id));
  end if;
  update gateway.users x set credits_nano = x.credits_nano - u.cost_nano,
         held_nano = x.held_nano - case when was.state = 'held' then was.bound_nano else 0 end
   where x.id = settle.user_id returning x.credits_nano into balance;
  if u.cost_nano > 0 then
    insert into gateway.credit_transactions (user_id, kind, reference, amount_nano)
    values (settle.user_id, 'usage', settle.hold_id::text, -u.cost_nano);
  end if;
  insert into gateway.usage_records select u.*;
  perform api.keep_answer(was, settle.answer);
  perform api.correct_tokens(settle.user_id, settle.key_id,
                             case was.state when 'released' then 0 else was.tokens end, -- release gave them back
                             u.prompt_tokens + u.completion_tokens);
  perform api.count_usage(u);
  if memory is not null then
    perform api.keep_response(hold_id, user_id, key_id, memory -> 'response'),
            api.keep_turn(hold_id, user_id, key_id, memory -> 'turn');
  end if;
  perform api.note_attempts(u.attempts), api.note_answer(u);
  return jsonb_build_object('state', 'settled', 'credits_nano', balance);
end $$;
grant execute on function api.settle to gateway_chat, gateway_jobs, service_role;

-- A usage record of a hold, from what is told of it: columns of usage_records, and {ip}, of which the network is kept.
create function api.usage_record(hold_id uuid, user_id bigint, key_id bigint, usage jsonb)
returns gateway.usage_records language sql as $$
  select jsonb_populate_record(null::gateway.usage_records, '{"is_byok": false, "byok_nano": 0, "images": 0}' || usage - 'ip'
    || jsonb_build_object('network', api.network((usage ->> 'ip')::inet),
                          'id', hold_id, 'user_id', user_id, 'key_id', key_id, 'created_at', clock_timestamp()))
$$;

-- Moves a hold to settled and returns what it was before; an empty row when it was settled already. A hold that was lost
-- is made up, so that the ledger has what its entry refers to. The caller has locked the user.
create function api.end_hold(hold_id uuid, user_id bigint, key_id bigint, cost_nano bigint)
returns gateway.credit_holds language plpgsql as $$
declare was gateway.credit_holds;
begin
  insert into gateway.credit_holds (id, user_id, key_id, bound_nano, state, expires_at)
  values (end_hold.hold_id, end_hold.user_id, end_hold.key_id, 0, 'expired', clock_timestamp())
  on conflict (id) do nothing;
  select * into was from gateway.credit_holds h
   where h.id = end_hold.hold_id and h.user_id = end_hold.user_id and h.state <> 'settled' for update;
  update gateway.credit_holds h set state = 'settled', cost_nano = end_hold.cost_nano, ended_at = clock_timestamp()
   where h.id = was.id;
  return was;
end $$;

-- Adds one request to its key's day and to its whole life. In plpgsql, which keeps its plan (see correct_tokens).
create function api.count_usage(u gateway.usage_records)
returns void language plpgsql as $$
begin
  insert into gateway.key_usage as k (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano, byok_nano, last_used_at)
  select u.key_id, d, 1, u.prompt_tokens, u.completion_tokens, u.cost_nano, u.byok_nano, u.created_at
    from unnest(array['-infinity', (u.created_at at time zone 'utc')::date]) d
  on conflict (key_id, day) do update
    set requests = k.requests + 1, prompt_tokens = k.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = k.completion_tokens + excluded.completion_tokens, cost_nano = k.cost_nano + excluded.cost_nano,
        byok_nano = k.byok_nano + excluded.byok_nano, last_used_at = excluded.last_used_at;
end $$;

-- Gives a hold back, whole, because the request cost nothing; gives its tokens back to the limits and lets its
-- Idempotency-Key go. `usage`, of a request that every provider failed, becomes its usage record. Does nothing to a hold that
-- has ended.
create function api.release(hold_id uuid, user_id bigint, key_id bigint, usage jsonb default null)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.credit_holds;
begin
  perform from gateway.rate_limit_buckets b
    where (b.scope = 'user' and b.id = release.user_id) or (b.scope = 'key' and b.id = release.key_id)
    order by b.scope desc for no key update;
  was := api.let_go(hold_id, user_id, 'released');
  if was.id is not null then
    perform api.correct_tokens(release.user_id, release.key_id, was.tokens, 0);
    if release.usage is not null then
      insert into gateway.usage_records
      select (api.usage_record(release.hold_id, release.user_id, release.key_id,
                               release.usage || '{"cost_nano": 0, "outcome": "failed"}')).*;
      perform api.note_attempts(release.usage -> 'attempts');
    end if;
  end if;
  return jsonb_build_object('released', was.id is not null);
end $$;
grant execute on function api.release to gateway_chat, service_role;

-- Ends an open hold without a charge, as 'released' or 'expired', and returns it; an empty row when it was not open.
create function api.let_go(hold_id uuid, user_id bigint, state text)
returns gateway.credit_holds language plpgsql as $$
declare gone gateway.credit_holds;
begin
  perform from gateway.users u where u.id = let_go.user_id for no key update;
  update gateway.credit_holds h set state = let_go.state, ended_at = clock_timestamp()
   where h.id = let_go.hold_id and h.user_id = let_go.user_id and h.state = 'held' returning * into gone;
  if gone.id is not null then
    update gateway.users u set held_nano = u.held_nano - gone.bound_nano where u.id = gone.user_id;
    perform api.keep_answer(gone, null);
  end if;
  return gone;
end $$;

-- Ends the holds whose time is over, oldest users first, at most 1000 a call, and says how many.
create function api.expire_holds()
returns jsonb language plpgsql security definer set search_path = '' as $$
declare h record; gone gateway.credit_holds; expired integer := 0;
begin
  for h in select c.id, c.user_id from (
             select * from gateway.credit_holds where state = 'held' and expires_at <= statement_timestamp() limit 1000) c
           order by c.user_id, c.id loop
    gone := api.let_go(h.id, h.user_id, 'expired');
    if gone.id is not null then
      expired := expired + 1;
    end if;
  end loop;
  return jsonb_build_object('expired', expired);
end $$;
grant execute on function api.expire_holds to gateway_jobs, service_role;
