"""What a caller may ask for: the bounded, strict part of OpenAI's requests for completions, embeddings and images.

Fields that are not named here go to the provider untouched, except those in REFUSED, which could redirect a request or
unlock something. (https://platform.openai.com/docs/api-reference, https://openrouter.ai/docs/api-reference)
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from gateway import money
from gateway.errors import InvalidRequest
from gateway.inference.ceilings import one_ceiling, refuse_others, within_ceiling

MAX_MESSAGES = 2048
MAX_TOKENS = 10_000_000
MAX_INPUTS = 2048
MAX_IMAGES = 10
REFUSED = frozenset({
    "api_base", "api_key", "api_version", "azure_endpoint", "base_url", "custom_llm_provider", "default_headers",
    "default_query", "extra_body", "extra_headers", "extra_query", "headers", "http_client", "organization", "project",
})  # fmt: skip
OWN = ("models", "provider", "usage")
"""Fields that speak to the gateway; providers never see them."""

type Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
type Name = Annotated[str, Meta(min_length=1, max_length=256)]
type Penalty = Annotated[float, Meta(ge=-2, le=2)]


class Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Reasoning(msgspec.Struct):
    """What OpenRouter takes of thoughts, as far as it costs."""

    max_tokens: Tokens | None = None


class Thinking(msgspec.Struct):
    """What Anthropic takes of thoughts, as far as it costs."""

    budget_tokens: Tokens | None = None


class MaxPrice(msgspec.Struct):
    """Ceilings in dollars per million tokens, as OpenRouter has them."""

    prompt: float | str | None = None
    completion: float | str | None = None


class Preferences(msgspec.Struct, forbid_unknown_fields=True):
    """Which providers may serve a request (OpenRouter's provider routing)."""

    order: list[Name] | None = None
    only: list[Name] | None = None
    ignore: list[Name] | None = None
    allow_fallbacks: bool | None = None
    sort: Literal["price", "latency"] | None = None
    """What comes first: the lower price, or the shorter time to the first token."""
    max_price: MaxPrice | None = None
    own_keys: Literal["prefer", "only", "never"] | None = None
    """Whether the user's own keys of providers serve it: before all others unless told otherwise."""


class ModelRequest(msgspec.Struct, kw_only=True):
    """What every request for a model has."""

    kind: ClassVar[str]
    """Of the models that can serve it (gateway.models)."""
    model: Name
    models: Annotated[list[Name], Meta(max_length=8)] | None = None
    provider: Name | Preferences | None = None
    user: str | None = None

    @property
    def stream(self) -> bool | None:
        return None

    @property
    def asked_tokens(self) -> int | None:
        """The caller's own ceiling on completion tokens, per choice."""
        return None

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return 1

    @property
    def image(self) -> dict[str, str | None] | None:
        """The size and quality of the images that are asked for."""
        return None

    @property
    def include_usage(self) -> bool:
        return False

    @property
    def wanted_models(self) -> list[str]:
        """The models that may answer, best first."""
        return list(dict.fromkeys([self.model, *(self.models or ())]))

    def preferences(self) -> dict[str, Any]:
        """The provider preferences as the database takes them, prices in nano-dollars per million tokens."""
        if self.provider is None:
            return {}
        if isinstance(self.provider, str):
            return {"only": [self.provider]}
        found = {
            name: value
            for name in ("order", "only", "ignore", "allow_fallbacks", "sort", "own_keys")
            if (value := getattr(self.provider, name)) is not None
        }
        if price := self.provider.max_price:
            ceilings = {"prompt": _per_million(price.prompt), "completion": _per_million(price.completion)}
            found["max_price"] = {name: value for name, value in ceilings.items() if value is not None}
        return found


class CompletionRequest(ModelRequest, kw_only=True):
    kind: ClassVar[str] = "chat"
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: str | list[str] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=512)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: int | None = None
    reasoning: Reasoning | None = None
    thinking: Thinking | None = None

    def __post_init__(self) -> None:
        one_ceiling(max_tokens=self.max_tokens, max_completion_tokens=self.max_completion_tokens)
        if self.reasoning:
            within_ceiling(self.asked_tokens, self.reasoning.max_tokens, "reasoning.max_tokens")
        if self.thinking:
            within_ceiling(self.asked_tokens, self.thinking.budget_tokens, "thinking.budget_tokens")

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class EmbeddingRequest(ModelRequest, kw_only=True):
    kind: ClassVar[str] = "embedding"
    input: (
        Annotated[str, Meta(min_length=1)]
        | Annotated[
            list[Annotated[str, Meta(min_length=1)] | int | list[int]], Meta(min_length=1, max_length=MAX_INPUTS)
        ]
    )
    dimensions: Annotated[int, Meta(ge=1, le=65536)] | None = None
    encoding_format: Literal["float", "base64"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.input, list) and len({type(each) for each in self.input}) > 1:
            raise ValueError("Texts, tokens and lists of tokens cannot be mixed - at `$.input`")

    @property
    def inputs(self) -> int:
        """How many embeddings are asked for: a list of tokens is one text."""
        return 1 if isinstance(self.input, str) or isinstance(self.input[0], int) else len(self.input)


class ImageRequest(ModelRequest, kw_only=True):
    kind: ClassVar[str] = "image"
    prompt: Annotated[str, Meta(min_length=1, max_length=32_000)]
    n: Annotated[int, Meta(ge=1, le=MAX_IMAGES)] | None = None
    size: Annotated[str, Meta(max_length=20)] | None = None
    quality: Annotated[str, Meta(max_length=20)] | None = None
    style: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: Literal[False] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def image(self) -> dict[str, str | None]:
        return {"size": self.size, "quality": self.quality}


def _per_million(dollars: float | str | None) -> int | None:
    if dollars is None:
        return None
    try:
        # a ceiling finer than a nano-dollar per million tokens is rounded away: no price is that fine
        return money.parse(f"{dollars:.9f}" if isinstance(dollars, float | int) else dollars, scale=money.NANO)
    except (ValueError, ArithmeticError):
        raise InvalidRequest("A price ceiling must be a non-negative number of dollars.", param="provider") from None


def parse[R: ModelRequest](raw: bytes, kind: type[R]) -> tuple[R, dict[str, Any]]:
    """The request in a body, and the body for the provider. Raises InvalidRequest, which never echoes the input."""
    body = document(raw)
    request = read(body, kind)
    refuse_others(body)
    for name in OWN:
        body.pop(name, None)
    return request, body


def document(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body, without a member that is refused. Raises InvalidRequest."""
    body = decode(raw)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if refused := REFUSED & body.keys():
        raise InvalidRequest("This field is not accepted.", param=min(refused))
    return body


def read[T](body: dict[str, Any], kind: type[T]) -> T:
    """A body's known members. Raises InvalidRequest."""
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def _invalid(text: str) -> InvalidRequest:
    """A validation error with its field; of the reason only the part that says nothing of the input."""
    # the last one: a caller's field may be named like a path
    reason, found, path = text.rpartition(" - at `")
    if not found:
        reason, path = path, ""
    param = path.rstrip("`").removeprefix("$").removeprefix(".") or None
    if param is None and (field := reason.partition("field `")[2]):
        param = field.rstrip("`")
    if reason.startswith("Invalid enum value"):
        reason = "This is not one of the values that are allowed"
    elif reason.startswith("Object contains unknown field"):
        reason = "This object has a field that is not known"
    return InvalidRequest(f"{reason}.", param=param)


def decode(raw: bytes) -> Any:
    """A JSON body, strictly: UTF-8, no NaN or Infinity (nor a number as large), no name twice in an object, no NUL and
    no lone surrogate in a string.

    Raises InvalidRequest.
    """
    try:
        text = raw.decode("utf-8")
        value = _DECODER.decode(text)
        if "\\u" in text:
            _refuse_unstorable(value)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON.") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number that is too large")
    return value


def _refuse_unstorable(value: Any) -> None:
    """Strings that Postgres or UTF-8 cannot hold; only escapes can spell them."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("NUL in a string")
        value.encode()
    elif isinstance(value, dict):
        for name, member in value.items():
            _refuse_unstorable(name)
            _refuse_unstorable(member)
    elif isinstance(value, list):
        for member in value:
            _refuse_unstorable(member)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
