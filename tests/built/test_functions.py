"""The built functions, without a package of this machine's: under AWS's emulator, on a real Postgres."""

from __future__ import annotations

import json
import os
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from gateway.money import NANO
from tests.harness.events import event, stripe_event
from tests.harness.gateway import Gateway, Told, with_password
from tests.harness.rie import Emulated, parts

if TYPE_CHECKING:
    import httpx

    from tests.harness.built import Start
    from tests.harness.postgres import Database

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux program")


@pytest.fixture
def variables(database: Database) -> dict[str, str]:
    secrets = ("KEY_PEPPERS", "SEALING_KEYS", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")
    return {"DATABASE_URL": with_password(database.service), "SETTLEMENT_QUEUE_URL": ""} | {
        name: os.environ[name] for name in secrets
    }


def completion(customer: Gateway, **members: Any) -> dict[str, Any]:
    asked = event("completion", OPENAI_API_KEY=customer.key)
    return {**asked, "body": json.dumps(json.loads(asked["body"]) | members)}


async def spent(customer: Gateway) -> Decimal:
    """What the customer's only request cost, when it has been settled."""
    assert await customer.ended() == ["settled"]
    return 100 - Decimal(await customer.balance()) / NANO


async def test_a_completion_is_streamed_and_paid(start: Start, variables: dict[str, str], customer: Gateway):
    answered = start("ChatFunction", **variables).invoke(
        completion(customer, stream=True, stream_options={"include_usage": True})
    )
    prelude, body = parts(answered)
    assert prelude["statusCode"] == 200
    assert prelude["headers"]["content-type"].startswith("text/event-stream")
    told = Told(answered, body)
    assert told.done
    assert "Hello" in told.text
    assert told.usage is not None
    assert await spent(customer) == Decimal(str(told.usage["cost"])) > 0
