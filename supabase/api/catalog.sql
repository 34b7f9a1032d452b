-- Models and their offers: who serves a model, at which price, for this caller.

create type api.offer as (
  model text, provider text, upstream_id text, max_output_tokens integer,
  prompt_price bigint, completion_price bigint, request_price bigint, cache_read_price bigint, cache_write_price bigint,
  sealed text, -- the user's own key of the provider: such an offer takes no credits
  tiers jsonb, -- prices of longer prompts (gateway.offers)
  context_length integer -- of the model, in tokens: the prompt and the answer share it
);

-- What an offer asks for one image, in nano-dollars per million images; null when it sells none of that size and quality. Where
-- a request leaves one of them to the provider (null or auto) it is the dearest that it can be. In plpgsql, which keeps its plan.
create function api.image_price(o gateway.offers, image jsonb)
returns bigint language plpgsql stable as $$
begin
  return case when exists (select from gateway.image_prices p where p.model_id = o.model_id and p.provider = o.provider) then (
    select max(p.price) from gateway.image_prices p
     where p.model_id = o.model_id and p.provider = o.provider
       and p.size = coalesce(nullif(image ->> 'size', 'auto'), p.size)
       and p.quality = coalesce(nullif(image ->> 'quality', 'auto'), p.quality)) else nullif(o.request_price, 0) end;
end $$;

-- Whether an offer may be served: it has a price, and one of zero only when it is meant to be free.
create function api.is_priced(o gateway.offers)
returns boolean language sql immutable as $$
  select o.prompt_price is not null and o.completion_price is not null
     and (o.is_free or o.prompt_price > 0 or o.completion_price > 0 or o.request_price > 0)
$$;

-- The offers that may serve one of `models` (ids of this kind, best first) by one of `providers` (names with a key in this
-- deployment) under the caller's preferences {order, only, ignore, sort, max_price{prompt, completion}, allow_fallbacks}, best
-- first: those whose circuit is open come last. An image counts as a completion token: its price is there. It selects the
-- columns of api.offer, never one composite column: only then does Postgres inline it, where it would plan it anew at each
-- call. For the same reason the price of an image is asked for under a case: the planner pulls a condition of its own up.
create function api.offers_of(models jsonb, providers jsonb, preferences jsonb, kind text, image jsonb)
returns setof api.offer language sql stable rows 5 as $$
  select o.model_id, o.provider, o.upstream_id, case when kind = 'chat' then m.max_output_tokens else 1 end,
         case when kind = 'image' then 0 else o.prompt_price end, coalesce(i.price, o.completion_price),
         case when kind = 'image' then 0 else o.request_price end,
         case when kind = 'image' then 0 else coalesce(o.cache_read_price, o.prompt_price) end,
         case when kind = 'image' then 0 else coalesce(o.cache_write_price, o.prompt_price) end, null::text, o.tiers,
         m.context_length
    from jsonb_array_elements_text(models) with ordinality wanted (id, place)
    join gateway.models m on m.id = wanted.id and m.is_active and m.kind = offers_of.kind
    join gateway.offers o on o.model_id = m.id and o.is_active and api.is_priced(o)
    left join gateway.offer_health h on h.model_id = o.model_id and h.provider = o.provider
    left join lateral (select case when offers_of.kind = 'image' then api.image_price(o, image) end as price) i on true
    left join lateral (
      select min(place) as place from jsonb_array_elements_text(preferences -> 'order') with ordinality asked (provider, place)
       where asked.provider = o.provider) preferred on true
   where providers ? o.provider
     and (offers_of.kind <> 'image' or i.price is not null)
     and (not preferences ? 'only' or preferences -> 'only' ? o.provider)
     and not coalesce(preferences -> 'ignore' ? o.provider, false)
     and o.prompt_price <= coalesce((preferences #>> '{max_price,prompt}')::bigint, o.prompt_price)
     and o.completion_price <= coalesce((preferences #>> '{max_price,completion}')::bigint, o.completion_price)
   order by coalesce(h.open_until > clock_timestamp(), false), wanted.place, preferred.place nulls last,
            case preferences ->> 'sort' when 'price' then o.prompt_price + o.completion_price
                                        when 'latency' then coalesce(h.first_byte_ms, 3600000) end,
            o.priority, coalesce(h.error_share > 0.1, false), o.prompt_price + o.completion_price,
            h.first_byte_ms nulls last, o.provider
   limit case when (preferences ->> 'allow_fallbacks')::boolean is false then 1 end
$$;

-- The offers that the user's own keys of providers open, as offers_of orders them.
create function api.own_offers(user_id bigint, own_providers text[], models jsonb, preferences jsonb, kind text, image jsonb)
returns setof api.offer language sql stable rows 5 as $$
  select o.model, o.provider, o.upstream_id, o.max_output_tokens, o.prompt_price, o.completion_price, o.request_price,
         o.cache_read_price, o.cache_write_price, k.sealed, o.tiers, o.context_length
    from api.offers_of(models, to_jsonb(own_providers), preferences, kind, image) with ordinality
           o (model, provider, upstream_id, max_output_tokens, prompt_price, completion_price, request_price, cache_read_price,
              cache_write_price, sealed, tiers, context_length, n)
    join gateway.provider_keys k on k.user_id = own_offers.user_id and k.provider = o.provider
   order by o.n
$$;

-- A test key's offers: the sandbox under the model's own name, free of charge.
create function api.sandbox_offers(models jsonb, kind text)
returns setof api.offer language sql stable rows 1 as $$
  select m.id, 'sandbox', m.id, case when kind = 'chat' then m.max_output_tokens else 1 end, 0::bigint, 0::bigint, 0::bigint,
         0::bigint, 0::bigint, null::text, null::jsonb, m.context_length
    from jsonb_array_elements_text(models) with ordinality wanted (id, place)
    join gateway.models m on m.id = wanted.id and m.is_active and m.kind = sandbox_offers.kind
   order by wanted.place
$$;

-- Raises why none of `models` can be served: unknown (404), of another kind, never priced, not in this size, or by nobody
-- whom the preferences allow (400), or nobody serves it now (503).
create function api.refuse_models(models jsonb, providers jsonb, preferences jsonb, kind text, image jsonb)
returns void language plpgsql stable as $$
begin
  if not exists (select from gateway.models m where m.is_active and models ? m.id) then
    raise exception using errcode = 'PT404', message = 'model_not_found', detail = '{"param": "model"}';
  end if;
  if not exists (select from gateway.models m where m.is_active and m.kind = refuse_models.kind and models ? m.id) then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail =
      '{"param": "model", "message": "This model is not one that this route serves."}';
  end if;
  if not exists (select from gateway.offers o where models ? o.model_id and api.is_priced(o)) then
    raise exception using errcode = 'PT400', message = 'model_not_priced', detail = '{"param": "model"}';
  end if;
  if kind = 'image' and not exists (
       select from gateway.offers o where models ? o.model_id and o.is_active and api.image_price(o, image) is not null) then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail =
      '{"param": "size", "message": "This model is not sold in this size and quality."}';
  end if;
  if preferences ?| array['only', 'ignore', 'max_price'] and exists (select from api.offers_of(models, providers, '{}', kind, image)) then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail =
      '{"param": "provider", "message": "No provider of this model is one that the request allows."}';
  end if;
  raise exception using errcode = 'PT503', message = 'no_provider_available', detail = '{"retry_after_ms": 5000}';
end $$;
