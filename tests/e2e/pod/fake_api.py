#!/usr/bin/env python3
"""A fake Anthropic API for scripts/test-pod and scripts/test-journey: workloads talk to it, through Plimsoll.

Usage: fake_api.py ADDRESS:PORT CERTIFICATE KEY [TOKENS]. Listens there only (the loopback of a pod, or the test's end
of a link to one), and speaks TLS, as every real provider does.

It streams one fixed answer, with the headers of the documented rate limits, and writes one line of JSON for
each request to stdout, so that the test can compare what arrived with what the metrics say. A request
with the header `x-fake-seconds` gets its answer spread over that time.

With TOKENS each API key has a bucket of so many input tokens a minute. It is refilled all the time and pays for
every call by its size, and what it cannot pay for is answered 429, in Anthropic's words. Without, nothing ever
runs out.
"""

import datetime
import json
import math
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = "hello from the pod"
INPUT_TOKENS = 12
OUTPUT_TOKENS = 7
LIMITS = {"requests": 50, "input-tokens": 30000, "output-tokens": 8000}
CHARS_PER_TOKEN = 4

log_lock = threading.Lock()


class Bucket:
    """Input tokens of one key; refilled as the real one is, the whole of it in a minute."""

    def __init__(self, capacity):
        self.capacity = self.level = capacity
        self.at = time.monotonic()
        self.lock = threading.Lock()

    def pay(self, tokens):
        """How long to wait until so many are there, 0 if they were; and what is left."""
        with self.lock:
            now = time.monotonic()
            self.level = min(self.capacity, self.level + (now - self.at) * self.capacity / 60)
            self.at = now
            missing = tokens - self.level
            if missing <= 0:
                self.level -= tokens
                return 0, self.level
            # What is left is less than the call: shown as nothing, and too little for one more at once.
            self.level = min(self.level, 499)
            return max(1, math.ceil(missing * 60 / self.capacity)), 0


def events(model, input_tokens):
    """The answer, as the events of the stream."""
    first, rest = TEXT[:6], TEXT[6:]
    message = {
        "id": "msg_test", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": input_tokens, "output_tokens": 1},
    }
    yield {"type": "message_start", "message": message}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": first}}
    yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": rest}}
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": OUTPUT_TOKENS},
    }
    yield {"type": "message_stop"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """One line of JSON per request is log enough."""

    def note(self, status, **more):
        line = {"method": self.command, "path": self.path.partition("?")[0], "status": status}
        line["user_agent"] = self.headers.get("user-agent", "")
        line["at"] = time.time()
        with log_lock:
            print(json.dumps(line | more), flush=True)

    def key(self):
        return self.headers.get("x-api-key", "")

    def limits(self, left):
        """The headers; `left` is what the input bucket holds, where there is one."""
        now = datetime.datetime.now(datetime.timezone.utc)
        for name, limit in LIMITS.items():
            remaining, full_in = limit - 1, 30
            if name == "input-tokens" and left is not None:
                limit = self.server.tokens
                # The real one rounds to thousands.
                remaining, full_in = round(left, -3), math.ceil(60 * (1 - left / limit))
            elif left is not None:
                # Only the input bucket runs out.
                limit, remaining, full_in = 100_000, 100_000, 0
            reset = (now + datetime.timedelta(seconds=full_in)).strftime("%Y-%m-%dT%H:%M:%SZ")
            self.send_header(f"anthropic-ratelimit-{name}-limit", str(limit))
            self.send_header(f"anthropic-ratelimit-{name}-remaining", str(int(remaining)))
            self.send_header(f"anthropic-ratelimit-{name}-reset", reset)
        self.send_header("request-id", f"req_{time.time_ns()}")

    def plain(self, status, body, wait=None):
        body = json.dumps(body).encode()
        self.note(status, key=self.key())
        self.send_response(status)
        if wait:
            self.send_header("retry-after", str(wait))
            self.limits(0)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        # Claude Code says hello before its first call.
        self.plain(200, {})

    do_GET = do_HEAD

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.partition("?")[0] != "/v1/messages":
            return self.plain(404, {"type": "error", "error": {"type": "not_found_error", "message": "Not found"}})
        asked = json.loads(body)
        if not asked.get("stream"):
            return self.plain(400, {"type": "error", "error": {"type": "invalid_request_error", "message": "stream"}})
        input_tokens, left = INPUT_TOKENS, None
        if self.server.tokens:
            input_tokens = len(body) // CHARS_PER_TOKEN
            wait, left = self.server.bucket(self.key()).pay(input_tokens)
            if wait:
                text = f"This request would exceed your organization's rate limit of {self.server.tokens:,} input tokens per minute."
                return self.plain(429, {"type": "error", "error": {"type": "rate_limit_error", "message": text}}, wait)
        self.note(200, model=asked.get("model"), key=self.key())
        answer = list(events(asked.get("model"), input_tokens))
        pause = float(self.headers.get("x-fake-seconds", 0)) / len(answer)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.limits(left)
        self.end_headers()
        for event in answer:
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            time.sleep(pause)
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    # More callers may knock at once than the usual 5.
    request_queue_size = 64

    def __init__(self, address, tokens):
        super().__init__(address, Handler)
        self.tokens = tokens
        self.buckets = {}
        self.lock = threading.Lock()

    def bucket(self, key):
        with self.lock:
            return self.buckets.setdefault(key, Bucket(self.tokens))


def main(address, certificate, key, tokens=0):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    host, _, port = address.rpartition(":")
    server = Server((host, int(port)), int(tokens))
    # Each connection's handshake is its thread's: one that stalls must not hold up the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
