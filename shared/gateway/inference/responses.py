"""A completion told as OpenAI's Responses API tells it: an object of items, or the events that build it.

    response.created, response.in_progress
      output_item.added                        one item: the reasoning, a message or a call of a function
        content_part.added, …delta, …done, content_part.done     of reasoning and messages
        function_call_arguments.delta, …done                     of calls
      output_item.done
    response.completed | response.incomplete | response.failed   with the whole object

SDKs index by output_index, content_index and item_id, so every event names an item that was added before.
https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import sse
from gateway.errors import GatewayError
from gateway.inference import replay
from gateway.inference.responses_request import Item, ResponsesRequest, echoed

PARTS = {
    "reasoning": ("reasoning", "reasoning_text", "text"),
    "reasoning_content": ("reasoning", "reasoning_text", "text"),
    "content": ("message", "output_text", "text"),
    "refusal": ("message", "refusal", "refusal"),
}
"""Members of a delta: the item that they are part of, the type of that part, and its member for the text."""
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}

_encode = msgspec.json.Encoder().encode


class Responses:
    """The dialect of POST /v1/responses."""

    keep_alive = sse.KEEP_ALIVE
    may_keep = True

    def __init__(self, request: ResponsesRequest, previous_id: str | None) -> None:
        self._request, self._previous_id = request, previous_id
        self._response: dict[str, Any] = {}
        self._events: list[bytes] = []
        self._sent = 0
        self._spoken: Item | None = None
        """The item whose text is being told."""
        self._calls: dict[int, Item] = {}
        self._pieces: dict[str, list[str]] = {}
        """By id, what items that are open have of text or arguments; joined when they end."""
        self._reason: str | None = None

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        for chunk in replay.chunks(completion, include_usage=False):
            self.chunk(chunk)
        self.end(replay.identity(completion, include_usage=False), completion["usage"])
        gateway_usage = completion.get("gateway_usage")
        return self._response | ({"gateway_usage": gateway_usage} if gateway_usage else {})

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        self._begin(chunk)
        for choice in chunk["choices"]:
            self._reason = choice.get("finish_reason") or self._reason
            delta = choice.get("delta") or {}
            for name, (kind, part, member) in PARTS.items():
                # providers that send both members say the same in them
                if (text := delta.get(name)) and not (name == "reasoning" and delta.get("reasoning_content")):
                    self._speak(kind, part, member, text)
            for call in delta.get("tool_calls") or ():
                self._call(call)
        return self._flushed()

    def end(self, identity: dict[str, Any], usage: dict[str, Any]) -> bytes:
        self._begin(identity)
        self._close()
        incomplete = INCOMPLETE.get(self._reason or "")
        status = "incomplete" if incomplete else "completed"
        details = {"reason": incomplete} if incomplete else None
        self._response |= {"status": status, "incomplete_details": details, "usage": _usage(usage)}
        self._tell(f"response.{status}", response=self._response)
        return self._flushed()

    def broken(self, identity: dict[str, Any], error: GatewayError) -> bytes:
        self._begin(identity)
        self._gather()
        told = error.error()
        self._response |= {"status": "failed", "error": {"code": told["code"], "message": told["message"]}}
        self._tell("response.failed", response=self._response)
        return self._flushed()

    def memory(self) -> dict[str, Any] | None:
        """The response and what went in, unless it was not to be stored or never ended."""
        if not self._stores or self._response.get("status") not in ("completed", "incomplete"):
            return None
        kept = {"previous_id": self._previous_id, "input": self._request.items, "response": self._response}
        return {"response": kept}

    @property
    def _stores(self) -> bool:
        return self.may_keep and self._request.store is not False

    def _begin(self, head: dict[str, Any]) -> None:
        if self._response:
            return
        self._response = {
            "id": "resp_" + head["id"].removeprefix("gen-").replace("-", ""),
            "object": "response",
            "created_at": head["created"],
            "status": "in_progress",
            "model": head["model"],
            "provider": head["provider"],
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **echoed(self._request),
            "store": self._stores,
        }
        self._tell("response.created", response=self._response)
        self._tell("response.in_progress", response=self._response)

    def _speak(self, kind: str, part_type: str, member: str, text: str) -> None:
        """Tell a piece of text, in the item that is open if it is one of this kind."""
        item = self._spoken
        if item is None or item["type"] != kind or item["content"][-1]["type"] != part_type:
            self._close_spoken()
            item = self._spoken = self._add(kind, _empty(kind))
            part: dict[str, Any] = {"type": part_type, member: ""}
            if part_type == "output_text":
                part |= {"annotations": [], "logprobs": []}
            self._tell("response.content_part.added", **self._place(item), content_index=0, part=part)
            item["content"].append(part)
        self._pieces[item["id"]].append(text)
        extra: dict[str, Any] = {"logprobs": []} if part_type == "output_text" else {}
        self._tell(f"response.{part_type}.delta", **self._place(item), content_index=0, delta=text, **extra)

    def _call(self, fragment: dict[str, Any]) -> None:
        self._close_spoken()
        function = fragment.get("function") or {}
        item = self._calls.get(fragment["index"])
        if item is None:
            begun = {"call_id": fragment.get("id") or f"call_{fragment['index']}", "name": "", "arguments": ""}
            begun["name"] = function.get("name") or ""
            item = self._calls[fragment["index"]] = self._add("function_call", begun)
        if arguments := function.get("arguments"):
            self._pieces[item["id"]].append(arguments)
            self._tell("response.function_call_arguments.delta", **self._place(item), delta=arguments)

    def _add(self, kind: str, members: dict[str, Any]) -> Item:
        output = self._response["output"]
        name = f"{PREFIXES[kind]}_{self._response['id'].removeprefix('resp_')}_{len(output)}"
        item = {"id": name, "type": kind, "status": "in_progress", **members}
        output.append(item)
        self._pieces[name] = []
        self._tell("response.output_item.added", output_index=len(output) - 1, item=item)
        return item

    def _place(self, item: Item) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": int(item["id"].rpartition("_")[2])}

    def _close(self) -> None:
        """End every item that is open."""
        self._gather()
        self._close_spoken()
        for item in self._calls.values():
            named = {"name": item["name"], "arguments": item["arguments"]}
            self._tell("response.function_call_arguments.done", **self._place(item), **named)
            self._end_item(item)
        self._calls = {}

    def _gather(self) -> None:
        """Put together what the items that are open have so far."""
        self._gather_spoken()
        for item in self._calls.values():
            item["arguments"] = "".join(self._pieces[item["id"]])

    def _gather_spoken(self) -> None:
        if self._spoken is not None:
            part = self._spoken["content"][-1]
            part["refusal" if part["type"] == "refusal" else "text"] = "".join(self._pieces[self._spoken["id"]])

    def _close_spoken(self) -> None:
        if self._spoken is None:
            return
        self._gather_spoken()
        item, self._spoken = self._spoken, None
        part = item["content"][-1]
        member = "refusal" if part["type"] == "refusal" else "text"
        extra: dict[str, Any] = {"logprobs": []} if part["type"] == "output_text" else {}
        place = {**self._place(item), "content_index": 0}
        self._tell(f"response.{part['type']}.done", **place, **{member: part[member]}, **extra)
        self._tell("response.content_part.done", **place, part=part)
        self._end_item(item)

    def _end_item(self, item: Item) -> None:
        item["status"] = "completed"
        self._tell("response.output_item.done", output_index=self._place(item)["output_index"], item=item)

    def _tell(self, name: str, /, **members: Any) -> None:
        event = {"type": name, "sequence_number": self._sent, **members}
        self._sent += 1
        self._events.append(sse.named(name, _encode(event)))

    def _flushed(self) -> bytes:
        told, self._events = b"".join(self._events), []
        return told


def _empty(kind: str) -> dict[str, Any]:
    return {"role": "assistant", "content": []} if kind == "message" else {"summary": [], "content": []}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """A completion's usage in the words of the Responses API."""
    prompt, completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": prompt.get("cached_tokens") or 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": completion.get("reasoning_tokens") or 0},
        "total_tokens": usage["total_tokens"],
        "cost": usage["cost"],
    }
