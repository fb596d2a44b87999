#!/usr/bin/env python3
"""A fake Anthropic API for scripts/test-pod: real Claude Code talks to it, through Plimsoll.

Usage: fake_api.py PORT CERTIFICATE KEY. Listens on 127.0.0.1 only, which here is the loopback of a pod, and
speaks TLS, as every real provider does.

It streams one fixed answer, with the headers of the documented rate limits, and writes one line of JSON for
each request to stdout, so that the test can compare what arrived with what the metrics say. A request
with the header `x-fake-seconds` gets its answer spread over that time.
"""

import datetime
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEXT = "hello from the pod"
INPUT_TOKENS = 12
OUTPUT_TOKENS = 7
LIMITS = {"requests": 50, "input-tokens": 30000, "output-tokens": 8000}

log_lock = threading.Lock()


def events(model):
    """The answer, as the events of the stream."""
    first, rest = TEXT[:6], TEXT[6:]
    message = {
        "id": "msg_test", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": 1},
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
        with log_lock:
            print(json.dumps(line | more), flush=True)

    def limits(self):
        reset = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=30)
        for name, limit in LIMITS.items():
            self.send_header(f"anthropic-ratelimit-{name}-limit", str(limit))
            self.send_header(f"anthropic-ratelimit-{name}-remaining", str(limit - 1))
            self.send_header(f"anthropic-ratelimit-{name}-reset", reset.strftime("%Y-%m-%dT%H:%M:%SZ"))
        self.send_header("request-id", "req_test")

    def plain(self, status, body):
        body = json.dumps(body).encode()
        self.note(status)
        self.send_response(status)
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
        self.note(200, model=asked.get("model"), key=bool(self.headers.get("x-api-key")))
        answer = list(events(asked.get("model")))
        pause = float(self.headers.get("x-fake-seconds", 0)) / len(answer)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.limits()
        self.end_headers()
        for event in answer:
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
            time.sleep(pause)
        self.wfile.write(b"0\r\n\r\n")


def main(port, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    # Each connection's handshake is its thread's: one that stalls must not hold up the others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
