"""The ranking of models by our own usage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from gateway import database
from gateway.money import show

type Period = Literal["day", "week", "month"]
type Metric = Literal["tokens", "requests", "spend"]


async def ranking(period: Period, metric: Metric, limit: int, offset: int) -> dict[str, Any]:
    """The models of a period, the most used first, each with its trend against the period before."""
    found = await database.call("ranking", period=period, metric=metric, most=limit, skipped=offset)
    return {
        "data": [_shown(row, metric) for row in found["models"]],
        "count": found["count"],
        "limit": limit,
        "offset": offset,
        "has_logo_urls": False,
        "meta": {
            "as_of": datetime.now(UTC).isoformat() if found["until"] is None else found["until"],
            "start_date": found["since"],
            "end_date": found["until"],
            "source": "own usage of this gateway; models with fewer than five users are left out",
        },
    }


def _shown(row: dict[str, Any], metric: Metric) -> dict[str, Any]:
    now, before = {
        "tokens": (row["tokens"], row["previous_tokens"]),
        "requests": (row["requests"], row["previous_requests"]),
        "spend": (row["spend_nano"], row["previous_nano"]),
    }[metric]
    return {
        "rank": row["rank"],
        "model_name": row["model"],
        "author": row["model"].partition("/")[0],
        "logo_url": None,
        "tokens": row["tokens"],
        "total_tokens": str(row["tokens"]),
        "requests": row["requests"],
        "spend_usd": show(row["spend_nano"]),
        **_trend(now, before),
    }


def _trend(now: int, before: int) -> dict[str, Any]:
    """In whole percent of the period before; a model that was not used then is new."""
    if before == 0:
        return {"trend_percentage": None, "trend_direction": "new"}
    percent = round(100 * (now - before) / before)
    return {
        "trend_percentage": percent,
        "trend_direction": "up" if now > before else "down" if now < before else "same",
    }
