"""localstripe, a fake of Stripe by others, where it has what we use: customers, intents, refunds, signed events."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from gateway import stripe_api
from gateway.settings import Secret, StripeSettings, settings
from tests.harness.gateway import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.gateway import InProcess

KEY, WEBHOOK_SECRET = "sk_test_12345", "whsec_for_localstripe"
CARD = {"type": "card", "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}}
SETUP = "import sys; from localstripe.server import start; sys.argv = ['localstripe', *sys.argv[1:]]; start()"


@pytest.fixture
async def localstripe(gateway: InProcess, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> AsyncIterator[str]:
    """localstripe in a process of its own, which tells this gateway its events."""
    address = f"http://127.0.0.1:{unused_tcp_port}"
    command = [sys.executable, "-W", "ignore", "-c", SETUP, "--port", str(unused_tcp_port), "--from-scratch"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    changed = msgspec.structs.replace(settings, stripe=StripeSettings(Secret(KEY), Secret(WEBHOOK_SECRET), address))
    for module in ("stripe_api", "stripe_events"):
        monkeypatch.setattr(f"gateway.{module}.settings", changed)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def is_up() -> bool:
                try:
                    return (await client.get(f"{address}/v1/customers", auth=(KEY, ""))).is_success
                except httpx.TransportError:
                    return False

            await eventually(is_up)
            told = {"url": f"{gateway.url}/api/stripe/webhook", "secret": WEBHOOK_SECRET}
            await client.post(f"{address}/_config/webhooks/gateway", data=told, auth=(KEY, ""))
        yield address
    finally:
        await stripe_api.close()
        process.kill()
        process.wait()


@pytest.mark.usefixtures("localstripe")
async def test_what_it_signs_is_taken_and_what_it_says_is_read(gateway: InProcess):
    customer = await stripe_api.customer(7, "ada@example.com")
    async with stripe_api.asked() as api:
        card = await api.payment_methods.create_async(CARD)
        await api.payment_methods.attach_async(card.id, {"customer": customer})
        wanted: dict[str, Any] = {
            "amount": 1000, "currency": "usd", "customer": customer, "payment_method": card.id,
            "metadata": {stripe_api.PAYMENT: "999999"},
        }  # fmt: skip
        intent = await api.payment_intents.create_async(wanted)
        paid = await api.payment_intents.confirm_async(intent.id)
        assert (paid.status, paid.amount) == ("succeeded", 1000)
        refunded = await api.refunds.create_async({"payment_intent": intent.id, "amount": 250})
        listed = await api.refunds.list_async({"payment_intent": intent.id, "limit": 100})
        assert [each.id async for each in listed.auto_paging_iter()] == [refunded.id]

    async def kept() -> set[tuple[str, str]]:
        rows = await gateway.rows("select type, object_id, worked_at from gateway.stripe_events")
        assert all(row["worked_at"] is None for row in rows if row["object_id"] == intent.id)
        found = {(row["type"], row["object_id"]) for row in rows}
        return found if ("payment_intent.succeeded", intent.id) in found else set()

    # signed by it, verified by us, and waiting: the payment that it names is not here
    assert await eventually(kept)
