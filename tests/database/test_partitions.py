"""Months of usage records: made before they begin, once."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from gateway.database import call

if TYPE_CHECKING:
    from tests.harness.builders import Connection

MONTHS = """
select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid
 where i.inhparent = 'gateway.usage_records'::regclass and c.relrowsecurity
"""


@pytest.mark.usefixtures("service")
async def test_the_next_months_are_made_once(operator: Connection):
    before = await operator.fetchval(MONTHS)
    gone = "gateway.usage_records_" + await operator.fetchval("select to_char(now() + interval '2 months', 'YYYY_MM')")
    await operator.execute(f"drop table {gone}")
    made = await asyncio.gather(*(call("add_months") for _ in range(3)))
    assert sorted(each["made"] for each in made) == [0, 0, 1]
    assert await operator.fetchval(MONTHS) == before
    assert json.loads(await operator.fetchval("select api.add_months()")) == {"made": 0}
