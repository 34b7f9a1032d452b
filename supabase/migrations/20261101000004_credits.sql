-- Money: an append-only ledger, the holds that precede its usage entries, and what each request used.

set role gateway_owner;

create table gateway.credit_transactions (
  id          bigint generated always as identity primary key,
  user_id     bigint not null references gateway.users,
  kind        text not null check (kind in ('grant', 'usage', 'refund', 'correction')),
  reference   text not null,
  amount_nano bigint not null check (amount_nano <> 0),
  reason      text not null default '',
  created_at  timestamptz not null default now(),
  unique (kind, reference)
);
comment on table gateway.credit_transactions is
  'The ledger, in nano-dollars: the only authority for a balance. (kind, reference) is unique: one fact counts once.';
create index credit_transactions_by_user on gateway.credit_transactions (user_id, id);

create table gateway.credit_holds (
  id                uuid primary key,
  user_id           bigint not null references gateway.users,
  key_id            bigint not null references gateway.api_keys,
  bound_nano        bigint not null check (bound_nano >= 0),
  state             text not null default 'held' check (state in ('held', 'settled', 'released', 'expired')),
  cost_nano         bigint check (cost_nano >= 0),
  tokens            bigint not null default 0,
  idempotency_key   text,
  created_at        timestamptz not null default now(),
  expires_at        timestamptz not null,
  ended_at          timestamptz,
  check ((state = 'settled') = (cost_nano is not null))
) with (fillfactor = 80);
comment on table gateway.credit_holds is
  'held -> settled | released | expired; released | expired -> settled when the truth comes late; nothing else.
   A held row is also the lease of one concurrent request until expires_at.';
comment on column gateway.credit_holds.tokens is 'Tokens taken from the limits at admission; settle corrects them.';
create index open_holds_by_user on gateway.credit_holds (user_id, key_id) where state = 'held';
create index open_holds_by_expiry on gateway.credit_holds (expires_at) where state = 'held';

create table gateway.idempotency_keys (
  user_id     bigint not null references gateway.users,
  key         text not null check (length(key) between 1 and 255),
  fingerprint text not null,
  hold_id     uuid not null,
  answer      text,
  created_at  timestamptz not null default now(),
  primary key (user_id, key)
);
comment on table gateway.idempotency_keys is 'For 24 hours: which request an Idempotency-Key stands for and, once served, its answer.';
create index idempotency_keys_by_age on gateway.idempotency_keys (created_at);

create table gateway.usage_records (
  id                    uuid not null,
  user_id               bigint not null,
  key_id                bigint not null,
  model                 text not null,
  provider              text not null,
  prompt_tokens         bigint not null,
  completion_tokens     bigint not null,
  cached_tokens         bigint not null default 0,
  reasoning_tokens      bigint not null default 0,
  cost_nano             bigint not null,
  upstream_cost_nano    bigint,
  is_estimated          boolean not null,
  is_streamed           boolean not null,
  outcome               text not null check (outcome in ('completed', 'cut', 'cancelled')),
  finish_reason         text,
  upstream_id           text,
  first_byte_ms         integer,
  duration_ms           integer not null,
  created_at            timestamptz not null default now(),
  primary key (id, created_at)
) partition by range (created_at);
comment on table gateway.usage_records is 'One row per settled request; id is the hold''s. Prompts and answers are not here.';
create index usage_records_by_user on gateway.usage_records (user_id, created_at);

create table gateway.usage_records_default partition of gateway.usage_records default;
do $$
declare month date := date_trunc('month', now());
begin
  for n in 0..23 loop
    execute format('create table gateway.%I partition of gateway.usage_records for values from (%L) to (%L)',
                   'usage_records_' || to_char(month, 'YYYY_MM'), month, month + interval '1 month');
    execute format('alter table gateway.%I enable row level security', 'usage_records_' || to_char(month, 'YYYY_MM'));
    month := month + interval '1 month';
  end loop;
end $$;

create table gateway.key_usage (
  key_id            bigint not null references gateway.api_keys,
  day               date not null,
  requests          bigint not null,
  prompt_tokens     bigint not null,
  completion_tokens bigint not null,
  cost_nano         bigint not null,
  last_used_at      timestamptz not null,
  primary key (key_id, day)
) with (fillfactor = 50);
comment on table gateway.key_usage is 'What a key used each UTC day; kept by settle, so that no request scans usage_records.';

alter table gateway.credit_transactions enable row level security;
alter table gateway.credit_holds enable row level security;
alter table gateway.idempotency_keys enable row level security;
alter table gateway.usage_records enable row level security;
alter table gateway.usage_records_default enable row level security;
alter table gateway.key_usage enable row level security;

reset role;
