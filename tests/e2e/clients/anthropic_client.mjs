#!/usr/bin/env node
// Makes one Messages API call with Anthropic's JavaScript SDK, and says what came
// of it. The command line, the JSON line and the exit codes are those of
// anthropic_client.py; see the head of that file for what each field means.
//
//     TEST_KEY=sk-ant-test PLIMSOLL_E2E_NODE=target/e2e/node \
//         node anthropic_client.mjs --base-url http://127.0.0.1:9100 --mode stream
//
// How the SDK is found: an import looks for packages next to the importing file
// and in the folders above it, but the SDK is in none of those, and NODE_PATH works
// only for require(). So this makes a require() that looks from the folder named by
// PLIMSOLL_E2E_NODE, the one that holds node_modules. Without that variable it is
// the one that scripts/e2e-deps.sh fills: ${PLIMSOLL_E2E_DIR:-<repo>/target/e2e}/node.
// The current folder does not matter. Works on Node 20 and later.

import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const USAGE_FIELDS = [
  "input_tokens",
  "output_tokens",
  "cache_read_input_tokens",
  "cache_creation_input_tokens",
];

function args() {
  const option = (value) => ({ type: "string", default: value });
  const { values } = parseArgs({
    options: {
      "base-url": { type: "string" },
      mode: option("json"),
      auth: option("api-key"),
      "max-retries": option("2"),
      "prompt-bytes": option("64"),
      model: option("claude-sonnet-5-5"),
      "max-tokens": option("64"),
    },
  });
  const oneOf = (name, choices) => {
    if (!choices.includes(values[name])) {
      throw new Error(`--${name} must be one of: ${choices.join(", ")}`);
    }
    return values[name];
  };
  const number = (name) => {
    if (!/^\d+$/.test(values[name])) throw new Error(`--${name} must be a number`);
    return Number(values[name]);
  };
  if (!values["base-url"]) throw new Error("--base-url is needed");
  if (!process.env.TEST_KEY) throw new Error("TEST_KEY is not set");
  return {
    baseURL: values["base-url"],
    mode: oneOf("mode", ["json", "stream"]),
    auth: oneOf("auth", ["api-key", "bearer"]),
    maxRetries: number("max-retries"),
    promptBytes: number("prompt-bytes"),
    model: values.model,
    maxTokens: number("max-tokens"),
  };
}

function loadSdk() {
  const repo = fileURLToPath(new URL("../../..", import.meta.url));
  const dir = process.env.PLIMSOLL_E2E_DIR || path.join(repo, "target", "e2e");
  const node = path.resolve(process.env.PLIMSOLL_E2E_NODE || path.join(dir, "node"));
  // The file named here need not be there: only its folder counts.
  return createRequire(path.join(node, "from.js"))("@anthropic-ai/sdk");
}

// The SDK reads its endpoint, keys and extra headers from ANTHROPIC_*. Node's fetch
// uses no proxy unless told to, so unlike in Python there is none to forget.
function isolate() {
  for (const name of Object.keys(process.env)) {
    if (name.startsWith("ANTHROPIC_")) delete process.env[name];
  }
}

function prompt(size) {
  const sentence = "The quick brown fox jumps over the lazy dog. ";
  return sentence.repeat(Math.floor(size / sentence.length) + 1).slice(0, size);
}

async function call(args, result) {
  const { Anthropic, APIError } = loadSdk();
  const key = process.env.TEST_KEY;
  const request = {
    model: args.model,
    max_tokens: args.maxTokens,
    messages: [{ role: "user", content: prompt(args.promptBytes) }],
  };
  let message;
  try {
    const client = new Anthropic({
      baseURL: args.baseURL,
      maxRetries: args.maxRetries,
      ...(args.auth === "api-key" ? { apiKey: key } : { authToken: key }),
    });
    if (args.mode === "json") {
      message = await client.messages.create(request);
      result.request_id = message._request_id ?? null;
    } else {
      const stream = client.messages.stream(request);
      stream.on("connect", () => (result.request_id = stream.request_id ?? null));
      stream.on("streamEvent", () => result.events++);
      stream.on("text", (delta) => (result.text += delta));
      message = await stream.finalMessage();
    }
  } catch (error) {
    // The SDK also throws a bare AnthropicError, its base class: for a stream that
    // ends too early, or for a request that it will not send.
    if (!(error instanceof APIError)) throw error;
    result.error_class = error.constructor.name;
    result.error_type = error.type ?? null;
    result.error_message = error.apiMessage ?? error.message;
    result.status = error.status ?? null;
    result.retry_after = error.headers?.get("retry-after") ?? null;
    result.request_id = error.requestID ?? result.request_id;
    return 2;
  }

  result.ok = true;
  result.text = message.content
    .filter((block) => block.type === "text")
    .map((block) => block.text)
    .join("");
  result.model = message.model;
  for (const name of USAGE_FIELDS) result.usage[name] = message.usage[name] ?? null;
  return 0;
}

async function main() {
  let options;
  try {
    options = args();
  } catch (error) {
    console.error(`anthropic_client.mjs: ${error.message}`);
    return 1;
  }
  isolate();
  const result = {
    ok: false,
    text: "",
    model: null,
    usage: Object.fromEntries(USAGE_FIELDS.map((name) => [name, null])),
    status: null,
    error_class: null,
    error_type: null,
    error_message: null,
    retry_after: null,
    request_id: null,
    events: 0,
  };
  let code;
  try {
    code = await call(options, result);
  } catch (error) {
    result.error_class = error?.constructor?.name ?? null;
    result.error_message = String(error?.message ?? error);
    code = 1;
  }
  console.log(JSON.stringify(result));
  return code;
}

process.exitCode = await main();
