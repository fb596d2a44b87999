#!/usr/bin/env python3
"""Writes the names of ../headers.txt into every file here that must list headers one by one.

A file has places `# headers as <style>` … `# end of headers`; what lies between is replaced.
`generate.py` writes; `generate.py --check` writes nothing and fails if a file differs.
"""
import pathlib, re, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = ("envoy/bootstrap.yaml", "envoy/envoyproxy.yaml", "envoy/telemetry.yaml", "nginx/plimsoll.conf", "haproxy/haproxy.cfg")
NAMES = [line for line in (ROOT / "headers.txt").read_text().split("\n") if line and not line.startswith("#")]

def style(name, header, last):
    return {
        "list": f"- {header}",
        "map": f'{header}: "%RESP({header})%"',
        "flat": f'http.response.header.{header}: "%RESP({header})%"',
        "attributes": f'- {{key: http.response.header.{header}, value: {{string_value: "%RESP({header})%"}}}}',
        "nginx": f"'\"{header}\":\"$upstream_http_{header.replace('-', '_')}\"{'' if last else ','}'",
        "haproxy": f"http-response set-var-fmt(txn.headers) '%[var(txn.headers)],\"{header}\":\"%[res.fhdr({header}),json(utf8s)]\"' if {{ res.fhdr({header}) -m found }}",
    }[name]

def filled(text):
    def place(found):
        indent, name = found[1], found[2]
        lines = [indent + style(name, h, h is NAMES[-1]) for h in NAMES]
        return "\n".join([f"{indent}# headers as {name}", *lines, f"{indent}# end of headers"])
    return re.sub(r"(?ms)^([ \t]*)# headers as (\w+)$.*?^[ \t]*# end of headers$", place, text)

stale = [f for f in FILES if filled(text := (ROOT / f).read_text()) != text]
if "--check" in sys.argv:
    sys.exit(f"not generated from headers.txt: {', '.join(stale)}" if stale else 0)
for f in stale:
    (ROOT / f).write_text(filled((ROOT / f).read_text()))
