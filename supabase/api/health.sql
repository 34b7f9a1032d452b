-- Whether the database answers.

-- True; reaching it is the point.
create function api.health()
returns jsonb language sql stable security definer set search_path = '' as $$ select 'true'::jsonb $$;
grant execute on function api.health to gateway_health, service_role;
