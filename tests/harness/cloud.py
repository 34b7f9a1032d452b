"""An AWS on loopback, and AWS's own clients of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "us-east-1"


@pytest.fixture(scope="module")
def cloud() -> Iterator[str]:
    """Its address; with nothing in it."""
    from moto.server import ThreadedMotoServer  # a second of imports, for the few tests that want an AWS

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    # what one server of a process was told is known to the next
    httpx.post(f"{address}/moto-api/reset").raise_for_status()
    try:
        yield address
    finally:
        server.stop()


def client(service: str, cloud: str) -> Any:
    """AWS's own client of a service."""
    from botocore.session import get_session  # the same

    return get_session().create_client(
        service, REGION, endpoint_url=cloud, aws_access_key_id="AKID", aws_secret_access_key="x"
    )
