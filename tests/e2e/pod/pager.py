#!/usr/bin/env python3
"""Who was called, when: the receivers behind Alertmanager in scripts/test-journey.

  serve ADDRESS:PORT LOG      takes webhooks at /alerts/RECEIVER, and writes a line of JSON for each alert to LOG
  first LOG RECEIVER          the first firing alert of pressure on input tokens there, or exit code 1
  others LOG RECEIVER...      how many alerts were sent to these
  direct FILE OWNER           the same of FILE, an answer of Alertmanager, as the sidecar itself posted it
  same ALERT FILE             whether FILE, an answer of Prometheus, has the alert in the file ALERT firing
  held ALERT FILE             how often FILE, an answer of Alertmanager, has its name for its owner
  value ALERT KEY...          one value of an alert
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PRESSURE = ["PlimsollBucketPressure", "PlimsollBucketExhausting"]


class Receivers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Each alert is a line already."""

    def do_POST(self):
        at = time.time()
        receiver = self.path.removeprefix("/alerts/")
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.log.open("a", encoding="utf-8") as log:
            for alert in sent["alerts"]:
                log.write(json.dumps({"receiver": receiver, "at": at} | alert) + "\n")
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


def read(path):
    """A file of JSON, or of a line of JSON for each entry."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def is_pressure(alert):
    labels = alert["labels"]
    return labels["alertname"] in PRESSURE and labels["limiter"] == "input_tokens"


def show(alerts):
    print(json.dumps(alerts[0])) if alerts else sys.exit(1)


def main():
    match sys.argv[1:]:
        case ["serve", address, log]:
            host, _, port = address.rpartition(":")
            server = ThreadingHTTPServer((host, int(port)), Receivers)
            server.log = Path(log)
            server.log.touch()
            server.serve_forever()
        case ["first", log, receiver]:
            show([a for a in read(log) if a["receiver"] == receiver and a["status"] == "firing" and is_pressure(a)])
        case ["direct", answer, owner]:
            (answer,) = read(answer)
            # Rules know of no route.
            direct = [a for a in answer if "route" in a["annotations"] and a["labels"].get("owner") == owner]
            show([a for a in direct if is_pressure(a)])
        case ["others", log, *receivers]:
            print(len([a for a in read(log) if a["receiver"] in receivers]))
        case ["same", alert, answer]:
            ((wanted,), (answer,)) = read(alert), read(answer)
            firing = [a["labels"] for a in answer["data"]["alerts"] if a["state"] == "firing"]
            sys.exit(wanted["labels"] not in firing)
        case ["held", alert, answer]:
            ((wanted,), (answer,)) = read(alert), read(answer)
            name = {key: wanted["labels"][key] for key in ("alertname", "owner", "limiter")}
            print(len([a for a in answer if a["labels"].items() >= name.items()]))
        case ["value", alert, *keys]:
            (value,) = read(alert)
            for key in keys:
                value = value.get(key, "")
            print(value)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
