"""What one account may ask for and make: management requests, changes, keys, former secrets, payments."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.database import call
from gateway.errors import RateLimitExceeded
from tests.functions.test_errors import error_of
from tests.harness.gateway import serving

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess


async def ask(gateway: InProcess, method: str, path: str, key: str | None = None, **body: Any) -> httpx.Response:
    return await gateway.client.request(method, path, headers=gateway.headers(key=key), json=body or None)


async def use_up(gateway: InProcess, scope: str, **columns: Any) -> None:
    """Leave nothing of a user's bucket."""
    await gateway.books.execute(
        "update gateway.rate_limit_buckets set requests_tat = now() + interval '70 seconds',"
        " day_requests = coalesce($3, day_requests) where scope = $1 and id = $2",
        scope, gateway.user_id, columns.get("day_requests"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/user/profile", {}),
        ("GET", "/chat/sessions", {}),
        ("POST", "/chat/sessions", {"title": "x"}),
        ("GET", "/v1/responses/{made}", {}),
        ("GET", "/v1/responses/{made}/input_items", {}),
        ("DELETE", "/v1/responses/{made}", {}),
        ("POST", "/v1/quote", {"model": "sandbox/chat", "messages": [{"role": "user", "content": "x"}]}),
        ("POST", "/auth/session-keys", {"scopes": ["inference"]}),
        ("GET", "/v1/credits", {}),
    ],
)
async def test_what_is_no_inference_has_a_limit_a_minute(gateway: InProcess, method: str, path: str, body: Any):
    made = (await ask(gateway, "POST", "/v1/responses", model="sandbox/chat", input="Hello")).json()["id"]
    path = path.replace("{made}", made)
    assert (await ask(gateway, "GET" if made in path else method, path, **body)).status_code in {200, 201}
    await use_up(gateway, "management")
    refused = await ask(gateway, method, path, **body)
    assert error_of(refused, 429, "rate_limit_exceeded")["metadata"]["scope"] == "management"
    assert 9 <= int(refused.headers["retry-after"]) <= 11
    assert (await gateway.ask()).status_code == 200, "inference has its own"
    assert (await ask(gateway, "GET", "/user/profile", gateway.admin_key)).status_code == 200, "and so has everybody"


async def test_a_key_is_refused_before_its_user_who_can_end_it(gateway: InProcess):
    stolen = await gateway.a_key()
    (key,) = await gateway.rows("select id from gateway.api_keys order by id desc limit 1")
    for _ in range(295):
        await gateway.books.execute("select api.take_management($1, $2)", gateway.user_id, key["id"])
    answers = await asyncio.gather(*(ask(gateway, "GET", "/user/profile", stolen) for _ in range(20)))
    taken = [each.status_code for each in answers].count(200)
    assert 5 <= taken < 20
    assert (await ask(gateway, "DELETE", f"/user/api-keys/{key['id']}")).status_code == 200


async def test_a_days_changes_of_an_account_are_bounded(gateway: InProcess):
    assert (await ask(gateway, "PUT", "/user/profile", display_name="One")).status_code == 200
    await gateway.a_key()
    most = await gateway.books.fetchval("select api.max_changes()")
    await use_up(gateway, "changes", day_requests=most)
    before = await gateway.tables()
    for method, path, body in (
        ("PUT", "/user/profile", {"display_name": "Two"}),
        ("POST", "/user/api-keys", {"key_name": "two"}),
        ("POST", "/auth/session-keys", {"scopes": ["inference"]}),
        ("PUT", "/user/notifications/preferences", {"usage_report": True}),
    ):
        refused = await ask(gateway, method, path, **body)
        assert error_of(refused, 429, "rate_limit_exceeded")["metadata"]["scope"] == "changes", path
    assert await gateway.tables() == before
    (made,) = await gateway.rows("select max(id) as id from gateway.api_keys where user_id = $1", gateway.user_id)
    ended = await ask(gateway, "DELETE", f"/user/api-keys/{made['id']}", force=True)
    assert ended.status_code == 200, "what is against a thief is never used up"
    suspended = await ask(gateway, "POST", f"/admin/users/{gateway.user_id}/suspend", gateway.admin_key, reason="x")
    assert suspended.status_code == 200, "what the operator does counts for nobody"
    await gateway.books.execute("update gateway.rate_limit_buckets set day = day - 1 where scope = 'changes'")
    await gateway.books.execute("update gateway.users set status = 'active'")
    assert (await ask(gateway, "PUT", "/user/profile", gateway.key, display_name="Two")).status_code == 200


async def test_an_account_has_five_hundred_keys_at_most(gateway: InProcess):
    await gateway.books.execute(
        "insert into gateway.api_keys (user_id, public_id, key_hash, environment, name)"
        " select $1, lpad(n::text, 12, '0'), 'v1:' || repeat('0', 64), 'dev', 'many ' || n"
        "   from generate_series(1, 498) n",
        gateway.user_id,
    )
    assert (await ask(gateway, "POST", "/user/api-keys", key_name="the last")).status_code == 201
    refused = await ask(gateway, "POST", "/user/api-keys", key_name="one more")
    assert "500 API keys" in error_of(refused, 409, "conflict")["message"]
    await gateway.books.execute("update gateway.api_keys set status = 'revoked' where name = 'many 1'")
    assert (await ask(gateway, "POST", "/user/api-keys", key_name="one more")).status_code == 201


async def test_ten_former_secrets_of_a_key_work_beside_it(gateway: InProcess):
    made = (await ask(gateway, "POST", "/user/api-keys", key_name="rotated")).json()
    (key_id,) = [row["id"] for row in await gateway.rows("select id from gateway.api_keys where name = 'rotated'")]
    assert made["success"]
    path, rotate = f"/user/api-keys/{key_id}", dict[str, Any](action="rotate", overlap_hours=1)
    answers = [await ask(gateway, "PUT", path, **rotate) for _ in range(11)]
    assert [each.status_code for each in answers] == [200] * 10 + [409]
    assert "overlap_hours 0" in error_of(answers[-1], 409, "conflict")["message"]
    assert (await ask(gateway, "PUT", path, action="rotate", overlap_hours=0)).status_code == 200
    assert (await ask(gateway, "PUT", path, **rotate)).status_code == 200


async def test_twenty_payments_are_open_at_once_within_an_hour(gateway: InProcess):
    def another(key: str) -> Any:
        return call(
            "open_payment", user_id=gateway.user_id, kind="checkout", amount_cents=500, credit_nano=5 * 10**9, key=key,
            request_hash="x", actor={"name": "test"},
        )  # fmt: skip

    serving.set("billing")
    for number in range(20):
        await another(str(number))
    with pytest.raises(RateLimitExceeded, match="not paid"):
        await another("one more")
    assert (await another("3"))["status"] == "pending", "a call that is sent again opens none"
    await gateway.books.execute("update gateway.payments set created_at = now() - interval '61 minutes' where id = 1")
    assert json.dumps(await another("one more"))
