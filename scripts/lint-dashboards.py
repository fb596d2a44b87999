#!/usr/bin/env python3
"""Checks Grafana dashboards (Classic JSON) against the rules of this project. Standard library only.

    scripts/lint-dashboards.py NAMES dashboards/*.json [--promql-out RULES]

NAMES is a file with one name a line: every metric as Prometheus shows it, and every label. A line
may go on with the labels of that metric, separated by blanks; then a label must belong to its metric.
Every query may use these names and no others.

--promql-out writes a rule file with every query, for `promtool check rules`: that is PromQL's own parser,
which this script does not replace.

Prints one line for each problem, with dashboard and panel, and ends with exit code 1 if there is one.
"""

import json
import re
import sys
from pathlib import Path

SCHEMA = 39
# Grid rows that a common screen shows without scrolling, and the queries that may run for them.
FOLD_ROWS = 24
FOLD_QUERIES = 12

# What is there without being ours: target labels, and the series that Prometheus writes for alerts.
TARGET_LABELS = {"job", "instance", "namespace", "pod", "container", "__name__"}
ALERT_LABELS = {
    "alertname", "alertstate", "severity",
    "owner", "owner_kind", "limiter", "window", "scope", "model", "region",
}  # fmt: skip
FOREIGN = {"ALERTS": ALERT_LABELS, "up": set()}

GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
KEYWORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}
COUNTER_FUNCTIONS = {"rate", "irate", "increase", "resets"}
TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
      | (?P<variable>\$\{[^}]*\}|\$\w+)
      | (?P<number>\.?\d[\w.]*)
      | (?P<word>[A-Za-z_:][\w:]*)
      | (?P<op>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){}\[\],@])""",
    re.VERBOSE,
)


class Selector:
    """One selection of series: its metrics, matchers and range, and the functions around it."""

    def __init__(self, metrics, functions):
        self.metrics, self.functions = metrics, functions
        self.matchers, self.range, self.offset = {}, None, False


class Query:
    """What a PromQL expression names. `problems` holds what cannot be read."""

    def __init__(self, expr):
        self.problems, self.selectors, self.groups = [], [], set()
        self.made, self.sources = set(), set()
        self.tokens = []
        at = 0
        while at < len(expr):
            match = TOKEN.match(expr, at)
            if not match:
                self.problems.append(f"cannot be read at {expr[at:at + 20]!r}")
                return
            if match.lastgroup != "space":
                self.tokens.append((match.lastgroup, match.group()))
            at = match.end()
        self.read()

    def peek(self, i):
        return self.tokens[i] if i < len(self.tokens) else ("end", "")

    def read(self):
        stack = []  # of [opening bracket, function or "", strings among its arguments]
        i, last = 0, None
        while i < len(self.tokens):
            kind, text = self.tokens[i]
            i += 1
            if kind == "word" and text.lower() in GROUPING:
                if self.peek(i)[1] == "(":
                    i = self.labels(i + 1, text.lower())
                last = None
            elif kind == "word" and text.lower() in KEYWORDS:
                if text.lower() == "offset" and last:
                    last.offset = True
            elif kind == "word" and self.calls(i):
                stack.append(["call", text, []])
                last = None
            elif kind == "word":
                last = Selector([text], [frame[1] for frame in stack if frame[1]])
                self.selectors.append(last)
            elif text == "{":
                if last is None or self.tokens[i - 2][0] != "word":
                    last = Selector([], [frame[1] for frame in stack if frame[1]])
                    self.selectors.append(last)
                i = self.matchers(i, last)
            elif text == "[":
                end = next((j for j in range(i, len(self.tokens)) if self.tokens[j][1] == "]"), None)
                if end is None:
                    self.problems.append("has an open [")
                    return
                if last:
                    last.range = "".join(t for _, t in self.tokens[i:end])
                i = end + 1
            elif text == "(":
                if stack and stack[-1][0] == "call":
                    stack[-1][0] = "("
                else:
                    stack.append(["(", "", []])
            elif text == ")":
                if not stack:
                    self.problems.append("closes a bracket that is not open")
                    return
                _, function, strings = stack.pop()
                self.closed(function, strings)
            elif kind == "string" and stack:
                stack[-1][2].append(text[1:-1])
        if stack:
            self.problems.append("has an open bracket")

    def calls(self, i):
        """True if the word before token i is a function: f(…), or an aggregation: f by (…) (…)."""
        text = self.peek(i)[1]
        return text == "(" or text.lower() in ("by", "without")

    def labels(self, i, keyword):
        while self.peek(i)[1] not in (")", ""):
            kind, text = self.tokens[i]
            if kind == "word":
                self.groups.add(text)
                if keyword in ("by", "group_left", "group_right"):
                    self.made.add(text)
            i += 1
        return i + 1

    def matchers(self, i, selector):
        while self.peek(i)[1] not in ("}", ""):
            kind, text = self.tokens[i]
            if kind == "word":
                op, value = self.peek(i + 1)[1], self.peek(i + 2)[1][1:-1]
                selector.matchers[text] = (op, value)
                if text == "__name__":
                    selector.metrics += value.split("|") if op == "=~" else [value]
                i += 2
            i += 1
        if self.peek(i)[1] == "":
            self.problems.append("has an open {")
        return i + 1

    def closed(self, function, strings):
        if function == "label_replace" and len(strings) == 4:
            self.made.add(strings[0])
            self.sources.add(strings[2])
        elif function == "label_join" and len(strings) >= 3:
            self.made.add(strings[0])
            self.sources.update(strings[2:])


class Names:
    """The metrics and labels that exist."""

    def __init__(self, text):
        self.all, self.labels_of = set(), {}
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if words:
                self.all.update(words)
                self.labels_of[words[0]] = set(words[1:])
        # A line of its own that is no label of another line is a metric without labels; but where
        # no line has labels, nothing is known of them.
        tails = set().union(*self.labels_of.values()) if self.labels_of else set()
        self.labels_of = {name: own for name, own in self.labels_of.items() if tails and (own or name not in tails)}

    def labels(self, metric):
        if metric in FOREIGN:
            return FOREIGN[metric] | TARGET_LABELS
        histogram = {"le"} if metric != self.base(metric) else set()
        return self.labels_of.get(self.base(metric), self.all) | TARGET_LABELS | histogram

    def has(self, metric):
        return metric in FOREIGN or self.base(metric) in self.all

    def base(self, metric):
        """A histogram's series end in what they count."""
        base = re.sub(r"_(bucket|sum|count)$", "", metric)
        return base if base != metric and base in self.all else metric


class Dashboard:
    """One dashboard; `problems` is the result."""

    def __init__(self, file, data, names, uids):
        self.file, self.data, self.names, self.uids = file, data, names, uids
        self.problems, self.exprs = [], []
        self.variables = {v.get("name"): v for v in data.get("templating", {}).get("list", [])}

    def bad(self, where, reason):
        self.problems.append(f"{self.file.name}: {where}: {reason}")

    def check(self):
        self.head()
        self.templating()
        self.annotations()
        panels = self.data.get("panels", [])
        folded = [p for row in panels if row.get("type") == "row" for p in row.get("panels", [])]
        for panel in panels + folded:
            where = f"panel {panel.get('title') or panel.get('id')!r}"
            if panel.get("type") != "row":
                self.panel(where, panel)
        self.ids(panels + folded)
        self.grid(panels)
        visible = [p for p in panels if p.get("type") != "row" and p["gridPos"]["y"] < FOLD_ROWS]
        queries = sum(len(p.get("targets", [])) for p in visible)
        if queries > FOLD_QUERIES:
            self.bad("dashboard", f"{queries} queries above the fold; at most {FOLD_QUERIES}")

    def head(self):
        data = self.data
        for key in ("uid", "title", "description", "tags"):
            if not data.get(key):
                self.bad("dashboard", f"has no {key}")
        if data.get("schemaVersion") != SCHEMA:
            self.bad("dashboard", f"schemaVersion is {data.get('schemaVersion')}, not {SCHEMA}")
        if data.get("editable") is not False:
            self.bad("dashboard", "editable is not false: people would edit what the next roll-out replaces")
        if data.get("id") is not None:
            self.bad("dashboard", "carries the id of one Grafana; make it null")
        for key in ("__inputs", "__requires", "__elements"):
            if key in data:
                self.bad("dashboard", f"has {key}, which provisioning does not resolve")

    def templating(self):
        source = self.variables.get("datasource", {})
        if (source.get("type"), source.get("query"), source.get("label")) != ("datasource", "prometheus", "Data source"):
            self.bad("variable datasource", "must be of type datasource, for prometheus, labelled \"Data source\"")
        if "job" not in self.variables:
            self.bad("variable job", "is missing: whoever feeds one sidecar in twice must be able to choose")
        for name, variable in self.variables.items():
            where = f"variable {name}"
            if variable.get("type") != "query":
                continue
            self.source(where, variable)
            if not variable.get("label"):
                self.bad(where, "has no label")
            if variable.get("refresh") != 2:
                self.bad(where, "does not refresh when the time range changes (refresh: 2)")
            if variable.get("includeAll") and variable.get("allValue") != ".*":
                self.bad(where, "All must be .*, so that series without the label are kept")
            text = variable.get("definition", "")
            if text != (variable.get("query") or {}).get("query"):
                self.bad(where, "definition and query differ")
            match = re.fullmatch(r"label_values\((?:(.*),\s*)?(\w+)\)", text, re.DOTALL)
            if not match:
                self.bad(where, "is no label_values(…)")
                continue
            query = self.query(where, match[1] or "")
            for metric in [m for s in query.selectors for m in s.metrics]:
                if match[2] not in self.names.labels(metric):
                    self.bad(where, f"{metric} has no label {match[2]}")

    def annotations(self):
        for annotation in self.data.get("annotations", {}).get("list", []):
            if annotation.get("builtIn"):
                continue
            where = f"annotation {annotation.get('name')!r}"
            self.source(where, annotation)
            query = self.query(where, annotation.get("expr", ""))
            for key in ("titleFormat", "textFormat"):
                self.legend(where, annotation.get(key, ""), query)

    def panel(self, where, panel):
        for key in ("title", "description"):
            if not (panel.get(key) or "").strip():
                self.bad(where, f"has no {key}")
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if not defaults.get("unit"):
            self.bad(where, "has no unit")
        self.source(where, panel)
        targets = panel.get("targets", [])
        if not targets:
            self.bad(where, "has no query")
        refs = [t.get("refId") for t in targets]
        if len(set(refs)) != len(refs):
            self.bad(where, "uses one refId for two queries")
        by_kind = False
        for target in targets:
            at = f"{where}, query {target.get('refId')}"
            self.source(at, target)
            query = self.query(at, target.get("expr", ""), panel=True)
            by_kind |= "plimsoll_owner_kind" in query.made
            if target.get("format") != "table":
                self.legend(at, target.get("legendFormat", ""), query)
        links = json.dumps(panel.get("fieldConfig", {}))
        if by_kind and "/runbooks/" not in links:
            self.bad(where, "shows a kind of owner and has no data link to its runbook")
        for uid in re.findall(r'"/d/([^/?"]+)', links):
            if uid not in self.uids:
                self.bad(where, f"links to the dashboard {uid}, which is none of these")

    def query(self, where, expr, panel=False):
        query = Query(expr)
        if not expr.strip():
            query.problems.append("is empty")
        for problem in query.problems:
            self.bad(where, f"the query {problem}")
        if query.problems:
            return query
        self.exprs.append((f"{self.file.stem}: {where}", expr))
        for name in re.findall(r"\$\{?(\w+)", expr):
            if name not in self.variables and not name.startswith("__"):
                self.bad(where, f"${name} is no variable")
        known = set()
        for selector in query.selectors:
            self.selector(where, selector, query, panel)
            for metric in selector.metrics:
                known |= self.names.labels(metric)
        for label in sorted((query.groups | query.sources) - known - query.made):
            self.bad(where, f"the label {label} does not exist")
        for label in sorted(query.groups & query.made - known):
            self.bad(where, f"the label {label} does not exist on any metric of this query")
        return query

    def selector(self, where, selector, query, panel):
        if not selector.metrics:
            self.bad(where, "selects series of any name")
        for metric in selector.metrics:
            if not self.names.has(metric):
                self.bad(where, f"the metric {metric} does not exist")
                continue
            for label in selector.matchers:
                if label not in self.names.labels(metric):
                    self.bad(where, f"{metric} has no label {label}")
            if panel and metric not in FOREIGN and selector.matchers.get("job") != ("=~", "$job"):
                self.bad(where, f'{metric} is not selected by job=~"$job"')
            if panel and metric.endswith("_total"):
                self.counter(where, metric, selector, query)

    def counter(self, where, metric, selector, query):
        """A counter alone says nothing. Its rate does, and so does its difference to an earlier value."""
        called = COUNTER_FUNCTIONS & set(selector.functions)
        # What grows with polls does so every few minutes: the interval of a graph holds none of them, or one.
        wanted = "1h" if metric.startswith("plimsoll_source_") else "$__rate_interval"
        if called and (selector.range != wanted and metric != "plimsoll_source_observations_total"):
            self.bad(where, f"{metric} is taken over [{selector.range}], not [{wanted}]")
        earlier = any(s.offset and metric in s.metrics for s in query.selectors)
        # What a poll adds, times the polls of a day: a counter by a counter, and the interval of the polls.
        paced = metric.startswith("plimsoll_source_") and any(
            "plimsoll_source_interval_seconds" in s.metrics for s in query.selectors
        )
        if not called and not earlier and not paced:
            self.bad(where, f"the counter {metric} is neither inside rate() or increase() nor compared with its past")

    def legend(self, where, text, query):
        for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", text):
            if query.made and label not in query.made:
                self.bad(where, f"the legend names {label}, which the query does not return")
            elif not query.made and not any(label in self.names.labels(m) for s in query.selectors for m in s.metrics):
                self.bad(where, f"the legend names {label}, which does not exist")

    def source(self, where, thing):
        if (thing.get("datasource") or {}).get("uid") != "${datasource}":
            self.bad(where, "does not use the variable ${datasource}")

    def ids(self, panels):
        ids = [p.get("id") for p in panels]
        for one in sorted({i for i in ids if ids.count(i) > 1}, key=str):
            self.bad("dashboard", f"two panels have the id {one}")

    def grid(self, panels):
        taken = {}
        for panel in panels:
            title = panel.get("title")
            pos = panel.get("gridPos", {})
            if pos.get("x", 0) + pos.get("w", 0) > 24:
                self.bad(f"panel {title}", "goes beyond the 24 columns")
            for x in range(pos.get("x", 0), pos.get("x", 0) + pos.get("w", 0)):
                for y in range(pos.get("y", 0), pos.get("y", 0) + pos.get("h", 0)):
                    other = taken.setdefault((x, y), title)
                    if other != title:
                        self.bad(f"panel {title}", f"lies over the panel {other}")
                        return


def rules(exprs):
    """A rule file with every query; Grafana's own variables stand for what they usually are."""
    made = []
    for where, expr in exprs:
        expr = re.sub(r"\$__(rate_interval|interval|range)\b", "5m", expr)
        expr = re.sub(r"\$\{?\w+\}?", "x", expr)
        made.append({"record": "lint:query:value", "expr": expr, "labels": {"where": re.sub(r"[^\w ,.]", "", where)}})
    return json.dumps({"groups": [{"name": "dashboards", "rules": made}]}, indent=1)


def main(args):
    out = None
    if "--promql-out" in args:
        at = args.index("--promql-out")
        out = args[at + 1] if at + 1 < len(args) else None
        del args[at:at + 2]
    if len(args) < 2 or any(a.startswith("-") for a in args):
        print(__doc__, file=sys.stderr)
        return 2
    names = Names(Path(args[0]).read_text(encoding="utf-8"))
    problems, exprs, uids = [], [], {}
    read = []
    for file in map(Path, args[1:]):
        try:
            read.append((file, json.loads(file.read_text(encoding="utf-8"))))
        except ValueError as error:
            problems.append(f"{file.name}: is no JSON: {error}")
    for file, data in read:
        dashboard = Dashboard(file, data, names, {one.get("uid") for _, one in read})
        dashboard.check()
        problems += dashboard.problems
        exprs += dashboard.exprs
        uid = dashboard.data.get("uid")
        if uid in uids:
            problems.append(f"{file.name}: has the uid {uid} of {uids[uid]}")
        uids[uid] = file.name
    if out:
        Path(out).write_text(rules(exprs), encoding="utf-8")
    for problem in problems:
        print(problem)
    print(f"{len(uids)} dashboards, {len(exprs)} queries, {len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
