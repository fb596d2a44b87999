#!/usr/bin/env python3
"""Makes of the example's rendering what `podman kube play` can run, for scripts/test-pod
and scripts/test-journey.

Reads a rendering, and writes

  pod IMAGE HOSTS CA   ConfigMaps and Pod, IMAGE being the workload's; HOSTS is the file /etc/hosts, and the PEM
                       file CA is in the ConfigMap `provider-ca`
  config               the configuration file in the ConfigMap
  probe                the URL of the sidecar's liveness probe, as the kubelet calls it
  hop                  the URL that the workload is given
  resources            what the sidecar asks for and may have at most: CPU in thousandths, memory in MiB twice

Podman 4.3 is no kubelet. What it does not do is done here, and nothing else of Plimsoll's container is
touched:

- A Deployment's pod is always restarted. The workload here ends, so its pod is run alone, once.
- It publishes every `containerPort` on the host, and refuses them in a pod without a network, which this
  one is. To Kubernetes they only inform.
- It makes `curl` in the container of an httpGet probe, and port 0 of a named port. Our image has no
  curl; the test makes the probe's call itself.
- It knows few fields of the downward API and expands no $(NAME).
- It takes the limit of a label's length for that of an annotation's.
- It writes `hostAliases` into the hosts file of its infra container only. The sidecar gets the file as the
  kubelet gives it to every container: mounted at /etc/hosts.

The example's workload is only an image. It gets what Claude Code needs, and the restricted security
context too.
"""

import re
import sys
import uuid
from pathlib import Path

import yaml

SIDECAR = "plimsoll"
WORKLOAD = "search"
HOME = "/home/agent"
RESTRICTED = {
    "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def one(documents, kind):
    (found,) = [d for d in documents if d["kind"] == kind]
    return found


def container(pod, name):
    (found,) = [c for c in pod["spec"]["containers"] if c["name"] == name]
    return found


def resolve(env, fields):
    """The environment as the kubelet makes it: each value sees what stands before it."""
    known = {}
    for entry in env:
        if "valueFrom" in entry:
            entry["value"] = fields[entry.pop("valueFrom")["fieldRef"]["fieldPath"]]
        entry["value"] = re.sub(r"\$\((\w+)\)", lambda m: known.get(m[1], m[0]), str(entry["value"]))
        known[entry["name"]] = entry["value"]


def make_pod(deployment, namespace, image, hosts):
    template = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]}
    name = pod["metadata"]["name"] = deployment["metadata"]["name"]
    del pod["metadata"]["annotations"]
    pod["spec"]["restartPolicy"] = "Never"

    sidecar = container(pod, SIDECAR)
    del sidecar["ports"], sidecar["livenessProbe"]
    resolve(sidecar["env"], {
        "metadata.name": name, "metadata.namespace": namespace, "metadata.uid": str(uuid.uuid4()),
        "spec.nodeName": "node-1",
    })

    sidecar["volumeMounts"].append({"name": "hosts", "mountPath": "/etc/hosts", "readOnly": True})
    pod["spec"]["volumes"].append({"name": "hosts", "hostPath": {"path": hosts, "type": "File"}})

    workload = container(pod, WORKLOAD)
    workload["image"] = image
    workload["securityContext"] = RESTRICTED
    # ANTHROPIC_BASE_URL is there: the chart sets it.
    workload["env"] += [
        {"name": "HOME", "value": HOME},
        {"name": "ANTHROPIC_API_KEY", "value": "sk-ant-test-fake"},
        {"name": "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "value": "1"},
    ]
    workload["workingDir"] = HOME
    workload["volumeMounts"] = [{"name": "home", "mountPath": HOME}, {"name": "tmp", "mountPath": "/tmp"}]
    pod["spec"]["volumes"] += [{"name": "home", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    return pod


def probe(deployment):
    sidecar = container(deployment["spec"]["template"], SIDECAR)
    get = sidecar["livenessProbe"]["httpGet"]
    (port,) = [p["containerPort"] for p in sidecar["ports"] if p["name"] == get["port"]]
    return f"http://127.0.0.1:{port}{get['path']}"


def hop(deployment):
    workload = container(deployment["spec"]["template"], WORKLOAD)
    (url,) = [e["value"] for e in workload["env"] if e["name"] == "ANTHROPIC_BASE_URL"]
    return url


def resources(deployment):
    asked = container(deployment["spec"]["template"], SIDECAR)["resources"]
    cpu, memory, most = asked["requests"]["cpu"], asked["requests"]["memory"], asked["limits"]["memory"]
    (cpu,), (memory, most) = re.findall(r"^(\d+)m$", cpu), re.findall(r"(\d+)Mi\b", f"{memory} {most}")
    return f"{cpu} {memory} {most}"


def main():
    documents = [d for d in yaml.safe_load_all(sys.stdin) if d]
    config = one(documents, "ConfigMap")
    deployment = one(documents, "Deployment")
    match sys.argv[1:]:
        case ["pod", image, hosts, ca]:
            pod = make_pod(deployment, config["metadata"]["namespace"], image, hosts)
            trusted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "provider-ca"}}
            trusted["data"] = {"ca.pem": Path(ca).read_text(encoding="utf-8")}
            yaml.safe_dump_all([config, trusted, pod], sys.stdout, sort_keys=False)
        case ["config"]:
            sys.stdout.write(config["data"]["plimsoll.yaml"])
        case ["probe"]:
            print(probe(deployment))
        case ["hop"]:
            print(hop(deployment))
        case ["resources"]:
            print(resources(deployment))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
