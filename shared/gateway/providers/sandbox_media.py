"""The sandbox's embeddings and images: of the same text always the same, and for any program that shows PNGs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
import zlib
from typing import Any

from gateway.errors import InvalidRequest

DIMENSIONS = 64
MAX_DIMENSIONS = 4096
MAX_NUMBERS = 1 << 18
"""Of all vectors of an answer together."""
SIDE = 64
"""Pixels of an image, whatever size was asked for: it is here to be shown, not to be looked at."""
BYTES_PER_TOKEN = 4


async def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """A list of unit vectors, as floats or base64 of little-endian float32.

    Raises InvalidRequest for more than 4,096 dimensions, or 262,144 numbers in all.
    """
    given, dimensions = body["input"], body.get("dimensions") or DIMENSIONS
    texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    if dimensions > MAX_DIMENSIONS or dimensions * len(texts) > MAX_NUMBERS:
        most = f"{MAX_DIMENSIONS:,} dimensions, and {MAX_NUMBERS:,} numbers in an answer"
        raise InvalidRequest(f"The sandbox embeds in at most {most}.", param="dimensions")
    return await asyncio.to_thread(_embedded, body, texts, dimensions)


def _embedded(body: dict[str, Any], texts: list[Any], dimensions: int) -> dict[str, Any]:
    vectors = [_vector(text, dimensions) for text in texts]
    if body.get("encoding_format") == "base64":
        told: list[Any] = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode() for v in vectors]
    else:
        told = vectors
    tokens = sum(len(text) if isinstance(text, list) else -(-len(text.encode()) // BYTES_PER_TOKEN) for text in texts)
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(told)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def _vector(text: Any, dimensions: int) -> list[float]:
    seed = hashlib.shake_256(str(text).encode()).digest(dimensions)
    numbers = [byte - 127.5 for byte in seed]
    length = sum(number * number for number in numbers) ** 0.5
    return [number / length for number in numbers]


def images(body: dict[str, Any]) -> dict[str, Any]:
    """As many pictures as are asked for, each of one colour, or addresses of them."""
    count = body.get("n") or 1
    wants_data = body.get("response_format", "b64_json") != "url"
    data: list[dict[str, Any]] = []
    for number in range(count):
        digest = hashlib.sha256(f"{number} {body['prompt']}".encode())
        if wants_data:
            data.append({"b64_json": base64.b64encode(_png(digest.digest()[:3])).decode()})
        else:
            data.append({"url": f"https://sandbox.invalid/{digest.hexdigest()[:24]}.png"})
    if body["model"].endswith("/broken-images"):
        data[-1] = {"b64_json": "bm90IGFuIGltYWdl"}
    return {"created": 1_767_225_600, "data": data}


def _png(colour: bytes) -> bytes:
    """A PNG of one colour (https://www.w3.org/TR/png-3)."""
    rows = (b"\0" + colour * SIDE) * SIDE
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
