// Calls a cloud's model through Anthropic's JavaScript SDKs for Bedrock and Vertex AI; prints what came of it as
// one JSON object. cloud_client.py is the same for Python.
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const { values: args } = parseArgs({
  options: { client: { type: 'string' }, 'base-url': { type: 'string' }, 'max-tokens': { type: 'string', default: '64' } },
});
const require = createRequire(join(process.env.PLIMSOLL_E2E_NODE, 'index.js'));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);

const said = { answered: 0, refused: 0, text: null, error: null };
try {
  let client;
  let model = 'us.anthropic.claude-sonnet-4-6';
  const common = { baseURL: args['base-url'], maxRetries: 0 };
  if (args.client.startsWith('bedrock')) {
    const { AnthropicBedrock } = await load('@anthropic-ai/bedrock-sdk');
    client = new AnthropicBedrock({ awsAccessKey: 'AKIDCALLER', awsSecretKey: 'caller-secret', awsRegion: 'us-east-1', ...common });
  } else {
    const { AnthropicVertex } = await load('@anthropic-ai/vertex-sdk');
    model = 'claude-opus-4-8';
    common.baseURL += '/v1';
    const authClient = { getRequestHeaders: async () => new Headers({ authorization: 'Bearer ya29.test' }) };
    client = new AnthropicVertex({ projectId: 'p-1', region: 'global', authClient, ...common });
  }
  const ask = { model, max_tokens: Number(args['max-tokens']), messages: [{ role: 'user', content: 'hello' }] };
  if (args.client.endsWith('-stream')) {
    said.text = await client.messages.stream(ask).finalText();
  } else {
    said.text = (await client.messages.create(ask)).content[0].text;
  }
  said.answered = 1;
} catch (error) {
  said.error = error.constructor.name;
  said.refused = error.status === 429 ? 1 : 0;
  said.message = String(error.message);
}
console.log(JSON.stringify(said));
