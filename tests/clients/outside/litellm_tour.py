"""litellm as a client. It wants an older openai than the rest, so it has an environment of its own (`make clients`)."""

from __future__ import annotations

import os
from typing import Any

import litellm

HELLO = [{"role": "user", "content": "Hello"}]
SAID = "You said: Hello This is the sandbox: it answers the same every time."
OURS: dict[str, Any] = {
    "api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"], "max_retries": 0,
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def main() -> None:
    """Everything that it is used for. Raises AssertionError."""
    model = "openai/sandbox/chat"
    assert litellm.completion(model, HELLO, **OURS).choices[0].message.content == SAID
    chunks = list(litellm.completion(model, HELLO, stream=True, stream_options={"include_usage": True}, **OURS))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SAID
    called = litellm.completion(model, HELLO, tools=[TOOL], **OURS).choices[0].message.tool_calls
    assert called[0].function.name == "weather"
    told = litellm.completion(model, HELLO, response_format={"type": "json_object"}, **OURS)
    assert told.choices[0].message.content == '{"you_said":"Hello"}'
    events = list(litellm.responses(input="Hello", model=model, stream=True, **OURS))
    assert events[-1].response.output[0].content[0].text == SAID
    embedded = litellm.embedding("openai/sandbox/embedding", ["one", "two"], **OURS)
    assert [len(entry["embedding"]) for entry in embedded.data] == [64, 64]
    drawn = litellm.image_generation("A harbour", "openai/sandbox/image", n=2, **OURS)
    assert len(drawn.data) == 2
    for name, kind in (("nobody/nothing", litellm.NotFoundError), ("sandbox/rate-limited", litellm.RateLimitError)):
        try:
            litellm.completion(f"openai/{name}", HELLO, **OURS)
        except kind:
            continue
        raise AssertionError(name)
    print("litellm: ok")  # noqa: T201 - for who waits


if __name__ == "__main__":
    main()
