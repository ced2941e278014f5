// OpenAI's own client at the models service, with another base URL and nothing else; prints what it was told.
const { OpenAI, NotFoundError } = require('openai');

const client = new OpenAI({ baseURL: `${process.env.MODELS}/v1`, apiKey: process.env.TOKEN, maxRetries: 0 });
const model = 'pico-chat';
const ask = [{ role: 'user', content: 'what is 2+2?' }];
const asked = [{ role: 'user', content: 'What is the weather in Paris?' }];
const parameters = {
  type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false,
};
const tools = [{ type: 'function', function: { name: 'get_weather', parameters } }];

async function main() {
  const said = {};
  const whole = await client.chat.completions.create({ model, messages: ask, temperature: 0 });
  said.whole = [whole.choices[0].message.content, whole.choices[0].finish_reason];
  const chunks = [];
  const stream = { model, messages: ask, temperature: 0, stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(stream)) chunks.push(chunk);
  said.streamed = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
  said.usage = chunks.at(-1).usage.completion_tokens === whole.usage.completion_tokens;
  const call = (await client.chat.completions.create({ model, messages: asked, tools, temperature: 0 })).choices[0];
  const { name, arguments: given } = call.message.tool_calls[0].function;
  said.call = [name, JSON.parse(given), call.finish_reason];
  const calling = client.chat.completions.stream({ model, messages: asked, tools, temperature: 0 });
  const final = await calling.finalChatCompletion();
  said['streamed call'] = JSON.parse(final.choices[0].message.tool_calls[0].function.arguments);
  const vectors = await client.embeddings.create({ model: 'all-minilm-l6-v2', input: ['a', 'b'] });
  said.vectors = vectors.data.map((one) => one.embedding.length);
  said.models = (await client.models.list()).data.map((one) => one.id).sort();
  said.model = (await client.models.retrieve(model)).id;
  try {
    await client.chat.completions.create({ model: 'nothing', messages: ask });
  } catch (error) {
    if (!(error instanceof NotFoundError)) throw error;
    said.unknown = error.code;
  }
  console.log(JSON.stringify(said));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
