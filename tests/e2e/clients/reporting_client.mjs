// Calls the Messages API through Anthropic's JavaScript SDK at a rate that grows, until a call is refused, and tells
// Plimsoll by the fetch of examples/sources/typescript/plimsoll-report.mjs. Prints one line of JSON: when the first 429 came.
//
//   reporting_client.mjs BASE_URL

import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { plimsollFetch } from '../../../examples/sources/typescript/plimsoll-report.mjs';

const require = createRequire(`${process.env.PLIMSOLL_E2E_NODE}/`);
const { default: Anthropic } = await import(require.resolve('@anthropic-ai/sdk'));
const client = new Anthropic({ apiKey: 'sk-ant-test-fake', baseURL: process.argv[2], maxRetries: 0, fetch: plimsollFetch() });
const prompt = 'x'.repeat(4000);
const started = Date.now() / 1000;
let first = null;
let sent = 0;
const calls = [];

async function call() {
  try {
    await client.messages.create({ model: 'claude-opus-5-5', max_tokens: 60, messages: [{ role: 'user', content: prompt }] });
  } catch (error) {
    if (error.status === 429) first ??= Date.now() / 1000;
  }
}

while (first === null && Date.now() / 1000 - started < 60) {
  calls.push(call());
  sent += 1;
  await sleep(1000 / (2 + 0.4 * (Date.now() / 1000 - started)));
}
await Promise.all(calls);
await sleep(500);
console.log(JSON.stringify({ first_429_at: first, sent }));
