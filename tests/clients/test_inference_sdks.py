"""Unmodified clients of others against the gateway: each goes through what it is made for."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import agents
import anthropic
import openai
import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, RunConfig, Runner, function_tool
from anthropic import AsyncAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import AsyncOpenAI
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.gateway import InProcess

MODEL = "sandbox/chat"
SAID = "You said: Hello This is the sandbox: it answers the same every time."
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.fixture
async def client(gateway: InProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(gateway: InProcess) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client:
        yield client


async def test_openai_responses(client: AsyncOpenAI):
    first = await client.responses.create(model=MODEL, input="Hello")
    assert first.output_text == SAID
    assert first.usage
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    second = await client.responses.create(model=MODEL, input="And?", previous_response_id=first.id)
    assert second.usage
    assert second.usage.input_tokens > first.usage.input_tokens
    read = await client.responses.retrieve(first.id)
    assert read.output_text == SAID
    items = await client.responses.input_items.list(first.id)
    assert [item.type for item in items.data] == ["message"]
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_openai_streams_a_response_through_its_own_accumulator(client: AsyncOpenAI):
    async with client.responses.stream(model=MODEL, input="Hello") as stream:
        seen = [event async for event in stream]
        final = await stream.get_final_response()
    assert seen[0].type == "response.created"
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == SAID
    assert final.output_text == SAID
    assert final.status == "completed"


async def test_openai_parses_a_response_and_calls_functions(client: AsyncOpenAI):
    parsed = await client.responses.parse(model=MODEL, input="Hello", text_format=Weather)
    assert parsed.output_parsed == Weather(city="sandbox", degrees=1)
    function: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}
    async with client.responses.stream(model=MODEL, input="Hello", tools=[function]) as stream:
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("weather", '{"city":"sandbox"}')
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    turns: Any = [call.model_dump(), result]
    told = await client.responses.create(model=MODEL, input=turns, tools=[function])
    assert told.output_text.startswith("You said: sunny")


async def test_openai_embeds_and_draws(client: AsyncOpenAI):
    embedded = await client.embeddings.create(model="sandbox/embedding", input=["one", "two"])
    assert [len(entry.embedding) for entry in embedded.data] == [64, 64]
    assert isinstance(embedded.data[0].embedding[0], float)
    drawn = await client.images.generate(model="sandbox/image", prompt="A harbour", n=2, response_format="b64_json")
    assert drawn.data
    assert all(base64.b64decode(image.b64_json or "").startswith(b"\x89PNG") for image in drawn.data)


async def test_anthropic(claude: AsyncAnthropic, gateway: InProcess):
    message = await claude.messages.create(
        model=MODEL, max_tokens=100, messages=[{"role": "user", "content": "Hello"}], system="Be kind."
    )
    assert message.content[0].type == "text"
    assert message.content[0].text == SAID
    assert message.stop_reason == "end_turn"
    await gateway.ended()
    (used,) = await gateway.usage()
    assert (message.usage.input_tokens, message.usage.output_tokens) == (
        used["prompt_tokens"],
        used["completion_tokens"],
    )


async def test_anthropic_streams_through_its_own_accumulator(claude: AsyncAnthropic):
    tools: Any = [{"name": "weather", "input_schema": PARAMETERS}]
    said: Any = [{"role": "user", "content": "Hello"}]
    async with claude.messages.stream(model=MODEL, max_tokens=100, messages=said) as stream:
        assert "".join([text async for text in stream.text_stream]) == SAID
        final = await stream.get_final_message()
    assert final.usage.output_tokens > 0
    async with claude.messages.stream(model=MODEL, max_tokens=100, messages=said, tools=tools) as stream:
        called = await stream.get_final_message()
    assert called.stop_reason == "tool_use"
    (use,) = called.content
    assert use.type == "tool_use"
    assert (use.name, use.input) == ("weather", {"city": "sandbox"})
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}
    turns: Any = [*said, {"role": "assistant", "content": [use.model_dump()]}, result]
    told = await claude.messages.create(model=MODEL, max_tokens=100, messages=turns, tools=tools)
    assert told.content[0].type == "text"
    assert told.content[0].text.startswith("You said: sunny")


async def test_anthropic_knows_our_refusals(claude: AsyncAnthropic, gateway: InProcess):
    said: Any = [{"role": "user", "content": "Hello"}]
    refusals: list[tuple[type[anthropic.APIStatusError], str, str]] = [
        (anthropic.NotFoundError, "nobody/nothing", gateway.key),
        (anthropic.AuthenticationError, MODEL, "gw_dev_nobodys"),
        (anthropic.RateLimitError, "sandbox/rate-limited", gateway.key),
    ]
    for kind, model, key in refusals:
        with pytest.raises(kind):
            await claude.with_options(api_key=key).messages.create(model=model, max_tokens=9, messages=said)


async def test_langchain(gateway: InProcess):
    @tool
    def weather(city: str) -> str:
        """Tell the weather."""
        return f"sunny in {city}"

    async with openai.DefaultAsyncHttpxClient() as connections:
        options: Any = {
            "base_url": f"{gateway.url}/v1",
            "api_key": gateway.key,
            "max_retries": 0,
            "http_async_client": connections,
        }
        chat = ChatOpenAI(model=MODEL, **options)
        assert (await chat.ainvoke("Hello")).content == SAID
        pieces = [chunk async for chunk in chat.astream("Hello")]
        assert "".join(str(chunk.content) for chunk in pieces) == SAID
        called = await chat.bind_tools([weather]).ainvoke("Hello")
        assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "sandbox"})]
        parsed = await chat.with_structured_output(Weather, method="json_schema").ainvoke("Hello")
        assert parsed == Weather(city="sandbox", degrees=1)
        responses = ChatOpenAI(model=MODEL, use_responses_api=True, **options)
        assert (await responses.ainvoke("Hello")).text == SAID
        assert "".join([chunk.text async for chunk in responses.astream("Hello")]) == SAID
        embeddings = OpenAIEmbeddings(model="sandbox/embedding", check_embedding_ctx_length=False, **options)
        assert [len(vector) for vector in await embeddings.aembed_documents(["one", "two"])] == [64, 64]


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_openai_agents_run_a_tool_and_go_on(client: AsyncOpenAI, kind: Any, *, streamed: bool):
    asked: list[str] = []

    @function_tool
    def weather(city: str) -> str:
        """Tell the weather."""
        asked.append(city)
        return f"sunny in {city}"

    agents.set_tracing_disabled(disabled=True)
    agent = Agent(
        name="sailor", instructions="Be brief.", tools=[weather], model=kind(model=MODEL, openai_client=client)
    )
    settings = RunConfig(tracing_disabled=True)
    if streamed:
        run = Runner.run_streamed(agent, "Hello", run_config=settings)
        async for _ in run.stream_events():
            pass
        output = run.final_output
    else:
        output = (await Runner.run(agent, "Hello", run_config=settings)).final_output
    assert asked == ["sandbox"]
    assert output.startswith("You said: sunny in sandbox")
