-- Domain events go to the operator's event bus, too, where there is one.

set role gateway_owner;

alter table gateway.deliveries
  drop constraint deliveries_channel_check,
  add constraint deliveries_channel_check check (channel in ('mail', 'webhook', 'alert', 'bus'));
alter table gateway.outbox add column to_bus boolean not null default true;
comment on column gateway.deliveries.target is 'A user by mail, a webhook, or 0: the operator''s own webhook or bus.';
create index outbox_to_bus on gateway.outbox (event, id) where to_bus;

reset role;
