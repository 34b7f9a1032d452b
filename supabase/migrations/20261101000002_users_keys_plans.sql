-- Who calls: users with their balance, their API keys, and the plan that sets their limits.

set role gateway_owner;

create table gateway.plans (
  id                  bigint generated always as identity primary key,
  name                text not null unique,
  is_default          boolean not null default false,
  requests_per_minute integer check (requests_per_minute > 0),
  tokens_per_minute   bigint check (tokens_per_minute > 0),
  concurrency         integer check (concurrency > 0),
  created_at          timestamptz not null default now()
);
comment on table gateway.plans is 'Limits that users share; null is no limit. The default plan serves users without one.';
create unique index one_default_plan on gateway.plans (is_default) where is_default;
-- without a plan that gives limits nobody is served
insert into gateway.plans (name, is_default, requests_per_minute, tokens_per_minute, concurrency)
values ('free', true, 600, 2000000, 100);

create table gateway.users (
  id           bigint generated always as identity primary key,
  username     text not null unique,
  email        text unique,
  role         text not null default 'user' check (role in ('user', 'admin')),
  status       text not null default 'active' check (status in ('active', 'suspended')),
  credits_nano bigint not null default 0,
  held_nano    bigint not null default 0 check (held_nano >= 0),
  created_at   timestamptz not null default now()
) with (fillfactor = 50);
comment on column gateway.users.credits_nano is 'Sum of the user''s credit_transactions, in nano-dollars.';
comment on column gateway.users.held_nano is 'Sum of the user''s holds in state held, in nano-dollars.';

create table gateway.user_plans (
  id         bigint generated always as identity primary key,
  user_id    bigint not null references gateway.users,
  plan_id    bigint not null references gateway.plans,
  status     text not null default 'active' check (status in ('active', 'ended')),
  started_at timestamptz not null default now(),
  ends_at    timestamptz
);
create unique index one_active_plan on gateway.user_plans (user_id) where status = 'active';

create table gateway.api_keys (
  id             bigint generated always as identity primary key,
  user_id        bigint not null references gateway.users,
  public_id      text not null unique check (public_id ~ '^[0-9A-Za-z]{12}$'),
  key_hash       text not null check (key_hash ~ '^[0-9A-Za-z]+:[0-9a-f]{64}$'),
  environment    text not null check (environment in ('live', 'test', 'staging', 'dev')),
  name           text not null,
  scopes         text[] not null default '{inference,account:read}',
  status         text not null default 'active' check (status in ('active', 'revoked')),
  expires_at     timestamptz,
  ip_allowlist   cidr[],
  referers       text[],
  allowed_models text[],
  limit_nano     bigint check (limit_nano >= 0),
  limit_reset    text check (limit_reset in ('daily', 'weekly', 'monthly')),
  created_at     timestamptz not null default now()
);
comment on column gateway.api_keys.key_hash is 'pepper version : HMAC-SHA256(pepper, key); the key itself is nowhere.';
comment on column gateway.api_keys.limit_nano is 'What the key may spend in one limit_reset period, or ever when that is null.';
create index api_keys_by_user on gateway.api_keys (user_id);

create table gateway.rate_limit_configs (
  id                  bigint generated always as identity primary key,
  user_id             bigint not null references gateway.users,
  key_id              bigint references gateway.api_keys,
  requests_per_minute integer check (requests_per_minute > 0),
  tokens_per_minute   bigint check (tokens_per_minute > 0),
  concurrency         integer check (concurrency > 0),
  unique nulls not distinct (user_id, key_id)
);
comment on table gateway.rate_limit_configs is
  'A user''s own limits in place of the plan''s (key_id null), and a key''s further limits inside them.';

create unlogged table gateway.rate_limit_buckets (
  scope        text not null check (scope in ('user', 'key')),
  id           bigint not null,
  requests_tat timestamptz not null,
  tokens_tat   timestamptz not null,
  primary key (scope, id)
) with (fillfactor = 50);
comment on table gateway.rate_limit_buckets is
  'GCRA: the theoretical arrival times up to which a user''s or a key''s limits are used. Lost in a crash, on purpose.';

alter table gateway.plans enable row level security;
alter table gateway.users enable row level security;
alter table gateway.user_plans enable row level security;
alter table gateway.api_keys enable row level security;
alter table gateway.rate_limit_configs enable row level security;
alter table gateway.rate_limit_buckets enable row level security;

reset role;
