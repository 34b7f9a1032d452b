"""POST /auth/recovery and /auth/recovery/confirm: a way back for who reads the account's mail, and for nobody else."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway import outbox, recovery
from gateway.scopes import CUSTOMER, Scope
from local import seed
from tests.functions.test_errors import error_of
from tests.harness.gateway import eventually

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess
    from tests.harness.mailbox import Mailbox

ADDRESS = "developer@example.com"
TOGETHER = 20


async def ask(gateway: InProcess, email: str = ADDRESS) -> httpx.Response:
    return await gateway.client.post("/auth/recovery", json={"email": email})


async def confirm(gateway: InProcess, token: str) -> httpx.Response:
    return await gateway.client.post("/auth/recovery/confirm", json={"token": token})


async def mailed(mailbox: Mailbox) -> list[str]:
    """The tokens of all recovery mails until now."""
    await outbox.send()
    texts = [mail["mail"]["text"] for mail in mailbox.mails if mail["mail"]["to"] == [ADDRESS]]
    found = [re.findall(r"^    (gwr_\S+)$", text, re.MULTILINE) for text in texts]
    return [tokens[0] for tokens in found if tokens]


async def a_token(gateway: InProcess, mailbox: Mailbox) -> str:
    assert (await ask(gateway)).status_code == 202
    return (await mailed(mailbox))[-1]


async def test_a_mailed_token_makes_a_key_and_ends_all_sessions(gateway: InProcess, mailbox: Mailbox):
    session = await gateway.client.post("/auth/session-keys", headers=gateway.headers(), json={})
    rotated = await gateway.a_key()
    (key,) = await gateway.rows("select id from gateway.api_keys where public_id = $1", rotated[7:19])
    body = {"action": "rotate", "overlap_hours": 1}
    await gateway.client.put(f"/user/api-keys/{key['id']}", headers=gateway.headers(), json=body)
    token = await a_token(gateway, mailbox)
    response = await confirm(gateway, token)
    assert response.status_code == 201
    made = response.json()
    assert (made["user_id"], made["username"]) == (gateway.user_id, "developer")
    assert made["key_name"] == f"recovered {datetime.now(UTC):%Y-%m-%d}"
    assert (await gateway.ask(key=made["api_key"])).status_code == 200
    ended = session.json()["session_key"]
    assert [(await gateway.ask(key=each)).status_code for each in (ended, gateway.key, rotated)] == [401, 200, 200]
    (row,) = await gateway.rows("select scopes from gateway.api_keys where id = $1", made["id"])
    assert row["scopes"] == list(CUSTOMER)
    actions = await gateway.rows(
        "select action, actor from gateway.audit_logs where user_id = $1 order by id desc limit 3", gateway.user_id
    )
    own = f"user:{gateway.user_id}"
    assert [(each["action"], each["actor"]) for each in actions] == [
        ("key.created", own), ("recovery.ended", own), ("recovery.started", f"{own} (not signed in)"),
    ]  # fmt: skip


async def test_a_token_works_once(gateway: InProcess, mailbox: Mailbox):
    token = await a_token(gateway, mailbox)
    answers = await asyncio.gather(*(confirm(gateway, token) for _ in range(TOGETHER)))
    assert sorted(answer.status_code for answer in answers) == [201] + [401] * (TOGETHER - 1)
    error_of(await confirm(gateway, token), 401, "invalid_token")
    assert len(await gateway.rows("select from gateway.api_keys where name like 'recovered %'")) == 1
    counted = await gateway.rows("select subject, count from gateway.refusals where code = 'invalid_token'")
    assert [tuple(row.values()) for row in counted] == [("recovery", TOGETHER)]


async def test_an_answer_that_is_lost_is_given_again(gateway: InProcess, mailbox: Mailbox):
    token = await a_token(gateway, mailbox)
    gateway.line.deaf = {"recover_account"}
    made = await confirm(gateway, token)
    assert made.status_code == 201
    assert (await gateway.ask(key=made.json()["api_key"])).status_code == 200
    gateway.line.deaf = {"start_recovery"}
    await ask(gateway)
    assert len(await mailed(mailbox)) == 2


async def test_two_recoveries_on_a_day_have_two_names(gateway: InProcess, mailbox: Mailbox):
    names = [(await confirm(gateway, await a_token(gateway, mailbox))).json()["key_name"] for _ in range(3)]
    assert [name.removeprefix(names[0]) for name in names] == ["", " 2", " 3"]


async def test_nobody_can_tell_who_has_an_account(gateway: InProcess):
    await gateway.books.execute("update gateway.users set status = 'suspended' where username = 'operator'")
    before = await gateway.tables()
    unknown = [await ask(gateway, email) for email in ("nobody@example.com", "operator@example.com")]
    assert await gateway.tables() == before
    known = [await ask(gateway, email) for email in (ADDRESS, ADDRESS.upper())]
    assert await gateway.tables() != before
    answers = {(each.status_code, each.text, each.headers["content-type"]) for each in unknown + known}
    assert answers == {(202, known[0].text, "application/json")}


async def test_an_answer_does_not_wait_for_the_work(gateway: InProcess):
    """Of an account the work is longer, and longer still where it has to wait: no answer shows it."""
    transaction = gateway.books.transaction()
    await transaction.start()
    await gateway.books.fetch("select from gateway.users where id = $1 for update", gateway.user_id)
    known = await ask(gateway)
    assert known.status_code == 202, "while its account is locked"
    await transaction.rollback()

    async def found() -> list[Any]:
        return await gateway.rows("select from gateway.recovery_tokens")

    assert len(await eventually(found)) == 1
    gateway.line.cut = {"start_recovery"}
    assert (await ask(gateway)).status_code == 503, "a database that is away is no secret"


@pytest.mark.parametrize("email", [ADDRESS, "nobody@example.com"])
async def test_nobody_is_answered_before_the_others(gateway: InProcess, monkeypatch: pytest.MonkeyPatch, email: str):
    answered = asyncio.Event()
    monkeypatch.setattr(recovery, "ANSWER_S", 3600.0)

    async def asking() -> None:
        await ask(gateway, email)
        answered.set()

    task = asyncio.create_task(asking())

    async def worked() -> bool:
        return "start_recovery" in gateway.line.calls and not recovery._working

    assert await eventually(worked)
    assert not answered.is_set(), "the work is done, and its asker does not know"
    task.cancel()


async def test_three_tokens_are_alive_at_once(gateway: InProcess, mailbox: Mailbox):
    for _ in range(5):
        await ask(gateway)
    tokens = await mailed(mailbox)
    assert len(tokens) == 3
    assert (await confirm(gateway, tokens[1])).status_code == 201
    for token in tokens:
        error_of(await confirm(gateway, token), 401, "invalid_token")
    await ask(gateway)
    assert len(await mailed(mailbox)) == 4


async def test_askers_at_once_make_three(gateway: InProcess):
    await asyncio.gather(*(ask(gateway) for _ in range(TOGETHER)))
    assert len(await gateway.rows("select from gateway.recovery_tokens")) == 3


async def test_an_account_that_has_all_its_keys_is_recovered(gateway: InProcess, mailbox: Mailbox):
    await gateway.books.execute(
        "insert into gateway.api_keys (user_id, public_id, key_hash, environment, name)"
        " select $1, lpad(n::text, 12, '0'), 'v1:' || repeat('0', 64), 'dev', 'many ' || n"
        "   from generate_series(1, 500) n",
        gateway.user_id,
    )
    assert (await confirm(gateway, await a_token(gateway, mailbox))).status_code == 201


async def test_a_token_is_over_after_an_hour(gateway: InProcess, mailbox: Mailbox):
    token = await a_token(gateway, mailbox)
    (row,) = await gateway.rows("select expires_at - now() as left from gateway.recovery_tokens")
    assert 3500 < row["left"].total_seconds() <= 3600
    await gateway.books.execute("update gateway.recovery_tokens set expires_at = now()")
    error_of(await confirm(gateway, token), 401, "invalid_token")
    assert (await confirm(gateway, await a_token(gateway, mailbox))).status_code == 201


async def test_an_account_that_is_suspended_since_stays_shut(gateway: InProcess, mailbox: Mailbox):
    token = await a_token(gateway, mailbox)
    await gateway.books.execute("update gateway.users set status = 'suspended'")
    error_of(await confirm(gateway, token), 401, "invalid_token")


@pytest.mark.parametrize("token", ["x", "gwr_" + "A" * 43, "gwr_" + "A" * 44, "gwr_" + "é" * 43])
async def test_a_token_that_never_was(gateway: InProcess, token: str):
    before = await gateway.tables()
    error_of(await confirm(gateway, token), 401, "invalid_token")
    assert await gateway.tables() == before


@pytest.mark.parametrize("body", [{}, {"email": "x"}, {"email": "a@b c"}, {"email": "a@b\n"}, {"email": 5}])
async def test_what_is_no_address(gateway: InProcess, body: dict[str, Any]):
    error_of(await gateway.client.post("/auth/recovery", json=body), 422, "unprocessable")


async def test_no_table_shows_a_token(gateway: InProcess, mailbox: Mailbox):
    token = await a_token(gateway, mailbox)
    made = await confirm(gateway, token)
    tables = str(await gateway.tables())
    assert token not in tables
    assert made.json()["api_key"] not in tables


async def test_a_role_that_may_less_makes_no_key_that_may_more(gateway: InProcess, mailbox: Mailbox):
    await gateway.books.execute("insert into gateway.roles (name, scopes) values ('reader', '{account:read}')")
    user_id = await seed.add_user(gateway.books, "reader", "reader")
    await gateway.books.execute("update gateway.users set email = null where id = $1", gateway.user_id)
    await gateway.books.execute("update gateway.users set email = $2 where id = $1", user_id, ADDRESS)
    made = (await confirm(gateway, await a_token(gateway, mailbox))).json()
    assert made["user_id"] == user_id
    error_of(await gateway.ask(key=made["api_key"]), 403, "role_required")
    read = await gateway.client.get("/v1/key", headers=gateway.headers(key=made["api_key"]))
    assert (read.status_code, Scope.ACCOUNT_READ) == (200, "account:read")
