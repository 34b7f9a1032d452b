-- Inference beyond chat: embeddings and images, prices by length and by size, responses that are kept, offers that fail.

set role gateway_owner;

alter table gateway.models
  add column kind text not null default 'chat' check (kind in ('chat', 'embedding', 'image'));
comment on column gateway.models.kind is 'What is asked of it: a model answers at the routes of its kind only.';

alter table gateway.offers
  add column tiers jsonb check (jsonb_typeof(tiers) = 'array' and jsonb_array_length(tiers) between 1 and 8);
comment on column gateway.offers.tiers is
  'Prices of requests whose prompt is longer, for all of their tokens: [{above_tokens, prompt_price, completion_price,
   cache_read_price, cache_write_price}], above_tokens ascending. Null: one price for every length.';

create table gateway.image_prices (
  model_id text not null,
  provider text not null,
  size     text not null check (length(size) between 1 and 20),
  quality  text not null check (length(quality) between 1 and 20),
  price    bigint not null check (price between 1 and 10000000000000000),
  primary key (model_id, provider, size, quality),
  foreign key (model_id, provider) references gateway.offers on delete cascade
);
comment on table gateway.image_prices is
  'What an image costs by size and quality, in nano-dollars per million images. An offer that has rows here sells no other
   size or quality; one that has none sells each image at its request_price.';

create table gateway.offer_health (
  model_id      text not null,
  provider      text not null,
  failures      integer not null default 0,
  open_until    timestamptz,
  first_byte_ms integer,
  error_share   real not null default 0 check (error_share between 0 and 1),
  measured_at   timestamptz,
  primary key (model_id, provider),
  foreign key (model_id, provider) references gateway.offers on delete cascade
) with (fillfactor = 50);
comment on table gateway.offer_health is 'How an offer has been doing: its circuit breaker, and what was measured of real requests.';
comment on column gateway.offer_health.failures is 'Requests that it failed since one that it answered.';
comment on column gateway.offer_health.open_until is 'Until then other offers are tried before it.';

create table gateway.responses (
  id          uuid primary key,
  user_id     bigint not null references gateway.users,
  previous_id uuid,
  input       jsonb not null,
  response    jsonb not null,
  created_at  timestamptz not null default now(),
  expires_at  timestamptz not null
);
comment on table gateway.responses is 'Responses that were asked to be stored: what went in, what came out; id is the hold''s.';
create index responses_by_user on gateway.responses (user_id, id);
create index responses_by_expiry on gateway.responses (expires_at);

alter table gateway.usage_records add column images integer not null default 0 check (images >= 0);

alter table gateway.image_prices enable row level security;
alter table gateway.offer_health enable row level security;
alter table gateway.responses enable row level security;

reset role;
