-- Fair shares: what a user has stored is counted in bytes, deliveries that are under way are known, and a slow webhook is known as one.

set role gateway_owner;

alter table gateway.plans add column stored_bytes bigint check (stored_bytes > 0) default 1073741824;
comment on column gateway.plans.stored_bytes is 'Bytes of sessions, stored responses and kept answers that a user may have; null is no limit.';
update gateway.plans set stored_bytes = 104857600 where is_default or plan_type = 'trial';

create table gateway.storage (
  user_id bigint primary key references gateway.users,
  bytes   bigint not null default 0 check (bytes >= 0)
) with (fillfactor = 50);
comment on table gateway.storage is
  'What each user has stored, in bytes: the sum over chat_messages, responses and kept answers. Triggers keep it, so that no way to
   delete (a job, a cascade, the end of an account) forgets it. It is locked after users and chat_sessions, several in order of user_id.';

alter table gateway.chat_messages
  add column user_id bigint,
  add column bytes integer not null default 0 check (bytes >= 0);
comment on column gateway.chat_messages.user_id is 'The session''s owner: when the session goes, its messages still know whose bytes they are.';
comment on column gateway.chat_messages.bytes is 'What it takes in an answer of a Lambda function, where an answer is a JSON string.';
update gateway.chat_messages m
   set user_id = s.user_id, bytes = 1024 + coalesce(octet_length(to_json(m.content::text)::text), 0)
                                    + coalesce(octet_length(to_json(m.tool_calls::text)::text), 0)
  from gateway.chat_sessions s where s.id = m.session_id;
alter table gateway.chat_messages alter column user_id set not null;
create index chat_messages_by_user on gateway.chat_messages (user_id, id);

create index chat_sessions_of_user on gateway.chat_sessions (user_id);

alter table gateway.responses
  add column bytes integer not null default 0 check (bytes >= 0),
  add column item_bytes integer not null default 0 check (item_bytes >= 0);
comment on column gateway.responses.bytes is 'What its input and it take in answers of a Lambda function.';
comment on column gateway.responses.item_bytes is 'The part of its bytes that a response which follows reads: its input and its output.';
update gateway.responses r
   set bytes = 1024 + octet_length(to_json(r.input::text)::text) + octet_length(to_json(r.response::text)::text),
       item_bytes = octet_length(to_json(r.input::text)::text) + coalesce(octet_length(to_json((r.response -> 'output')::text)::text), 0);

alter table gateway.idempotency_keys add column served_at timestamptz;
comment on column gateway.idempotency_keys.served_at is
  'When it was served and its answer was not kept: the same request is then refused, and never charged again.';

insert into gateway.storage (user_id, bytes)
select a.user_id, sum(a.bytes) from (
  select user_id, bytes from gateway.chat_messages
  union all select user_id, bytes from gateway.responses
  union all select user_id, octet_length(answer) from gateway.idempotency_keys where answer is not null) a group by a.user_id;

-- Adds to what users have stored, of `changes` {user_id: bytes}; who has nothing yet gets a row, who is gone gets none.
create function gateway.add_stored(changes jsonb) returns void language plpgsql set search_path = '' as $$
declare change record;
begin
  for change in select key::bigint as user_id, value::bigint as bytes from jsonb_each_text(changes) order by 1 loop
    insert into gateway.storage as s (user_id, bytes) values (change.user_id, greatest(0, change.bytes))
    on conflict (user_id) do update set bytes = greatest(0, s.bytes + change.bytes);
  end loop;
end $$;

create function gateway.count_stored() returns trigger language plpgsql set search_path = '' as $$
declare changes jsonb;
begin
  if tg_op = 'INSERT' then
    select jsonb_object_agg(c.user_id, c.bytes) into changes
      from (select r.user_id, sum(r.bytes) as bytes from changed_rows r group by r.user_id) c where c.bytes > 0;
  else
    select jsonb_object_agg(c.user_id, -c.bytes) into changes
      from (select r.user_id, sum(r.bytes) as bytes from changed_rows r group by r.user_id) c where c.bytes > 0;
  end if;
  if changes is not null then
    perform gateway.add_stored(changes);
  end if;
  return null;
end $$;

create function gateway.count_forgotten_answers() returns trigger language plpgsql set search_path = '' as $$
declare changes jsonb;
begin
  select jsonb_object_agg(c.user_id, -c.bytes) into changes
    from (select r.user_id, sum(octet_length(r.answer)) as bytes from changed_rows r where r.answer is not null group by r.user_id) c;
  if changes is not null then
    perform gateway.add_stored(changes);
  end if;
  return null;
end $$;

create function gateway.count_kept_answer() returns trigger language plpgsql set search_path = '' as $$
begin
  perform gateway.add_stored(jsonb_build_object(
    new.user_id, coalesce(octet_length(new.answer), 0) - coalesce(octet_length(old.answer), 0)));
  return null;
end $$;

create trigger count_stored after insert on gateway.chat_messages
  referencing new table as changed_rows for each statement execute function gateway.count_stored();
create trigger count_removed after delete on gateway.chat_messages
  referencing old table as changed_rows for each statement execute function gateway.count_stored();
create trigger count_stored after insert on gateway.responses
  referencing new table as changed_rows for each statement execute function gateway.count_stored();
create trigger count_removed after delete on gateway.responses
  referencing old table as changed_rows for each statement execute function gateway.count_stored();
create trigger count_kept after update on gateway.idempotency_keys
  for each row when (old.answer is distinct from new.answer) execute function gateway.count_kept_answer();
create trigger count_removed after delete on gateway.idempotency_keys
  referencing old table as changed_rows for each statement execute function gateway.count_forgotten_answers();
revoke execute on function gateway.add_stored, gateway.count_stored, gateway.count_forgotten_answers, gateway.count_kept_answer from public;

alter table gateway.rate_limit_buckets
  drop constraint rate_limit_buckets_scope_check,
  add constraint rate_limit_buckets_scope_check check (scope in ('user', 'key', 'management', 'management_key', 'changes'));
comment on column gateway.rate_limit_buckets.scope is
  'Of what: a user''s or a key''s inference, their management requests, or the changes that a user makes to the account.';

alter table gateway.deliveries
  add column is_urgent boolean not null default false,
  add column leased_until timestamptz;
comment on column gateway.deliveries.is_urgent is 'Recovery and alerts: they go before all other mail.';
comment on column gateway.deliveries.leased_until is 'Until then a sender has it: it is under way.';
create index deliveries_waiting on gateway.deliveries (channel, target, is_urgent desc, next_try_at) where sent_at is null and failed_at is null;
create index deliveries_under_way on gateway.deliveries (channel, leased_until) where sent_at is null and failed_at is null and leased_until is not null;
create index deliveries_by_reader on gateway.deliveries (target, created_at) where channel = 'mail';

alter table gateway.webhooks add column last_ms integer not null default 0 check (last_ms >= 0);
comment on column gateway.webhooks.last_ms is 'How long the last delivery took, in milliseconds: slow ones share a lane of their own.';

alter table gateway.storage enable row level security;

reset role;
