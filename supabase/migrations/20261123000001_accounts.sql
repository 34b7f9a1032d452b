-- Who may do what: roles, the identities by which users sign in, and the further credentials of a key.

do $$ begin
  if not exists (select from pg_roles where rolname = 'gateway_auth') then
    create role gateway_auth nologin;
  end if;
end $$;

set role gateway_owner;

create table gateway.roles (
  name        text primary key check (name ~ '^[a-z][a-z0-9_-]{0,31}$'),
  description text not null default '',
  scopes      text[] not null,
  is_builtin  boolean not null default false,
  created_at  timestamptz not null default now()
);
comment on table gateway.roles is 'What a user''s keys may do at most. The admin role has every scope there is; built-in ones stay.';
insert into gateway.roles (name, description, scopes, is_builtin) values
  ('user', 'A customer', '{inference,account:read,account:write,keys:write}', true),
  ('admin', 'The operator', '{inference,account:read,account:write,keys:write,admin:read,admin:users,admin:credits,admin:limits,admin:roles,admin:alerts}', true);

alter table gateway.users
  drop constraint users_role_check,
  drop constraint users_status_check,
  add constraint users_role_fkey foreign key (role) references gateway.roles,
  add constraint users_status_check check (status in ('active', 'suspended', 'deleted')),
  add column display_name text not null default '',
  add column own_providers text[];
comment on column gateway.users.own_providers is 'Providers that the user stored a key for; null when none.';

-- an address is one person's however it is written
create index users_by_address on gateway.users (lower(email));
create index users_by_role on gateway.users (role, id) where role <> 'user';
create index users_by_status on gateway.users (status, id) where status <> 'active';

create table gateway.identities (
  provider        text not null check (provider in ('privy', 'supabase')),
  subject         text not null check (length(subject) between 1 and 255),
  user_id         bigint not null references gateway.users,
  email           text,
  created_at      timestamptz not null default now(),
  last_sign_in_at timestamptz not null default now(),
  primary key (provider, subject)
);
comment on table gateway.identities is 'Who a verified token stands for: linked by its subject alone, never by a name or an address.';
create index identities_by_user on gateway.identities (user_id);

-- a name is a user's way to tell keys apart: those that share one are told apart from here on
update gateway.api_keys k set name = k.name || ' ' || k.id
 where k.status <> 'revoked' and exists (
   select from gateway.api_keys o
    where o.user_id = k.user_id and o.name = k.name and o.id < k.id and o.status <> 'revoked');

alter table gateway.api_keys
  drop constraint api_keys_status_check,
  add constraint api_keys_status_check check (status in ('active', 'paused', 'revoked')),
  add column kind text not null default 'secret' check (kind in ('secret', 'browser')),
  add column last_four text not null default '' check (length(last_four) <= 4),
  add column max_requests bigint check (max_requests > 0),
  add column rotation_days integer check (rotation_days between 1 and 365),
  add column rotated_at timestamptz not null default now(),
  add column rotation_told_at timestamptz;
comment on column gateway.api_keys.kind is 'A browser key has no secret that anybody knows: session keys stand for it. One a user.';
comment on column gateway.api_keys.max_requests is 'Requests that the key may make in all.';
create unique index one_key_name on gateway.api_keys (user_id, name) where status <> 'revoked';
create unique index one_browser_key on gateway.api_keys (user_id) where kind = 'browser' and status <> 'revoked';
create index keys_to_rotate on gateway.api_keys (rotated_at) where rotation_days is not null and status = 'active';

create table gateway.key_credentials (
  public_id  text primary key check (public_id ~ '^[0-9A-Za-z]{12}$'),
  key_hash   text not null check (key_hash ~ '^[0-9A-Za-z]+:[0-9a-f]{64}$'),
  key_id     bigint not null references gateway.api_keys,
  kind       text not null check (kind in ('session', 'rotated')),
  scopes     text[],
  expires_at timestamptz not null,
  created_at timestamptz not null default now()
);
comment on table gateway.key_credentials is
  'What else stands for a key for a while: session keys (gw_temp_…), and its secret before a rotation. Limits, usage and the
   end of the key are the key''s own; scopes, where there are some, are fewer.';
create index key_credentials_by_key on gateway.key_credentials (key_id);
create index key_credentials_by_expiry on gateway.key_credentials (expires_at);

create table gateway.key_pickups (
  key_id     bigint primary key references gateway.api_keys,
  sealed     text not null,
  taken_by   text,
  expires_at timestamptz not null
);
comment on table gateway.key_pickups is 'Secrets that a job rotated to, sealed, until their owner fetches them: once, by the request taken_by.';

alter table gateway.rate_limit_configs
  add column expires_at timestamptz,
  add column is_operators boolean not null default false;
comment on column gateway.rate_limit_configs.is_operators is 'Set by an operator: the key''s owner may lower it and not lift it.';

create table gateway.provider_keys (
  id         bigint generated always as identity primary key,
  user_id    bigint not null references gateway.users,
  provider   text not null check (provider in ('openrouter', 'portkey', 'featherless', 'chutes')),
  sealed     text not null,
  last_four  text not null check (length(last_four) = 4),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (user_id, provider)
);
comment on table gateway.provider_keys is 'Users'' own keys of providers, sealed: requests that go through one take no credits.';

create table gateway.notification_preferences (
  user_id          bigint primary key references gateway.users,
  low_balance      boolean not null default true,
  low_balance_nano bigint not null default 5000000000 check (low_balance_nano >= 0),
  key_events       boolean not null default true,
  usage_report     boolean not null default false,
  product_news     boolean not null default false
);

-- what was granted is asked for without reading what was used
create index credit_transactions_not_usage on gateway.credit_transactions (user_id, id) where kind <> 'usage';
alter table gateway.credit_transactions add column actor_id bigint;
create index credit_transactions_by_actor on gateway.credit_transactions (actor_id, created_at) where actor_id is not null;

alter table gateway.roles enable row level security;
alter table gateway.identities enable row level security;
alter table gateway.key_credentials enable row level security;
alter table gateway.key_pickups enable row level security;
alter table gateway.provider_keys enable row level security;
alter table gateway.notification_preferences enable row level security;

reset role;
