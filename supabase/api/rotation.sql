-- Rotation by the clock: owners are told before, and fetch the secret after; what has ended is swept away.

-- Tells the owners of keys that will be rotated within three days, once a rotation, and returns the keys that are due: at most
-- `most` of each, [{key_id, environment}].
create function api.due_rotations(most integer default 100)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare k gateway.api_keys;
begin
  for k in update gateway.api_keys x set rotation_told_at = clock_timestamp()
            where x.id in (select y.id from gateway.api_keys y
                            where y.rotation_days is not null and y.status = 'active' and y.rotation_told_at is null
                              and y.rotated_at + make_interval(days => y.rotation_days) < statement_timestamp() + interval '3 days'
                            order by y.rotated_at limit due_rotations.most for no key update skip locked)
            returning * loop
    insert into gateway.outbox (event, payload) values ('key.rotation_due', jsonb_build_object(
      'user_id', k.user_id, 'key_id', k.id, 'name', k.name, 'at', k.rotated_at + make_interval(days => k.rotation_days)));
  end loop;
  return (select coalesce(jsonb_agg(jsonb_build_object('key_id', y.id, 'environment', y.environment)), '[]')
            from (select * from gateway.api_keys x
                   where x.rotation_days is not null and x.status = 'active' and x.rotation_told_at is not null
                     and x.rotated_at + make_interval(days => x.rotation_days) <= statement_timestamp()
                   order by x.rotated_at limit due_rotations.most) y);
end $$;
grant execute on function api.due_rotations to gateway_jobs, service_role;

-- Rotates a key that is due; its owner may fetch the sealed secret for the week in which the one before still works. {rotated}
-- is false when it is not due any more.
create function api.rotate_due(key_id bigint, minted jsonb, sealed text, actor jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare k gateway.api_keys; overlap_s constant integer := 7 * 24 * 3600;
begin
  select * into k from gateway.api_keys x
   where x.id = rotate_due.key_id and x.status = 'active'
     and x.rotated_at + make_interval(days => x.rotation_days) <= clock_timestamp() for no key update;
  if not found then
    return '{"rotated": false}';
  end if;
  perform api.replace_secret(k, minted, overlap_s, actor);
  insert into gateway.key_pickups (key_id, sealed, expires_at)
  values (k.id, rotate_due.sealed, clock_timestamp() + make_interval(secs => overlap_s));
  return '{"rotated": true}';
end $$;
grant execute on function api.rotate_due to gateway_jobs, service_role;

-- Deletes session keys, rotated secrets and pickups that have ended, at most `most` of each; returns {purged}.
create function api.purge_credentials(most integer default 10000)
returns jsonb language plpgsql security definer set search_path = '' as $$
declare credentials integer; pickups integer;
begin
  delete from gateway.key_credentials c where c.public_id in (
    select x.public_id from gateway.key_credentials x where x.expires_at < statement_timestamp()
     order by x.expires_at limit purge_credentials.most for update skip locked);
  get diagnostics credentials = row_count;
  delete from gateway.key_pickups p where p.key_id in (
    select x.key_id from gateway.key_pickups x where x.expires_at < statement_timestamp()
     limit purge_credentials.most for update skip locked);
  get diagnostics pickups = row_count;
  return jsonb_build_object('purged', credentials + pickups);
end $$;
grant execute on function api.purge_credentials to gateway_jobs, service_role;
