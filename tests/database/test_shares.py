"""One user's calls that wait for a row of his leave connections for everybody else's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from gateway.database.postgres import CONNECTIONS, MOST_A_USER
from gateway.database.shares import MAX_OWNERS, Shares
from gateway.money import NANO
from tests.harness.gateway import InProcess, eventually

if TYPE_CHECKING:
    from tests.harness.postgres import Database

WAITING = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


async def test_a_row_that_is_held_holds_up_its_user_alone(gateway: InProcess, database: Database):
    user_id, key = gateway.user_id, gateway.key
    other = await gateway.customer(NANO)
    gateway.user_id, gateway.key = user_id, key
    assert (await gateway.ask()).status_code == 200  # whose key it is, is known from here on
    await gateway.ended()
    await gateway.books.execute("update gateway.plans set concurrency = null, requests_per_minute = null")
    holder = await asyncpg.connect(database.admin)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("select from gateway.users where id = $1 for update", gateway.user_id)
    asking = [asyncio.create_task(gateway.ask()) for _ in range(2 * CONNECTIONS)]
    try:
        await eventually(lambda: waiting(gateway, MOST_A_USER))
        for _ in range(3):
            assert (await gateway.ask(key=other)).status_code == 200
        assert await gateway.rows(WAITING) == await waiting(gateway, MOST_A_USER)
    finally:
        await transaction.rollback()
        await holder.close()
    assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}


async def waiting(gateway: InProcess, count: int) -> list[dict[str, int]]:
    """The server's processes that wait for a lock, if they are so many."""
    await gateway.books.execute("select pg_stat_clear_snapshot()")
    found = await gateway.rows(WAITING)
    return found if len(found) == count else []


def test_a_share_ends_with_its_last_call_and_owners_are_forgotten():
    shares = Shares(CONNECTIONS, MOST_A_USER)
    first, second = shares.enter(5), shares.enter(5)
    assert first is second
    for share in (first, second):
        shares.leave(5, share)
    assert shares.enter(5) is not first
    for number in range(MAX_OWNERS + 1):
        shares.learn({"key_hashes": [f"v1:{number}"]}, {"user_id": number})
    assert shares.owner_of({"key_hashes": ["v1:0"]}) == "v1:0"
    assert shares.owner_of({"key_hashes": [f"v1:{MAX_OWNERS}"]}) == MAX_OWNERS
    assert shares.owner_of({"user_id": 7, "key_hashes": ["v1:1"]}) == 7
    assert shares.owner_of({"code": "x"}) is None
