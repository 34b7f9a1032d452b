-- What is given away and sold beside plain credits: plans with limits by day and month, trials, coupons, referrals.

do $$ begin
  if not exists (select from pg_roles where rolname = 'gateway_trials') then
    create role gateway_trials nologin;
  end if;
end $$;

set role gateway_owner;

alter table gateway.plans
  add column plan_type             text not null default 'standard',
  add column description           text not null default '',
  add column features              text[] not null default '{}',
  add column monthly_price_cents   bigint not null default 0 check (monthly_price_cents >= 0),
  add column allowance_nano        bigint not null default 0 check (allowance_nano >= 0),
  add column daily_request_limit   bigint check (daily_request_limit > 0),
  add column monthly_request_limit bigint check (monthly_request_limit > 0),
  add column daily_token_limit     bigint check (daily_token_limit > 0),
  add column monthly_token_limit   bigint check (monthly_token_limit > 0),
  add column is_active             boolean not null default true;
comment on column gateway.plans.allowance_nano is 'Credits that each paid month grants, in nano-dollars; they end with the month.';
comment on column gateway.plans.is_active is 'Whether it is offered; who has it keeps it.';

alter table gateway.rate_limit_buckets
  add column day            date,
  add column day_requests   bigint not null default 0,
  add column day_tokens     bigint not null default 0,
  add column month          date,
  add column month_requests bigint not null default 0,
  add column month_tokens   bigint not null default 0;
comment on column gateway.rate_limit_buckets.day is 'The UTC day of the counters beside it; those of another day count nothing.';
comment on column gateway.rate_limit_buckets.month is 'The first day of the month, or of the trial, of the counters beside it.';

-- a trial's limits are those of this plan, counted over all of it
insert into gateway.plans (name, plan_type, description, is_active, requests_per_minute, tokens_per_minute, concurrency,
                           monthly_request_limit, monthly_token_limit)
values ('trial', 'trial', 'While a trial lasts', false, 60, 200000, 10, 1000, 1000000);

create table gateway.trial_terms (
  is_one       boolean primary key default true check (is_one),
  credit_nano  bigint not null default 0 check (credit_nano >= 0),
  days         integer not null default 7 check (days between 1 and 90)
);
comment on table gateway.trial_terms is 'What a trial gives; no credit means that there are no trials.';
insert into gateway.trial_terms default values;

create table gateway.trials (
  id           bigint generated always as identity primary key,
  user_id      bigint not null unique references gateway.users,
  grant_id     bigint not null references gateway.credit_grants,
  started_at   timestamptz not null default now(),
  ends_at      timestamptz not null,
  told_at      timestamptz,
  ended_at     timestamptz
);
comment on table gateway.trials is 'One a user; its credits are a grant with an end, in the same ledger as all others.';
create index trials_to_end on gateway.trials (ends_at) where ended_at is null;

create table gateway.trial_identities (
  hash     bytea primary key,
  trial_id bigint not null references gateway.trials
);
comment on table gateway.trial_identities is
  'SHA-256 of every identity and address that a trial was started with: they stay when the account is deleted, and tell no name.';

create table gateway.coupons (
  id           bigint generated always as identity primary key,
  code         text not null check (code ~ '^[A-Z0-9][A-Z0-9_-]{2,39}$'),
  kind         text not null check (kind in ('promotional', 'referral', 'compensation', 'partnership')),
  description  text not null default '',
  credit_nano  bigint check (credit_nano > 0),
  percent      integer check (percent between 1 and 500),
  most_nano    bigint check (most_nano > 0),
  user_id      bigint references gateway.users,
  max_uses     bigint check (max_uses > 0),
  uses         bigint not null default 0,
  starts_at    timestamptz,
  ends_at      timestamptz,
  credit_days  integer check (credit_days between 1 and 3650),
  is_active    boolean not null default true,
  created_by   bigint,
  created_at   timestamptz not null default now(),
  check ((credit_nano is null) <> (percent is null)),
  check (uses <= max_uses)
);
comment on table gateway.coupons is 'A fixed credit at once, or a percentage of the next top-up (most_nano at most). Codes are upper case.';
comment on column gateway.coupons.user_id is 'The one who may redeem it; null for everybody.';
comment on column gateway.coupons.credit_days is 'How long the credit lasts; null for ever.';
create unique index coupons_by_code on gateway.coupons (code);
create index coupons_by_user on gateway.coupons (user_id) where user_id is not null;

create table gateway.coupon_redemptions (
  id          bigint generated always as identity primary key,
  coupon_id   bigint not null references gateway.coupons,
  user_id     bigint not null references gateway.users,
  payment_id  bigint references gateway.payments,
  credit_nano bigint,
  redeemed_at timestamptz not null default now(),
  unique (coupon_id, user_id)
);
comment on column gateway.coupon_redemptions.credit_nano is 'What it gave; null while a bonus waits for the next top-up.';
create unique index one_waiting_bonus on gateway.coupon_redemptions (user_id) where credit_nano is null;
create index redemptions_by_user on gateway.coupon_redemptions (user_id, id);
create index redemptions_by_payment on gateway.coupon_redemptions (payment_id) where payment_id is not null;

create table gateway.referral_terms (
  is_one        boolean primary key default true check (is_one),
  referrer_nano bigint not null default 0 check (referrer_nano >= 0),
  referee_nano  bigint not null default 0 check (referee_nano >= 0),
  least_cents   bigint not null default 1000 check (least_cents >= 1000),
  most_rewards  integer not null default 10 check (most_rewards between 1 and 10)
);
comment on table gateway.referral_terms is 'What a referral gives to both, on the first payment of least_cents or more; nothing until an operator says.';
insert into gateway.referral_terms default values;

create table gateway.referral_codes (
  user_id    bigint primary key references gateway.users,
  code       text not null unique check (code ~ '^[A-Z0-9]{8}$'),
  rewards    integer not null default 0,
  created_at timestamptz not null default now()
);

create table gateway.referrals (
  user_id        bigint primary key references gateway.users,
  referrer_id    bigint not null references gateway.users,
  created_at     timestamptz not null default now(),
  payment_id     bigint unique references gateway.payments,
  rewarded_at    timestamptz,
  reversed_at    timestamptz,
  refused_reason text,
  check (user_id <> referrer_id)
);
comment on table gateway.referrals is 'Who came by whom, told at the sign-up and never later; rewarded once, by one payment.';
create index referrals_by_referrer on gateway.referrals (referrer_id);

alter table gateway.trial_terms enable row level security;
alter table gateway.trials enable row level security;
alter table gateway.trial_identities enable row level security;
alter table gateway.coupons enable row level security;
alter table gateway.coupon_redemptions enable row level security;
alter table gateway.referral_terms enable row level security;
alter table gateway.referral_codes enable row level security;
alter table gateway.referrals enable row level security;

reset role;
