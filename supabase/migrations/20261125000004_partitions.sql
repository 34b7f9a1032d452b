-- Months of usage are made by a job, some months ahead: what has no month goes to the default partition and is found all the same.

set role gateway_owner;

-- Makes a month of usage_records unless there is one, and says whether it did. Its name can only be made here: tables have no
-- parameters.
create function gateway.add_month(month date)
returns boolean language plpgsql security definer set search_path = '' as $$
declare name constant text := 'usage_records_' || to_char(month, 'YYYY_MM');
begin
  if to_regclass('gateway.' || name) is not null then
    return false;
  end if;
  execute format('create table gateway.%I partition of gateway.usage_records for values from (%L) to (%L)',
                 name, date_trunc('month', month::timestamp), date_trunc('month', month::timestamp) + interval '1 month');
  execute format('alter table gateway.%I enable row level security', name);
  return true;
end $$;
revoke execute on function gateway.add_month from public;

reset role;
