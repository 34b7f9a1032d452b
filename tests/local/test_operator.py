"""The first operator: made by who has the database, once, with a key of the stage that may do everything."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.harness.gateway import with_password

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess
    from tests.harness.postgres import Database


def make_operator(database: Database, *name: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DATABASE_URL": with_password(database.admin), "PYTHONPATH": ".:shared"}
    command = [sys.executable, "-m", "local.operator", *name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


async def test_an_operator_is_made_once(gateway: InProcess, database: Database):
    made = make_operator(database, "first")
    assert made.returncode == 0, made.stderr
    key = made.stdout.splitlines()[-1]
    response = await gateway.client.get("/admin/users", headers=gateway.headers(key=key))
    assert response.status_code == 200
    assert key not in str(await gateway.tables())
    again = make_operator(database, "first")
    assert (again.returncode, again.stdout) == (1, "")
    assert "first is not to be had" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("name", [(), ("",)])
def test_an_operator_has_a_name(database: Database, name: tuple[str, ...]):
    assert "NAME" in make_operator(database, *name).stderr
