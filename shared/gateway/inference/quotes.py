"""What a completion would cost: the bounds and offers that its admission would have, and nothing is held."""

from __future__ import annotations

from typing import Any

from gateway import credits, money, providers
from gateway.credits import Offer
from gateway.inference import metering
from gateway.inference.bill import Call
from gateway.inference.metering import Usage


async def quote(call: Call) -> dict[str, Any]:
    """The offers of a call in the order in which they would be tried, each with what it likely costs and costs at most.

    Raises every refusal of an admission that is not about money or limits.
    """
    request = call.request
    found = await credits.quote(
        **call.key.credentials(), ip=call.ip, referer=call.referer, models=request.wanted_models,
        providers=providers.on_sale(), preferences=request.preferences(),
    )  # fmt: skip
    offers = [_priced(call, offer) for offer in found.offers]
    most = max(offer.pop("_most") for offer in offers)
    return {
        "object": "quote",
        "model": request.model,
        "prompt_tokens": call.bounds.likely_prompt_tokens,
        "max_prompt_tokens": call.bounds.prompt_tokens,
        "max_cost_usd": money.show(most),
        "available_usd": money.show(found.available_nano),
        "is_affordable": most <= found.available_nano,
        "offers": offers,
    }


def _priced(call: Call, offer: Offer) -> dict[str, Any]:
    request, bounds = call.request, call.bounds
    completion = min(request.asked_tokens or offer.max_output_tokens, offer.max_output_tokens)
    likely = Usage(bounds.likely_prompt_tokens, bounds.expected_tokens - bounds.likely_prompt_tokens)
    most = metering.bound_nano(bounds, completion * request.choices, offer)
    is_own = offer.sealed is not None
    prices = {name: money.show_price(getattr(offer, f"{name}_price")) for name in ("prompt", "completion")}
    return {
        "model": offer.model,
        "provider": offer.provider,
        "is_byok": is_own,
        "pricing": prices,
        "max_completion_tokens": completion,
        "likely_cost_usd": money.show(0 if is_own else metering.cost_nano(likely, offer)),
        "max_cost_usd": money.show(0 if is_own else most),
        "_most": 0 if is_own else most,
    }
