-- Events on their way out: to people by mail, to their programs by webhook, to the operator as alerts. What is spent is watched
-- for those who want to be told.

set role gateway_owner;

create table gateway.webhooks (
  id          bigint generated always as identity primary key,
  user_id     bigint not null references gateway.users,
  url         text not null check (length(url) between 1 and 2000),
  events      text[] not null check (cardinality(events) > 0),
  sealed      text not null,
  is_active   boolean not null default true,
  failures    integer not null default 0,
  disabled_at timestamptz,
  created_at  timestamptz not null default now()
);
comment on table gateway.webhooks is 'Where users have their events sent, with the secret that signs them, sealed.';
comment on column gateway.webhooks.failures is 'Tries that failed since the last that did not.';
comment on column gateway.webhooks.disabled_at is 'When failures turned it off.';
create index webhooks_by_user on gateway.webhooks (user_id, id);

create table gateway.deliveries (
  id          bigint generated always as identity primary key,
  event_id    bigint not null references gateway.outbox,
  channel     text not null check (channel in ('mail', 'webhook', 'alert')),
  target      bigint not null,
  tries       integer not null default 0,
  next_try_at timestamptz not null default now(),
  sent_at     timestamptz,
  failed_at   timestamptz,
  reason      text,
  created_at  timestamptz not null default now(),
  unique (event_id, channel, target)
);
comment on table gateway.deliveries is 'An event on its way to one receiver: what one receiver refuses holds up no other.';
comment on column gateway.deliveries.target is 'A user by mail, a webhook, or 0: the operator''s own webhook.';
comment on column gateway.deliveries.reason is 'Why the last try failed; withdrawn: nobody wants it any more.';
create index deliveries_due on gateway.deliveries (channel, next_try_at) where sent_at is null and failed_at is null;
create index deliveries_failed on gateway.deliveries (failed_at) where failed_at is not null;
create index deliveries_by_webhook on gateway.deliveries (target, id) where channel = 'webhook';

alter table gateway.outbox
  add column to_mail boolean not null default true,
  add column to_webhooks boolean not null default true,
  add column to_operator boolean not null default true;
comment on column gateway.outbox.to_mail is 'Whether its mails have yet to be made deliveries; so with the other two.';
insert into gateway.deliveries (event_id, channel, target, tries, next_try_at, sent_at, failed_at)
select o.id, 'alert', 0, o.tries, o.next_try_at, o.sent_at, o.failed_at from gateway.outbox o where o.event = 'security.alert';
update gateway.outbox set to_operator = false where event = 'security.alert';
alter table gateway.outbox drop column sent_at, drop column tries, drop column next_try_at, drop column failed_at;
-- by event: those that go nowhere are in nobody's way
create index outbox_to_mail on gateway.outbox (event, id) where to_mail;
create index outbox_to_webhooks on gateway.outbox (event, id) where to_webhooks;
create index outbox_to_operator on gateway.outbox (event, id) where to_operator;
comment on table gateway.outbox is 'Events to be told to others, written in the transaction of what happened; a job makes deliveries of them.';

create table gateway.recovery_tokens (
  hash       text primary key check (hash ~ '^[0-9a-f]{64}$'),
  user_id    bigint not null references gateway.users,
  used_by    text,
  expires_at timestamptz not null,
  created_at timestamptz not null default now()
);
comment on table gateway.recovery_tokens is 'SHA-256 of what was mailed to somebody who has lost his keys: each opens the account once.';
comment on column gateway.recovery_tokens.used_by is 'The public id of the key that was made with it.';
create index recovery_tokens_by_user on gateway.recovery_tokens (user_id, expires_at);

create table gateway.recent_spend (
  user_id    bigint not null,
  slot       timestamptz not null,
  cost_nano  bigint not null,
  is_watched boolean not null default false,
  primary key (user_id, slot)
);
comment on table gateway.recent_spend is
  'What a user spent in each ten minutes of the last hours, kept by the roll-up. What is not watched yet is all that the watch reads.';
create index recent_spend_to_watch on gateway.recent_spend (user_id, slot) where not is_watched;
create index recent_spend_by_slot on gateway.recent_spend (slot);

create table gateway.spend_marks (
  user_id       bigint primary key references gateway.users,
  grant_id      bigint,
  top_up_id     bigint,
  percent       smallint not null default 0,
  is_low        boolean not null default false,
  is_burst      boolean not null default false,
  reported_week date
);
comment on table gateway.spend_marks is 'What a user was told of his spending, so that he is told once.';
comment on column gateway.spend_marks.grant_id is 'The newest grant that the watch has seen.';
comment on column gateway.spend_marks.top_up_id is 'The grant whose percents are told.';
comment on column gateway.spend_marks.reported_week is 'The Monday after the last week that was reported.';

insert into gateway.rollups values ('usage_reports', '-infinity');
create index usage_reports_wanted on gateway.notification_preferences (user_id) where usage_report;
create index grants_by_user on gateway.credit_grants (user_id, id);

alter table gateway.webhooks enable row level security;
alter table gateway.deliveries enable row level security;
alter table gateway.recovery_tokens enable row level security;
alter table gateway.recent_spend enable row level security;
alter table gateway.spend_marks enable row level security;

reset role;
