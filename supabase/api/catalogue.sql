-- The catalogue as it is shown: a snapshot that a job writes; and providers' price lists, which are not believed blindly.

-- Every model that is sold, as it is shown: with the prices of the offer that would be tried first. Ordered by id.
create function api.models_shown()
returns jsonb language sql stable as $$
  select coalesce(jsonb_agg(jsonb_build_object(
    'id', m.id, 'name', m.name, 'description', m.description, 'created', floor(extract(epoch from m.created_at)), 'kind', m.kind,
    'context_length', m.context_length, 'max_output_tokens', m.max_output_tokens, 'input_modalities', m.input_modalities,
    'output_modalities', case m.kind when 'image' then '["image"]' when 'embedding' then '["embeddings"]' else to_jsonb(m.output_modalities) end,
    'tokenizer', m.tokenizer, 'supported_parameters', m.supported_parameters, 'canonical_slug', coalesce(m.canonical_slug, m.id),
    'expires_on', m.expires_on, 'providers', o.providers, 'offer', o.first, 'image_price', o.image_price) order by m.id), '[]')
  from gateway.models m cross join lateral (
    select jsonb_agg(p.provider order by p.priority, p.prompt_price + p.completion_price, p.provider) as providers,
           (array_agg(jsonb_build_object(
             'prompt_price', p.prompt_price, 'completion_price', p.completion_price, 'request_price', p.request_price,
             'cache_read_price', p.cache_read_price, 'cache_write_price', p.cache_write_price, 'tiers', p.tiers)
             order by p.priority, p.prompt_price + p.completion_price, p.provider))[1] as first,
           min(case when m.kind = 'image' then coalesce((
             select min(i.price) from gateway.image_prices i where i.model_id = p.model_id and i.provider = p.provider), p.request_price) end) as image_price
      from gateway.offers p where p.model_id = m.id and p.is_active and api.is_priced(p)) o
  where m.is_active and o.providers is not null
$$;

-- The catalogue {etag, models}; `models` is null when the caller knows what has this etag. Before a snapshot was made it is put
-- together here: no provider is asked for it.
create function api.catalogue(known text)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare s record;
begin
  select c.etag, case when c.etag is distinct from catalogue.known then c.models end as models into s from gateway.catalogue_snapshots c;
  if not found then
    select md5(m::text) as etag, m as models into s from api.models_shown() m;
  end if;
  return jsonb_build_object('etag', s.etag, 'models', s.models);
end $$;
grant execute on function api.catalogue to gateway_catalog, service_role;

-- Providers with how many models they offer, and how many of these offers have been failing: [{provider, models, failing}].
create function api.offering_providers()
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(jsonb_build_object('provider', p.provider, 'models', p.models, 'failing', p.failing) order by p.provider), '[]')
    from (select o.provider, count(*) as models, count(*) filter (where h.open_until > now()) as failing
            from gateway.offers o join gateway.models m on m.id = o.model_id and m.is_active
            left join gateway.offer_health h on h.model_id = o.model_id and h.provider = o.provider
           where o.is_active and api.is_priced(o) group by 1) p
$$;
grant execute on function api.offering_providers to gateway_catalog, service_role;

-- Writes the snapshot, unless nothing has changed, and says so: {changed, models}.
create function api.refresh_catalogue()
returns jsonb language plpgsql security definer set search_path = '' as $$
declare shown constant jsonb := api.models_shown();
begin
  insert into gateway.catalogue_snapshots as c (etag, models) values (md5(shown::text), shown)
  on conflict (is_current) do update set etag = excluded.etag, models = excluded.models, made_at = now() where c.etag <> excluded.etag;
  return jsonb_build_object('changed', found, 'models', jsonb_array_length(shown));
end $$;
grant execute on function api.refresh_catalogue to gateway_jobs, service_role;

-- Why a listed price cannot be right beside the stored one, in nano-dollars per million tokens; null when it can. Ten times as
-- much or as little is a mistake of units more often than a price.
create function api.price_doubt(stored bigint, listed bigint, is_free boolean)
returns text language sql immutable as $$
  select case when stored is null then null
              when listed is null then 'missing'
              when listed = 0 and stored > 0 and not is_free then 'zero'
              when stored > 0 and listed >= stored * 10 then 'too high'
              when stored > 0 and listed * 10 <= stored and listed > 0 then 'too low'
              when stored = 0 and listed > 0 and is_free then 'too high' end
$$;

-- Takes a provider's list [{upstream_id, prompt_price, completion_price}] (null: no price) for the offers that are stored of it. A
-- price that cannot be right is quarantined and an alert raised; the stored one stays. Returns {updated, quarantined}.
create function api.sync_offers(provider text, listings jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare o record; updated integer := 0; quarantined integer := 0;
begin
  for o in select f.model_id, f.prompt_price, f.completion_price, l.prompt_price as listed_prompt, l.completion_price as listed_completion,
                  coalesce(api.price_doubt(f.prompt_price, l.prompt_price, f.is_free),
                           api.price_doubt(f.completion_price, l.completion_price, f.is_free)) as doubt
             from gateway.offers f
             join jsonb_to_recordset(listings) l (upstream_id text, prompt_price bigint, completion_price bigint) on l.upstream_id = f.upstream_id
            where f.provider = sync_offers.provider and f.prompt_price is not null
            order by f.model_id for no key update of f loop
    if o.doubt is not null then
      quarantined := quarantined + 1;
      perform api.quarantine(o.model_id, provider, o.doubt,
        jsonb_build_object('prompt', o.listed_prompt, 'completion', o.listed_completion),
        jsonb_build_object('prompt', o.prompt_price, 'completion', o.completion_price));
    elsif (o.listed_prompt, o.listed_completion) <> (o.prompt_price, o.completion_price) then
      updated := updated + 1;
      update gateway.offers f set prompt_price = o.listed_prompt, completion_price = o.listed_completion, updated_at = clock_timestamp()
       where f.model_id = o.model_id and f.provider = sync_offers.provider;
    end if;
  end loop;
  return jsonb_build_object('updated', updated, 'quarantined', quarantined);
end $$;
grant execute on function api.sync_offers to gateway_jobs, service_role;

-- Notes a price that cannot be right, once while nobody has decided, and raises an alert about it. What an operator dismissed is
-- noted again only when the list says something else.
create function api.quarantine(model_id text, provider text, reason text, seen jsonb, stored jsonb)
returns void language plpgsql as $$
begin
  update gateway.quarantined_prices q set last_seen = clock_timestamp(), seen = quarantine.seen, reason = quarantine.reason
   where q.model_id = quarantine.model_id and q.provider = quarantine.provider and q.resolved_at is null;
  if found or exists (select from gateway.quarantined_prices q where q.model_id = quarantine.model_id and q.provider = quarantine.provider
                         and q.seen = quarantine.seen and q.stored = quarantine.stored) then
    return;
  end if;
  insert into gateway.quarantined_prices (model_id, provider, reason, seen, stored)
  values (quarantine.model_id, quarantine.provider, quarantine.reason, quarantine.seen, quarantine.stored);
  perform api.raise_alert('price_quarantined', quarantine.provider || ' ' || quarantine.model_id,
                          jsonb_build_object('reason', quarantine.reason, 'seen', quarantine.seen, 'stored', quarantine.stored));
end $$;

-- Quarantined prices that nobody has decided on, the oldest first.
create function api.quarantined_prices()
returns jsonb language sql stable security definer set search_path = '' as $$
  select coalesce(jsonb_agg(to_jsonb(q) - 'resolved_at' order by q.id), '[]')
    from (select * from gateway.quarantined_prices x where x.resolved_at is null order by x.id limit 1000) q
$$;
grant execute on function api.quarantined_prices to gateway_admin, service_role;

-- Decides on a quarantined price: accepted it is the offer's from now on (400 when it is none), else the stored one stays. Raises 404.
create function api.decide_price(quarantine_id bigint, accept boolean, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare q gateway.quarantined_prices; before gateway.offers; after gateway.offers;
begin
  actor := api.confirm(actor, null);
  select * into q from gateway.quarantined_prices x where x.id = decide_price.quarantine_id and x.resolved_at is null for no key update;
  if not found then
    raise exception using errcode = 'PT404', message = 'not_found', detail = '{"param": "id"}';
  end if;
  if accept and (q.seen ->> 'prompt' is null or q.seen ->> 'completion' is null) then
    raise exception using errcode = 'PT400', message = 'invalid_request_error', detail = '{"message": "The list names no price."}';
  end if;
  select * into before from gateway.offers o where o.model_id = q.model_id and o.provider = q.provider for no key update;
  after := before;
  if accept then
    update gateway.offers o set prompt_price = (q.seen ->> 'prompt')::bigint, completion_price = (q.seen ->> 'completion')::bigint,
           updated_at = clock_timestamp()
     where o.model_id = q.model_id and o.provider = q.provider returning * into after;
  end if;
  update gateway.quarantined_prices x set resolved_at = clock_timestamp() where x.id = q.id;
  update gateway.alerts a set resolved_at = clock_timestamp()
   where a.kind = 'price_quarantined' and a.subject = q.provider || ' ' || q.model_id and a.resolved_at is null;
  perform api.audit(actor, case when accept then 'price.accepted' else 'price.dismissed' end,
                    'offer:' || q.provider || ':' || q.model_id, null, to_jsonb(before), to_jsonb(after));
  return to_jsonb(q) - 'resolved_at' || jsonb_build_object('accepted', accept);
end $$;
grant execute on function api.decide_price to gateway_admin, service_role;
