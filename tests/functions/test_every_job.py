"""Every job by its schedule's own input, twice at the same time: neither fails, and the books stay in order."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from samcli.yamlhelper import yaml_parse

from gateway import providers
from jobs.handler import JOBS
from tests.harness.gateway import TEMPLATE
from tests.harness.upstream import Upstream, whole
from tests.providers.subjects import adapter

if TYPE_CHECKING:
    from local.stripe import Stripe
    from tests.harness.gateway import InProcess

EVENTS = yaml_parse(TEMPLATE.read_text())["Resources"]["JobsFunction"]["Properties"]["Events"].values()
INPUTS = [event["Properties"]["Input"] for event in EVENTS if event["Type"] == "ScheduleV2"]


@pytest.mark.parametrize("given", INPUTS)
async def test_a_job_may_run_twice_at_once(
    gateway: InProcess, stripe: Stripe, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, given: str
):
    assert stripe.address
    monkeypatch.setattr(providers, "without_key", lambda name: adapter(name, upstream.url))
    upstream.will(whole(b'{"data": []}'))
    await gateway.ask()
    await gateway.ended()
    balance = await gateway.balance()
    job = JOBS[json.loads(given)["job"]]
    first, second = await asyncio.gather(job(), job())
    assert json.dumps([first, second])
    assert await gateway.balance() == balance
