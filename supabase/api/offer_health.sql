-- How offers are doing: a circuit breaker of each, and what real requests say of its errors and its speed.

-- Notes the offers that a request was failed by, unless with the user's own key. From the fifth failure in a row on an offer comes
-- after all others for half a minute, and twice as long each further time, up to eight minutes. A row that another request is
-- noting is left to it: nobody waits, and a failure more or less changes nothing.
create function api.note_attempts(attempts jsonb)
returns void language plpgsql as $$
begin
  if attempts is null or jsonb_typeof(attempts) <> 'array' then
    return;
  end if;
  insert into gateway.offer_health (model_id, provider)
  select distinct o.model_id, o.provider from jsonb_to_recordset(attempts) a (model text, provider text, is_byok boolean)
    join gateway.offers o on o.model_id = a.model and o.provider = a.provider
   where a.is_byok is not true
     and not exists (select from gateway.offer_health h where h.model_id = o.model_id and h.provider = o.provider)
   order by 1, 2 on conflict do nothing;
  update gateway.offer_health h set failures = h.failures + 1,
         open_until = case when h.failures >= 4 then clock_timestamp() + interval '30 seconds' * 2 ^ least(h.failures - 4, 4) end
   where (h.model_id, h.provider) in (
     select x.model_id, x.provider from gateway.offer_health x
       join jsonb_to_recordset(attempts) a (model text, provider text, is_byok boolean) on a.model = x.model_id and a.provider = x.provider
      where a.is_byok is not true for update of x skip locked);
end $$;

-- Closes the circuit of the offer that answered a request. In plpgsql, which keeps its plan (see correct_tokens).
create function api.note_answer(u gateway.usage_records)
returns void language plpgsql as $$
begin
  update gateway.offer_health h set failures = 0, open_until = null
   where u.outcome = 'completed' and (h.model_id, h.provider) in (
     select x.model_id, x.provider from gateway.offer_health x
      where x.model_id = u.model and x.provider = u.provider and x.failures > 0 for update skip locked);
end $$;

-- Histograms, as JSON, as one.
create function api.sum_of(histograms jsonb[])
returns bigint[] language sql immutable as $$
  select array(select sum(b.count::bigint)::bigint
                 from unnest(histograms) h cross join lateral jsonb_array_elements_text(h) with ordinality b (count, n)
                group by b.n order by b.n)
$$;

-- Takes what the last two hours' requests say of each offer: the median time to the first token, and the share that it failed;
-- says how many offers that were.
create function api.measure_offers()
returns jsonb language sql security definer set search_path = '' as $$
  with answered as (
    select u.model, u.provider, sum(u.requests) as requests, api.percentile(api.sum_of(array_agg(to_jsonb(u.first_bytes))), 0.5) as first_byte_ms
      from gateway.usage_by_offer u where u.hour >= now() - interval '2 hours' group by 1, 2
  ), failed as (
    select e.model, e.provider, sum(e.count) as count from gateway.usage_errors e
     where e.hour >= now() - interval '2 hours' group by 1, 2
  ), measured as (
    insert into gateway.offer_health as h (model_id, provider, first_byte_ms, error_share, measured_at)
    select o.model_id, o.provider, a.first_byte_ms,
           least(1, coalesce(f.count, 0)::real / greatest(1, coalesce(a.requests, 0), coalesce(f.count, 0))), clock_timestamp()
      from gateway.offers o left join answered a on a.model = o.model_id and a.provider = o.provider
      left join failed f on f.model = o.model_id and f.provider = o.provider
     where a.model is not null or f.model is not null
        or exists (select from gateway.offer_health x where x.model_id = o.model_id and x.provider = o.provider)
     order by 1, 2
    on conflict (model_id, provider) do update set
      first_byte_ms = excluded.first_byte_ms, error_share = excluded.error_share, measured_at = excluded.measured_at
    returning 1
  )
  select jsonb_build_object('measured', count(*)) from measured
$$;
grant execute on function api.measure_offers to gateway_jobs, service_role;
