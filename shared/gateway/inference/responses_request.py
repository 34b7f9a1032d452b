"""A request of OpenAI's Responses API, and the chat completion that it asks for.

https://platform.openai.com/docs/api-reference/responses/create. What needs OpenAI's own servers (their tools,
conversations, prompts, background runs) is refused by name and not left out in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from gateway.errors import InvalidRequest
from gateway.inference.ceilings import one_ceiling
from gateway.inference.requests import MAX_MESSAGES, ModelRequest, Tokens

REFUSED = ("background", "conversation", "prompt")
PASSED = ("temperature", "top_p", "top_logprobs", "user", "models", "provider", "parallel_tool_calls", "service_tier")
"""Members that a chat completion has, too, under the same name."""
TEXTS = frozenset({"input_text", "output_text", "text"})

type Item = dict[str, Any]


class ResponsesRequest(ModelRequest, kw_only=True):
    kind: ClassVar[str] = "chat"
    input: Annotated[str, Meta(min_length=1)] | Annotated[list[Item], Meta(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    store: bool | None = None
    previous_response_id: Annotated[str, Meta(max_length=100)] | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None

    def __post_init__(self) -> None:
        one_ceiling(max_output_tokens=self.max_output_tokens, max_tokens=self.max_tokens)

    @property
    def items(self) -> list[Item]:
        """The input as items."""
        if isinstance(self.input, list):
            return self.input
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": self.input}]}]


def chat_of(request: ResponsesRequest, body: dict[str, Any], before: list[Item]) -> dict[str, Any]:
    """The chat completion's body of a request that follows these items. Raises InvalidRequest."""
    for name in REFUSED:
        if body.get(name):
            raise InvalidRequest("This field is not supported.", param=name)
    messages = [{"role": "system", "content": request.instructions}] if request.instructions else []
    chat: dict[str, Any] = {"model": request.model, "messages": messages + _messages(before + request.items)}
    chat |= {name: body[name] for name in PASSED if body.get(name) is not None}
    options = {
        "stream": request.stream,
        "max_tokens": request.max_output_tokens or request.max_tokens,
        "tools": [_tool(tool) for tool in request.tools or ()] or None,
        "tool_choice": _tool_choice(request.tool_choice) if request.tools else None,
        "response_format": _format(request),
        "reasoning_effort": (request.reasoning or {}).get("effort"),
        "verbosity": (request.text or {}).get("verbosity"),
    }
    return chat | {name: value for name, value in options.items() if value is not None}


def _messages(items: list[Item]) -> list[dict[str, Any]]:
    """Items as messages: calls of functions belong to the assistant's message before them."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item.get("type", "message"):
            case "message":
                messages.append(_message(item))
            case "function_call":
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None})
                messages[-1].setdefault("tool_calls", []).append(_call(item))
            case "function_call_output":
                output = _content(item.get("output"))
                messages.append({"role": "tool", "tool_call_id": _text(item, "call_id"), "content": output})
            case "reasoning":
                pass  # the model's own thoughts of before are not told to it again
            case _:
                raise InvalidRequest("This type of item is not supported.", param="input")
    return messages


def _message(item: Item) -> dict[str, Any]:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise InvalidRequest("A message's role is user, assistant, system or developer.", param="input")
    # a developer's words: many models know only the older name
    return {"role": "system" if role == "developer" else role, "content": _content(item.get("content"))}


def _content(content: Any) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise InvalidRequest("Content is a text or a list of parts.", param="input")
    parts = [_part(part) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind in TEXTS:
        return {"type": "text", "text": _text(part, "text")}
    if kind == "refusal":
        return {"type": "text", "text": _text(part, "refusal")}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        image = {"url": part["image_url"]}
        return {"type": "image_url", "image_url": image | ({"detail": part["detail"]} if part.get("detail") else {})}
    if kind == "input_file" and isinstance(part.get("file_data"), str):
        return {"type": "file", "file": {name: part[name] for name in ("filename", "file_data") if name in part}}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    raise InvalidRequest("This type of content is not supported.", param="input")


def _call(item: Item) -> dict[str, Any]:
    function = {"name": _text(item, "name"), "arguments": _text(item, "arguments")}
    return {"id": _text(item, "call_id"), "type": "function", "function": function}


def _text(item: Item, name: str) -> str:
    text = item.get(name)
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} must be a text.", param="input")
    return text


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise InvalidRequest("Only tools of the type function are supported.", param="tools")
    members = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in members if tool.get(name) is not None}}


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") != "function":
        raise InvalidRequest("tool_choice is a word or a function.", param="tool_choice")
    return {"type": "function", "function": {"name": choice.get("name")}}


def _format(request: ResponsesRequest) -> dict[str, Any] | None:
    wanted = (request.text or {}).get("format")
    if not isinstance(wanted, dict):
        return request.response_format
    if wanted.get("type") != "json_schema":
        return wanted
    members = ("name", "description", "schema", "strict")
    return {"type": "json_schema", "json_schema": {name: wanted[name] for name in members if name in wanted}}


def echoed(request: ResponsesRequest) -> dict[str, Any]:
    """The members of a response that repeat its request, with OpenAI's defaults."""
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens or request.max_tokens,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": None, "summary": None, **(request.reasoning or {})},
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": request.text or {"format": {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": msgspec.to_builtins(request.tools or []),
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "metadata": request.metadata or {},
        "user": request.user,
    }
