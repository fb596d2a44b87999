"""Calls the Messages API through Anthropic's Python SDK at a rate that grows, until a call is refused.

    reporting_client.py BASE_URL report|otel OTLP_URL

`report` tells Plimsoll by the hooks of examples/sources/python/plimsoll_report.py, `otel` by OpenTelemetry spans as
examples/sources/python/otel_capture.py sets them up. Prints one line of JSON: when the first 429 came.
"""

import asyncio
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../../examples/sources/python"))
base, how, otlp = sys.argv[1:4]
options = {}
if how == "otel":
    import otel_capture

    otel_capture.start(f"{otlp}/v1/traces", "search")

import anthropic

if how == "report":
    import plimsoll_report

    options["http_client"] = anthropic.DefaultAsyncHttpxClient(event_hooks=plimsoll_report.async_hooks())

client = anthropic.AsyncAnthropic(api_key="sk-ant-test-fake", base_url=base, max_retries=0, **options)
prompt = "x" * 4_000
first_429 = None
sent = 0


async def call():
    global first_429
    try:
        await client.messages.create(model="claude-opus-5-5", max_tokens=60, messages=[{"role": "user", "content": prompt}])
    except anthropic.RateLimitError:
        first_429 = first_429 or time.time()


async def main():
    global sent
    started, calls = time.time(), []
    while first_429 is None and time.time() - started < 60:
        rate = 2.0 + 0.4 * (time.time() - started)
        calls.append(asyncio.create_task(call()))
        sent += 1
        await asyncio.sleep(1.0 / rate)
    await asyncio.gather(*calls)


asyncio.run(main())
time.sleep(1.5)  # what is still on its way to Plimsoll
print(json.dumps({"first_429_at": first_429, "sent": sent}))
