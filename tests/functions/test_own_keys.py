"""Bring your own key: /user/provider-keys, and requests that go through one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import providers, sealing
from gateway.settings import ProviderSettings, Secret, settings
from tests.functions.test_errors import error_of
from tests.harness.gateway import DONE, GPT, PROVIDER_KEY, answer, delta, finish, usage
from tests.harness.upstream import streamed, whole

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess
    from tests.harness.upstream import Upstream

NANO = 10**9
PATH = "/user/provider-keys"
OWN = "sk-or-own-0123456789abcdef"
STREAM = (delta("Hello"), finish(), usage(), DONE)


async def send(gateway: InProcess, method: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
    return await gateway.client.request(method, path, headers=gateway.headers(key=key), json=body)


@pytest.fixture
async def own(gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """OpenRouter, of which the gateway and the customer each have a key."""
    gateway.connect("openrouter", upstream.url)
    known = {"openrouter": ProviderSettings(Secret(PROVIDER_KEY), upstream.url)}
    monkeypatch.setattr(providers, "settings", msgspec.structs.replace(settings, providers=known))
    assert (await send(gateway, "PUT", f"{PATH}/openrouter", {"api_key": OWN})).status_code == 200
    upstream.will(whole(answer()))
    return upstream


def asked_with(upstream: Upstream) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in upstream.requests]


async def test_a_stored_key_is_shown_by_its_end_and_kept_sealed(gateway: InProcess):
    stored = await send(gateway, "PUT", f"{PATH}/openrouter", {"api_key": OWN})
    assert stored.json()["provider_key"]["last_four"] == OWN[-4:]
    (listed,) = (await send(gateway, "GET", PATH)).json()["provider_keys"]
    assert listed.keys() == {"provider", "last_four", "created_at", "updated_at"}
    assert OWN not in str(await gateway.tables())
    (row,) = await gateway.rows("select * from gateway.provider_keys")
    assert sealing.unseal(row["sealed"]) == OWN
    other = OWN[::-1]
    await send(gateway, "PUT", f"{PATH}/openrouter", {"api_key": other})
    (row,) = await gateway.rows("select * from gateway.provider_keys")
    assert sealing.unseal(row["sealed"]) == other
    assert (await send(gateway, "DELETE", f"{PATH}/openrouter")).status_code == 200
    error_of(await send(gateway, "DELETE", f"{PATH}/openrouter"), 404, "not_found")
    assert await gateway.rows("select own_providers from gateway.users where own_providers is not null") == []


@pytest.mark.parametrize(
    "key", ["short", "with space in the middle", "ключ-ключ-ключ-ключ", "x" * 501, "x" * 20 + "\n", 5, None]
)
async def test_what_is_no_key_is_not_stored(gateway: InProcess, key: Any):
    response = await send(gateway, "PUT", f"{PATH}/openrouter", {"api_key": key})
    error = error_of(response, 422, "unprocessable")
    assert error["param"] == "api_key"
    assert len(str(key)) < 10 or str(key) not in response.text
    error_of(await send(gateway, "PUT", f"{PATH}/sandbox", {"api_key": OWN}), 404, "not_found")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_own_key_takes_no_credits_and_is_recorded(gateway: InProcess, own: Upstream, *, stream: bool):
    own.will(streamed(*STREAM) if stream else whole(answer()))
    before = await gateway.balance()
    response = await gateway.ask(model=GPT, stream=stream)
    assert response.status_code == 200
    await gateway.ended()
    assert asked_with(own) == [OWN]
    (used,) = await gateway.usage()
    assert (used["is_byok"], used["cost_nano"], used["prompt_tokens"], str(used["network"])) == (
        True,
        0,
        10,
        "127.0.0.0/24",
    )
    assert used["byok_nano"] > 0
    assert await gateway.balance() == before
    told = json.loads((await send(gateway, "GET", "/v1/key")).content, parse_float=Decimal)["data"]
    assert (told["byok_usage"] * NANO, told["usage"]) == (used["byok_nano"], 0)
    assert OWN not in response.text
    assert not stream or "is_byok" not in response.text


async def test_without_credit_an_own_key_serves_still(gateway: InProcess, own: Upstream):
    await gateway.customer(0)
    error_of(await gateway.ask(model=GPT), 402, "insufficient_credits")
    await send(gateway, "PUT", f"{PATH}/openrouter", {"api_key": OWN})
    assert (await gateway.ask(model=GPT)).status_code == 200
    assert asked_with(own) == [OWN]


async def test_preferences_say_whose_key_serves(gateway: InProcess, own: Upstream):
    await gateway.ask(model=GPT, provider={"own_keys": "never"})
    assert asked_with(own) == [PROVIDER_KEY]
    await gateway.ask(model=GPT, provider={"own_keys": "only"})
    assert asked_with(own)[1:] == [OWN]
    error_of(await gateway.ask(provider={"own_keys": "only"}), 400, "invalid_request_error")
    error_of(await gateway.ask(provider={"own_keys": "mine"}), 400, "invalid_request_error")


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_refused_own_key_is_its_owners_to_mend(gateway: InProcess, own: Upstream, status: int):
    own.will(whole(b'{"error": {"message": "no"}}', status=status))
    error = error_of(await gateway.ask(model=GPT, provider={"own_keys": "only"}), 400, "provider_key_refused")
    assert error["metadata"]["provider"] == "openrouter"
    await gateway.ended()
    (failed,) = await gateway.failures()
    assert (failed["is_byok"], failed["error"], failed["cost_nano"]) == (True, "provider_key_refused", 0)


async def test_after_an_own_key_the_gateways_is_asked(gateway: InProcess, own: Upstream):
    own.will(whole(b"{}", status=401), whole(answer()))
    before = await gateway.balance()
    assert (await gateway.ask(model=GPT)).status_code == 200
    await gateway.ended()
    assert asked_with(own) == [OWN, PROVIDER_KEY]
    (used,) = await gateway.usage()
    assert json.loads(used["attempts"]) == [
        {"model": GPT, "provider": "openrouter", "error": "provider_key_refused", "is_byok": True}
    ]
    assert (used["is_byok"], await gateway.balance()) == (False, before - used["cost_nano"])
    assert used["cost_nano"] > 0


async def test_a_key_deleted_meanwhile_serves_to_the_end(gateway: InProcess, own: Upstream):
    own.will(streamed(delta("Hel"), 0.3, delta("lo"), finish(), usage(), DONE))
    async with gateway.reading(model=GPT) as chunks:
        await anext(chunks)
        assert (await send(gateway, "DELETE", f"{PATH}/openrouter")).status_code == 200
        async for _ in chunks:
            pass
    await gateway.ended()
    (used,) = await gateway.usage()
    assert (used["is_byok"], used["cost_nano"], used["outcome"]) == (True, 0, "completed")


async def test_a_failed_request_is_recorded_and_free(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(b"{}", status=500))
    before = await gateway.balance()
    error_of(await gateway.ask(model=GPT), 502, "provider_error")
    await gateway.ended()
    (failed,) = await gateway.failures()
    assert (failed["error"], failed["provider"], await gateway.balance()) == ("provider_error", "openrouter", before)
