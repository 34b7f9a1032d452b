"""Images: held at the price of as many as were asked for, charged for those that came and can be shown."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Any
from urllib.parse import urlsplit

from gateway import money
from gateway.errors import ProviderError
from gateway.inference.answer import Answer
from gateway.inference.bill import Call
from gateway.inference.completions import OnePiece, admit
from gateway.inference.metering import Usage
from gateway.providers.base import Provider

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")
"""How a PNG, a JPEG, a GIF and a WebP begin."""
MOST_URL = 8192


async def serve(call: Call) -> Answer:
    """As completions.serve, for a call whose request is an ImageRequest."""
    return await admit(call, Images)


class Images(OnePiece):
    """OpenAI's list of images (https://platform.openai.com/docs/api-reference/images)."""

    async def _ask(self, provider: Provider, body: dict[str, Any]) -> dict[str, Any]:
        found = await provider.draw(body)
        found["data"] = [shown for entry in found["data"] if (shown := _shown(entry))][: self.bill.call.request.choices]
        if not found["data"]:
            raise ProviderError("The provider sent no image.")
        return found

    def _finish(self, found: dict[str, Any]) -> None:
        bill, data = self.bill, found["data"]
        bill.charge(Usage(0, 0, images=len(data)))
        each = money.number(bill.cost_nano // len(data))
        created = found.get("created")
        self._tell(
            {
                "created": created if isinstance(created, int) else int(time.time()),
                "data": data,
                "success": True,
                "model": bill.identity("image")["model"],
                "provider": bill.offer.provider if bill.offer else None,
                "gateway_usage": {**bill.gateway_usage(), "images_generated": len(data), "cost_per_image": each},
            }
        )


def _shown(entry: dict[str, Any]) -> dict[str, Any] | None:
    """An image as the client gets it; None for one that nobody could show."""
    encoded, url = entry.get("b64_json"), entry.get("url")
    if isinstance(encoded, str) and _is_image(encoded):
        shown: dict[str, Any] = {"b64_json": encoded}
    elif isinstance(url, str) and len(url) <= MOST_URL and urlsplit(url).scheme == "https":
        shown = {"url": url}
    else:
        return None
    revised = entry.get("revised_prompt")
    return {**shown, "revised_prompt": revised if isinstance(revised, str) else None}


def _is_image(encoded: str) -> bool:
    try:
        return base64.b64decode(encoded, validate=True).startswith(SIGNATURES)
    except (binascii.Error, ValueError):
        return False
