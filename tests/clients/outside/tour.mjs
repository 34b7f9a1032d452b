// What people do with JavaScript's clients, none of which knows this gateway. Run by `make clients`.

import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createOpenRouter } from "@openrouter/ai-sdk-provider";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const { GATEWAY_URL, OPENAI_BASE_URL: baseURL, OPENAI_API_KEY: apiKey } = process.env;
const MODEL = "sandbox/chat";
const SAID = "You said: Hello This is the sandbox: it answers the same every time.";
const HELLO = [{ role: "user", content: "Hello" }];
const PARAMETERS = { type: "object", properties: { city: { type: "string" } } };

async function gathered(stream, pick) {
  let text = "";
  for await (const part of stream) text += pick(part) ?? "";
  return text;
}

async function openai() {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const completion = await client.chat.completions.create({ model: MODEL, messages: HELLO });
  assert.equal(completion.choices[0].message.content, SAID);
  const stream = await client.chat.completions.create({ model: MODEL, messages: HELLO, stream: true });
  assert.equal(await gathered(stream, (chunk) => chunk.choices[0].delta.content), SAID);
  const tools = [{ type: "function", function: { name: "weather", parameters: PARAMETERS } }];
  const called = await client.chat.completions.stream({ model: MODEL, messages: HELLO, tools }).finalMessage();
  assert.equal(called.tool_calls[0].function.arguments, '{"city":"sandbox"}');
  const json = await client.chat.completions.create({
    model: MODEL, messages: HELLO, response_format: { type: "json_object" },
  });
  assert.deepEqual(JSON.parse(json.choices[0].message.content), { you_said: "Hello" });
  const response = await client.responses.stream({ model: MODEL, input: "Hello" }).finalResponse();
  assert.equal(response.output_text, SAID);
  const next = await client.responses.create({ model: MODEL, input: "And?", previous_response_id: response.id });
  assert.ok(next.usage.input_tokens > response.usage.input_tokens);
  const embedded = await client.embeddings.create({ model: "sandbox/embedding", input: ["one", "two"] });
  assert.equal(embedded.data[1].embedding.length, 64);
  const drawn = await client.images.generate({ model: "sandbox/image", prompt: "A harbour", n: 2 });
  assert.equal(drawn.data.length, 2);
  await assert.rejects(client.responses.retrieve("resp_no"), OpenAI.NotFoundError);
  await assert.rejects(
    client.chat.completions.create({ model: "sandbox/rate-limited", messages: HELLO }), OpenAI.RateLimitError,
  );
  const stranger = new OpenAI({ baseURL, apiKey: "gw_dev_nobody", maxRetries: 0 });
  await assert.rejects(
    stranger.chat.completions.create({ model: MODEL, messages: HELLO }), OpenAI.AuthenticationError,
  );
}

async function anthropic() {
  const client = new Anthropic({ baseURL: GATEWAY_URL, apiKey, maxRetries: 0 });
  const message = await client.messages.create({ model: MODEL, max_tokens: 100, messages: HELLO });
  assert.equal(message.content[0].text, SAID);
  const tools = [{ name: "weather", input_schema: PARAMETERS }];
  const called = await client.messages.stream({ model: MODEL, max_tokens: 100, messages: HELLO, tools }).finalMessage();
  assert.deepEqual(called.content[0].input, { city: "sandbox" });
  assert.equal(called.stop_reason, "tool_use");
  await assert.rejects(
    client.messages.create({ model: "nobody/nothing", max_tokens: 1, messages: HELLO }), Anthropic.NotFoundError,
  );
}

async function vercel(provider) {
  const model = provider(MODEL);
  assert.equal((await generateText({ model, prompt: "Hello", maxRetries: 0 })).text, SAID);
  const stream = streamText({ model, prompt: "Hello", maxRetries: 0 });
  assert.equal(await gathered(stream.textStream, (text) => text), SAID);
  assert.ok((await stream.usage).outputTokens > 0);
  const weather = tool({
    description: "Tell the weather", inputSchema: z.object({ city: z.string() }), execute: ({ city }) => `sunny in ${city}`,
  });
  const ran = await generateText({
    model, prompt: "Hello", tools: { weather }, stopWhen: stepCountIs(2), maxRetries: 0,
  });
  assert.ok(ran.text.startsWith("You said: sunny in sandbox"), ran.text);
  const streamed = streamText({ model, prompt: "Hello", tools: { weather }, stopWhen: stepCountIs(2), maxRetries: 0 });
  assert.ok((await streamed.text).startsWith("You said: sunny in sandbox"));
  await assert.rejects(generateText({ model: provider("nobody/nothing"), prompt: "Hello", maxRetries: 0 }), {
    statusCode: 404,
  });
}

const compatible = createOpenAICompatible({
  name: "gatewayz", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true,
});

async function structured() {
  const schema = z.object({ city: z.string(), degrees: z.number() });
  const { object } = await generateObject({ model: compatible(MODEL), schema, prompt: "Hello", maxRetries: 0 });
  assert.deepEqual(object, { city: "sandbox", degrees: 1 });
  const { embeddings } = await embedMany({
    model: compatible.textEmbeddingModel("sandbox/embedding"), values: ["one", "two"], maxRetries: 0,
  });
  assert.equal(embeddings[0].length, 64);
}

const tours = {
  "openai": openai,
  "@anthropic-ai/sdk": anthropic,
  "@ai-sdk/openai-compatible": () => vercel(compatible),
  "@ai-sdk/openai-compatible, objects and embeddings": structured,
  "@openrouter/ai-sdk-provider": () => vercel(createOpenRouter({ baseURL, apiKey, compatibility: "strict" })),
};
for (const [name, tour] of Object.entries(tours)) {
  await tour();
  console.log(`${name}: ok`);
}
