"""The export of an account: whole, by parts that Lambda can answer with; and nothing that is kept after its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway import accounts
from tests.functions.test_errors import error_of
from tests.functions.test_history import a_session, asked, complete
from tests.functions.test_storage import LAMBDA_BYTES, lambda_bytes
from tests.harness.builders import UNLIMITED
from tests.harness.gateway import GPT, answer
from tests.harness.upstream import Upstream, whole

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess

PERSONAL = ("idempotency_keys", "auto_top_ups", "chat_sessions", "chat_messages", "responses", "storage")


async def exported(gateway: InProcess) -> list[dict[str, Any]]:
    """The parts of an export, each of which Lambda could answer with."""
    parts: list[dict[str, Any]] = []
    while not parts or parts[-1]["next_cursor"]:
        query = f"?cursor={parts[-1]['next_cursor'].replace('+', '%2B')}" if parts else ""
        response = await asked(gateway, "GET", f"/user/export{query}")
        assert response.status_code == 200, response.text
        assert lambda_bytes(response) < LAMBDA_BYTES
        parts.append(response.json())
    return parts


async def test_an_export_has_what_was_said(gateway: InProcess):
    session = await a_session(gateway)
    await complete(gateway, session, "Of tides")
    await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="Of waves")
    await gateway.ended(2)
    (part,) = await exported(gateway)
    assert part["is_whole"]
    assert part["chat_sessions"][0]["title"] == "Tides"
    assert part["chat_messages"][0]["content"] == "Of tides"
    assert part["responses"][0]["input"][0]["content"] == [{"type": "input_text", "text": "Of waves"}]


@pytest.mark.parametrize("most_bytes", [1, 20_000])
async def test_the_parts_of_an_export_are_the_whole_once(
    gateway: InProcess, monkeypatch: pytest.MonkeyPatch, most_bytes: int
):
    session = await a_session(gateway)
    for number in range(3):
        await complete(gateway, session, f"Of tide {number}")
        await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="x" * 3000)
    await gateway.ended(6)
    (whole,) = await exported(gateway)
    monkeypatch.setattr(accounts, "MOST_PART_BYTES", most_bytes + 10_000)
    monkeypatch.setattr(accounts, "MOST_EXPORTED", 2)
    parts = await exported(gateway)
    assert len(parts) > 2
    assert not any(part["is_whole"] for part in parts)
    for kind in accounts.KINDS:
        assert [row for part in parts for row in part[kind]] == whole[kind], kind
        assert whole[kind]
    assert parts[0]["profile"]["user_id"] == gateway.user_id


async def test_an_export_of_much_fits_into_answers_of_lambda(gateway: InProcess):
    await gateway.books.execute(UNLIMITED)
    session = await a_session(gateway)
    photo = "data:image/jpeg;base64," + "A" * 3_200_000
    part = {"type": "image_url", "image_url": {"url": photo}}
    for _ in range(2):
        answered = await complete(gateway, session, "", messages=[{"role": "user", "content": [part]}])
        assert answered.status_code == 200
    item = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": photo}]}
    await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input=[item])
    await gateway.ended(3)
    parts = await exported(gateway)
    assert sum(len(each["chat_messages"]) for each in parts) == 4
    assert sum(len(each["responses"]) for each in parts) == 1
    assert len(parts) >= 3


@pytest.mark.parametrize("cursor", ["x", "users:1", "chat_messages:x", "responses:1;drop", "requests:1/2", "requests:"])
async def test_a_cursor_that_no_part_had_is_refused(gateway: InProcess, cursor: str):
    response = await asked(gateway, "GET", f"/user/export?cursor={cursor}")
    if cursor == "requests:":
        assert response.status_code == 200
    else:
        error_of(response, 400, "invalid_request_error")


async def test_nothing_that_was_said_outlives_the_account(gateway: InProcess):
    session = await a_session(gateway)
    await complete(gateway, session, "Of tides")
    headers = gateway.headers({"idempotency-key": "k"})
    said = {"model": "sandbox/chat", "input": "Of waves"}
    assert (await gateway.client.post("/v1/responses", headers=headers, json=said)).status_code == 200
    await gateway.ended(2)
    await gateway.books.execute(
        "insert into gateway.auto_top_ups (user_id, threshold_nano, amount_cents, payment_method_id)"
        " values ($1, 1, 500, 'pm_x')",
        gateway.user_id,
    )
    deleted = await asked(gateway, "DELETE", "/user", confirmation="developer")
    assert deleted.status_code == 200
    kept = await gateway.tables()
    assert {name: kept[f"gateway.{name}"] for name in PERSONAL} == {name: [] for name in PERSONAL}


@pytest.mark.parametrize("what", ["response", "answer", "turn"])
async def test_what_is_answered_after_the_end_is_charged_and_not_kept(gateway: InProcess, what: str):
    session = await a_session(gateway)
    body: dict[str, Any] = {"model": "sandbox/slow", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    path, headers = "/v1/chat/completions", gateway.headers()
    if what == "response":
        path, body = "/v1/responses", {"model": "sandbox/slow", "stream": True, "input": "x"}
    elif what == "turn":
        path = f"{path}?session_id={session}"
    else:
        headers["idempotency-key"] = "k"
    async with gateway.client.stream("POST", path, headers=headers, json=body) as response:
        chunks = response.aiter_raw()
        await anext(chunks)
        assert (await asked(gateway, "DELETE", "/user", confirmation="developer")).status_code == 200
        async for _ in chunks:
            pass
    assert await gateway.ended() == ["settled"]
    assert len(await gateway.usage()) == 1
    kept = await gateway.tables()
    assert {name: kept[f"gateway.{name}"] for name in PERSONAL} == {name: [] for name in PERSONAL}


async def test_no_session_is_made_for_an_account_that_was_closed_meanwhile(gateway: InProcess):
    """What names an actor is refused by his credential: tests/database/test_management.py."""
    await gateway.books.execute("update gateway.users set status = 'deleted' where id = $1", gateway.user_id)
    before = await gateway.tables()
    with pytest.raises(Exception, match="account_closed"):
        await gateway.books.execute("select api.create_session_of($1, 'x', null, null)", gateway.user_id)
    assert await gateway.tables() == before


@pytest.mark.parametrize("retention", ["none", "metadata"])
async def test_a_key_that_keeps_nothing_keeps_no_answer_and_is_charged_once(gateway: InProcess, retention: str):
    await gateway.books.execute("update gateway.api_keys set retention = $1", retention)
    answered = await gateway.ask({"idempotency-key": "k"})
    assert answered.status_code == 200
    await gateway.ended()
    assert await gateway.rows("select answer from gateway.idempotency_keys") == [{"answer": None}]
    again = await gateway.ask({"idempotency-key": "k"})
    assert "was not kept" in error_of(again, 409, "conflict")["message"]
    assert again.headers["x-should-retry"] == "false"
    assert len(await gateway.usage()) == 1
    assert (await gateway.ask({"idempotency-key": "other"})).status_code == 200


async def test_an_answer_that_is_too_large_is_not_kept_and_not_charged_again(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer("x" * (1 << 20))))
    assert (await gateway.ask({"idempotency-key": "k"}, model=GPT)).status_code == 200
    await gateway.ended()
    assert await gateway.rows("select answer from gateway.idempotency_keys") == [{"answer": None}]
    error_of(await gateway.ask({"idempotency-key": "k"}, model=GPT), 409, "conflict")
    assert len(await gateway.usage()) == 1
