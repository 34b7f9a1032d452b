"""/admin/roles and /admin/audit-logs over HTTP: nobody hands out what he lacks, and nobody rewrites what was done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.scopes import CUSTOMER, Scope
from tests.functions.test_admin import WHY, a_helper, ask, credit, last_entry, told
from tests.functions.test_errors import error_of
from tests.harness.builders import REPORTED

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess


async def test_a_role_allows_what_it_is_told_at_once(gateway: InProcess):
    user_id, key = await a_helper(gateway, Scope.INFERENCE)
    error_of(await ask(gateway, "GET", "users", key=key), 403, "role_required")
    await told(gateway, "PUT", "roles/permissions/helper", {"permissions": ["admin:read"], "description": "Reads"})
    assert (await ask(gateway, "GET", "users", key=key)).status_code == 200
    error_of(await gateway.ask(key=key), 403, "role_required")
    shown = await told(gateway, "GET", f"roles/{user_id}")
    assert (shown["role"], shown["permissions"], shown["description"]) == ("helper", ["admin:read"], "Reads")
    assert [user["user_id"] for user in (await told(gateway, "GET", "roles/list/helper"))["users"]] == [user_id]
    assert [role["role"] for role in (await told(gateway, "GET", "roles"))["roles"]] == ["admin", "user", "helper"]
    log = (await told(gateway, "GET", "roles/audit/log"))["logs"]
    assert [(entry["action"], entry["before"] and entry["before"]["permissions"]) for entry in log] == [
        ("role.defined", ["inference"]),
        ("role.defined", None),
    ]


async def test_a_role_is_given_and_taken(gateway: InProcess):
    body = {"user_id": gateway.user_id, "new_role": "admin", "reason": WHY}
    answer = await told(gateway, "POST", "roles/update", body)
    assert (answer["old_role"], answer["new_role"]) == ("user", "admin")
    assert (await ask(gateway, "GET", "users", key=gateway.key)).status_code == 200
    entry = await last_entry(gateway)
    assert (entry["before"], entry["after"]) == ({"role": "user"}, {"role": "admin", "reason": WHY})
    await told(gateway, "POST", "roles/update", body | {"new_role": "user"})
    error_of(await ask(gateway, "GET", "users", key=gateway.key), 403, "role_required")


async def test_nobody_gives_what_he_lacks_and_who_tries_is_an_alert(gateway: InProcess):
    helper_id, helper = await a_helper(gateway, *CUSTOMER, Scope.ADMIN_ROLES)
    operator = await gateway.books.fetchval("select id from gateway.users where role = 'admin'")
    before = await gateway.tables()
    refused = [
        await ask(gateway, "POST", "roles/update", {"user_id": user, "new_role": role, "reason": WHY}, key=helper)
        for user, role in ((helper_id, "admin"), (gateway.user_id, "admin"), (operator, "user"))
    ]
    refused.append(await ask(gateway, "PUT", "roles/permissions/helper", {"permissions": list(Scope)}, key=helper))
    for response in refused:
        error_of(response, 403, "insufficient_scope")
    after = await gateway.tables()
    alerts = (await told(gateway, "GET", "alerts"))["alerts"]
    assert [(alert["kind"], alert["user_id"]) for alert in alerts] == [("refused_role_change", helper_id)]
    assert {name for name in after if after[name] != before[name]} == REPORTED
    await told(gateway, "POST", f"alerts/{alerts[0]['id']}/resolve", {"note": "it was me"})
    assert (await told(gateway, "GET", "alerts?status=open"))["alerts"] == []


async def test_built_in_and_used_roles_and_the_last_admin_stay(gateway: InProcess):
    await a_helper(gateway, Scope.INFERENCE)
    operator = await gateway.books.fetchval("select id from gateway.users where role = 'admin'")
    before = await gateway.tables()
    for name in ("admin", "user", "helper"):
        error_of(await ask(gateway, "DELETE", f"roles/permissions/{name}"), 409, "conflict")
    change = await ask(gateway, "PUT", "roles/permissions/user", {"permissions": ["inference"]})
    error_of(change, 409, "conflict")
    body = {"user_id": operator, "new_role": "user", "reason": WHY}
    error_of(await ask(gateway, "POST", "roles/update", body), 409, "conflict")
    error_of(await ask(gateway, "DELETE", "roles/permissions/nobody"), 404, "not_found")
    error_of(await ask(gateway, "GET", "roles/permissions/nobody"), 404, "not_found")
    error_of(await ask(gateway, "GET", "roles/list/nobody"), 404, "not_found")
    assert await gateway.tables() == before
    await gateway.books.execute("update gateway.users set role = 'user' where role = 'helper'")
    await told(gateway, "DELETE", "roles/permissions/helper")


async def test_of_two_admins_who_demote_each_other_one_stays(gateway: InProcess):
    """Each waits for the other; the second then finds himself to be the last."""
    await told(gateway, "POST", "roles/update", {"user_id": gateway.user_id, "new_role": "admin", "reason": WHY})
    operator = await gateway.books.fetchval("select id from gateway.users where username = 'operator'")
    answers = await asyncio.gather(
        *(
            ask(gateway, "POST", "roles/update", {"user_id": user, "new_role": "user", "reason": WHY})
            for user in (operator, gateway.user_id)
        )
    )
    assert 409 in {answer.status_code for answer in answers} or 403 in {answer.status_code for answer in answers}
    assert await gateway.books.fetchval("select count(*) from gateway.users where role = 'admin'") == 1


# ------------------------------------------------------------------------------------------------ audit


async def test_the_audit_log_is_found_by_pages_and_filters(gateway: InProcess):
    for number in range(3):
        await credit(gateway, str(number))
    operator = await gateway.books.fetchval("select id from gateway.users where role = 'admin'")
    for query, count in {
        f"actor={operator}": 3,
        f"user_id={gateway.user_id}&action=credits.granted": 4,
        f"resource=user:{gateway.user_id}": 5,
        "from=2100-01-01": 0,
        "to=2020-01-01": 0,
        "action=nothing": 0,
    }.items():
        assert len((await told(gateway, "GET", f"audit-logs?{query}"))["logs"]) == count, query
    page = await told(gateway, "GET", "audit-logs?limit=2")
    following = await told(gateway, "GET", f"audit-logs?limit=2&cursor={page['next_cursor']}")
    ids = [entry["id"] for entry in page["logs"] + following["logs"]]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 4
    assert following["logs"][0]["hash"] == page["logs"][1]["prev_hash"]


async def test_an_untouched_day_is_intact_however_it_is_cut(gateway: InProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.audit.MOST_VERIFIED", 3)
    entries = 0
    found: dict[str, Any] = {"next_cursor": 0}
    while found["next_cursor"] is not None:
        found = await told(gateway, "GET", f"audit-logs/verify?cursor={found['next_cursor']}")
        assert found["is_intact"]
        entries += found["entries"]
    assert entries == await gateway.books.fetchval("select count(*) from gateway.audit_logs") > 3


NO_TRIGGERS = "set local session_replication_role = replica"
REWRITE = "update gateway.audit_logs set actor = 'x' where id = 2"
REHASH = """
update gateway.audit_chain c set hash = sha256(c.prev_hash || gateway.audit_entry(a))
  from gateway.audit_logs a where a.id = 2 and c.audit_id = 2
"""
CUT_LOG = "delete from gateway.audit_logs where id = (select max(id) from gateway.audit_logs)"
CUT_CHAIN = "delete from gateway.audit_chain where place = (select max(place) from gateway.audit_chain)"
MOVE_HEAD = """
update gateway.audit_days set rows = rows - 1,
       hash = (select hash from gateway.audit_chain order by place desc limit 1)
"""


@pytest.mark.parametrize(
    ("why", "tampering"),
    [
        ("the entry was changed", ["update gateway.audit_logs set after = '{}' where id = 2"]),
        ("the entry was changed", ["update gateway.audit_logs set created_at = now() - interval '1 s' where id = 2"]),
        ("the entry was taken out", ["delete from gateway.audit_logs where id = 2"]),
        (
            "an entry before it was taken out of the chain",
            ["delete from gateway.audit_logs where id = 2", "delete from gateway.audit_chain where audit_id = 2"],
        ),
        ("it does not follow the one before", [REWRITE, REHASH]),
        ("the entry was taken out", [CUT_LOG]),
        ("the end of the day was cut off", [CUT_LOG, CUT_CHAIN]),
        ("the entry is in no chain", [CUT_CHAIN, MOVE_HEAD]),
    ],
    ids=str,
)
async def test_tampering_is_seen(gateway: InProcess, why: str, tampering: list[str]):
    """Even of somebody who owns the database and turns the triggers off."""
    async with gateway.books.transaction():
        for statement in (NO_TRIGGERS, *tampering):
            await gateway.books.execute(statement)
    found = await told(gateway, "GET", "audit-logs/verify")
    assert not found["is_intact"]
    assert found["broken"]["why"] == why


async def test_old_days_go_whole_and_the_rest_stays_verifiable(gateway: InProcess):
    """What is older than the retention goes; what is younger than 90 days stays, whatever the setting says."""
    async with gateway.books.transaction():
        await gateway.books.execute("set local session_replication_role = replica")
        for table, column in (("audit_logs", "created_at"), ("audit_chain", "day"), ("audit_days", "day")):
            await gateway.books.execute(f"update gateway.{table} set {column} = {column} - interval '95 days'")  # noqa: S608
    await credit(gateway, "today")
    kept = "select count(*) from gateway.audit_logs"
    assert await gateway.books.fetchval("select api.purge_audit_day(400) ->> 'day'") is None
    before = await gateway.books.fetchval(kept)
    gone = await gateway.books.fetchval("select (api.purge_audit_day(1) ->> 'entries')::integer")
    assert 0 < gone < before
    assert await gateway.books.fetchval(kept) == before - gone
    assert await gateway.books.fetchval("select api.purge_audit_day(1) ->> 'day'") is None
    assert (await told(gateway, "GET", "audit-logs/verify"))["is_intact"]
