-- What is used most: computed by a job from our own usage, read by anybody.

-- Adds who used which model on which day.
create function api.add_model_users(records gateway.usage_records[])
returns void language sql as $$
  insert into gateway.model_users (day, model, user_id)
  select distinct (r.created_at at time zone 'utc')::date, r.model, r.user_id from unnest(records) r
   where r.outcome <> 'failed' order by 1, 2, 3 on conflict do nothing
$$;

-- Computes the rankings of the day, week and month that end with this hour; says how many rows they have. Models that fewer than
-- five users used are left out: a ranking tells nobody's habits.
create function api.refresh_ranking()
returns jsonb language plpgsql security definer set search_path = '' as $$
declare until constant timestamptz := date_trunc('hour', clock_timestamp(), 'UTC') + interval '1 hour'; made integer;
begin
  lock table gateway.latest_models in share row exclusive mode; -- runs take turns; readers are not held up
  delete from gateway.latest_models;
  insert into gateway.latest_models (period, model, users, tokens, requests, spend_nano, previous_tokens, previous_requests,
                                     previous_nano, since, until)
  select p.period, u.model, seen.users,
         coalesce(sum(u.prompt_tokens + u.completion_tokens) filter (where u.hour >= until - p.length), 0),
         coalesce(sum(u.requests) filter (where u.hour >= until - p.length), 0),
         coalesce(sum(u.cost_nano) filter (where u.hour >= until - p.length), 0),
         coalesce(sum(u.prompt_tokens + u.completion_tokens) filter (where u.hour < until - p.length), 0),
         coalesce(sum(u.requests) filter (where u.hour < until - p.length), 0),
         coalesce(sum(u.cost_nano) filter (where u.hour < until - p.length), 0), until - p.length, until
    from (values ('day', interval '1 day'), ('week', interval '7 days'), ('month', interval '30 days')) p (period, length)
    join gateway.usage_by_offer u on u.hour >= until - 2 * p.length and u.hour < until
    join lateral (select count(distinct x.user_id) as users from gateway.model_users x
                   where x.model = u.model and x.day >= ((until - p.length) at time zone 'utc')::date) seen on seen.users >= 5
   group by p.period, p.length, u.model, seen.users
  having sum(u.requests) filter (where u.hour >= until - p.length) > 0;
  get diagnostics made = row_count;
  delete from gateway.model_users x where x.day < current_date - 62;
  return jsonb_build_object('rows', made);
end $$;
grant execute on function api.refresh_ranking to gateway_jobs, service_role;

-- A ranking of a period by tokens, requests or spend, from its place `skipped`: {models, count, since, until}.
create function api.ranking(period text, metric text, most integer, skipped integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  with placed as (
    select m.*, row_number() over (order by case metric when 'tokens' then m.tokens when 'requests' then m.requests else m.spend_nano end desc,
                                            m.model) as rank
      from gateway.latest_models m where m.period = ranking.period
  )
  select jsonb_build_object('count', (select count(*) from placed), 'since', (select min(since) from placed), 'until', (select max(until) from placed),
    'models', (select coalesce(jsonb_agg(to_jsonb(p) - array['users', 'period', 'since', 'until'] order by p.rank), '[]')
                 from placed p where p.rank > skipped and p.rank <= skipped + most))
$$;
grant execute on function api.ranking to gateway_catalog, service_role;
