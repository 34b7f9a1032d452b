-- The ledger is checked for ever, some users at a time: what was added up once is not added up again, because it cannot change.

set role gateway_owner;

create table gateway.ledger_checks (
  user_id        bigint primary key references gateway.users,
  transaction_id bigint not null default 0,
  sum_nano       bigint not null default 0,
  records_until  timestamptz not null default '-infinity',
  broken         text[],
  checked_at     timestamptz not null default now()
);
comment on table gateway.ledger_checks is 'How far each user''s books were found in order; kept by api.check_ledger.';
comment on column gateway.ledger_checks.transaction_id is 'The last ledger entry that sum_nano, in nano-dollars, has in it.';
comment on column gateway.ledger_checks.records_until is 'Usage records until then have their ledger entry.';
comment on column gateway.ledger_checks.broken is 'The rules that the last check found broken; null: none.';
create index ledger_checks_broken on gateway.ledger_checks (user_id) where broken is not null;
alter table gateway.ledger_checks enable row level security;

create table gateway.ledger_position (
  is_the_only_row boolean primary key default true check (is_the_only_row),
  user_id         bigint not null
);
comment on table gateway.ledger_position is 'The user whom the last check ended with.';
insert into gateway.ledger_position (user_id) values (0);
alter table gateway.ledger_position enable row level security;

reset role;
