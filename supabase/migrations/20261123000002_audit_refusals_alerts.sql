-- The audit log becomes a chain that shows tampering; refused credentials are counted, and what looks like an attack is told.

set role gateway_owner;

alter table gateway.audit_logs
  add column actor_id bigint,
  add column user_id bigint,
  add column key_id bigint,
  add column ip inet,
  add column request_id text;
comment on column gateway.audit_logs.user_id is 'Whose account was changed, where it was somebody''s.';
create index audit_logs_by_user on gateway.audit_logs (user_id, id) where user_id is not null;
create index audit_logs_by_actor on gateway.audit_logs (actor_id, id) where actor_id is not null;
create index audit_logs_by_action on gateway.audit_logs (action, id);
create index audit_logs_by_resource on gateway.audit_logs (resource, id);
create index audit_logs_by_age on gateway.audit_logs (created_at);

create table gateway.audit_days (
  day  date primary key,
  rows bigint not null,
  hash bytea not null
);
comment on table gateway.audit_days is 'The head of each UTC day''s chain; its row is the lock that puts a day''s entries in one order.';

create table gateway.audit_chain (
  audit_id  bigint primary key,
  day       date not null,
  place     bigint not null,
  prev_hash bytea not null,
  hash      bytea not null,
  unique (day, place)
);
comment on table gateway.audit_chain is 'hash = SHA-256(prev_hash, entry), from 32 zero bytes each UTC day: an entry changed or taken out breaks it.';

create function gateway.audit_entry(entry gateway.audit_logs)
returns bytea language sql immutable set search_path = '' as $$
  select convert_to(jsonb_build_array(entry.id, entry.actor, entry.action, entry.resource, entry.before, entry.after,
    entry.actor_id, entry.user_id, entry.key_id, host(entry.ip), entry.request_id,
    extract(epoch from entry.created_at))::text, 'UTF8')
$$;
comment on function gateway.audit_entry is 'An entry as it is hashed.';

-- Deferred to the commit: the day's row is then the last lock that a transaction takes, whatever it locked before, and a
-- definer because a deferred trigger runs as whoever commits.
create function gateway.chain_audit_entry() returns trigger language plpgsql security definer set search_path = '' as $$
declare head gateway.audit_days;
begin
  insert into gateway.audit_days as d (day, rows, hash)
  values ((new.created_at at time zone 'utc')::date, 1, decode(repeat('00', 32), 'hex'))
  on conflict (day) do update set rows = d.rows + 1 returning * into head;
  insert into gateway.audit_chain (audit_id, day, place, prev_hash, hash)
  values (new.id, head.day, head.rows, head.hash, sha256(head.hash || gateway.audit_entry(new)));
  update gateway.audit_days d set hash = sha256(head.hash || gateway.audit_entry(new)) where d.day = head.day;
  return null;
end $$;
create constraint trigger chained after insert on gateway.audit_logs
  deferrable initially deferred for each row execute function gateway.chain_audit_entry();

-- What is older than 90 days may go, a whole UTC day at a time: each day's chain stands by itself. No retention is shorter,
-- whatever is asked for.
create function gateway.refuse_early_deletion() returns trigger language plpgsql set search_path = '' as $$
declare
  day constant date := coalesce((to_jsonb(old) ->> 'day')::date,
                                ((to_jsonb(old) ->> 'created_at')::timestamptz at time zone 'utc')::date);
begin
  if day > (now() at time zone 'utc')::date - 90 then
    raise exception '% is kept for 90 days at least', tg_table_name using errcode = '42501';
  end if;
  return old;
end $$;
drop trigger append_only on gateway.audit_logs;
create trigger append_only before update or truncate on gateway.audit_logs
  for each statement execute function gateway.refuse_change();
create trigger append_only before update or truncate on gateway.audit_chain
  for each statement execute function gateway.refuse_change();
create trigger kept before delete on gateway.audit_logs for each row execute function gateway.refuse_early_deletion();
create trigger kept before delete on gateway.audit_chain for each row execute function gateway.refuse_early_deletion();
create trigger kept before delete on gateway.audit_days for each row execute function gateway.refuse_early_deletion();

create table gateway.refusals (
  hour    timestamptz not null,
  code    text not null,
  network cidr not null,
  subject text not null,
  count   bigint not null,
  last_at timestamptz not null,
  primary key (hour, code, network, subject)
);
comment on table gateway.refusals is
  'Refused keys and sign-ins, counted by hour, network (/24 or /48) and key: an attack makes a number larger, not the table.';

create table gateway.alerts (
  id          bigint generated always as identity primary key,
  kind        text not null check (kind in ('refusals_burst', 'unusual_network', 'unusual_spend', 'refused_role_change')),
  subject     text not null,
  user_id     bigint references gateway.users,
  key_id      bigint references gateway.api_keys,
  detail      jsonb not null,
  created_at  timestamptz not null default now(),
  paused_at   timestamptz,
  resolved_at timestamptz,
  resolved_by text,
  note        text
);
comment on column gateway.alerts.paused_at is 'When the alert paused its key: once, so that whoever lets the key go on is heeded.';
create unique index one_open_alert on gateway.alerts (kind, subject) where resolved_at is null;
create index alerts_by_subject on gateway.alerts (kind, subject, resolved_at);
create index alerts_by_time on gateway.alerts (created_at);

create table gateway.key_networks (
  key_id     bigint not null references gateway.api_keys,
  network    cidr not null,
  first_seen timestamptz not null,
  last_seen  timestamptz not null,
  primary key (key_id, network)
);
create index key_networks_by_first on gateway.key_networks (first_seen);
comment on table gateway.key_networks is 'Where a key was used from (/24 or /48), kept by the roll-up of usage records.';

alter table gateway.outbox
  add column tries integer not null default 0,
  add column next_try_at timestamptz not null default now(),
  add column failed_at timestamptz;
drop index gateway.outbox_unsent;
-- by event: those that nobody sends yet are not in the way of others
create index outbox_unsent on gateway.outbox (event, next_try_at) where sent_at is null and failed_at is null;
create index outbox_failed on gateway.outbox (failed_at) where failed_at is not null;

alter table gateway.audit_days enable row level security;
alter table gateway.audit_chain enable row level security;
alter table gateway.refusals enable row level security;
alter table gateway.alerts enable row level security;
alter table gateway.key_networks enable row level security;

reset role;
