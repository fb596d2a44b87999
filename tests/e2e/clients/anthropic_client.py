#!/usr/bin/env python3
"""Makes one Messages API call with Anthropic's Python SDK, and says what came of it.

The end-to-end tests run this to see what a real client makes of what it gets.
anthropic_client.mjs is the same for the JavaScript SDK: both have the same
command line, and both print the same object.

Run it with the Python of the venv that scripts/e2e-deps.sh makes:

    TEST_KEY=sk-ant-test venv/bin/python anthropic_client.py \
        --base-url http://127.0.0.1:9100 --mode stream --max-retries 0

It prints one line, a JSON object:

    ok                  whether the SDK returned a message
    text                its text, or the part of a stream that came before the error
    model, usage        of the message; null, and null in each field, if there is none
    status              the HTTP status of the response the SDK raised an error
                        for; null when ok, and when there was no response
    error_class         the name of the exception's class
    error_type          error.type of the response's body
    error_message       error.message of the response's body, or else the exception's
    retry_after         the retry-after header of that response, as it came
    request_id          the request-id header
    events              the number of stream events the SDK handed on; it
                        swallows pings

The exit code is 0 when ok, 2 when the SDK raised an APIError, which it also does
when it could not connect, and 1 on anything else, such as a connection that broke
in the middle of a stream. The line is printed in all these cases, but not for a bad
command line, which is a 1 too.
"""

import argparse
import json
import os
import sys

USAGE_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


class Parser(argparse.ArgumentParser):
    """argparse's own exit code for a bad command line means an API error here."""

    def error(self, message):
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def parse_args():
    parser = Parser()
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--mode", choices=("json", "stream"), default="json")
    parser.add_argument("--auth", choices=("api-key", "bearer"), default="api-key")
    parser.add_argument("--max-retries", type=int, default=2)
    parser.add_argument("--prompt-bytes", type=int, default=64)
    parser.add_argument("--model", default="claude-sonnet-5-5")
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    if not os.environ.get("TEST_KEY"):
        parser.error("TEST_KEY is not set")
    return args


def isolate():
    """Forgets the environment that would change the request.

    The SDK reads its endpoint, keys and extra headers from ANTHROPIC_*, and
    would send even a call to 127.0.0.1 through a configured proxy.
    """
    for name in list(os.environ):
        if name.startswith("ANTHROPIC_") or name.lower().endswith("_proxy"):
            del os.environ[name]


def prompt(size):
    sentence = "The quick brown fox jumps over the lazy dog. "
    return (sentence * (size // len(sentence) + 1))[:size]


def call(args, result):
    import anthropic

    key = os.environ["TEST_KEY"]
    credential = {"api_key": key} if args.auth == "api-key" else {"auth_token": key}
    request = {
        "model": args.model,
        "max_tokens": args.max_tokens,
        "messages": [{"role": "user", "content": prompt(args.prompt_bytes)}],
    }
    try:
        client = anthropic.Anthropic(
            base_url=args.base_url, max_retries=args.max_retries, **credential
        )
        if args.mode == "json":
            message = client.messages.create(**request)
            result["request_id"] = message._request_id
        else:
            with client.messages.stream(**request) as stream:
                result["request_id"] = stream.request_id
                for event in stream:
                    # The SDK follows a text delta with a "text" event that it
                    # makes up itself. Only the server's own are counted, whose
                    # names all begin in one of these two ways.
                    if event.type.startswith(("message_", "content_block_")):
                        result["events"] += 1
                    if event.type == "text":
                        result["text"] += event.text
                message = stream.get_final_message()
    except anthropic.APIError as error:
        response = getattr(error, "response", None)
        result["error_class"] = type(error).__name__
        result["error_message"] = getattr(error, "api_message", None) or str(error)
        if response is not None:
            result["status"] = response.status_code
            result["error_type"] = getattr(error, "type", None)
            result["retry_after"] = response.headers.get("retry-after")
            result["request_id"] = response.headers.get("request-id")
        return 2

    result["ok"] = True
    result["text"] = "".join(b.text for b in message.content if b.type == "text")
    result["model"] = message.model
    result["usage"] = {name: getattr(message.usage, name, None) for name in USAGE_FIELDS}
    return 0


def main():
    args = parse_args()
    isolate()
    result = {
        "ok": False,
        "text": "",
        "model": None,
        "usage": dict.fromkeys(USAGE_FIELDS),
        "status": None,
        "error_class": None,
        "error_type": None,
        "error_message": None,
        "retry_after": None,
        "request_id": None,
        "events": 0,
    }
    try:
        code = call(args, result)
    except Exception as error:
        result["error_class"] = type(error).__name__
        result["error_message"] = str(error)
        code = 1
    print(json.dumps(result))
    return code


if __name__ == "__main__":
    sys.exit(main())
