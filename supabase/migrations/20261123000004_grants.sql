-- Grants: what each credit came from, and when it ends.

set role gateway_owner;

alter table gateway.credit_transactions
  drop constraint credit_transactions_kind_check,
  add constraint credit_transactions_kind_check
    check (kind in ('grant', 'usage', 'refund', 'dispute', 'expiry', 'correction'));

alter table gateway.users add column frozen_nano bigint not null default 0 check (frozen_nano >= 0);
comment on column gateway.users.frozen_nano is 'What is left of the user''s frozen grants, in nano-dollars: neither spent nor ended.';

create table gateway.credit_grants (
  id             bigint generated always as identity primary key,
  user_id        bigint not null references gateway.users,
  transaction_id bigint not null unique references gateway.credit_transactions,
  kind           text not null check (kind in ('paid', 'subscription', 'promotional', 'goodwill', 'trial', 'referral', 'correction')),
  payment_id     bigint,
  priority       smallint not null,
  amount_nano    bigint not null check (amount_nano > 0),
  remaining_nano bigint not null,
  clawed_nano    bigint not null default 0 check (clawed_nano >= 0),
  expired_nano   bigint not null default 0 check (expired_nano >= 0),
  entries        integer not null default 0,
  is_frozen      boolean not null default false,
  expires_at     timestamptz,
  created_at     timestamptz not null default now(),
  check (remaining_nano between 0 and amount_nano - clawed_nano - expired_nano)
);
comment on table gateway.credit_grants is
  'Where credits came from. Spending takes the lowest priority number first, then what ends soonest, then the oldest. What was
   spent is taken from them when somebody asks (api.allocate): sum(remaining_nano) - users.credits_nano is what is not yet.';
comment on column gateway.credit_grants.clawed_nano is 'What was taken back by refunds and lost disputes.';
comment on column gateway.credit_grants.entries is 'Ledger entries that took from it, by which they are told apart.';
create index open_grants on gateway.credit_grants (user_id, priority, expires_at, id) where remaining_nano > 0;
create index ending_grants on gateway.credit_grants (expires_at) where remaining_nano > 0 and expires_at is not null;
create index grants_by_payment on gateway.credit_grants (payment_id) where payment_id is not null;
insert into gateway.credit_grants (user_id, transaction_id, kind, priority, amount_nano, remaining_nano, created_at)
select t.user_id, t.id, 'promotional', 10, t.amount_nano, t.amount_nano, t.created_at
  from gateway.credit_transactions t where t.amount_nano > 0 order by t.id;
alter table gateway.credit_grants enable row level security;

create or replace view gateway.ledger_violations with (security_invoker = true) as
  select 'balance is not the sum of its transactions' as rule, u.id::text as subject
    from gateway.users u
   where u.credits_nano <> (select coalesce(sum(t.amount_nano), 0)
                              from gateway.credit_transactions t where t.user_id = u.id)
  union all
  select 'held amount is not the sum of open holds', u.id::text
    from gateway.users u
   where u.held_nano <> (select coalesce(sum(h.bound_nano), 0)
                           from gateway.credit_holds h where h.user_id = u.id and h.state = 'held')
  union all
  select 'settled hold and usage transaction disagree', coalesce(h.id::text, t.reference)
    from (select * from gateway.credit_holds where state = 'settled' and cost_nano > 0) h
    full join (select * from gateway.credit_transactions where kind = 'usage') t on t.reference = h.id::text
   where h.cost_nano is distinct from -t.amount_nano or h.user_id is distinct from t.user_id
  union all
  select 'settled hold and usage record disagree', coalesce(h.id, r.id)::text
    from (select * from gateway.credit_holds where state = 'settled') h
    full join (select * from gateway.usage_records where outcome <> 'failed') r on r.id = h.id
   where h.cost_nano is distinct from r.cost_nano
  union all
  select 'failed request took credits', r.id::text
    from gateway.usage_records r where r.outcome = 'failed' and r.cost_nano <> 0
  union all
  select 'hold outlived its expiry and the sweep', h.id::text
    from gateway.credit_holds h where h.state = 'held' and h.expires_at < now() - interval '10 minutes'
  union all
  select 'less is left of grants than of the balance', u.id::text
    from gateway.users u
   where u.credits_nano > (select coalesce(sum(g.remaining_nano), 0) from gateway.credit_grants g where g.user_id = u.id)
  union all
  select 'frozen amount is not the sum of frozen grants', u.id::text
    from gateway.users u
   where u.frozen_nano <> (select coalesce(sum(g.remaining_nano), 0)
                             from gateway.credit_grants g where g.user_id = u.id and g.is_frozen)
  union all
  select 'grant and its ledger entry disagree', g.id::text
    from gateway.credit_grants g join gateway.credit_transactions t on t.id = g.transaction_id
   where t.amount_nano <> g.amount_nano or t.user_id <> g.user_id;

reset role;
