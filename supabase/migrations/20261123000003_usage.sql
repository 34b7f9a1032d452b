-- What requests did, failed ones too, and its sums: a job adds usage records up, so that no page reads them row by row.

set role gateway_owner;

alter table gateway.usage_records
  add column network cidr,
  add column is_byok boolean not null default false,
  add column byok_nano bigint not null default 0,
  add column error text,
  add column attempts jsonb,
  drop constraint usage_records_outcome_check,
  add constraint usage_records_outcome_check check (outcome in ('completed', 'cut', 'cancelled', 'failed'));
comment on column gateway.usage_records.is_byok is 'Served with the user''s own key of the provider: it took no credits.';
comment on column gateway.usage_records.byok_nano is 'What it would have cost without the user''s own key.';
comment on column gateway.usage_records.attempts is 'Offers that failed, in turn, of a failed request its last one too: [{model, provider, error}].';
comment on table gateway.usage_records is
  'One row per request that reached a provider; id is the hold''s. A failed one cost nothing and its hold was released.';
create index usage_records_by_time on gateway.usage_records using brin (created_at) with (pages_per_range = 16, autosummarize = on);

alter table gateway.key_usage add column byok_nano bigint not null default 0;
comment on column gateway.key_usage.byok_nano is 'What requests with the user''s own provider keys would have cost.';
comment on column gateway.key_usage.day is 'A UTC day; -infinity is the key''s whole life, so that nobody has to add it up.';
insert into gateway.key_usage (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano, last_used_at)
select k.key_id, '-infinity', sum(k.requests), sum(k.prompt_tokens), sum(k.completion_tokens), sum(k.cost_nano), max(k.last_used_at)
  from gateway.key_usage k group by k.key_id;

create table gateway.rollups (
  name  text primary key,
  until timestamptz not null
);
comment on table gateway.rollups is 'Up to when a job has added up what was committed; its row is the lock of that job.';
insert into gateway.rollups values ('usage', '-infinity'), ('refusals', date_trunc('hour', now()));

-- Which records are counted cannot be told by their time: one may be committed after later ones. So each is queued by the
-- transaction that writes it, and taken from the queue by the one that adds it up.
create table gateway.usage_uncounted (
  id         uuid not null,
  created_at timestamptz not null
);
comment on table gateway.usage_uncounted is 'Usage records that the roll-up has yet to add up. No index: it is read from its start, and short.';
insert into gateway.usage_uncounted select id, created_at from gateway.usage_records;

-- A definer, because whoever writes a record may have no right to the queue.
create function gateway.queue_usage() returns trigger language plpgsql security definer set search_path = '' as $$
begin
  insert into gateway.usage_uncounted (id, created_at) values (new.id, new.created_at);
  return null;
end $$;
create trigger uncounted after insert on gateway.usage_records for each row execute function gateway.queue_usage();

create table gateway.usage_by_offer (
  hour               timestamptz not null,
  model              text not null,
  provider           text not null,
  requests           bigint not null,
  errors             bigint not null,
  byok_requests      bigint not null,
  prompt_tokens      bigint not null,
  completion_tokens  bigint not null,
  cached_tokens      bigint not null,
  reasoning_tokens   bigint not null,
  cost_nano          bigint not null,
  upstream_cost_nano bigint not null,
  durations          bigint[] not null,
  first_bytes        bigint[] not null,
  primary key (hour, model, provider)
);
comment on column gateway.usage_by_offer.upstream_cost_nano is 'What we paid: nothing for requests with the user''s own key.';
comment on column gateway.usage_by_offer.durations is 'Requests by how long they took: element n counts those of bucket n (api.bucket).';

create table gateway.usage_by_key (
  user_id            bigint not null,
  key_id             bigint not null,
  day                date not null,
  requests           bigint not null,
  errors             bigint not null,
  byok_requests      bigint not null,
  prompt_tokens      bigint not null,
  completion_tokens  bigint not null,
  cached_tokens      bigint not null,
  reasoning_tokens   bigint not null,
  cost_nano          bigint not null,
  upstream_cost_nano bigint not null,
  durations          bigint[] not null,
  first_bytes        bigint[] not null,
  primary key (user_id, key_id, day)
);
create index usage_by_key_by_day on gateway.usage_by_key (day, user_id, key_id);

create table gateway.usage_errors (
  hour     timestamptz not null,
  model    text not null,
  provider text not null,
  error    text not null,
  count    bigint not null,
  primary key (hour, model, provider, error)
);
comment on table gateway.usage_errors is 'Failures of offers by their code, of requests that another offer saved, too.';

alter table gateway.rollups enable row level security;
alter table gateway.usage_uncounted enable row level security;
alter table gateway.usage_by_offer enable row level security;
alter table gateway.usage_by_key enable row level security;
alter table gateway.usage_errors enable row level security;

reset role;
