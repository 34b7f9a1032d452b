-- stub
create function api.reward_referral(paid gateway.payments) returns void language sql as $$ select $$;
create function api.reverse_rewards(returned gateway.payments) returns void language sql as $$ select $$;
create function api.referrer_of(user_id bigint) returns bigint language sql stable as $$ select null::bigint $$;
