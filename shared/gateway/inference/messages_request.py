"""A request of Anthropic's Messages API, and the chat completion that it asks for.

https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from gateway.errors import InvalidRequest
from gateway.inference.ceilings import within_ceiling
from gateway.inference.requests import MAX_MESSAGES, ModelRequest, Thinking, Tokens

PASSED = ("temperature", "top_p", "top_k", "stream", "models", "provider")
"""Members that a chat completion has, too, under the same name."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}

type Block = dict[str, Any]
type Content = str | list[Block]


class Said(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: Content


class Thinks(Thinking):
    type: str | None = None


class MessagesRequest(ModelRequest, kw_only=True):
    kind: ClassVar[str] = "chat"
    max_tokens: Tokens
    messages: Annotated[list[Said], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=512)] | None = None
    tool_choice: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    metadata: dict[str, Any] | None = None
    thinking: Thinks | None = None
    stream: bool | None = None

    def __post_init__(self) -> None:
        if self.thinking:
            within_ceiling(self.max_tokens, self.thinking.budget_tokens, "thinking.budget_tokens")


def chat_of(request: MessagesRequest, body: dict[str, Any]) -> dict[str, Any]:
    """The chat completion's body of a request. Raises InvalidRequest."""
    messages = [{"role": "system", "content": _texts(request.system, "system")}] if request.system else []
    for said in request.messages:
        messages += _assistant(said.content) if said.role == "assistant" else _user(said.role, said.content)
    chat: dict[str, Any] = {"model": request.model, "messages": messages, "max_tokens": request.max_tokens}
    chat |= {name: body[name] for name in PASSED if body.get(name) is not None}
    if request.stop_sequences:
        chat["stop"] = request.stop_sequences
    if request.tools:
        chat["tools"] = [_tool(tool) for tool in request.tools]
        chat |= _tool_choice(request.tool_choice or {})
    if (user := (request.metadata or {}).get("user_id")) is not None:
        chat["user"] = str(user)
    if request.thinking and request.thinking.type == "enabled":
        chat["reasoning"] = {"max_tokens": request.thinking.budget_tokens}
    return chat


def _texts(content: Content, param: str) -> Content:
    """Text as it was sent: marks for a provider's cache are on its blocks."""
    if isinstance(content, str):
        return content
    if any(block.get("type") != "text" or not isinstance(block.get("text"), str) for block in content):
        raise InvalidRequest("Only blocks of text are supported here.", param=param)
    if any("cache_control" in block for block in content):
        return [{name: block[name] for name in ("type", "text", "cache_control") if name in block} for block in content]
    return "\n".join(block["text"] for block in content)


def _user(role: str, content: Content) -> list[dict[str, Any]]:
    """What the user says, after the results of tools that he sends with it."""
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results = [_result(block) for block in content if block.get("type") == "tool_result"]
    said = [_part(block) for block in content if block.get("type") != "tool_result"]
    plain = "".join(part["text"] for part in said) if all(set(part) == {"type", "text"} for part in said) else said
    return results + ([{"role": role, "content": plain}] if said else [])


def _result(block: Block) -> dict[str, Any]:
    content = block.get("content") or ""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [_part(part) for part in content]
    if block.get("is_error"):
        parts.insert(0, {"type": "text", "text": "Error: "})
    only_text = all(part["type"] == "text" for part in parts)
    told = "".join(part["text"] for part in parts) if only_text else parts
    return {"role": "tool", "tool_call_id": _text(block, "tool_use_id"), "content": told}


def _part(block: Any) -> dict[str, Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        part: dict[str, Any] = {"type": "text", "text": _text(block, "text")}
        return part | ({"cache_control": block["cache_control"]} if "cache_control" in block else {})
    source = block.get("source") if kind in ("image", "document") else None
    if isinstance(source, dict):
        if source.get("type") == "text" and kind == "document":
            return {"type": "text", "text": _text(source, "data")}
        if source.get("type") in ("base64", "url"):
            url = _url(source)
            return (
                {"type": "image_url", "image_url": {"url": url}}
                if kind == "image"
                else {"type": "file", "file": {"filename": str(block.get("title") or "document.pdf"), "file_data": url}}
            )
    raise InvalidRequest("This type of block is not supported.", param="messages")


def _url(source: dict[str, Any]) -> str:
    if source["type"] == "url":
        return _text(source, "url")
    return f"data:{_text(source, 'media_type')};base64,{_text(source, 'data')}"


def _assistant(content: Content) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": "assistant", "content": content}]
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in content:
        match block.get("type"):
            case "text":
                texts.append(_text(block, "text"))
            case "tool_use":
                arguments = msgspec.json.encode(block.get("input") or {}).decode()
                function = {"name": _text(block, "name"), "arguments": arguments}
                calls.append({"id": _text(block, "id"), "type": "function", "function": function})
            case "thinking" | "redacted_thinking":
                pass  # signed by the model that wrote it, and nothing to any other
            case _:
                raise InvalidRequest("This type of block is not supported.", param="messages")
    return [{"role": "assistant", "content": "".join(texts) or None, **({"tool_calls": calls} if calls else {})}]


def _text(block: dict[str, Any], name: str) -> str:
    text = block.get(name)
    if not isinstance(text, str):
        raise InvalidRequest(f"{name} must be a text.", param="messages")
    return text


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom":
        raise InvalidRequest("Only tools of your own are supported.", param="tools")
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema") or {"type": "object"}}
    described = {"description": tool["description"]} if tool.get("description") else {}
    return {"type": "function", "function": function | described}


def _tool_choice(choice: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if choice.get("type") == "tool":
        chosen["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice:
        if choice.get("type") not in CHOICES:
            raise InvalidRequest("tool_choice is auto, any, tool or none.", param="tool_choice")
        chosen["tool_choice"] = CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use"):
        chosen["parallel_tool_calls"] = False
    return chosen
