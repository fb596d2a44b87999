// @anthropic-ai/sdk tells Plimsoll what each answer says of limits, at the moment its head arrives.
//
//   import { plimsollFetch } from './plimsoll-report.mjs';
//   const client = new Anthropic({ fetch: plimsollFetch() });
//
// Every try of the SDK is told, also those that it repeats. It never waits for Plimsoll: at most 100 reports are under
// way, the rest is dropped and counted. Told are the headers below, the model and the body of a failure that is about a limit;
// no prompt, answer, key or query. Environment: PLIMSOLL_URL, PLIMSOLL_TOKEN. Tried with @anthropic-ai/sdk 1.12.0 on Node 20.

const FAMILIES = ['anthropic-ratelimit-', 'anthropic-priority-', 'anthropic-fast-', 'x-ratelimit-', 'ratelimit-', 'x-amzn-', 'retry-after'];
const NAMES = ['request-id', 'x-request-id', 'x-should-retry', 'date', 'anthropic-organization-id', 'anthropic-workspace-id'];
const LIMITS = /usage limit|credit balance|spend|quota|billing/i; // other failures may repeat the request
export const counts = { sent: 0, dropped: 0 };
let underway = 0;

const told = (name) => NAMES.includes(name) || FAMILIES.some((family) => name.startsWith(family));
const seconds = () => Date.now() / 1000;

function modelOf(body) {
  try { return typeof body === 'string' ? JSON.parse(body).model : undefined; } catch { return undefined; }
}

async function report(started, input, init, response) {
  const headed = seconds();
  if (underway >= 100) { counts.dropped += 1; return; }
  underway += 1;
  try {
    // A copy, so that the SDK can still read the failure itself.
    const body = response.status >= 400 ? await response.clone().text() : '';
    const url = new URL(input instanceof Request ? input.url : input);
    const sent = new Headers(init?.headers);
    const line = {
      t: headed, started, headed, host: url.hostname, method: init?.method ?? 'GET', path: url.pathname,
      status: response.status, headers: Object.fromEntries([...response.headers].filter(([name]) => told(name))),
      body: [429, 529].includes(response.status) || LIMITS.test(body) ? body.slice(0, 4000) : undefined,
      model: modelOf(init?.body),
      request_bytes: typeof init?.body === 'string' ? Buffer.byteLength(init.body) : undefined,
      traceparent: sent.get('traceparent') ?? undefined, user_agent: sent.get('user-agent') ?? undefined,
    };
    const headers = { 'content-type': 'application/json' };
    if (process.env.PLIMSOLL_TOKEN) headers.authorization = `Bearer ${process.env.PLIMSOLL_TOKEN}`;
    const to = process.env.PLIMSOLL_URL ?? 'http://127.0.0.1:9430/v1/observations';
    const reply = await fetch(to, { method: 'POST', headers, body: JSON.stringify(line), signal: AbortSignal.timeout(2000) });
    await reply.arrayBuffer();
    counts.sent += 1;
  } catch { counts.dropped += 1; } finally { underway -= 1; }
}

export function plimsollFetch(inner = globalThis.fetch) {
  return async (input, init) => {
    const started = seconds();
    const response = await inner(input, init);
    void report(started, input, init, response);
    return response;
  };
}
