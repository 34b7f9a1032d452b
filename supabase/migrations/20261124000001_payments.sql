-- What is paid by Stripe. A payment is written here before Stripe is asked for it, so nothing comes back that is not known.

do $$ begin
  if not exists (select from pg_roles where rolname = 'gateway_billing') then
    create role gateway_billing nologin;
    create role gateway_stripe_webhook nologin;
  end if;
end $$;

set role gateway_owner;

alter table gateway.users add column stripe_customer_id text unique;

create table gateway.payments (
  id                bigint generated always as identity primary key,
  user_id           bigint not null references gateway.users,
  kind              text not null check (kind in ('checkout', 'intent', 'auto_top_up', 'subscription')),
  amount_cents      bigint not null check (amount_cents > 0),
  currency          text not null default 'usd' check (currency = 'usd'),
  credit_nano       bigint not null check (credit_nano >= 0),
  status            text not null default 'pending'
                    check (status in ('pending', 'paid', 'failed', 'canceled', 'disagreeing')),
  is_disputed       boolean not null default false,
  refunded_cents    bigint not null default 0 check (refunded_cents between 0 and amount_cents),
  lost_cents        bigint not null default 0 check (lost_cents between 0 and amount_cents),
  session_id        text unique,
  intent_id         text unique,
  invoice_id        text unique,
  subscription_id   text,
  card_fingerprint  text,
  idempotency_key   text,
  request_hash      text,
  version           bigint not null default 0,
  created_at        timestamptz not null default now(),
  checked_at        timestamptz,
  paid_at           timestamptz,
  unique (user_id, idempotency_key)
);
comment on table gateway.payments is 'What a user pays: we decide the amount and what is credited for it; Stripe says whether it was paid.';
comment on column gateway.payments.status is 'disagreeing: Stripe was paid another amount or currency than we asked for, and nothing is credited.';
comment on column gateway.payments.version is 'Counts what was recorded: facts that were read before another record are not recorded over it.';
create index payments_by_user on gateway.payments (user_id, id);
create index payments_disagreeing on gateway.payments (id) where status = 'disagreeing';
create index payments_to_check on gateway.payments (checked_at nulls first) where status = 'pending';
create unique index one_open_top_up on gateway.payments (user_id) where kind = 'auto_top_up' and status = 'pending';
create index payments_by_card on gateway.payments (card_fingerprint) where card_fingerprint is not null;

alter table gateway.credit_grants add foreign key (payment_id) references gateway.payments;

create table gateway.stripe_events (
  id          text primary key,
  type        text not null,
  object_id   text not null,
  named_payment_id bigint,
  payment_id  bigint references gateway.payments,
  created_at  timestamptz not null,
  received_at timestamptz not null default now(),
  worked_at   timestamptz,
  tries       integer not null default 0,
  next_try_at timestamptz not null default now(),
  outcome     text
);
comment on table gateway.stripe_events is
  'The inbox: an event says only that something changed. What is recorded is what Stripe says when it is asked then.';
create index stripe_events_worked on gateway.stripe_events (worked_at) where worked_at is not null;
create index stripe_events_to_work on gateway.stripe_events (next_try_at) where worked_at is null;

create table gateway.subscriptions (
  id                   text primary key,
  user_id              bigint not null references gateway.users,
  plan_id              bigint not null references gateway.plans,
  status               text not null,
  period_end           timestamptz,
  cancel_at_period_end boolean not null default false,
  version              bigint not null default 0,
  updated_at           timestamptz not null default now()
);
comment on table gateway.subscriptions is 'Stripe''s subscriptions, under their ids, as they were when we last asked.';
create unique index one_live_subscription on gateway.subscriptions (user_id) where status in ('trialing', 'active', 'past_due', 'unpaid');

create table gateway.auto_top_ups (
  user_id           bigint primary key references gateway.users,
  threshold_nano    bigint not null check (threshold_nano >= 0),
  amount_cents      bigint not null check (amount_cents > 0),
  payment_method_id text not null,
  is_on             boolean not null default true,
  failures          integer not null default 0,
  last_at           timestamptz
);
comment on table gateway.auto_top_ups is 'Below the threshold the saved card is charged, once at a time; three failures in a row turn it off.';
create index auto_top_ups_on on gateway.auto_top_ups (user_id) where is_on;

insert into gateway.rollups values ('stripe', now());

create table gateway.credit_packages (
  id           text primary key check (id ~ '^[a-z0-9_-]{1,40}$'),
  name         text not null,
  amount_cents bigint not null check (amount_cents > 0),
  credit_nano  bigint not null check (credit_nano > 0),
  is_active    boolean not null default true
);
comment on table gateway.credit_packages is 'Amounts that are offered; any other amount can be paid, too, and credits itself.';
insert into gateway.credit_packages values
  ('starter', 'Starter', 500, 5000000000), ('plus', 'Plus', 2500, 25000000000), ('pro', 'Pro', 10000, 100000000000);

alter table gateway.alerts
  drop constraint alerts_kind_check,
  add constraint alerts_kind_check check (kind in (
    'refusals_burst', 'unusual_network', 'unusual_spend', 'refused_role_change', 'payment_disagrees', 'payment_unknown'));

alter table gateway.payments enable row level security;
alter table gateway.stripe_events enable row level security;
alter table gateway.subscriptions enable row level security;
alter table gateway.auto_top_ups enable row level security;
alter table gateway.credit_packages enable row level security;

reset role;
