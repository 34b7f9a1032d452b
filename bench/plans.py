"""The plans of what a function does inside, and which tables they read whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

EXPLAIN = """
load 'auto_explain';
set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on;
set auto_explain.log_timing = off; set client_min_messages = log;
"""
"""What a superuser's connection has to run so that the server sends it each plan, also those inside of functions."""

BOUNDED = {
    "plans",
    "roles",
    "models",
    "offers",
    "offer_health",
    "image_prices",
    "credit_packages",
    "rollups",
    "ledger_position",
    "latest_models",
    "catalogue_snapshots",
    "referral_terms",
    "trial_terms",
    "quarantined_prices",
    "usage_uncounted",
}
"""Tables that do not grow with users, requests or years: what is sold, rows that are the only one, and a queue that is
read from its start."""
INDEX_SCANS = {"Index Scan", "Index Only Scan", "Bitmap Index Scan"}


async def listen(connection: asyncpg.Connection, plans: list[str], form: Literal["json", "text"]) -> None:
    """Add the plan of every statement that this connection, a superuser's, runs from now on."""
    connection.add_log_listener(lambda _, message: plans.append(str(message.message)))
    await connection.execute(f"{EXPLAIN}set auto_explain.log_format = '{form}'")


def reads_whole(plan: str, partial: frozenset[str]) -> set[str]:
    """The growing tables that a plan, in JSON, reads from end to end, by themselves or by an index.

    An index that is `partial` has only the rows that wait for something, which are few. What stands below a limit ends
    early, if no filter throws rows away.
    """
    found = set()
    for node, above, is_limited in _nodes(_root(plan), {}, is_limited=False):
        table = node.get("Relation Name") or above.get("Relation Name", "")
        if node["Node Type"] in INDEX_SCANS:
            ends_early = is_limited and "Filter" not in node
            whole = not ("Index Cond" in node or node["Index Name"] in partial or ends_early)
        else:
            whole = node["Node Type"] == "Seq Scan"
        if whole and table not in BOUNDED:
            found.add(table)
    return found


def compares_with_the_clock(plan: str) -> set[str]:
    """The tables of which a plan throws rows away by clock_timestamp(), which is volatile: no index serves that."""
    nodes = [node for node, _, _ in _nodes(_root(plan), {}, is_limited=False) if "Relation Name" in node]
    return {node["Relation Name"] for node in nodes if "clock_timestamp()" in node.get("Filter", "")}


def _root(plan: str) -> dict[str, Any]:
    root: dict[str, Any] = json.loads(plan[plan.index("{") :])["Plan"]
    return root


def _nodes(
    node: dict[str, Any], above: dict[str, Any], *, is_limited: bool
) -> Iterator[tuple[dict[str, Any], dict[str, Any], bool]]:
    """A plan's nodes, each with the one above and whether a limit ends it early: a sort below one reads everything."""
    yield node, above, is_limited
    passes = node["Node Type"] in {"Limit", "LockRows", "Subquery Scan", "Nested Loop", "Result"}
    below = passes and (is_limited or node["Node Type"] == "Limit")
    for child in node.get("Plans", []):
        yield from _nodes(child, node, is_limited=below)
