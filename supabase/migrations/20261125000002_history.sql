-- Chats: sessions with their messages, and what a key lets be kept of what goes through it.

do $$ begin
  if not exists (select from pg_roles where rolname = 'gateway_history') then
    create role gateway_history nologin;
  end if;
end $$;

set role gateway_owner;

alter table gateway.api_keys
  add column retention text not null default 'full' check (retention in ('none', 'metadata', 'full'));
comment on column gateway.api_keys.retention is
  'What may be kept of requests that ask for it (sessions, stored responses): nothing, that there was a message, or all.';
create or replace view gateway.api_keys_new with (security_invoker = true) as select * from gateway.api_keys;

create table gateway.chat_sessions (
  id            bigint generated always as identity primary key,
  user_id       bigint not null references gateway.users,
  title         text not null check (length(title) between 1 and 200),
  description   text check (length(description) <= 2000),
  model         text check (length(model) <= 256),
  message_count integer not null default 0,
  created_at    timestamptz not null default now(),
  updated_at    timestamptz not null default now(),
  deleted_at    timestamptz
);
comment on column gateway.chat_sessions.deleted_at is 'From then on nobody sees it; a job deletes it thirty days later.';
create index chat_sessions_by_user on gateway.chat_sessions (user_id, updated_at desc, id desc) where deleted_at is null;
create index chat_sessions_deleted on gateway.chat_sessions (deleted_at) where deleted_at is not null;

create table gateway.chat_messages (
  id           bigint generated always as identity primary key,
  session_id   bigint not null references gateway.chat_sessions on delete cascade,
  role         text not null check (role in ('user', 'assistant', 'system', 'tool')),
  content      jsonb,
  tool_calls   jsonb,
  tool_call_id text,
  model        text,
  tokens       bigint not null default 0,
  message_id   text check (length(message_id) between 1 and 200),
  hold_id      uuid,
  created_at   timestamptz not null default clock_timestamp(),
  unique (session_id, message_id)
);
comment on column gateway.chat_messages.content is 'A text or a list of parts; null where the key keeps none.';
comment on column gateway.chat_messages.message_id is 'The client''s own id of it, by which it is stored once.';
create index chat_messages_by_session on gateway.chat_messages (session_id, id);
create index chat_messages_by_hold on gateway.chat_messages (session_id, hold_id) where hold_id is not null;

alter table gateway.chat_sessions enable row level security;
alter table gateway.chat_messages enable row level security;

reset role;
