-- stub
create function api.set_plan(user_id bigint, plan_id bigint, ends_at timestamptz, actor jsonb) returns void language sql as $$ select $$;
create function api.end_plan(user_id bigint, actor jsonb) returns void language sql as $$ select $$;
