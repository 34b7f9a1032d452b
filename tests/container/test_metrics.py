"""GET /metrics: what was served, in Prometheus' form, on a port that is not the API's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from container.metrics import Prometheus
from gateway import telemetry
from tests.container.process import in_container, started
from tests.harness.gateway import eventually, provider, with_password
from tests.harness.rie import free_ports

if TYPE_CHECKING:
    from tests.harness.postgres import Database

pytestmark = pytest.mark.process

type Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scraped(port: str) -> Samples:
    """What Prometheus reads."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


async def test_what_is_served_is_counted(database: Database):
    port = str(free_ports(1)[0])
    async with in_container(database, METRICS_PORT=port) as gateway:
        for stream in (False, True):
            assert (await gateway.ask(stream=stream)).status_code == 200
        assert (await gateway.ask(key="gw_dev_nobody")).status_code == 401
        await gateway.ended(2)
        charged = sum(row["cost_nano"] for row in await gateway.usage())

        async def counted() -> Samples | None:
            found = await scraped(port)
            return found if found.get(("gatewayz_completions_total", ())) == 2 else None

        found = await eventually(counted)
        assert found is not None
        asked = (("operation", "create_completion"), ("status", "200"))
        assert found["gatewayz_requests_total", asked] == 2
        assert found["gatewayz_requests_total", (("operation", "create_completion"), ("status", "401"))] == 1
        assert found["gatewayz_request_seconds_count", asked] == 2
        assert found["gatewayz_first_byte_seconds_count", ()] == 2
        assert found["gatewayz_completion_cost_dollars_total", ()] == charged / 1e9
        assert found["process_resident_memory_bytes", ()] > 0
        assert not any("_aws" in line for line in gateway.process.log), "metrics have one home"
        assert (await gateway.client.get("/metrics")).status_code == 404, "customers come to the other port"


async def test_jobs_tell_of_the_books(database: Database):
    port = str(free_ports(1)[0])
    nowhere = provider("openrouter", "http://127.0.0.1:1") | provider("chutes", "http://127.0.0.1:1")
    await database.execute("update gateway.users set credits_nano = credits_nano")
    settings = {"DATABASE_URL": with_password(database.service), "METRICS_PORT": port, **nowhere}
    async with started(sys.executable, "-m", "container.jobs", **settings) as process:
        await process.logged("ledger_checked")
        await process.logged("holds_swept")
        found = await scraped(port)
        assert found["gatewayz_ledger_violations", ()] == 0
        assert found["gatewayz_unsettled_holds_total", ()] == 0


def test_every_metric_of_the_product_has_a_name():
    registry = CollectorRegistry()
    meter = Prometheus(registry)
    for name in telemetry.UNITS:
        meter({name: 3}, {"Provider": "chutes"} if name == "AttemptsFailed" else {})
    assert registry.get_sample_value("gatewayz_attempts_failed_total", {"provider": "chutes"}) == 3
    assert registry.get_sample_value("gatewayz_ledger_violations") == 3
    assert registry.get_sample_value("gatewayz_first_byte_seconds_sum") == 0.003
