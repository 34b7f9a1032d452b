-- Trials: a grant with an end in the same ledger, and the trial plan's limits while it lasts; one for each user and identity.

-- Starts a user's trial, once; {trial}. Raises 403 where there are no trials, the user has a plan, the address is at one of
-- `blocked` domains or there is none, and 409 when one was started with any identity or address of the user's before, by whatever account.
create function api.start_trial(user_id bigint, blocked jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare terms gateway.trial_terms; u gateway.users; g gateway.credit_grants; t gateway.trials; hashes bytea[];
begin
  actor := api.confirm(actor, user_id);
  select * into u from gateway.users x where x.id = start_trial.user_id for no key update;
  select * into t from gateway.trials x where x.user_id = u.id;
  if found and api.was_done(actor, 'trial.started', 'user:' || u.id) then
    return api.trial_of(u.id); -- sent again
  elsif found then
    raise exception using errcode = 'PT409', message = 'trial_already_used';
  end if;
  select * into terms from gateway.trial_terms;
  if terms.credit_nano = 0 or split_part(lower(u.email), '@', 2) in (select jsonb_array_elements_text(start_trial.blocked))
     or exists (select from gateway.user_plans a where a.user_id = u.id and a.status = 'active'
                                                   and (a.ends_at is null or a.ends_at > clock_timestamp())) then
    raise exception using errcode = 'PT403', message = 'trial_not_available';
  end if;
  perform api.refuse_free_identity(u);
  hashes := api.identity_hashes(u);
  -- whoever starts one with the same identities waits here
  perform pg_advisory_xact_lock(hashtextextended(encode(h, 'hex'), 0)) from (select unnest(hashes) h order by 1) o;
  if exists (select from gateway.trial_identities i where i.hash = any (hashes)) then
    raise exception using errcode = 'PT409', message = 'trial_already_used';
  end if;
  g := api.add_grant(u.id, 'trial:' || u.id, terms.credit_nano, 'trial', 'trial', actor, null,
                     clock_timestamp() + make_interval(days => terms.days));
  insert into gateway.trials (user_id, grant_id, ends_at) values (u.id, g.id, g.expires_at) returning * into t;
  insert into gateway.trial_identities (hash, trial_id) select unnest(hashes), t.id;
  perform api.set_plan(u.id, (select p.id from gateway.plans p where p.name = 'trial'), g.expires_at, actor);
  perform api.audit(actor, 'trial.started', 'user:' || u.id, u.id, null, jsonb_build_object('ends_at', t.ends_at));
  insert into gateway.outbox (event, payload) values ('trial.started', jsonb_build_object('user_id', u.id, 'ends_at', t.ends_at));
  return api.trial_of(u.id);
end $$;
grant execute on function api.start_trial to gateway_trials, service_role;

-- Raises 403 for who signed in without an address, as with a wallet: anybody makes as many of these as he likes.
create function api.refuse_free_identity(u gateway.users)
returns void language plpgsql stable as $$
begin
  if u.email is null and exists (select from gateway.identities i where i.user_id = u.id) then
    raise exception using errcode = 'PT403', message = 'address_needed';
  end if;
end $$;

-- The mailbox that an address leads to, whatever its spelling: what follows a `+` is left out and, at Google, dots and the other name
-- of its domain. It is compared, and never written to.
create function api.mailbox(email text)
returns text language sql immutable as $$
  select case when domain in ('gmail.com', 'googlemail.com') then replace(name, '.', '') || '@gmail.com' else name || '@' || domain end
    from (select split_part(split_part(lower(email), '@', 1), '+', 1) as name, rtrim(split_part(lower(email), '@', 2), '.') as domain) e
$$;

-- Hashes of a user's identities and address, by which a further account of the same person is known.
create function api.identity_hashes(u gateway.users)
returns bytea[] language sql stable as $$
  select array(
    select sha256(convert_to(i.provider || ':' || i.subject, 'UTF8')) from gateway.identities i where i.user_id = u.id
    union select sha256(convert_to('mail:' || m, 'UTF8')) from (
      select i.email from gateway.identities i where i.user_id = u.id union select u.email) e,
      unnest(array[lower(e.email), api.mailbox(e.email)]) m where e.email is not null
    union select sha256(convert_to('user:' || u.id, 'UTF8')))
$$;

-- A user's trial with what is left of it: {trial_id, started_at, ends_at, is_active, credit_nano, left_nano, requests, tokens,
-- max_requests, max_tokens}; null for none.
create function api.trial_of(user_id bigint)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'trial_id', t.id, 'started_at', t.started_at, 'ends_at', t.ends_at, 'is_active', t.ended_at is null and t.ends_at > clock_timestamp(),
    'credit_nano', g.amount_nano, 'left_nano', coalesce((select l.left_nano from api.grants_left(t.user_id) l where l.id = g.id), 0),
    'requests', coalesce(b.month_requests, 0), 'tokens', coalesce(b.month_tokens, 0),
    'max_requests', p.monthly_request_limit, 'max_tokens', p.monthly_token_limit)
    from gateway.trials t join gateway.credit_grants g on g.id = t.grant_id join gateway.plans p on p.name = 'trial'
    left join gateway.rate_limit_buckets b on b.scope = 'user' and b.id = t.user_id and b.month = (t.started_at at time zone 'utc')::date
   where t.user_id = trial_of.user_id
$$;
grant execute on function api.trial_of to gateway_trials, service_role;

-- Who pays is on trial no longer: the trial's limits end, what is left of its credits stays until its end. The caller has locked the
-- user.
create function api.leave_trial(user_id bigint, actor jsonb)
returns void language plpgsql as $$
begin
  if exists (select from gateway.user_plans a join gateway.plans p on p.id = a.plan_id
              where a.user_id = leave_trial.user_id and a.status = 'active' and p.plan_type = 'trial') then
    perform api.end_plan(leave_trial.user_id, leave_trial.actor);
    update gateway.trials t set ended_at = clock_timestamp() where t.user_id = leave_trial.user_id and t.ended_at is null;
  end if;
end $$;

-- Tells of trials that end within three days, and ends those that are over: {told, ended}. Each once.
create function api.end_trials(most integer default 500)
returns jsonb language sql security definer set search_path = '' as $$
  with told as (
    update gateway.trials t set told_at = clock_timestamp()
     where t.id in (select x.id from gateway.trials x
                     where x.ended_at is null and x.told_at is null and x.ends_at < statement_timestamp() + interval '3 days'
                       and x.ends_at > statement_timestamp() order by x.ends_at limit end_trials.most for no key update skip locked)
    returning t.user_id, t.ends_at, 'trial.ending' as event
  ), ended as (
    update gateway.trials t set ended_at = clock_timestamp()
     where t.id in (select x.id from gateway.trials x where x.ended_at is null and x.ends_at <= statement_timestamp()
                     order by x.ends_at limit end_trials.most for no key update skip locked)
    returning t.user_id, t.ends_at, 'trial.ended' as event
  ), sent as (
    insert into gateway.outbox (event, payload)
    select e.event, jsonb_build_object('user_id', e.user_id, 'ends_at', e.ends_at) from (table told union all table ended) e
  )
  select jsonb_build_object('told', (select count(*) from told), 'ended', (select count(*) from ended))
$$;
grant execute on function api.end_trials to gateway_jobs, service_role;

-- What a trial gives; changed where `changes` says so. Audited.
create function api.trial_terms(changes jsonb, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare was gateway.trial_terms; made gateway.trial_terms;
begin
  actor := api.confirm(actor, null);
  select * into was from gateway.trial_terms for update;
  made := jsonb_populate_record(was, coalesce(changes, '{}'));
  if made is distinct from was then
    update gateway.trial_terms set credit_nano = made.credit_nano, days = made.days;
    perform api.audit(actor, 'trial_terms.changed', 'trial_terms', null, to_jsonb(was) - 'is_one', to_jsonb(made) - 'is_one');
  end if;
  return to_jsonb(made) - 'is_one';
end $$;
grant execute on function api.trial_terms to gateway_admin, service_role;

-- Raises 403 for a user who had a trial that is over, and nothing else ever.
create function api.refuse_ended_trial(user_id bigint)
returns void language plpgsql stable as $$
declare ended timestamptz;
begin
  select t.ends_at into ended from gateway.trials t where t.user_id = refuse_ended_trial.user_id and t.ends_at <= clock_timestamp();
  if found and not exists (select from gateway.credit_grants g where g.user_id = refuse_ended_trial.user_id and g.kind <> 'trial') then
    raise exception using errcode = 'PT403', message = 'trial_expired', detail = jsonb_build_object(
      'limit_source', 'trial', 'trial_end_date', ended)::text;
  end if;
end $$;
