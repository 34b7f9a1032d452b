-- What was done by whom, what others are to be told, and what must never be true.

set role gateway_owner;

create table gateway.audit_logs (
  id         bigint generated always as identity primary key,
  actor      text not null,
  action     text not null,
  resource   text not null,
  before     jsonb,
  after      jsonb,
  created_at timestamptz not null default now()
);
comment on table gateway.audit_logs is 'Append-only; written in the transaction of what it records.';

create table gateway.outbox (
  id         bigint generated always as identity primary key,
  event      text not null,
  payload    jsonb not null,
  created_at timestamptz not null default now(),
  sent_at    timestamptz
);
comment on table gateway.outbox is 'Events to be told to others, written in the transaction of what happened, sent by a job.';
create index outbox_unsent on gateway.outbox (id) where sent_at is null;

create function gateway.refuse_change() returns trigger language plpgsql set search_path = '' as $$
begin
  raise exception '% is append-only', tg_table_name using errcode = '42501';
end $$;

create trigger append_only before update or delete or truncate on gateway.credit_transactions
  for each statement execute function gateway.refuse_change();
create trigger append_only before update or delete or truncate on gateway.audit_logs
  for each statement execute function gateway.refuse_change();

create view gateway.ledger_violations with (security_invoker = true) as
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
    full join gateway.usage_records r on r.id = h.id
   where h.cost_nano is distinct from r.cost_nano
  union all
  select 'hold outlived its expiry and the sweep', h.id::text
    from gateway.credit_holds h where h.state = 'held' and h.expires_at < now() - interval '10 minutes';
comment on view gateway.ledger_violations is 'Must be empty, always: asserted after every test, counted by an alarm.';

alter table gateway.audit_logs enable row level security;
alter table gateway.outbox enable row level security;

reset role;
