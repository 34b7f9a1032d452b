"""The product under `sam local`: requests of the official client, events of events/, and what became of them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import openai
import pytest

from gateway.money import NANO
from tests.harness.events import event, stripe_event
from tests.harness.gateway import HELLO

if TYPE_CHECKING:
    from tests.harness.gateway import Gateway
    from tests.sam_local.sam import Sam

pytestmark = pytest.mark.sam_local


async def test_completions_whole_and_streamed_are_paid(local: Sam, customer: Gateway):
    with local.api() as address:
        whole, streamed = await asyncio.to_thread(completions, f"{address}/v1", customer.key)
    print(whole, streamed)
    assert 0 < whole
    assert await customer.balance() == 100 * NANO - (whole + streamed) * NANO


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
