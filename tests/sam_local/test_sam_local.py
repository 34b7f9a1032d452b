"""The product under `sam local`: requests of the official client, events of events/, and what became of them."""

from __future__ import annotations

import asyncio
import json
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from gateway.money import NANO
from tests.harness.events import a_job_ends_what_is_over, a_settlement_is_booked_once, event, stripe_event
from tests.harness.gateway import HELLO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.harness.gateway import Gateway
    from tests.sam_local.sam import Sam

pytestmark = pytest.mark.sam_local


async def test_completions_whole_and_streamed_are_paid(local: Sam, customer: Gateway):
    with local.api() as address:
        costs = await asyncio.to_thread(completions, f"{address}/v1", customer.key)
    after = await customer.balance()
    print(
        f"A completion cost ${costs[0]}, one that was asked to be streamed ${costs[1]}; of $100 are left {after} nano."
    )
    assert min(costs) > 0
    assert after == 100 * NANO - sum(costs) * NANO


async def test_an_event_of_stripes_is_taken_and_a_forged_one_is_not(local: Sam, customer: Gateway):
    with local.api() as address:
        url = f"{address}/api/stripe/webhook"
        forged = await asyncio.to_thread(posted, url, stripe_event("whsec_of_somebody_else"))
        taken = await asyncio.to_thread(posted, url, stripe_event(os.environ["STRIPE_WEBHOOK_SECRET"]))
    kept = await customer.rows("select id, outcome from gateway.stripe_events")
    print(f"A forged event was answered {forged}, a signed one {taken}; kept is {kept}.")
    assert (forged, taken) == (400, 200)
    assert kept == [{"id": "evt_of_somebody_else", "outcome": "not ours"}]


async def test_the_events_of_the_folder_are_answered(local: Sam, customer: Gateway):
    async def invoke(function: str, event: Mapping[str, Any]) -> Any:
        answer = await asyncio.to_thread(local.invoke, function, event)
        print(f"{function} answered {answer}")
        return answer

    await a_job_ends_what_is_over(invoke, customer)
    await a_settlement_is_booked_once(invoke, customer)
    answered = await invoke("ChatFunction", event("completion", OPENAI_API_KEY=customer.key))
    assert (answered["statusCode"], json.loads(answered["body"])["object"]) == (200, "chat.completion")


def posted(url: str, signed: dict[str, Any]) -> int:
    """The status that the request of an event is answered with."""
    return httpx.post(url, content=signed["body"], headers=signed["headers"], timeout=120).status_code


def completions(base_url: str, key: str) -> tuple[Decimal, Decimal]:
    """What a completion cost, and what one cost that was asked to be streamed."""
    asked: dict[str, Any] = {"model": "sandbox/chat", "messages": HELLO}
    with openai.OpenAI(base_url=base_url, api_key=key, timeout=120, max_retries=0) as client:
        whole = client.chat.completions.create(**asked)
        told = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in told for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    return cost(whole), cost(told[-1])


def cost(answer: Any) -> Decimal:
    return Decimal(str(answer.usage.model_extra["cost"]))
