"""Whatever fits our OpenAPI document, or does not: no 5xx, and no status that the document does not name."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, not_a_server_error

from local.openapi import document
from tests.security.matrix import deployed

if TYPE_CHECKING:
    from local.stripe import Stripe
    from tests.harness.gateway import InProcess

EXAMPLES = 100 if os.environ.get("CI") else 15
DOCUMENT = document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [(path, method) for path, methods in sorted(DOCUMENT["paths"].items()) for method in sorted(methods)]
MODELS = {
    "/v1/embeddings": "sandbox/embedding",
    "/v1/images/generations": "sandbox/image",
    "/images/generate": "sandbox/image",
}
UNSTABLE = {("/user", "delete")}
"""After its first success nobody is who he was."""


def test_the_document_has_every_route_that_is_deployed() -> None:
    described = {(method.upper(), path.replace("{model_id}", "{id}")) for path, method in OPERATIONS}
    assert described == deployed()


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=str)
async def test_no_input_makes_an_operation_fail(gateway: InProcess, stripe: Stripe, path: str, method: str):
    assert stripe.address
    keys = {"customer": gateway.key, "operator": gateway.admin_key, "nobody": None}

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=SCHEMA[path][method].as_strategy(), who=st.sampled_from(sorted(keys)), known=st.booleans())
    def ask(case: Any, who: str, known: bool) -> None:  # noqa: FBT001 - Hypothesis gives it
        if known and isinstance(case.body, dict) and "model" in case.body:
            case.body = {**case.body, "model": MODELS.get(path, "sandbox/chat")}
        headers = {"authorization": f"Bearer {keys[who]}"} if keys[who] else {}
        answered = case.call(base_url=gateway.url, headers=headers, timeout=20)
        statuses = CHECKS.get_by_names(["status_code_conformance"])
        case.validate_response(answered, checks=[not_a_server_error, *statuses])

    await asyncio.to_thread(ask)
