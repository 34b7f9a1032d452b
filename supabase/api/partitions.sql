-- Months of usage records, made before they begin.

-- Makes this month and the six after it, unless they are there; runs take turns. Says how many it made.
create function api.add_months()
returns jsonb language plpgsql security definer set search_path = '' as $$
declare made integer := 0;
begin
  perform from gateway.rollups r where r.name = 'usage' for update;
  for n in 0..6 loop
    made := made + gateway.add_month((date_trunc('month', now(), 'UTC') + n * interval '1 month')::date)::integer;
  end loop;
  return jsonb_build_object('made', made);
end $$;
grant execute on function api.add_months to gateway_jobs, service_role;
