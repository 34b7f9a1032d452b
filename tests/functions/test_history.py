"""Chat sessions: whose they are, what is kept in them, and what a completion in one follows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway import chats
from gateway.scopes import Scope
from local import seed
from tests.harness.gateway import DONE, GPT, answer, delta, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed, whole

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess


async def asked(gateway: InProcess, method: str, path: str, key: str | None = None, **body: Any) -> httpx.Response:
    return await gateway.client.request(method, path, headers=gateway.headers(key=key), json=body or None)


async def a_session(gateway: InProcess, **body: Any) -> int:
    made = await asked(gateway, "POST", "/chat/sessions", **{"title": "Tides", **body})
    assert made.status_code == 201
    return int(made.json()["session_id"])


async def messages(gateway: InProcess, session: int) -> list[dict[str, Any]]:
    shown = await asked(gateway, "GET", f"/chat/sessions/{session}")
    found: list[dict[str, Any]] = shown.json()["session"]["messages"]
    return found


async def complete(gateway: InProcess, session: int, text: str, **body: Any) -> httpx.Response:
    said = {"model": "sandbox/chat", "messages": [{"role": "user", "content": text}], **body}
    return await asked(gateway, "POST", f"/v1/chat/completions?session_id={session}", **said)


@pytest.mark.parametrize("prefix", ["/chat", "/v1/chat"])
async def test_a_session_is_made_shown_changed_listed_and_deleted(gateway: InProcess, prefix: str):
    session = await a_session(gateway, description="of the sea", model="sandbox/chat")
    path = f"{prefix}/sessions/{session}"
    shown = (await asked(gateway, "GET", path)).json()["session"]
    assert (shown["title"], shown["name"], shown["description"], shown["messages"]) == ("Tides",) * 2 + (
        "of the sea",
        [],
    )
    changed = (await asked(gateway, "PUT", path, name="Ebb")).json()["session"]
    assert (changed["title"], changed["description"]) == ("Ebb", "of the sea")
    later = await a_session(gateway)
    listed = (await asked(gateway, "GET", f"{prefix}/sessions?limit=1")).json()
    assert ([each["id"] for each in listed["data"]], listed["count"]) == ([later], 2)
    assert (await asked(gateway, "DELETE", path)).json()["success"] is True
    for method in ("GET", "PUT", "DELETE"):
        gone = await asked(gateway, method, path, **({"title": "x"} if method == "PUT" else {}))
        assert gone.status_code == 404
    assert (await asked(gateway, "GET", f"{prefix}/sessions")).json()["count"] == 1


async def test_a_session_is_its_owners_alone(gateway: InProcess):
    session = await a_session(gateway)
    stranger = await seed.add_user(gateway.books, "a stranger", credit_nano=10**9)
    other = (await seed.add_key(gateway.books, stranger)).plaintext
    before = await gateway.tables()
    path = f"/chat/sessions/{session}"
    message = {"role": "user", "content": "x"}
    said = {"model": "sandbox/chat", "messages": [message]}
    refused = [
        await asked(gateway, "GET", path, other),
        await asked(gateway, "PUT", path, other, title="x"),
        await asked(gateway, "DELETE", path, other),
        await asked(gateway, "POST", f"{path}/messages", other, **message),
        await asked(gateway, "POST", f"/v1/chat/completions?session_id={session}", other, **said),
    ]
    assert [(each.status_code, each.json()["error"]["code"]) for each in refused] == [(404, "not_found")] * 5
    assert (await asked(gateway, "POST", "/chat/search", other, query="Tides")).json()["count"] == 0
    assert await gateway.tables() == before


async def test_messages_are_stored_once_found_and_counted(gateway: InProcess):
    session = await a_session(gateway)
    path = f"/chat/sessions/{session}/messages"
    for _ in range(2):
        made = await asked(gateway, "POST", path, role="user", content="100% of the Sea_", message_id="m1", tokens=5)
        assert made.status_code == 201
    for number in range(4):
        await asked(gateway, "POST", path, role="assistant", content=f"wave {number}", model="sandbox/chat")
    assert [each["content"] for each in await messages(gateway, session)][:2] == ["100% of the Sea_", "wave 0"]
    page = await asked(gateway, "GET", f"/chat/sessions/{session}?message_limit=2")
    last = page.json()["session"]["messages"]
    assert [each["content"] for each in last] == ["wave 2", "wave 3"]
    earlier = await asked(gateway, "GET", f"/chat/sessions/{session}?message_limit=2&before={last[0]['id']}")
    assert [each["content"] for each in earlier.json()["session"]["messages"]] == ["wave 0", "wave 1"]
    for query, count in (("the sea_", 1), ("100%", 1), ("tides", 1), ("wav_", 0), ("desert", 0)):
        assert (await asked(gateway, "POST", "/chat/search", query=query)).json()["count"] == count, query
    stats = (await asked(gateway, "GET", "/chat/stats")).json()["stats"]
    assert stats == {"sessions": 1, "messages": 5, "tokens": 5, "by_model": {"sandbox/chat": 4}}


@pytest.mark.parametrize(
    "body",
    [
        {"role": "captain", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": "x", "more": 1},
        {"role": "user", "content": "x" * 200_001},
        {"role": "user", "content": "a\0b"},
    ],
)
async def test_what_cannot_be_stored_is_refused(gateway: InProcess, body: dict[str, Any]):
    session = await a_session(gateway)
    refused = await asked(gateway, "POST", f"/chat/sessions/{session}/messages", **body)
    assert refused.status_code == 422
    assert await messages(gateway, session) == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_completion_follows_its_session_and_both_turns_are_kept_once(
    gateway: InProcess, upstream: Upstream, *, stream: bool
):
    gateway.connect("openrouter", upstream.url)
    session = await a_session(gateway)
    system = {"role": "system", "content": "Be brief."}
    for text in ("One", "Two"):
        parts = (delta(f"I heard {text}"), finish(), usage(), DONE)
        upstream.will(streamed(*parts) if stream else whole(answer(f"I heard {text}")))
        said = [system, {"role": "user", "content": text}]
        answered = await complete(gateway, session, text, model=GPT, messages=said, stream=stream)
        assert answered.status_code == 200
    asked_last = json.loads(upstream.requests[-1].body)["messages"]
    assert [(each["role"], each["content"]) for each in asked_last] == [
        ("user", "One"), ("assistant", "I heard One"), ("system", "Be brief."), ("user", "Two"),
    ]  # fmt: skip
    kept = [(each["role"], each["content"], each["model"], each["tokens"]) for each in await messages(gateway, session)]
    turns = [[("user", text, None, 0), ("assistant", f"I heard {text}", GPT, 5)] for text in ("One", "Two")]
    assert kept == turns[0] + turns[1]


async def test_a_repeated_or_failed_request_keeps_nothing_more(gateway: InProcess, upstream: Upstream):
    session = await a_session(gateway)
    headers = gateway.headers({"idempotency-key": "k"})
    said = {"model": "sandbox/chat", "messages": [{"role": "user", "content": "One"}]}
    for _ in range(2):
        url = f"/v1/chat/completions?session_id={session}"
        assert (await gateway.client.post(url, headers=headers, json=said)).status_code == 200
        await gateway.ended()
    assert len(await messages(gateway, session)) == 2
    elsewhere = await gateway.client.post("/v1/chat/completions", headers=headers, json=said)
    assert elsewhere.status_code == 422
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(delta("Hello"), Fault.CLOSE))
    await complete(gateway, session, "Two", model=GPT, stream=True)
    await gateway.ended(2)
    assert (await complete(gateway, session, "Two", model="sandbox/error")).status_code == 502
    assert len(await messages(gateway, session)) == 2
    for wrong, status in (("x", 400), ("-1", 400), ("9" * 30, 400), (10**9, 404)):
        assert (await complete(gateway, wrong, "x")).status_code == status  # type: ignore[arg-type]


async def test_what_a_key_does_not_let_be_kept_is_not(gateway: InProcess):
    full = gateway.key
    session = await a_session(gateway)
    kept = {}
    for retention in ("full", "metadata", "none"):
        gateway.key = await gateway.a_key()
        found = (await asked(gateway, "GET", "/user/api-keys?limit=1")).json()["keys"][0]
        changed = await asked(gateway, "PUT", f"/user/api-keys/{found['id']}", retention=retention)
        assert changed.json()["updated_key"]["retention"] == retention
        answered = await complete(gateway, session, retention)
        kept[retention] = answered.status_code, [each["content"] for each in await messages(gateway, session)][-2:]
        stored = (await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="Hello")).json()
        read = await asked(gateway, "GET", f"/v1/responses/{stored['id']}")
        assert (stored["store"], read.status_code) == ((True, 200) if retention == "full" else (False, 404))
    gateway.key = full
    assert kept["full"][0] == kept["metadata"][0] == 200
    assert kept["full"][1][0] == "full"
    assert kept["metadata"][1] == [None, None]
    assert kept["none"][0] == 400
    assert len(await messages(gateway, session)) == 4


async def test_a_deleted_session_is_purged_after_thirty_days(gateway: InProcess):
    session = await a_session(gateway)
    await asked(gateway, "POST", f"/chat/sessions/{session}/messages", role="user", content="x")
    await asked(gateway, "DELETE", f"/chat/sessions/{session}")
    assert json.loads(await gateway.books.fetchval("select api.purge_chats()")) == {"purged": 0}
    await gateway.books.execute("update gateway.chat_sessions set deleted_at = now() - interval '31 days'")
    assert json.loads(await gateway.books.fetchval("select api.purge_chats()")) == {"purged": 1}
    assert await gateway.rows("select from gateway.chat_messages") == []


async def test_who_deletes_the_account_deletes_what_was_said(gateway: InProcess):
    session = await a_session(gateway)
    await asked(gateway, "POST", f"/chat/sessions/{session}/messages", role="user", content="x")
    await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="Hello")
    await gateway.books.fetchval("select api.delete_user($1, $2)", gateway.user_id, '{"name": "test"}')
    for table in ("chat_sessions", "chat_messages", "responses"):
        assert await gateway.rows(f"select from gateway.{table}") == []


def test_only_what_fits_is_followed_and_no_answer_without_its_call():
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "x" * 400},
        {"role": "assistant", "tool_calls": ["y" * 400]},
    ]
    said += [{"role": "tool", "content": "z" * 40}, {"role": "assistant", "content": "w" * 40}]
    assert chats.within(said, 10_000) == said
    assert chats.within(said, 170) == said[1:]
    assert chats.within(said, 60) == said[3:]  # the tool's answer would fit
    assert chats.within(said, 0) == []


async def test_a_key_that_reads_no_account_has_what_it_stored_itself(gateway: InProcess):
    """Sessions and responses of the account's other keys are as if they were not."""
    others = await a_session(gateway, title="Of another key")
    await complete(gateway, others, "Said by another key")
    response = (await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="Hello")).json()["id"]
    narrow = await gateway.a_key("dev", Scope.INFERENCE)
    reader = await gateway.a_key("dev", Scope.INFERENCE, Scope.ACCOUNT_READ)
    session, stored = f"/chat/sessions/{others}", f"/v1/responses/{response}"
    turn = {"model": "sandbox/chat", "messages": [{"role": "user", "content": "x"}]}
    follow = {"model": "sandbox/chat", "input": "x", "previous_response_id": response}
    await gateway.ended(2)
    for method, path, body, may_read in (
        ("GET", session, {}, 200),
        ("POST", f"{session}/messages", {"role": "user", "content": "x"}, 201),
        ("POST", f"/v1/chat/completions?session_id={others}", turn, 200),
        ("GET", stored, {}, 200), ("GET", f"{stored}/input_items", {}, 200), ("POST", "/v1/responses", follow, 200),
        ("PUT", session, {"title": "x"}, 404), ("DELETE", session, {}, 404), ("DELETE", stored, {}, 404),
    ):  # fmt: skip
        assert (await asked(gateway, method, path, narrow, **body)).status_code == 404, path
        assert (await asked(gateway, method, path, reader, **body)).status_code == may_read, path
    for path, body in (("/chat/search", {"query": "another"}), ("/chat/sessions", {}), ("/chat/stats", {})):
        method = "POST" if body else "GET"
        assert "another" not in (await asked(gateway, method, path, narrow, **body)).text.lower().replace("query", "")
    own = (await asked(gateway, "POST", "/chat/sessions", narrow, title="Own")).json()["session_id"]
    listed = (await asked(gateway, "GET", "/chat/sessions", narrow)).json()
    assert ([each["id"] for each in listed["data"]], listed["count"]) == ([own], 1)
    assert (await asked(gateway, "DELETE", f"/chat/sessions/{own}", narrow)).status_code == 200
    assert (await asked(gateway, "DELETE", session)).status_code == 200
    assert (await asked(gateway, "DELETE", stored)).status_code == 200


async def test_what_other_keys_stored_takes_no_place_in_a_search(gateway: InProcess):
    others, narrow = await a_session(gateway), await gateway.a_key("dev", Scope.INFERENCE)
    own = (await asked(gateway, "POST", "/chat/sessions", narrow, title="Own")).json()["session_id"]
    await asked(gateway, "POST", f"/chat/sessions/{own}/messages", narrow, role="user", content="Of tides")
    await gateway.books.execute(
        "insert into gateway.chat_messages (session_id, user_id, role, content, bytes)"
        " select $1, $2, 'user', '\"x\"', 250000 from generate_series(1, 21)",
        others,
        gateway.user_id,
    )
    found = (await asked(gateway, "POST", "/chat/search", narrow, query="of tides")).json()
    assert [each["id"] for each in found["data"]] == [own]
