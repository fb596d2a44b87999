#!/usr/bin/env python3
"""What scripts/test-chart asserts about the chart, beside Helm's own checks. Needs kubernetes-validate.

    check.py renders DIR OUT   every DIR/<scenario>.<helm>.<kubernetes>.yaml: valid for that Kubernetes
                               version, and what we promise. Leaves rules and configurations in OUT.
    check.py sources           schema, README (keys and defaults) and example agree with values.yaml and with the program
    check.py guide OUT         writes what docs/install.md installs from this folder to OUT: values, and commands that
                               render it instead, with `$helm` and `$guide` to be set
    check.py cases OUT         writes the configurations of tests/refused.yaml to OUT: n.yaml is values, n.config.yaml what
                               the program reads, n.message what must stand in the refusal (not there: it is taken)
    check.py same FILE FILE    two YAML files say the same
    check.py normal FILE       a rendering as it stands in a golden file

Run in the root of the repository. One line for each problem; exit code 1 if there is one.
"""

import functools
import json
import re
import sys
from pathlib import Path

import kubernetes_validate
import yaml
from kubernetes_validate import utils

CHART = Path("helm/plimsoll")
CORE = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
METRICS, HOP, PAGE = "plimsoll-metric", "plimsoll-hop", "plimsoll-page"
# Standalone and poller apart: what a scenario makes of the sidecar.
FORMS = {"app-forced-native": "native", "app-forced-plain": "plain", "app-off": None, "default": None}
SHARED = ["ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"]
KINDS = {
    "default": ["ConfigMap"],
    "app": ["ConfigMap", "Deployment"],
    "app-monitoring": ["ConfigMap", "Deployment", "PodMonitor"],
    "monitoring": ["PodMonitor", "PrometheusRule"],
    "app-poller": sorted(["ConfigMap", "ConfigMap", "Deployment", "Deployment", "Service", "ServiceAccount"]),
    "standalone": SHARED,
    "sources": sorted([*SHARED, "NetworkPolicy"]),
    "clients": sorted([*SHARED, "NetworkPolicy"]),
    "poller": ["ConfigMap", "ConfigMap", "Deployment", "Service", "ServiceAccount"],
    # Two of most: the hop's and the poller's; a page's Service of each; one ConfigMap for each dashboard.
    "everything": sorted([
        *SHARED, "NetworkPolicy", "ConfigMap", "Deployment", "NetworkPolicy", "Service", "ServiceAccount",
        "Service", "Service", "PodMonitor", "PrometheusRule",
        *("ConfigMap" for _ in Path("dashboards").glob("*.json")),
    ]),
}  # fmt: skip

# The validator reads its schemas anew for each object; most of the time goes there.
utils.schema_contents = functools.lru_cache(None)(utils.schema_contents)

problems = []


def need(holds, where, what):
    if not holds:
        problems.append(f"{where}: {what}")
    return holds


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Refuses a key that stands twice in one mapping: YAML takes the last one and says nothing."""


def mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {', '.join(map(str, twice))} stands there twice")
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda l, n: mapping(l, n, True))


def load(text):
    return [doc for doc in yaml.load_all(text, Loader) if doc]


# --- Renderings ------------------------------------------------------------------------------------


def renders(folder, out):
    files = sorted(Path(folder).glob("*.yaml"))
    for file in files:
        scenario, _, version = file.stem.split(".", 2)
        where = file.stem
        try:
            docs = load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            need(False, where, f"cannot be read: {error}")
            continue
        try:
            rendering(where, docs, scenario, version, Path(out))
        except (KeyError, TypeError, IndexError, StopIteration) as error:
            need(False, where, f"is not shaped as expected: {error!r}")
    need(files, folder, "holds no rendering")
    return len(files)


def rendering(where, docs, scenario, version, out):
    kinds = sorted(doc["kind"] for doc in docs)
    need(kinds == KINDS.get(scenario, KINDS["app"]), where, f"holds {kinds}")
    names = [(doc["kind"], doc["metadata"]["name"]) for doc in docs]
    need(len(set(names)) == len(names), where, "two objects of one kind have one name")
    for doc in docs:
        check_object(f"{where}: {doc['kind']}", doc, version)
    for deployment in [d for d in docs if d["kind"] == "Deployment"]:
        form = FORMS.get(scenario, "standalone")
        if scenario.startswith("app") and form == "standalone":
            form = "native" if minor(version) >= 29 else "plain"
        if deployment["metadata"]["name"].endswith("-poller"):
            form = "poller"
        check_pod(where, form, deployment, docs, minor(version))
    check_selected(where, docs)
    check_monitoring(where, docs, out)
    if scenario == "clients":
        check_clients(where, docs)
    for config in [d for d in docs if "plimsoll.yaml" in d.get("data", {})]:
        name = config["metadata"]["name"]
        Path(out, f"{where}.{name}.config.yaml").write_text(config["data"]["plimsoll.yaml"], encoding="utf-8")


def minor(version):
    return int(version.split(".")[1])


def check_object(where, doc, version):
    if doc["kind"] not in CORE:
        return
    try:
        kubernetes_validate.validate(doc, ".".join(version.split(".")[:2]), strict=True)
    except kubernetes_validate.ValidationError as error:
        need(False, where, f"{'.'.join(map(str, error.path))}: {error.message}")
    except kubernetes_validate.SchemaNotFoundError as error:
        need(False, where, error.message)
    if doc["metadata"]["name"] != "search":  # the workload of the example is not ours
        labels = doc["metadata"].get("labels", {})
        for label in ("name", "instance", "version", "managed-by"):
            need(f"app.kubernetes.io/{label}" in labels, where, f"has no label app.kubernetes.io/{label}")
        need("namespace" in doc["metadata"], where, "has no namespace")


def check_pod(where, form, deployment, docs, kube):
    spec = deployment["spec"]["template"]["spec"]
    found = {
        key: [c for c in spec.get(key, []) if "plimsoll:" in c["image"] or "plimsoll@" in c["image"]]
        for key in ("initContainers", "containers")
    }
    place = "initContainers" if form == "native" else "containers"
    other = "containers" if form == "native" else "initContainers"
    need(len(found[place]) == (form is not None) and not found[other], where, f"Plimsoll is not where {form} puts it")
    if form is None:
        need("volumes" not in spec and "env" not in spec["containers"][0], where, "something of Plimsoll is left")
        return
    if not found[place]:
        return
    container = found[place][0]
    need((container.get("restartPolicy") == "Always") == (form == "native"), where, "restartPolicy: Always is for native sidecars")
    need(("readinessProbe" in container) == (form in ("standalone", "poller")), where, "a readiness probe is not for sidecars")
    need(("startupProbe" in container) == (form == "native"), where, "a startup probe is for native sidecars only")
    config = check_mounts(where, spec, container, docs)
    check_container(where, container, config)
    sleeps = "lifecycle" in container
    need(sleeps == (form == "standalone" and kube >= 30), where, "preStop.sleep is for the shared hop from 1.30 on")
    if form in ("standalone", "poller"):
        need(spec.get("automountServiceAccountToken") is False, where, "mounts a token of the Kubernetes API")
        accounts = [d["metadata"]["name"] for d in docs if d["kind"] == "ServiceAccount"]
        need(spec["serviceAccountName"] in accounts, where, f"runs as {spec['serviceAccountName']}, and there is {accounts}")
    else:
        env = {e["name"]: e["value"] for e in spec["containers"][0].get("env", [])}
        need(env.get("ANTHROPIC_BASE_URL") == "http://127.0.0.1:8429", where, "the workload does not call the hop")
    if form == "standalone":
        binds = [l["bind"] for l in config["listeners"]]
        need(not any(map(loopback, binds)), where, f"the hop binds {binds}")
    if form == "poller":
        wanted = {"replicas": 1, "strategy": {"type": "Recreate"}}
        for key, value in wanted.items():
            need(deployment["spec"].get(key) == value, where, f"the poller's {key} is {deployment['spec'].get(key)}")
        need(config["listeners"] == [], where, "the poller forwards calls")
        check_limits(where, config, docs)


def check_limits(where, config, docs):
    """Every hop of the release reads the limits where the poller's Service serves them."""
    hops = [c for c in configs(docs).values() if c != config]
    (service,) = [d for d in docs if d["kind"] == "Service" and d["metadata"]["name"].endswith("-poller")]
    port = service["spec"]["ports"][0]["port"]
    wanted = f"http://{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{port}"
    for hop in hops:
        need(hop["pollers"]["limits"]["url"] == wanted, where, f"hops read limits from {hop['pollers']['limits']['url']}")
        need(hop.get("owners") == config.get("owners"), where, "poller and hops know other owners")
    need("limits" not in config["pollers"], where, "the poller asks a poller")


def loopback(bind):
    return bind.startswith(("127.", "[::1]"))


def configs(docs):
    found = {d["metadata"]["name"]: d["data"]["plimsoll.yaml"] for d in docs if "plimsoll.yaml" in d.get("data", {})}
    return {name: (load(text) or [{}])[0] for name, text in found.items()}


def check_container(where, container, config):
    context = container["securityContext"]
    wanted = {
        "runAsNonRoot": True, "runAsUser": 65532, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    for key, value in wanted.items():
        need(context.get(key) == value, where, f"securityContext.{key} is {context.get(key)}")
    need(container["args"] == ["run", "--config", "/etc/plimsoll/plimsoll.yaml"], where, f"runs {container['args']}")
    names = [p["name"] for p in container["ports"]]
    need(len(set(names)) == len(names), where, f"two ports have one name: {names}")
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    need(ports == listened(config), where, f"has the ports {ports}, and its configuration {listened(config)}")
    for probe, path in (("livenessProbe", "/-/healthy"), ("startupProbe", "/-/healthy"), ("readinessProbe", "/-/ready")):
        if probe in container:
            get = container[probe]["httpGet"]
            need((get["path"], get["port"]) == (path, METRICS), where, f"{probe} asks {get}")
    env = [e["name"] for e in container["env"]]
    need(len(set(env)) == len(env), where, "one variable is set twice, which server-side apply refuses")
    attributes = next(e["value"] for e in container["env"] if e["name"] == "OTEL_RESOURCE_ATTRIBUTES")
    pairs = dict(pair.split("=", 1) for pair in attributes.split(","))
    for key in ("k8s.pod.name", "k8s.namespace.name", "k8s.pod.uid", "k8s.node.name", "k8s.container.name", "service.instance.id"):
        need(pairs.get(key), where, f"OTEL_RESOURCE_ATTRIBUTES lacks {key}")
    before = env[: env.index("OTEL_RESOURCE_ATTRIBUTES")]
    for name in re.findall(r"\$\((\w+)\)", attributes):
        need(name in before, where, f"$({name}) is not set before it is used")


def listened(config):
    """Ports by their names, as the configuration has them; the admin port only if others reach it."""
    binds = {METRICS: config["metrics"]["bind"]}
    for i, listener in enumerate(config.get("listeners", [{"bind": "127.0.0.1:8429"}])):
        binds[HOP if i == 0 else f"{HOP}-{i + 1}"] = listener["bind"]
    sources = config.get("sources", {})
    if "envoy_als" in sources:
        binds["als"] = sources["envoy_als"]["bind"]
    for key in {"grpc", "http"} & set(sources.get("otlp", {})):
        binds[f"otlp-{key}"] = sources["otlp"][key]
    admin = config.get("admin", {}).get("bind", "127.0.0.1:9430")
    if not loopback(admin):
        binds[PAGE] = admin
    return {name: int(bind.rpartition(":")[2]) for name, bind in binds.items()}


def check_mounts(where, spec, container, docs):
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    mount = mounts.get("/etc/plimsoll", {})
    need(mount.get("readOnly") is True, where, "the configuration is not mounted read-only at /etc/plimsoll")
    for path, one in mounts.items():
        need("subPath" not in one and "subPathExpr" not in one, where, f"{path} is a subPath, which never follows a change")
    volumes = {v["name"]: v for v in spec["volumes"]}
    need({m["name"] for m in mounts.values()} <= set(volumes), where, "mounts a volume that the pod does not have")
    source = volumes.get(mount.get("name"), {}).get("configMap", {}).get("name")
    made = configs(docs)
    need(source in made, where, f"mounts the ConfigMap {source}, and there is {sorted(made)}")
    return made[source]


def check_selected(where, docs):
    """What selects pods selects those of one Deployment, and leads to ports that these have."""
    pods = {
        d["metadata"]["name"]: d["spec"]["template"] for d in docs if d["kind"] == "Deployment" and d["metadata"]["name"] != "search"
    }
    for doc in docs:
        kind, name, spec = doc["kind"], doc["metadata"]["name"], doc.get("spec", {})
        selector = {
            "Service": lambda: spec["selector"],
            "Deployment": lambda: spec["selector"]["matchLabels"],
            "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
        }.get(kind)
        if selector is None or name == "search":
            continue
        chosen = [d for d, pod in pods.items() if selector().items() <= pod["metadata"]["labels"].items()]
        if not need(len(chosen) == 1, where, f"{kind} {name} selects the pods of {chosen}"):
            continue
        (container,) = pods[chosen[0]]["spec"]["containers"]
        config = configs(docs)[pods[chosen[0]]["spec"]["volumes"][0]["configMap"]["name"]]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        closed = {"otlp-http"} if loopback(config.get("sources", {}).get("otlp", {}).get("http", "127.")) else set()
        if kind == "Service":
            need(spec["ports"], where, f"the Service {name} has no port")
            for port in spec["ports"]:
                need(ports.get(port["targetPort"]) == port["port"], where, f"{name}'s port {port['name']} leads nowhere")
                need(port["targetPort"] not in closed, where, f"{name}'s port {port['name']} leads to a loopback address")
                need((port["targetPort"] == PAGE) == name.endswith("-page"), where, f"{name} leads to {port['targetPort']}")
        elif kind == "NetworkPolicy":
            named = [p["port"] for rule in spec["ingress"] for p in rule["ports"]]
            need(sorted(named) == sorted(set(ports) - closed), where, f"the policy is about the ports {named}")


def check_clients(where, docs):
    """What the guide tells to set opens the hop for another namespace, and nothing else for it."""
    (policy,) = [d["spec"] for d in docs if d["kind"] == "NetworkPolicy"]
    (hop,) = [rule for rule in policy["ingress"] if {"port": HOP} in rule["ports"]]
    selectors = [peer.get("namespaceSelector", {}).get("matchLabels") for peer in hop["from"]]
    need({"kubernetes.io/metadata.name": "shop"} in selectors, where, f"the guide's example opens the hop for {hop['from']}")


# kubernetes-validate has no schemas for these kinds and passes over them in silence.
POD_MONITOR = {"namespaceSelector", "selector", "podTargetLabels", "podMetricsEndpoints"}
ENDPOINT = {"port", "path", "interval", "scrapeTimeout", "relabelings"}
RULE = {"alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"}


def check_monitoring(where, docs, out):
    scenario = where.split(".")[0]
    given = next(iter(configs(docs).values()), None)
    if given is None:  # a release for monitoring alone
        given = yaml.safe_load((CHART / f"tests/values/{scenario}.yaml").read_text(encoding="utf-8"))["config"]
    owner = given.get("alerts", {}).get("owner_label", "owner")
    for doc in docs:
        kind, spec = doc["kind"], doc.get("spec", {})
        if kind in ("PodMonitor", "PrometheusRule"):
            need(doc["apiVersion"] == "monitoring.coreos.com/v1", where, f"{kind} has apiVersion {doc['apiVersion']}")
            need(set(doc) == {"apiVersion", "kind", "metadata", "spec"}, where, f"{kind} has {sorted(doc)}")
            labels = doc["metadata"]["labels"]
            need(labels.get("release") == "kube-prometheus-stack", where, f"{kind} lacks the label it was given")
        if kind == "PodMonitor":
            need({"selector", "namespaceSelector", "podMetricsEndpoints"} <= set(spec) <= POD_MONITOR, where, f"{kind}.spec has {sorted(spec)}")
            need(isinstance(spec["selector"], dict), where, "PodMonitor.spec.selector is no selector")
            for endpoint in spec["podMetricsEndpoints"]:
                need(set(endpoint) <= ENDPOINT, where, f"the endpoint has {sorted(endpoint)}")
                need((endpoint["port"], endpoint["path"]) == (METRICS, "/metrics"), where, f"scrapes {endpoint}")
        elif kind == "PrometheusRule":
            check_rules(where, spec, owner, THRESHOLDS.get(scenario, []))
            Path(out, f"{where}.rules.yaml").write_text(yaml.safe_dump(spec, width=10000), encoding="utf-8")
        elif kind == "ConfigMap" and "plimsoll.yaml" not in doc["data"]:
            need(doc["metadata"]["labels"].get("grafana_dashboard") == "1", where, "Grafana will not find the dashboards")
            for name, text in doc["data"].items():
                original = Path("dashboards", name).read_text(encoding="utf-8")
                # Where alerts have another label for their owner, `plimsoll dashboards --owner-label` says the rest.
                usual = json.loads(original) if owner == "owner" else None
                need(usual in (None, json.loads(text)), where, f"{name} is not the dashboard")
                Path(out, f"{where}.{owner}.{name}").write_text(text, encoding="utf-8")
                need(len(text) < 1_000_000, where, f"{name} is too large for a ConfigMap")


# The lines of rules that the thresholds of tests/values change, in their order.
THRESHOLDS = {
    "monitoring": [
        'plimsoll:bucket_utilization_peak:max{limiter!~"acceleration|concurrency|spend"} > 0.7',
        "plimsoll:bucket_exhaustion_delay_seconds:min < 120",
        'plimsoll:bucket_utilization_peak:max{limiter!~"acceleration|concurrency|spend"} > 0.8',
        "plimsoll:bucket_exhaustion_delay_seconds:min < 60",
        'plimsoll:bucket_utilization:max{limiter="spend"} > 0.5',
    ]
}


def check_rules(where, spec, owner, changed):
    text = Path("alerts/plimsoll.rules.yaml.tmpl").read_text(encoding="utf-8").replace("%OWNER%", owner)
    if where.split(".")[0] == "monitoring":
        text = text.replace("https://github.com/plimsoll/plimsoll/blob/main/runbooks/", "https://wiki.example.com/plimsoll/")
    original = yaml.safe_load(text)
    ours, theirs = (
        [line.strip() for group in part["groups"] for rule in group["rules"] for line in rule["expr"].splitlines()]
        for part in (spec, original)
    )
    rest, other = (
        [{**group, "rules": [{**rule, "expr": ""} for rule in group["rules"]]} for group in part["groups"]] for part in (spec, original)
    )
    if need(rest == other and set(spec) == {"groups"} and len(ours) == len(theirs), where, "the rules are not those of alerts/"):
        news = [line for line, other in zip(ours, theirs) if line != other]
        need(news == changed, where, f"the rules differ from those of alerts/ in {news}")
    need("%OWNER%" not in json.dumps(spec), where, "the owner's label was not filled in")
    alerts = []
    for rule in [rule for group in spec["groups"] for rule in group["rules"]]:
        need(set(rule) <= RULE and ("alert" in rule) != ("record" in rule), where, f"a rule has {sorted(rule)}")
        if "alert" in rule:
            alerts.append(rule["alert"])
            need(rule["labels"].get("severity") in ("warning", "critical"), where, f"{rule['alert']} has no severity")
            for key in ("summary", "description", "runbook_url", "first_move", "stop_rule"):
                need(rule["annotations"].get(key), where, f"{rule['alert']} has no {key}")
    need({"PlimsollBucketPressure", "PlimsollBucketExhausting", "PlimsollThrottled"} <= set(alerts), where, f"has {alerts}")


# --- Sources ---------------------------------------------------------------------------------------


def sources():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    known = documented(schema, readme)
    for path in leaves(values, schema):
        parts = path.split(".")
        named = any(".".join(parts[:n]) in known for n in range(1, len(parts) + 1))
        need(named, "README.md", f"the table of values lacks `{path}`")
    for path in known:
        need(reach(values, path), "README.md", f"`{path}` is no value")
    defaults(readme, values)
    strict("values.schema.json", schema, schema)
    example = (CHART / "tests/app/templates/deployment.yaml").read_text(encoding="utf-8")
    need(f"```yaml\n{example}```" in readme, "README.md", "its Deployment is not the one of tests/app")
    app = (CHART / "tests/app/values.yaml").read_text(encoding="utf-8")
    need(f"```yaml\n{app}```" in readme, "README.md", "its values are not the ones of tests/app")
    program(schema)
    words(schema["definitions"])
    guides(values)


def guides(values):
    """Values that a page names exist; what stands below `config` is tested with the program's own schema."""
    named = 0
    for page in [*Path("docs").glob("*.md"), Path("README.md")]:
        text = page.read_text(encoding="utf-8")
        spans = [span.removeprefix("plimsoll.") for span in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)`", text)]
        given = [pair.removeprefix("plimsoll.").split("=")[0] for line in re.findall(r"--set (\S+)", text) for pair in line.split(",")]
        for path in [*spans, *given]:
            first = path.split(".")[0]
            if first in values and first != "config":
                named += 1
                # Below a value that is free in form anything may stand.
                parts = path.split(".")
                prefixes = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
                stop = next((p for p in prefixes if reach(values, p) and value(values, p) in ({}, [])), path)
                need(reach(values, stop), page, f"`{path}` is no value of the chart")
    need(named >= 10, "docs", f"only {named} values were found on the pages")


def value(values, path):
    return functools.reduce(lambda part, key: part[key], path.split("."), values)


def documented(schema, readme):
    table = readme[readme.index("## Values") : readme.index("## Working on the chart")]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def defaults(readme, values):
    """A default in backticks is the one of values.yaml; other cells say it in words."""
    for line in readme[readme.index("## Values") :].splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if not line.startswith("| `") or not re.fullmatch(r"`[^`]*`", cells[2]):
            continue
        for path in re.findall(r"`([^`]+)`", cells[1]):
            value = functools.reduce(lambda part, key: part.get(key, {}), path.split("."), values)
            need(yaml.safe_load(cells[2].strip("`")) == value, "README.md", f"`{path}` is {value!r}, and not {cells[2]}")


def leaves(values, schema, path=""):
    for key, value in values.items():
        at = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from leaves(value, schema, at)
        else:
            yield at


def reach(values, path):
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def strict(path, part, schema):
    """Every object that lists its keys refuses others, so that a typo cannot pass."""
    if isinstance(part, dict):
        open_ones = {f"values.schema.json.definitions{part}" for part in ("", ".env.items", ".mounts.items")}
        if "properties" in part and part.get("type") == "object" and path not in open_ones:
            need(part.get("additionalProperties") is False, path, "lets unknown keys pass")
        for key, value in part.items():
            strict(f"{path}.{key}", value, schema)


def program(schema):
    """The schema's `config` has the keys that the program reads. docs/plimsoll.schema.json says which: it
    is made from the code. Ours is another one because it also refuses values that the program would."""
    theirs = json.loads(Path("docs/plimsoll.schema.json").read_text(encoding="utf-8"))

    def resolved(part, root):
        while "$ref" in part or "anyOf" in part:
            if "$ref" in part:
                folder, name = part["$ref"].split("/")[-2:]
                part = root[folder][name]
            else:
                part = next(p for p in part["anyOf"] if p.get("type") != "null")
        return resolved(part["items"], root) if "items" in part else part

    def compare(ours, real, path):
        ours, real = resolved(ours, schema), resolved(real, theirs)
        keys, read = ours.get("properties", {}), real.get("properties", {})
        for key in sorted(set(read) - set(keys)):
            need(False, "values.schema.json", f"{path} lacks the key `{key}`, which the program reads")
        for key in sorted(set(keys) - set(read)):
            need(False, "values.schema.json", f"{path}.{key} is no key that the program reads")
        missing = set(real.get("required", [])) ^ set(ours.get("required", []))
        need(not missing, "values.schema.json", f"{path} and the program differ on what is required: {sorted(missing)}")
        for key in sorted(set(keys) & set(read)):
            compare(keys[key], read[key], f"{path}.{key}")

    compare(schema["definitions"]["config"], theirs, "config")


def words(definitions):
    """Words that the program knows and its schema does not list."""
    route = Path("src/route.rs").read_text(encoding="utf-8")
    surfaces, kinds = re.findall(r"const fn as_str\(self\) -> &'static str \{(.*?)\n    \}\n", route, re.DOTALL)
    fields = re.search(r"const FIELDS: .*?\];", Path("src/mapping.rs").read_text(encoding="utf-8"), re.DOTALL)[0]
    for name, text in (("surface", surfaces), ("ownerKind", kinds), ("field", fields)):
        wanted, found = set(re.findall(r'"(\w+)"', text)), set(definitions[name]["enum"])
        need(wanted == found, "values.schema.json", f"definitions.{name} and the program differ in {sorted(wanted ^ found)}")


def cases(out):
    out = Path(out)
    out.mkdir()
    found = yaml.safe_load((CHART / "tests/refused.yaml").read_text(encoding="utf-8"))
    for n, case in enumerate(found):
        (out / f"{n}.yaml").write_text(yaml.safe_dump({"config": case["config"]}), encoding="utf-8")
        (out / f"{n}.config.yaml").write_text(yaml.safe_dump(case["config"]), encoding="utf-8")
        if "message" in case:
            (out / f"{n}.message").write_text(case["message"], encoding="utf-8")
    return len(found)


def same(one, other):
    one, other = (yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in (one, other))
    need(one == other, "same", "the files differ")


# --- The guide -------------------------------------------------------------------------------------


def guide(out):
    """Commands of the guide that install this chart, and its values: a file that is named, and the page's, which are
    for both a shared hop and a poller."""
    out = Path(out)
    out.mkdir()
    text = Path("docs/install.md").read_text(encoding="utf-8")
    commands = []
    for block in re.findall(r"```sh\n(.*?)\n```", text, re.DOTALL):
        for command in block.replace("\\\n", " ").splitlines():
            installs = re.match(r"helm (?:install|upgrade --install) (\S+) helm/plimsoll (.*)", command)
            if installs:
                flags = installs[2].replace("--create-namespace", "").replace("--values ", "--values $guide/")
                commands.append(f'"$helm" template {installs[1]} helm/plimsoll --kube-version 1.33.0 {flags}')
    need(len(commands) == 3, "docs/install.md", f"{len(commands)} commands that install the chart, and not 3")
    for name in re.findall(r"--values \$guide/(\S+)", "\n".join(commands)):
        block = re.search(rf"`{re.escape(name)}`:\n\n```yaml\n(.*?)```", text, re.DOTALL)
        if need(block, "docs/install.md", f"{name} is not shown"):
            (out / name).write_text(block[1], encoding="utf-8")
    page = text[text.index("### The page in a cluster") :]
    (out / "page.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    commands += [f"{command} --values $guide/page.yaml" for command in commands[:2]]
    hop = text[text.index("### A shared hop") : text.index("### A poller")]
    (out / "clients.yaml").write_text(re.search(r"```yaml\n(.*?)```", hop, re.DOTALL)[1], encoding="utf-8")
    for n, command in enumerate(commands):
        (out / f"{n}.sh").write_text(f"{command} >/dev/null\n", encoding="utf-8")
    return len(commands)


def normal(file):
    """Without blank lines, which Helm 3 and 4 set differently, and without the documents that have a
    check of their own: rules and dashboards equal their originals, and would be copies here too."""
    docs = re.split(r"^---$", Path(file).read_text(encoding="utf-8"), flags=re.MULTILINE)
    own = re.compile(r"^# Source: .*/(prometheusrule|dashboards)\.yaml$", re.MULTILINE)
    kept = [doc for doc in docs if doc.strip() and not own.search(doc)]
    lines = [line for doc in kept for line in ["---", *doc.splitlines()] if line.strip()]
    print("\n".join(lines))


def main(args):
    if len(args) == 3 and args[0] == "renders":
        count = renders(args[1], args[2])
    elif args == ["sources"]:
        count = 1
        sources()
    elif len(args) == 2 and args[0] == "guide":
        count = guide(args[1])
    elif len(args) == 2 and args[0] == "cases":
        count = cases(args[1])
    elif len(args) == 3 and args[0] == "same":
        count = 1
        same(args[1], args[2])
    elif len(args) == 2 and args[0] == "normal":
        return normal(args[1])
    else:
        print(__doc__, file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    print(f"{args[0]}: {count} checked, {len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
