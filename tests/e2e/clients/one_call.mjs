// Makes one call with a client's defaults, as an application that knows nothing of a proxy does.
//
//     PLIMSOLL_E2E_NODE=target/e2e/node node one_call.mjs anthropic|ai-sdk-3|ai-sdk-4
//
// Where it goes is decided by the environment alone. Exit code 0 if an answer came.
import { createRequire } from "node:module";
import path from "node:path";

const model = "claude-opus-5-5";
const require = createRequire(path.join(path.resolve(process.env.PLIMSOLL_E2E_NODE), "from.js"));
const name = process.argv[2];
if (name === "anthropic") {
  const { Anthropic } = require("@anthropic-ai/sdk");
  await new Anthropic().messages.create({ model, max_tokens: 16, messages: [{ role: "user", content: "hello" }] });
} else {
  // The provider itself: the package `ai` above it adds retries, and nothing to the request.
  const { createAnthropic } = await import(require.resolve(name));
  const prompt = [{ role: "user", content: [{ type: "text", text: "hello" }] }];
  await createAnthropic()(model).doGenerate({ prompt, maxOutputTokens: 16 });
}
