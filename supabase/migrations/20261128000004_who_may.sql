-- Who may: what somebody tries to take is an alert, a person redeems a coupon once, whatever the account, and
-- what a key stored is its own.

set role gateway_owner;

alter table gateway.alerts
  drop constraint alerts_kind_check,
  add constraint alerts_kind_check check (kind in (
    'refusals_burst', 'unusual_network', 'unusual_spend', 'refused_role_change', 'refused_key_change', 'unwanted_subscription',
    'payment_disagrees', 'payment_unknown', 'price_quarantined'));

create table gateway.coupon_identities (
  coupon_id bigint not null references gateway.coupons,
  hash      bytea not null,
  primary key (coupon_id, hash)
);
comment on table gateway.coupon_identities is
  'SHA-256 of every identity and address that a coupon was redeemed with: they stay when the account is deleted, and tell no name.';
alter table gateway.coupon_identities enable row level security;

insert into gateway.coupon_identities (coupon_id, hash)
select distinct r.coupon_id, sha256(convert_to(who.text, 'UTF8'))
  from gateway.coupon_redemptions r join gateway.users u on u.id = r.user_id left join gateway.identities i on i.user_id = u.id
  cross join lateral (values ('user:' || u.id), (i.provider || ':' || i.subject), ('mail:' || lower(i.email)), ('mail:' || lower(u.email)))
    who (text)
 where who.text is not null;

alter table gateway.chat_sessions add column key_id bigint references gateway.api_keys;
comment on column gateway.chat_sessions.key_id is 'The key that made it; null for one that is older than this column.';
alter table gateway.responses add column key_id bigint;
comment on column gateway.responses.key_id is 'The key that made it; null for one that is older than this column.';

reset role;
