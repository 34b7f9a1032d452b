"""Which offers serve a request, in which order, at which price; and why none does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.database import call
from local.schema import SUPABASE
from tests.harness.builders import (
    BOUND,
    COMPLETION_PRICE,
    PROMPT_PRICE,
    a_caller,
    a_model,
    a_request,
    a_settlement,
    an_offer,
    dump,
    purse,
    refusal,
)

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection

pytestmark = pytest.mark.usefixtures("service")


async def offers(caller: Caller, **changes: Any) -> list[dict[str, Any]]:
    """The offers of an admitted request, which is given back."""
    hold = await call("authorize", **a_request(caller, **changes))
    ids = {name: hold[name] for name in ("hold_id", "user_id", "key_id")}
    assert await call("release", **ids) == {"released": True}
    found: list[dict[str, Any]] = hold["offers"]
    return found


async def providers(caller: Caller, **preferences: Any) -> list[str]:
    found = await offers(caller, models=["acme/many"], preferences=preferences)
    return [offer["provider"] for offer in found]


@pytest.fixture
async def many(operator: Connection) -> Caller:
    """A caller where acme/many is offered by three providers: chutes first, the others by price."""
    await a_model(operator, "acme/many", "chutes", priority=0)
    await an_offer(operator, "acme/many", "openrouter", priority=1, prompt_price=PROMPT_PRICE // 2)
    await an_offer(operator, "acme/many", "featherless", priority=1, completion_price=COMPLETION_PRICE // 4)
    return await a_caller(operator)


PREFERENCES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, ["chutes", "featherless", "openrouter"]),
    "order": ({"order": ["openrouter"]}, ["openrouter", "chutes", "featherless"]),
    "whole order": (
        {"order": ["featherless", "openrouter", "chutes"]},
        ["featherless", "openrouter", "chutes"],
    ),
    "order of others": ({"order": ["portkey", "nobody"]}, ["chutes", "featherless", "openrouter"]),
    "only": ({"only": ["openrouter", "chutes"]}, ["chutes", "openrouter"]),
    "ignore": ({"ignore": ["chutes"]}, ["featherless", "openrouter"]),
    "only and ignore": ({"only": ["openrouter", "chutes"], "ignore": ["chutes"]}, ["openrouter"]),
    "prompt ceiling": ({"max_price": {"prompt": PROMPT_PRICE // 2}}, ["openrouter"]),
    "completion ceiling": ({"max_price": {"completion": COMPLETION_PRICE - 1}}, ["featherless"]),
    "ceiling at the price": (
        {"max_price": {"prompt": PROMPT_PRICE, "completion": COMPLETION_PRICE}},
        ["chutes", "featherless", "openrouter"],
    ),
    "no fallbacks": ({"allow_fallbacks": False}, ["chutes"]),
    "no fallbacks, ordered": ({"allow_fallbacks": False, "order": ["openrouter"]}, ["openrouter"]),
    "fallbacks": ({"allow_fallbacks": True}, ["chutes", "featherless", "openrouter"]),
}


@pytest.mark.parametrize("case", PREFERENCES)
async def test_preferences_choose_and_order_providers(many: Caller, case: str) -> None:
    preferences, expected = PREFERENCES[case]
    assert await providers(many, **preferences) == expected


async def test_preferences_that_nobody_meets_are_refused(operator: Connection, many: Caller) -> None:
    none: list[dict[str, Any]] = [
        {"only": ["portkey"]},
        {"only": []},
        {"ignore": ["openrouter"]},
        {"max_price": {"prompt": 1}},
    ]
    for preferences in none:
        error = await refusal(operator, **a_request(many, preferences=preferences))
        assert (error.status, error.code, error.param) == (400, "invalid_request_error", "provider"), preferences


async def test_models_are_tried_in_the_order_they_were_asked_for(operator: Connection, many: Caller) -> None:
    found = await offers(many, models=["acme/one", "acme/many", "acme/unknown"])
    assert [(offer["model"], offer["provider"]) for offer in found] == [
        ("acme/one", "openrouter"),
        ("acme/many", "chutes"),
        ("acme/many", "featherless"),
        ("acme/many", "openrouter"),
    ]
    await operator.execute("update gateway.models set is_active = false where id = 'acme/one'")
    found = await offers(many, models=["acme/one", "acme/many"], preferences={"allow_fallbacks": False})
    assert [(offer["model"], offer["provider"]) for offer in found] == [("acme/many", "chutes")]


async def test_only_providers_of_this_deployment_and_active_offers_serve(operator: Connection, many: Caller) -> None:
    found = await offers(many, models=["acme/many"], providers=["featherless", "openrouter"])
    assert [offer["provider"] for offer in found] == ["featherless", "openrouter"]
    await operator.execute("update gateway.offers set is_active = false where provider = 'chutes'")
    assert await providers(many) == ["featherless", "openrouter"]
    error = await refusal(operator, **a_request(many, providers=[]))
    assert (error.status, error.code, error.retry_after_ms) == (503, "no_provider_available", 5000)


async def test_an_offer_is_a_snapshot_of_the_price(operator: Connection) -> None:
    await a_model(operator, "acme/cached", prompt_price=7, completion_price=11, request_price=13, cache_read_price=3)
    caller = await a_caller(operator)
    assert await offers(caller, models=["acme/cached"]) == [
        {
            "model": "acme/cached",
            "provider": "openrouter",
            "upstream_id": "acme/cached",
            "max_output_tokens": 1000,
            "prompt_price": 7,
            "completion_price": 11,
            "request_price": 13,
            "cache_read_price": 3,
            "cache_write_price": 7,
            "context_length": 8192,
        }
    ]
    hold = await call("authorize", **a_request(caller))
    await operator.execute("update gateway.offers set prompt_price = prompt_price * 1000")
    await call("settle", **a_settlement(caller, hold["hold_id"]))
    assert await purse(operator, caller.user_id) == (99 * BOUND, 0)


UNPRICED: dict[str, dict[str, Any]] = {
    "no prompt price": {"prompt_price": None},
    "no completion price": {"completion_price": None},
    "no price though free": {"prompt_price": None, "is_free": True},
    "zero by mistake": {"prompt_price": 0, "completion_price": 0},
}


@pytest.mark.parametrize("case", UNPRICED)
async def test_a_model_without_a_price_is_not_served(operator: Connection, case: str) -> None:
    await a_model(operator, "acme/unpriced", **UNPRICED[case])
    caller = await a_caller(operator)
    error = await refusal(operator, **a_request(caller, models=["acme/unpriced"]))
    assert (error.status, error.code, error.param) == (400, "model_not_priced", "model")
    assert "acme/unpriced" not in [model["id"] for model in (await call("catalogue", known=None))["models"]]


async def test_a_free_model_holds_and_costs_nothing(operator: Connection) -> None:
    await a_model(operator, "acme/free", prompt_price=0, completion_price=0, is_free=True)
    caller = await a_caller(operator, credit_nano=0)
    hold = await call("authorize", **a_request(caller, models=["acme/free"]))
    assert (hold["bound_nano"], hold["max_tokens"]) == (0, None)
    await call("settle", **a_settlement(caller, hold["hold_id"], cost_nano=0))
    assert await purse(operator, caller.user_id) == (0, 0)
    assert not await operator.fetch("select from gateway.credit_transactions")


async def test_an_unknown_or_withdrawn_model_is_not_found(operator: Connection) -> None:
    caller = await a_caller(operator)
    for model in ("acme/unknown", "", "ACME/ONE", "acme/one ", "acme/../one", "' or true --", "é" * 5000):
        error = await refusal(operator, **a_request(caller, models=[model]))
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    await operator.execute("update gateway.models set is_active = false")
    assert (await refusal(operator, **a_request(caller))).code == "model_not_found"


async def test_a_key_reaches_its_own_models_only(operator: Connection, many: Caller) -> None:
    caller = await a_caller(operator, allowed_models=["acme/one", "acme/unknown"])
    assert len(await offers(caller)) == 1
    for models in (["acme/many"], ["acme/one", "acme/many"], ["acme/nothing"]):
        error = await refusal(operator, **a_request(caller, models=models))
        assert (error.status, error.code, error.param) == (403, "model_not_allowed", "model")
    assert (await refusal(operator, **a_request(caller, models=["acme/unknown"]))).code == "model_not_found"
    nothing = await a_caller(operator, allowed_models=[])
    assert (await refusal(operator, **a_request(nothing))).code == "model_not_allowed"
    assert len(await offers(many)) == 1


async def test_a_test_key_reaches_only_the_sandbox_and_pays_nothing(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=0, environment="test")
    found = await offers(caller, preferences={"only": ["openrouter"]}, providers=[])
    prices = {name: value for name, value in found[0].items() if name.endswith("price")}
    assert (len(found), found[0]["provider"], found[0]["upstream_id"]) == (1, "sandbox", "acme/one")
    assert set(prices.values()) == {0}
    assert (await refusal(operator, **a_request(caller, models=["acme/unknown"]))).code == "model_not_found"


async def test_the_public_list_shows_each_servable_model_at_the_price_of_its_first_offer(
    operator: Connection, many: Caller
) -> None:
    await a_model(operator, "acme/unoffered", is_active=False)
    assert await offers(many)
    listed = (await call("catalogue", known=None))["models"]
    assert [model["id"] for model in listed] == ["acme/many", "acme/one"]
    assert listed[0]["providers"] == ["chutes", "featherless", "openrouter"]
    first = listed[0]["offer"]
    assert (first["prompt_price"], first["completion_price"]) == (PROMPT_PRICE, COMPLETION_PRICE)
    assert (first["request_price"], listed[0]["context_length"]) == (0, 8192)
    assert isinstance(listed[0]["created"], int)
    view = await operator.fetch("select id from gateway.openrouter_models order by 1")
    assert [row["id"] for row in view] == ["acme/many", "acme/one", "acme/unoffered"]


async def test_the_seed_can_be_applied_again(operator: Connection) -> None:
    seed = (SUPABASE / "seed.sql").read_text()
    await operator.execute(seed)
    before = await dump(operator)
    await operator.execute(seed)
    assert await dump(operator) == before
    assert {model["id"] for model in (await call("catalogue", known=None))["models"]} > {
        "sandbox/chat",
        "openai/gpt-4o-mini",
    }
