-- What is sold: models, and who serves each at which price.

set role gateway_owner;

create table gateway.models (
  id                text primary key check (id ~ '^[a-z0-9][a-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._:-]*$'),
  name              text not null,
  description       text not null default '',
  context_length    integer not null check (context_length > 0),
  max_output_tokens integer not null check (max_output_tokens > 0),
  input_modalities  text[] not null default '{text}',
  is_active         boolean not null default true,
  created_at        timestamptz not null default now()
);

create table gateway.offers (
  model_id          text not null references gateway.models,
  provider          text not null check (provider in ('openrouter', 'portkey', 'featherless', 'chutes', 'sandbox')),
  upstream_id       text not null,
  priority          smallint not null default 0,
  is_active         boolean not null default true,
  is_free           boolean not null default false,
  prompt_price      bigint check (prompt_price between 0 and 1000000000000),
  completion_price  bigint check (completion_price between 0 and 1000000000000),
  request_price     bigint not null default 0 check (request_price between 0 and 10000000000000000),
  cache_read_price  bigint check (cache_read_price between 0 and 1000000000000),
  cache_write_price bigint check (cache_write_price between 0 and 1000000000000),
  updated_at        timestamptz not null default now(),
  primary key (model_id, provider)
);
comment on table gateway.offers is
  'One provider''s offer of one model. Prices are nano-dollars per million units (tokens, requests): exact down to
   1e-15 dollars a token. An offer without a price is never served, one of price zero only when it is_free.';

create view gateway.openrouter_models with (security_invoker = true) as
  select m.* from gateway.models m where exists (
    select from gateway.offers o where o.model_id = m.id and o.provider = 'openrouter');

alter table gateway.models enable row level security;
alter table gateway.offers enable row level security;

reset role;
