-- The catalogue as it is shown, prices that nobody believes yet, and what is used most.

set role gateway_owner;

alter table gateway.models
  add column output_modalities    text[] not null default '{text}',
  add column tokenizer            text,
  add column supported_parameters text[] not null default '{}',
  add column canonical_slug       text,
  add column expires_on           date;
comment on column gateway.models.expires_on is 'When it will be sold no more, as its maker says.';

create table gateway.catalogue_snapshots (
  is_current boolean primary key default true check (is_current),
  etag       text not null,
  models     jsonb not null,
  made_at    timestamptz not null default now()
);
comment on table gateway.catalogue_snapshots is 'One row: all models as they are shown. A job writes it, so that no reader joins tables.';

create table gateway.quarantined_prices (
  id          bigint generated always as identity primary key,
  model_id    text not null,
  provider    text not null,
  reason      text not null check (reason in ('missing', 'zero', 'too high', 'too low')),
  seen        jsonb not null,
  stored      jsonb not null,
  first_seen  timestamptz not null default now(),
  last_seen   timestamptz not null default now(),
  resolved_at timestamptz,
  foreign key (model_id, provider) references gateway.offers on delete cascade
);
comment on table gateway.quarantined_prices is
  'What a provider''s list says that cannot be right, {prompt, completion}; the stored price is served until an operator decides.';
create unique index one_open_quarantine on gateway.quarantined_prices (model_id, provider) where resolved_at is null;

create table gateway.model_users (
  day     date not null,
  model   text not null,
  user_id bigint not null,
  primary key (day, model, user_id)
);
comment on table gateway.model_users is 'Who used a model on a UTC day: a ranking shows no model that only a few use.';

create table gateway.latest_models (
  period            text not null check (period in ('day', 'week', 'month')),
  model             text not null,
  users             bigint not null,
  tokens            bigint not null,
  requests          bigint not null,
  spend_nano        bigint not null,
  previous_tokens   bigint not null,
  previous_requests bigint not null,
  previous_nano     bigint not null,
  since             timestamptz not null,
  until             timestamptz not null,
  primary key (period, model)
);
comment on table gateway.latest_models is 'What was used most, in the last day, week and month and the one before; a job writes it.';

alter table gateway.alerts
  drop constraint alerts_kind_check,
  add constraint alerts_kind_check check (kind in (
    'refusals_burst', 'unusual_network', 'unusual_spend', 'refused_role_change', 'payment_disagrees', 'payment_unknown',
    'price_quarantined'));

alter table gateway.catalogue_snapshots enable row level security;
alter table gateway.quarantined_prices enable row level security;
alter table gateway.model_users enable row level security;
alter table gateway.latest_models enable row level security;

reset role;
