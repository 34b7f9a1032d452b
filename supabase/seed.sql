-- The sandbox: models that answer offline and deterministically; a model's name chooses its fault.
-- Applied by `make run`; an operator may apply it too. Running it again changes nothing.

set role gateway_owner;

insert into gateway.models (id, name, description, context_length, max_output_tokens, input_modalities) values
  ('sandbox/chat', 'Sandbox', 'Answers offline: text, tools, JSON mode, images accepted.', 128000, 4096, '{text,image}'),
  ('sandbox/rate-limited', 'Sandbox: 429', 'Always answers 429 with Retry-After: 7.', 128000, 4096, '{text}'),
  ('sandbox/error', 'Sandbox: 500', 'Always answers 500.', 128000, 4096, '{text}'),
  ('sandbox/hang', 'Sandbox: hang', 'Accepts the request and never answers.', 128000, 4096, '{text}'),
  ('sandbox/stall', 'Sandbox: stall', 'Sends a few tokens and then nothing.', 128000, 4096, '{text}'),
  ('sandbox/cut', 'Sandbox: cut', 'Breaks the connection in the middle of the answer.', 128000, 4096, '{text}'),
  ('sandbox/slow', 'Sandbox: slow', 'Sends its first token after twelve seconds.', 128000, 4096, '{text}'),
  ('sandbox/malformed', 'Sandbox: malformed', 'Sends an event that is not JSON.', 128000, 4096, '{text}'),
  ('sandbox/no-usage', 'Sandbox: no usage', 'Never says what it used.', 128000, 4096, '{text}'),
  ('sandbox/over-long', 'Sandbox: over-long', 'Sends an event above the size limit.', 128000, 4096, '{text}')
on conflict (id) do nothing;

insert into gateway.offers (model_id, provider, upstream_id, prompt_price, completion_price)
select id, 'sandbox', id, 150000000, 600000000 from gateway.models where id like 'sandbox/%' and kind = 'chat'
on conflict (model_id, provider) do nothing;

insert into gateway.models (id, name, description, context_length, max_output_tokens, kind) values
  ('sandbox/embedding', 'Sandbox: embeddings', 'Embeds offline: the same text always has the same vector.', 8192, 1, 'embedding'),
  ('sandbox/image', 'Sandbox: images', 'Draws offline: a picture of one colour.', 8192, 1, 'image'),
  ('sandbox/broken-images', 'Sandbox: broken images', 'The last image of each request cannot be shown.', 8192, 1, 'image'),
  ('openai/text-embedding-3-small', 'Text embedding 3 small', 'OpenAI''s small embedding model.', 8192, 1, 'embedding')
on conflict (id) do nothing;

insert into gateway.offers (model_id, provider, upstream_id, prompt_price, completion_price, request_price) values
  ('sandbox/embedding', 'sandbox', 'sandbox/embedding', 20000000, 0, 0),
  ('sandbox/image', 'sandbox', 'sandbox/image', 0, 0, 40000000000000),
  ('sandbox/broken-images', 'sandbox', 'sandbox/broken-images', 0, 0, 40000000000000),
  ('openai/text-embedding-3-small', 'portkey', 'text-embedding-3-small', 20000000, 0, 0)
on conflict (model_id, provider) do nothing;

insert into gateway.image_prices (model_id, provider, size, quality, price) values
  ('sandbox/image', 'sandbox', '1024x1024', 'standard', 40000000000000),
  ('sandbox/image', 'sandbox', '1024x1024', 'hd', 80000000000000),
  ('sandbox/image', 'sandbox', '1792x1024', 'standard', 80000000000000),
  ('sandbox/image', 'sandbox', '1792x1024', 'hd', 120000000000000)
on conflict (model_id, provider, size, quality) do nothing;

insert into gateway.models (id, name, description, context_length, max_output_tokens, input_modalities) values
  ('openai/gpt-4o-mini', 'GPT-4o mini', 'OpenAI''s small multimodal model.', 128000, 16384, '{text,image}'),
  ('meta-llama/llama-3.1-8b-instruct', 'Llama 3.1 8B Instruct', 'Meta''s small open model.', 131072, 16384, '{text}'),
  ('deepseek-ai/DeepSeek-V3', 'DeepSeek V3', 'DeepSeek''s open mixture of experts.', 163840, 16384, '{text}')
on conflict (id) do nothing;

insert into gateway.offers (model_id, provider, upstream_id, priority, prompt_price, completion_price, cache_read_price) values
  ('openai/gpt-4o-mini', 'openrouter', 'openai/gpt-4o-mini', 0, 150000000, 600000000, 75000000),
  ('openai/gpt-4o-mini', 'portkey', 'gpt-4o-mini', 1, 150000000, 600000000, 75000000),
  ('meta-llama/llama-3.1-8b-instruct', 'openrouter', 'meta-llama/llama-3.1-8b-instruct', 0, 20000000, 30000000, null),
  ('meta-llama/llama-3.1-8b-instruct', 'featherless', 'meta-llama/Meta-Llama-3.1-8B-Instruct', 1, 100000000, 100000000, null),
  ('deepseek-ai/DeepSeek-V3', 'chutes', 'deepseek-ai/DeepSeek-V3', 0, 300000000, 1200000000, null),
  ('deepseek-ai/DeepSeek-V3', 'openrouter', 'deepseek/deepseek-chat', 1, 320000000, 1280000000, null)
on conflict (model_id, provider) do nothing;

reset role;
