-- stub
create function api.add_bonus(paid gateway.payments) returns void language sql as $$ select $$;
