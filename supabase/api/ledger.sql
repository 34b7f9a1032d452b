-- The ledger's invariants, checked while it is in use. gateway.ledger_violations says all of them at once, and reads everything.

-- Checks the books of the next `most` users in turn, and again of those that were found broken: balance, held and frozen amounts
-- against ledger, holds and grants; each usage entry against its hold; each usage record against its entry. Of one user at most
-- `most_rows` new rows a call. Two at once take turns. Returns {checked, violations, users}: violations are the users whose books are
-- broken and the holds that outlived their expiry and the sweep; `users` are 20 of them at most.
create function api.check_ledger(most integer, most_rows integer)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare ids bigint[]; place bigint; overdue bigint; began constant timestamptz := clock_timestamp();
begin
  select p.user_id into place from gateway.ledger_position p for update;
  ids := array(select u.id from gateway.users u where u.id > place order by u.id limit most);
  update gateway.ledger_position p set user_id = case when cardinality(ids) < most then 0 else ids[most] end;
  ids := ids || array(select c.user_id from gateway.ledger_checks c where c.broken is not null order by 1 limit most);
  insert into gateway.ledger_checks as c (user_id, transaction_id, sum_nano, records_until, broken, checked_at)
  select s.user_id, s.transaction_id, s.sum_nano, s.records_until, s.broken, began from api.state_of_books(ids, most_rows) s
  on conflict (user_id) do update
    set transaction_id = excluded.transaction_id, sum_nano = excluded.sum_nano, records_until = excluded.records_until,
        broken = excluded.broken, checked_at = excluded.checked_at;
  select count(*) into overdue from gateway.credit_holds h
   where h.state = 'held' and h.expires_at < statement_timestamp() - interval '10 minutes';
  return jsonb_build_object(
    'checked', cardinality(ids),
    'violations', overdue + (select count(*) from gateway.ledger_checks c where c.broken is not null),
    'users', (select coalesce(jsonb_agg(x.user_id order by x.user_id), '[]')
                from (select c.user_id from gateway.ledger_checks c where c.broken is not null order by 1 limit 20) x));
end $$;
grant execute on function api.check_ledger to gateway_jobs, service_role;

-- A user's ledger entries after one, `most` at most: the last of them, the sum with what came before, whether those are all, and
-- how many are of a hold that says something else.
create function api.entries_after(user_id bigint, transaction_id bigint, before_nano bigint, most integer)
returns table (last_id bigint, sum_nano bigint, is_whole boolean, strays bigint) language sql stable rows 1 as $$
  select coalesce(max(t.id), entries_after.transaction_id), before_nano + coalesce(sum(t.amount_nano), 0)::bigint,
         count(*) < most, count(*) filter (where t.kind = 'usage' and (h.id is null or h.state <> 'settled'
           or h.cost_nano is distinct from -t.amount_nano or h.user_id <> t.user_id))
    from (select * from gateway.credit_transactions x
           where x.user_id = entries_after.user_id and x.id > entries_after.transaction_id order by x.id limit most) t
    left join gateway.credit_holds h on h.id = case when t.kind = 'usage' then t.reference::uuid end
$$;

-- A user's usage records since a time, `most` at most: until when they were read, and how many have a cost that is not in the ledger.
-- A record has the time at which its settlement began to wait for its turn, so the last minute's are read again.
create function api.records_after(user_id bigint, since timestamptz, most integer)
returns table (until timestamptz, strays bigint) language sql stable rows 1 as $$
  select greatest(since, case when count(*) < most then least(max(r.created_at), clock_timestamp() - interval '1 minute')
                              else max(r.created_at) end),
         count(*) filter (where r.cost_nano <> coalesce(-t.amount_nano, 0))
    from (select * from gateway.usage_records x
           where x.user_id = records_after.user_id and x.created_at >= since order by x.created_at limit most) r
    left join gateway.credit_transactions t on t.kind = 'usage' and t.reference = r.id::text and t.user_id = r.user_id
$$;

-- What users' books come to, in one snapshot: the check to be kept of each. A check goes no further than what is in order.
create function api.state_of_books(ids bigint[], most_rows integer)
returns table (user_id bigint, transaction_id bigint, sum_nano bigint, records_until timestamptz, broken text[])
language sql stable rows 1000 as $$
  select u.id, case when b.broken is null then t.last_id else k.transaction_id end,
         case when b.broken is null then t.sum_nano else k.sum_nano end,
         case when b.broken is null then r.until else k.records_until end, b.broken
    from gateway.users u
    left join gateway.ledger_checks c on c.user_id = u.id
    cross join lateral (select coalesce(c.transaction_id, 0) as transaction_id, coalesce(c.sum_nano, 0) as sum_nano,
                               coalesce(c.records_until, '-infinity') as records_until) k
    cross join lateral api.entries_after(u.id, k.transaction_id, k.sum_nano, most_rows) t
    cross join lateral api.records_after(u.id, k.records_until, most_rows) r
    cross join lateral (select coalesce(sum(h.bound_nano), 0) as held_nano
                          from gateway.credit_holds h where h.user_id = u.id and h.state = 'held') h
    cross join lateral (select coalesce(sum(g.remaining_nano), 0) as remaining_nano,
                               coalesce(sum(g.remaining_nano) filter (where g.is_frozen), 0) as frozen_nano
                          from gateway.credit_grants g where g.user_id = u.id and g.remaining_nano > 0) g
    cross join lateral (select nullif(array_remove(array[
      case when t.is_whole and t.sum_nano <> u.credits_nano then 'balance is not the sum of its transactions' end,
      case when h.held_nano <> u.held_nano then 'held amount is not the sum of open holds' end,
      case when g.remaining_nano < u.credits_nano then 'less is left of grants than of the balance' end,
      case when g.frozen_nano <> u.frozen_nano then 'frozen amount is not the sum of frozen grants' end,
      case when t.strays > 0 then 'settled hold and usage transaction disagree' end,
      case when r.strays > 0 then 'usage record and usage transaction disagree' end], null), '{}') as broken) b
   where u.id = any (ids)
$$;
