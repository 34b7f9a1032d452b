"""The built functions, without a package of this machine's: under AWS's emulator, on a real Postgres."""

from __future__ import annotations

import json
import os
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gateway.money import NANO
from tests.harness.events import a_job_ends_what_is_over, a_settlement_is_booked_once, event, stripe_event
from tests.harness.gateway import Gateway, Told, with_password
from tests.harness.rie import parts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.harness.built import Start
    from tests.harness.events import Invoke
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


async def test_under_sam_local_a_stream_is_answered_in_one_piece(
    start: Start, variables: dict[str, str], customer: Gateway
):
    chat = start("ChatFunction", **variables, AWS_SAM_LOCAL="true")
    answered = chat.invoke(completion(customer, stream=True, stream_options={"include_usage": True}))
    reply = answered.json()
    assert reply["statusCode"] == 200
    told = Told(answered, reply["body"].encode())
    assert told.done
    assert told.usage is not None
    assert await spent(customer) == Decimal(str(told.usage["cost"])) > 0


async def test_whether_it_works(start: Start, variables: dict[str, str], customer: Gateway):
    asked = event("completion", OPENAI_API_KEY=customer.key) | {"path": "/health", "httpMethod": "GET", "body": None}
    reply = start("HealthFunction", **variables).invoke(asked).json()
    assert reply["statusCode"] == 200, reply


async def test_an_event_of_stripes_is_taken_and_a_forged_one_is_not(
    start: Start, variables: dict[str, str], customer: Gateway
):
    webhook = start("StripeWebhookFunction", **variables)
    assert webhook.invoke(stripe_event("whsec_of_somebody_else")).json()["statusCode"] == 400
    assert await customer.rows("select * from gateway.stripe_events") == []
    assert webhook.invoke(stripe_event(variables["STRIPE_WEBHOOK_SECRET"])).json()["statusCode"] == 200
    kept = await customer.rows("select id, outcome from gateway.stripe_events")
    assert kept == [{"id": "evt_of_somebody_else", "outcome": "not ours"}]


@pytest.mark.parametrize("drive", [a_job_ends_what_is_over, a_settlement_is_booked_once])
async def test_work_that_nobody_asked_for_by_http(
    start: Start, variables: dict[str, str], customer: Gateway, drive: Callable[[Invoke, Gateway], Awaitable[None]]
):
    jobs = start("JobsFunction", **variables)

    async def invoke(_: str, event: Mapping[str, Any]) -> Any:
        return jobs.invoke(event).json()

    await drive(invoke, customer)
