"""What an account stores: how much of it there may be, and that all of it can be read, in answers that Lambda takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway import chats, responses
from tests.functions.test_errors import error_of
from tests.functions.test_history import a_session, asked, complete
from tests.harness.builders import UNLIMITED

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess

LAMBDA_BYTES = 6 * 1024 * 1024
"""Of a buffered answer, whose body is a JSON string in it."""
PHOTO = "data:image/jpeg;base64," + "A" * 3_200_000


def lambda_bytes(response: httpx.Response) -> int:
    """What an answer of a buffered function is on Lambda."""
    reply = {"statusCode": response.status_code, "body": response.text, "multiValueHeaders": dict(response.headers)}
    return len(json.dumps(reply, ensure_ascii=False).encode())


def said(text: str, url: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]


async def stored(gateway: InProcess) -> int:
    return int(await gateway.books.fetchval("select coalesce(sum(bytes), 0) from gateway.storage"))


async def allow(gateway: InProcess, count: int) -> None:
    await gateway.books.execute("update gateway.plans set stored_bytes = $1", count)


async def test_a_session_with_photos_is_read_page_by_page(gateway: InProcess):
    session = await a_session(gateway)
    for number in range(3):
        message = {"role": "user", "content": said(f"photo {number}", PHOTO)}
        answered = await complete(gateway, session, "", messages=[message])
        assert answered.status_code == 200
    seen: list[int] = []
    before, has_more = "", True
    while has_more:
        page = await asked(gateway, "GET", f"/chat/sessions/{session}?message_limit=500{before}")
        assert page.status_code == 200
        assert lambda_bytes(page) < LAMBDA_BYTES
        found = page.json()["session"]
        seen = [each["id"] for each in found["messages"]] + seen
        has_more, before = found["has_more"], f"&before={found['messages'][0]['id']}"
    assert len(seen) == len(set(seen)) == 6
    assert seen == sorted(seen)


async def test_the_largest_message_that_is_kept_is_shown_and_a_larger_one_refused(gateway: InProcess):
    session = await a_session(gateway, title="t" * 200, description='"' * 2000)
    quotes = '"' * (
        (chats.MOST_MESSAGE_BYTES - 2000) // 4
    )  # of which each is two bytes in JSON, and four in a string of it
    message = {"role": "user", "content": quotes}
    assert (await complete(gateway, session, "", messages=[message])).status_code == 200
    page = await asked(gateway, "GET", f"/chat/sessions/{session}?message_limit=2")
    (answered,) = page.json()["session"]["messages"]
    assert answered["role"] == "assistant"
    page = await asked(gateway, "GET", f"/chat/sessions/{session}?before={answered['id']}")
    assert page.json()["session"]["messages"][0]["content"] == quotes
    assert lambda_bytes(page) < LAMBDA_BYTES
    held = await gateway.holds()
    refused = await complete(gateway, session, "", messages=[{"role": "user", "content": quotes + '"' * 1000}])
    error_of(refused, 413, "payload_too_large")
    assert await gateway.holds() == held, "nothing was held"


async def test_a_completion_reads_no_more_of_its_session_than_its_budget(gateway: InProcess):
    await gateway.books.execute(UNLIMITED)
    session = await a_session(gateway)
    for letter in "abc":
        text = letter * 3_000_000
        await complete(gateway, session, "", messages=[{"role": "user", "content": text}])
    await gateway.books.execute("update gateway.models set context_length = 10000000 where id = 'sandbox/chat'")
    found = await gateway.books.fetch(
        "select bytes from api.latest_messages($1, null, 500, $2) l", session, chats.MOST_FOLLOWED_BYTES
    )
    assert 2 * 3_000_000 < sum(row["bytes"] for row in found) <= chats.MOST_FOLLOWED_BYTES


async def test_what_could_not_be_admitted_reads_nothing_before_it_is_refused(gateway: InProcess):
    session = await a_session(gateway)
    made = (await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="Hello")).json()
    await gateway.books.execute(
        "update gateway.rate_limit_buckets set requests_tat = now() + interval '70 seconds' where scope = 'user'"
    )
    gateway.line.calls.clear()
    follow = {"model": "sandbox/chat", "input": "And then?", "previous_response_id": made["id"]}
    error_of(await asked(gateway, "POST", "/v1/responses", **follow), 429, "rate_limit_exceeded")
    error_of(await complete(gateway, session, "Hello"), 429, "rate_limit_exceeded")
    assert gateway.line.calls == ["response_items", "session_context"], "none was sent on to authorize"


async def test_a_response_follows_no_more_than_its_budget(gateway: InProcess):
    await gateway.books.execute(UNLIMITED)
    previous = None
    answers = []
    for _ in range(3):
        body = {"model": "sandbox/chat", "input": "x" * 3_000_000, "previous_response_id": previous}
        answers.append(await asked(gateway, "POST", "/v1/responses", **body))
        previous = answers[-1].json().get("id")
    assert [each.status_code for each in answers] == [200] * 3
    refused = await asked(
        gateway, "POST", "/v1/responses", model="sandbox/chat", input="x", previous_response_id=previous
    )
    assert "without previous_response_id" in error_of(refused, 400, "context_length_exceeded")["message"]


async def test_the_input_of_a_response_is_listed_by_pages(gateway: InProcess):
    photo = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 1_300_000}
    items = [{"type": "message", "role": "user", "content": [photo]} for _ in range(3)]
    made = (await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input=items)).json()
    path = f"/v1/responses/{made['id']}/input_items"
    pages = [(await asked(gateway, "GET", f"{path}?limit=2")).json()]
    pages.append((await asked(gateway, "GET", f"{path}?limit=2&after={pages[0]['last_id']}")).json())
    assert [(len(page["data"]), page["has_more"]) for page in pages] == [(2, True), (1, False)]
    assert [item["content"] for page in pages for item in page["data"]] == [item["content"] for item in items]
    for query in ("limit=0", "limit=101", "limit=x", "after=item_other_1"):
        error_of(await asked(gateway, "GET", f"{path}?{query}"), 400, "invalid_request_error")


async def test_a_page_of_input_fits_into_an_answer_of_lambda(gateway: InProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(responses, "MOST_PAGE_BYTES", 3000)
    items = [{"type": "message", "role": "user", "content": '"' * 500} for _ in range(4)]
    made = (await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input=items)).json()
    page = await asked(gateway, "GET", f"/v1/responses/{made['id']}/input_items")
    assert (len(page.json()["data"]), page.json()["has_more"]) == (1, True)
    assert lambda_bytes(page) < 3000 + 2000


async def test_numbers_that_grow_when_they_are_stored_are_refused_where_something_is_stored(gateway: InProcess):
    session = await a_session(gateway)
    wide = [1e308] * 1000
    item = {"type": "message", "role": "user", "content": "hi", "x": wide}
    before = await gateway.holds()
    refused = await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input=[item])
    assert "`store`: false" in error_of(refused, 400, "invalid_request_error")["message"]
    part = {"type": "text", "text": "hi", "x": wide}
    refused = await complete(gateway, session, "", messages=[{"role": "user", "content": [part]}])
    error_of(refused, 400, "invalid_request_error")
    assert await gateway.holds() == before
    some = {**item, "x": [1e308, 5e-324, 0.1], "content": "a text about 1e308 " * 10_000}
    made = await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input=[some])
    read = await asked(gateway, "GET", f"/v1/responses/{made.json()['id']}/input_items")
    assert len(read.content) < 2 * len(made.request.content)
    free = await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input=[item], store=False)
    assert free.status_code == 200


async def test_what_is_stored_is_counted_and_what_is_deleted_is_free_again(gateway: InProcess):
    session = await a_session(gateway)
    path = f"/chat/sessions/{session}"
    await asked(gateway, "POST", f"{path}/messages", role="user", content="x" * 100_000)
    message = await stored(gateway)
    assert 100_000 < message < 102_000
    made = (await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="y" * 10_000)).json()
    await gateway.ended()
    with_response = await stored(gateway)
    assert 10_000 < with_response - message < 25_000
    headers = {"idempotency-key": "k"}
    assert (await gateway.ask(headers)).status_code == 200
    await gateway.ended(2)
    assert await stored(gateway) > with_response
    await gateway.books.execute("update gateway.idempotency_keys set created_at = now() - interval '2 days'")
    await gateway.books.fetchval("select api.purge_idempotency_keys()")
    assert await stored(gateway) == with_response
    await asked(gateway, "DELETE", f"/v1/responses/{made['id']}")
    assert await stored(gateway) == message
    await asked(gateway, "DELETE", path)
    assert await stored(gateway) == 0


async def test_above_the_plans_bytes_nothing_more_is_stored(gateway: InProcess):
    session = await a_session(gateway)
    await allow(gateway, 50_000)
    path = f"/chat/sessions/{session}/messages"
    assert (await asked(gateway, "POST", path, role="user", content="x" * 30_000)).status_code == 201
    before = await gateway.tables()
    error_of(await asked(gateway, "POST", path, role="user", content="x" * 30_000), 413, "storage_full")
    refused = await complete(gateway, session, "x" * 30_000)
    assert "Delete chat sessions" in error_of(refused, 413, "storage_full")["message"]
    assert await gateway.tables() == before
    made = await asked(gateway, "POST", "/v1/responses", model="sandbox/chat", input="x" * 30_000)
    await gateway.ended()
    assert made.status_code == 200
    error_of(await asked(gateway, "GET", f"/v1/responses/{made.json()['id']}"), 404, "not_found")
    assert await stored(gateway) < 50_000


async def test_lists_of_sessions_fit_into_an_answer_of_lambda(gateway: InProcess):
    await gateway.books.execute(
        "insert into gateway.chat_sessions (user_id, title, description) "
        "select $1, repeat('\"', 200), repeat('\"', 2000) from generate_series(1, 100)",
        gateway.user_id,
    )
    assert lambda_bytes(await asked(gateway, "GET", "/chat/sessions?limit=100")) < LAMBDA_BYTES
    assert lambda_bytes(await asked(gateway, "POST", "/chat/search", query='"', limit=100)) < LAMBDA_BYTES
