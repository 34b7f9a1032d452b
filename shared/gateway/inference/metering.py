"""What a completion can cost before it is served, what it used after, and what that costs.

Before: a byte of the request's text is at least as much as a token of it (tokenizers of every model sold here work on
bytes and never make two tokens of one), so the body's length bounds the prompt, except for images and other media,
which are counted by themselves.
After: the provider's own usage, unless it is missing or not believable; then an estimate from the bytes that were seen.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import money
from gateway.credits import Offer, Tier
from gateway.inference.requests import MAX_TOKENS, CompletionRequest, ModelRequest

MEDIA_TOKENS = 4096
"""An image, a file or a sound counts as this many tokens in the bound; a settlement books what it really was."""
TOOLS_TOKENS = 512
"""Providers put words of their own around tool definitions."""
BYTES_PER_TOKEN = 4
REMOTE_BYTES = 1 << 20
"""No model sold has a longer context, so a document at an address cannot have had more tokens."""
FRAME_TOKENS = 1024
"""Providers put words of their own around a prompt, too: a usage may have so many tokens more than its bound."""
STOP_TOKENS = 16
"""Some count the end of an answer, which the ceiling does not."""
EXPECTED_COMPLETION_TOKENS = 512
"""Taken from the tokens-per-minute limit for a request without a ceiling of its own; corrected when it is settled."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one completion; `cached` and `cache_written` are parts of `prompt`, `reasoning` of `completion`."""

    prompt: int
    completion: int
    cached: int = 0
    cache_written: int = 0
    reasoning: int = 0
    images: int = 0
    upstream_cost_nano: int | None = None
    is_estimated: bool = False

    def details(self) -> dict[str, Any]:
        """The detail members of OpenAI's `usage` object."""
        return {
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


class Bounds(msgspec.Struct, frozen=True):
    """Of a request, in tokens: the most its prompt can have, what it likely has, and likely with the completion."""

    prompt_tokens: int
    likely_prompt_tokens: int
    expected_tokens: int
    media_bytes: int = 0
    """Of its images, files and sounds, which may have more tokens than were held for them; one that is elsewhere counts
    as REMOTE_BYTES.
    """


def bounds(request: ModelRequest, size: int) -> Bounds:
    """Bounds of a request whose body has `size` bytes."""
    if not isinstance(request, CompletionRequest):
        return _bounds_of_text(request, size)
    parts = _media(request)
    media = [_size(part) for part in parts]
    text = max(1, size - sum(media))
    extra = len(media) * MEDIA_TOKENS + (TOOLS_TOKENS if request.tools else 0)
    completion = min(request.asked_tokens or EXPECTED_COMPLETION_TOKENS, EXPECTED_COMPLETION_TOKENS) * request.choices
    likely = likely_tokens(text) + extra
    sizes = sum(REMOTE_BYTES if _is_elsewhere(part) else held for part, held in zip(parts, media, strict=True))
    return Bounds(text + extra, likely, likely + completion, sizes)


def likely_tokens(size: int) -> int:
    """How many tokens a text of so many bytes likely has."""
    return -(-size // BYTES_PER_TOKEN)


def _bounds_of_text(request: ModelRequest, size: int) -> Bounds:
    """Of what has no completion. A number of a list of tokens has two bytes at least."""
    likely = likely_tokens(size)
    return Bounds(size, likely, likely if request.kind == "embedding" else 0)


def _media(request: CompletionRequest) -> list[dict[str, Any]]:
    return [
        part
        for message in request.messages
        if isinstance(message.content, list)
        for part in message.content
        if part.get("type") not in ("text", "refusal")
    ]


def _size(part: dict[str, Any]) -> int:
    """Bytes of the strings that a part holds under the name of its type, where OpenAI's parts have their media; a body
    has at least as many for them.
    """
    held = part.get(str(part.get("type")))
    return sum(len(text.encode()) for text in held.values() if isinstance(text, str)) if isinstance(held, dict) else 0


def _is_elsewhere(part: dict[str, Any]) -> bool:
    """Whether a part says where its medium is, which may be of any size."""
    held = part.get(str(part.get("type")))
    texts = held.values() if isinstance(held, dict) else (held,)
    return any(isinstance(text, str) and text.startswith(("http://", "https://")) for text in texts)


def cost_nano(usage: Usage, offer: Offer) -> int:
    """What a usage costs at an offer's prices, in nano-dollars, rounded up once. An image's price is where a completion
    token's is.
    """
    prices = _prices(offer, usage.prompt)
    fresh = usage.prompt - usage.cached - usage.cache_written
    return money.cost(
        (fresh, prices.prompt_price),
        (usage.cached, prices.cache_read_price),
        (usage.cache_written, prices.cache_write_price),
        (usage.completion + usage.images, prices.completion_price),
        (1, offer.request_price),
    )


def _prices(offer: Offer, prompt_tokens: int) -> Offer | Tier:
    """The prices of a request with this prompt: the last tier's that it is above."""
    return next((tier for tier in reversed(offer.tiers or ()) if prompt_tokens > tier.above_tokens), offer)


def bound_nano(bounds: Bounds, completion_tokens: int, offer: Offer) -> int:
    """The most that a request can cost at an offer's prices, in nano-dollars: what its admission holds (api.fit)."""
    reached = [tier for tier in offer.tiers or () if bounds.prompt_tokens > tier.above_tokens]
    prices: list[Offer | Tier] = [offer, *reached]
    dearest = max(max(each.prompt_price, each.cache_read_price, each.cache_write_price) for each in prices)
    return money.cost(
        (bounds.prompt_tokens, dearest),
        (1, offer.request_price),
        (completion_tokens, max(each.completion_price for each in prices)),
    )


def usage_of(reported: Any) -> Usage | None:
    """A provider's `usage` object, or None when it is missing or not believable (negative, absurd, not numbers)."""
    if not isinstance(reported, dict):
        return None
    prompt, completion = _count(reported.get("prompt_tokens")), _count(reported.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = reported.get("prompt_tokens_details") or {}
    written = reported.get("completion_tokens_details") or {}
    cached = min(_count(_member(details, "cached_tokens")) or 0, prompt)
    return Usage(
        prompt,
        completion,
        cached=cached,
        cache_written=min(_count(_member(details, "cache_write_tokens")) or 0, prompt - cached),
        reasoning=min(_count(_member(written, "reasoning_tokens")) or 0, completion),
        upstream_cost_nano=_dollars(reported.get("cost")),
    )


def believed(usage: Usage, bounds: Bounds, most_completion: int) -> Usage:
    """A usage with the bound in the place of what cannot be: a prompt longer than what was sent, a completion above the
    ceiling of all choices together. What was changed is an estimate.
    """
    prompt, completion = usage.prompt, usage.completion
    if prompt > bounds.prompt_tokens + bounds.media_bytes + FRAME_TOKENS:
        prompt = bounds.prompt_tokens + bounds.media_bytes
    if completion > most_completion + STOP_TOKENS:
        completion = most_completion
    if (prompt, completion) == (usage.prompt, usage.completion):
        return usage
    cached = min(usage.cached, prompt)
    return msgspec.structs.replace(
        usage, prompt=prompt, completion=completion, cached=cached, is_estimated=True,
        cache_written=min(usage.cache_written, prompt - cached), reasoning=min(usage.reasoning, completion),
    )  # fmt: skip


def embedding_usage_of(reported: Any) -> Usage | None:
    """A provider's `usage` of embeddings, which have no completion; None when it is missing or not believable."""
    return usage_of({**reported, "completion_tokens": 0}) if isinstance(reported, dict) else None


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _count(value: Any) -> int | None:
    """A number of tokens; no model's context has more than MAX_TOKENS of them."""
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        return None
    return value


def _dollars(value: Any) -> int | None:
    """A cost that a provider reports as a JSON number, in nano-dollars; for the operator's books, never charged."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1_000_000:
        return None
    return money.parse(f"{value:.9f}")


def estimate(bounds: Bounds, seen_bytes: int, seen_chunks: int) -> Usage:
    """What was used when nobody says: the text sent and the answer seen, at four bytes, or one chunk, a token."""
    completion = max(-(-seen_bytes // BYTES_PER_TOKEN), seen_chunks)
    return Usage(bounds.likely_prompt_tokens, completion, is_estimated=True)
