-- Models and their offers: who serves a model, at which price, for this caller.

create type api.offer as (
  model text, provider text, upstream_id text, max_output_tokens integer,
  prompt_price bigint, completion_price bigint, request_price bigint, cache_read_price bigint, cache_write_price bigint,
  sealed text -- the user's own key of the provider: such an offer takes no credits
);

-- Whether an offer may be served: it has a price, and one of zero only when it is meant to be free.
create function api.is_priced(o gateway.offers)
returns boolean language sql immutable as $$
  select o.prompt_price is not null and o.completion_price is not null
     and (o.is_free or o.prompt_price > 0 or o.completion_price > 0 or o.request_price > 0)
$$;

-- Every model that has a priced offer, with its cheapest price, ordered by id.
create function api.models()
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', m.id, 'name', m.name, 'description', m.description, 'created', floor(extract(epoch from m.created_at)),
    'context_length', m.context_length, 'max_output_tokens', m.max_output_tokens,
    'input_modalities', m.input_modalities, 'providers', o.providers,
    'prompt_price', o.prompt_price, 'completion_price', o.completion_price, 'request_price', o.request_price)
    order by m.id), '[]')
  from gateway.models m cross join lateral (
    select jsonb_agg(p.provider order by p.priority, p.provider) as providers, min(p.prompt_price) as prompt_price,
           min(p.completion_price) as completion_price, min(p.request_price) as request_price
      from gateway.offers p where p.model_id = m.id and p.is_active and api.is_priced(p)) o
  where m.is_active and o.providers is not null
$$;
grant execute on function api.models to gateway_catalog, service_role;

-- The offers that may serve one of `models` (ids, best first) by one of `providers` (names with a key in this deployment)
-- under the caller's preferences {order, only, ignore, max_price{prompt, completion}, allow_fallbacks}, best first.
create function api.offers_of(models jsonb, providers jsonb, preferences jsonb)
returns setof api.offer language sql stable rows 5 as $$
  select row(o.model_id, o.provider, o.upstream_id, m.max_output_tokens, o.prompt_price, o.completion_price, o.request_price,
             coalesce(o.cache_read_price, o.prompt_price), coalesce(o.cache_write_price, o.prompt_price), null)::api.offer
    from jsonb_array_elements_text(models) with ordinality wanted (id, place)
    join gateway.models m on m.id = wanted.id and m.is_active
    join gateway.offers o on o.model_id = m.id and o.is_active and api.is_priced(o)
    left join lateral (
      select min(place) as place from jsonb_array_elements_text(preferences -> 'order') with ordinality asked (provider, place)
       where asked.provider = o.provider) preferred on true
   where providers ? o.provider
     and (not preferences ? 'only' or preferences -> 'only' ? o.provider)
     and not coalesce(preferences -> 'ignore' ? o.provider, false)
     and o.prompt_price <= coalesce((preferences #>> '{max_price,prompt}')::bigint, o.prompt_price)
     and o.completion_price <= coalesce((preferences #>> '{max_price,completion}')::bigint, o.completion_price)
   order by wanted.place, preferred.place nulls last, o.priority, o.prompt_price + o.completion_price, o.provider
   limit case when (preferences ->> 'allow_fallbacks')::boolean is false then 1 end
$$;

-- The offers that the user's own keys of providers open, as offers_of orders them.
create function api.own_offers(user_id bigint, own_providers text[], models jsonb, preferences jsonb)
returns setof api.offer language sql stable rows 5 as $$
  select row(o.model, o.provider, o.upstream_id, o.max_output_tokens, o.prompt_price, o.completion_price, o.request_price,
             o.cache_read_price, o.cache_write_price, k.sealed)::api.offer
    from api.offers_of(models, to_jsonb(own_providers), preferences) with ordinality
           o (model, provider, upstream_id, max_output_tokens, prompt_price, completion_price, request_price, cache_read_price,
              cache_write_price, sealed, n)
    join gateway.provider_keys k on k.user_id = own_offers.user_id and k.provider = o.provider
   order by o.n
$$;

-- A test key's offers: the sandbox under the model's own name, free of charge.
create function api.sandbox_offers(models jsonb)
returns setof api.offer language sql stable rows 1 as $$
  select row(m.id, 'sandbox', m.id, m.max_output_tokens, 0, 0, 0, 0, 0, null)::api.offer
    from jsonb_array_elements_text(models) with ordinality wanted (id, place)
    join gateway.models m on m.id = wanted.id and m.is_active
   order by wanted.place
$$;

-- Raises why none of `models` can be served: unknown (404), never priced (400), or nobody serves it now (503).
create function api.refuse_models(models jsonb)
returns void language plpgsql stable as $$
begin
  if not exists (select from gateway.models m where m.is_active and models ? m.id) then
    raise exception using errcode = 'PT404', message = 'model_not_found', detail = '{"param": "model"}';
  end if;
  if not exists (select from gateway.offers o where models ? o.model_id and api.is_priced(o)) then
    raise exception using errcode = 'PT400', message = 'model_not_priced', detail = '{"param": "model"}';
  end if;
  raise exception using errcode = 'PT503', message = 'no_provider_available', detail = '{"retry_after_ms": 5000}';
end $$;
