"""A request's receipt, as headers: which generation it was, who served it, what it cost, what is left of its limits."""

from __future__ import annotations

import time

from gateway import money
from gateway.credits import Level
from gateway.inference.bill import Bill


def receipt(bill: Bill) -> dict[str, str]:
    """The headers of an answer, or of the refusal of a request that was admitted."""
    hold = bill.hold
    headers = {"x-generation-id": bill.id}
    headers |= _level("requests", hold.limits.requests) | _level("tokens", hold.limits.tokens)
    if requests := hold.limits.requests:
        headers["x-ratelimit-limit"] = str(requests.limit)
        headers["x-ratelimit-remaining"] = str(requests.remaining)
        headers["x-ratelimit-reset"] = str(int(time.time()) + -(-requests.reset_ms // 1000))
    if bill.served is not None:
        headers["x-gateway-provider"] = bill.served.provider
    if bill.usage is not None:
        headers["x-gateway-cost-usd"] = money.show(bill.cost_nano)
    if hold.max_tokens is not None:
        headers["x-gateway-max-tokens"] = str(hold.max_tokens)
    return headers


def _level(kind: str, level: Level | None) -> dict[str, str]:
    """OpenAI's headers of one limit; the reset is a duration."""
    if level is None:
        return {}
    return {
        f"x-ratelimit-limit-{kind}": str(level.limit),
        f"x-ratelimit-remaining-{kind}": str(level.remaining),
        f"x-ratelimit-reset-{kind}": _duration(level.reset_ms),
    }


def _duration(milliseconds: int) -> str:
    """As OpenAI writes it: 12ms, 1.2s, 6m0s."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{seconds}" if minutes else seconds
