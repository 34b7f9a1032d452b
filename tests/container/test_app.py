"""All groups in one app: each path is served by the group that template.yaml gives it to."""

from __future__ import annotations

import importlib
import re

import httpx
import pytest
from starlette import routing
from starlette.responses import Response

from container.app import GROUPS, app, own
from local.template import Route, load
from tests.architecture.functions import ENVIRONMENT, ROOT, run_python
from tests.container.process import started
from tests.harness.gateway import listening

TEMPLATE = load(ROOT / "template.yaml", "http://127.0.0.1:1")
HANDLERS = {function.name: function.handler.split(".")[0] for function in TEMPLATE.functions}


@pytest.mark.parametrize("route", TEMPLATE.routes, ids=lambda route: f"{route.method} {route.path}")
def test_a_path_is_served_by_the_group_that_the_template_names(route: Route):
    path = re.sub(r"{\w+\+}", "acme/some/model", route.path)
    group = importlib.import_module(f"{HANDLERS[route.function]}.handler").app
    assert app.serving(re.sub(r"{\w+}", "some", path)) is group


def test_every_function_with_routes_is_here():
    assert {HANDLERS[route.function] for route in TEMPLATE.routes} == set(GROUPS)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat/completions/", "/docs", "/user/api-keys/1/2/3"])
async def test_what_no_group_serves_is_the_ordinary_404(path: str):
    async with listening(app) as url, httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(url + path, json={})
    body = response.json()
    assert (response.status_code, body["error"]["code"]) == (404, "not_found")
    assert response.headers["x-request-id"] == body["request_id"]


async def test_a_container_can_have_routes_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(own, "routes", [routing.Route("/of-its-own", lambda _: Response("here"))])
    async with listening(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answers = [await client.get("/of-its-own"), await client.post("/of-its-own"), await client.get("/ping")]
    assert [answer.status_code for answer in answers] == [200, 405, 200]
    assert (answers[0].text, "x-request-id" in answers[0].headers) == ("here", True)
    assert answers[1].json()["error"]["code"] == "method_not_allowed"


@pytest.mark.process
async def test_a_group_without_its_settings_is_left_out_and_the_others_serve():
    async with started(DATABASE_URL=ENVIRONMENT["DATABASE_URL"]) as process:
        url = f"http://127.0.0.1:{(await process.logged('listening'))['port']}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            webhook = await client.post("/api/stripe/webhook", json={})
            ping = await client.get("/ping")
    assert (webhook.status_code, webhook.json()["error"]["code"]) == (404, "not_found")
    assert ping.json()["status"] == "pong"
    (line,) = process.events("group_left_out")
    assert (line["group"], "STRIPE_WEBHOOK_SECRET" in line["reason"]) == ("stripe_webhook", True)


@pytest.mark.process
@pytest.mark.parametrize("program", ["container.__main__", "container.jobs"])
def test_who_does_not_measure_needs_no_package_for_it(program: str):
    """`make run` does not install it, and docs/containers.md, "By hand", follows that."""
    without = "import sys; sys.modules['prometheus_client'] = None"
    run_python(f"{without}; import {program}, container.metrics; container.metrics.serve()")
    assert "prometheus" not in (ROOT / "requirements/run.txt").read_text()


@pytest.mark.process
async def test_without_the_settings_that_all_need_it_does_not_start():
    async with started(STAGE="") as process:
        assert await process.ended() == 1
    assert "IncompleteSettings: STAGE" in process.errors
