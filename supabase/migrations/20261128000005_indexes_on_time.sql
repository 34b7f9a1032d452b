-- What a job looks for by its time is found by an index (tests/database/test_scans.py).

set role gateway_owner;

create index key_pickups_by_expiry on gateway.key_pickups (expires_at);

reset role;
