# What scripts/test-image, scripts/test-pod and scripts/test-journey share: Debian's podman and buildah with images,
# containers and settings of their own, never the machine's, and one line for each step that holds. To be sourced,
# by bash, as root, in the root of the repository:
#
#   name=test-pod                   what messages begin with
#   binary=…                        the plimsoll that goes into the image
#   . scripts/podman.sh             makes $work and $store; its trap removes them at the end
#   needs_programs openssl          installs podman and the like, and these, from Debian, where they are missing
#   needs_helm                      the same for Helm, and sets $helm and $python, which reads YAML
#   image_of_plimsoll               builds localhost/plimsoll:test by the Dockerfile
#   image_of_workload START FILE    builds localhost/workload:test of programs of this machine
#   provider_of NAME                an authority that nobody else trusts, and a certificate for this name
#   is_restricted PID PLACE         runs as restricted clusters demand it, and cannot write to these places
#
# The one who sources it may define `show_logs` (printed when a step fails) and `at_end` (run before files go;
# if it fails they stay).
# shellcheck shell=bash

# Others than root must read what is made here.
umask 022

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() {
  say "FAILED: $*"
  if declare -F show_logs >/dev/null; then
    show_logs
  fi
  exit 1
}
started=$SECONDS
step_at=${EPOCHREALTIME/./}
# One line for each step that has succeeded, with its time.
ok() {
  local now=${EPOCHREALTIME/./}
  local ms=$(((now - step_at) / 1000))
  step_at=$now
  printf 'ok  %2d.%d s  %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$*"
}
# A step's output is worth reading only if it fails.
quiet() {
  "$@" >"$work/log" 2>&1 </dev/null || {
    cat "$work/log" >&2
    die "$*"
  }
}
# Waits until a command succeeds, for 10 s or for $patience.
eventually() {
  local until=$((SECONDS + ${patience:-10}))
  while [ "$SECONDS" -lt "$until" ]; do
    if "$@" >/dev/null 2>&1; then
      return
    fi
    sleep 0.1
  done
  die "this did not come true within ${patience:-10} s: $*"
}
is() {
  local what=$1 got=$2 expected=$3
  [ "$got" = "$expected" ] || die "$what is '$got' and not '$expected'"
}

work=
store=
policy_placed=
policy=/usr/sbin/policy-rc.d
cleanup() {
  if [ -n "$policy_placed" ]; then
    rm -f "$policy"
  fi
  # Files that containers still use are left, so that these can be removed by hand.
  if declare -F at_end >/dev/null && ! at_end; then
    say "containers could not be removed; their files are in $work and $store"
    return
  fi
  if [ -n "$work" ]; then
    rm -rf --one-file-system "$work"
  fi
  if [ -n "$store" ]; then
    rm -rf --one-file-system "$store"
  fi
}
trap cleanup EXIT
# Without these a signal would end the script before its EXIT trap.
trap 'exit 130' INT
trap 'exit 143' TERM

[ "$(id -u)" -eq 0 ] || die "must run as root"
[ -x "$binary" ] || die "there is no $binary; run cargo build, or name the binary"
dir=$(realpath -m "${PLIMSOLL_E2E_DIR:-target/e2e}")
mkdir -p "$dir"
# Podman's sockets lie in the first, whose path must be short; the second takes a gigabyte, which is too
# much for a /tmp in memory.
work=$(mktemp -d "/tmp/$name.XXXXXX")
store=$(mktemp -d "$dir/$name.XXXXXX")

# Commands that bear the name of their Debian package, or COMMAND:PACKAGE.
needs_programs() {
  local command need=()
  for command in podman buildah runc catatonit curl strip:binutils "$@"; do
    command -v "${command%:*}" >/dev/null 2>&1 || need+=("${command#*:}")
  done
  [ -e /etc/ssl/certs/ca-certificates.crt ] || need+=(ca-certificates)
  if [ "${#need[@]}" -eq 0 ]; then
    return
  fi
  # Debian starts a service as soon as it is installed, and podman's is not needed here. Someone else's
  # policy is left as it is.
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    policy_placed=yes
  fi
  quiet apt-get update
  quiet env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${need[@]}"
  if [ -n "$policy_placed" ]; then
    rm -f "$policy"
    policy_placed=
  fi
}

# crun refuses cgroups in hybrid mode, as this kind of machine has them, so runc; systemd may not be there,
# so cgroupfs; and without CAP_SYS_RESOURCE podman's own limits are refused, so others. Locks in files,
# because the locks in shared memory are those of the machine's own podman.
cat >"$work/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=10000:10000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "$work/libpod"
[network]
network_config_dir = "$work/cni"
EOF
# vfs, because overlay does not work in a machine that is itself a container.
cat >"$work/storage.conf" <<EOF
[storage]
driver = "vfs"
graphroot = "$store/graph"
runroot = "$work/run"
EOF
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf

# No registry is at hand for the stage that compiles, so a folder stands in for it, laid out by what that stage
# runs. All else is the Dockerfile's own. The context is empty: the last stage takes nothing from it.
image_of_plimsoll() {
  mkdir -p "$store/stage" "$work/context"
  quiet scripts/image-root "$binary" "$store/stage/out"
  quiet buildah bud --isolation chroot --build-context "build=$store/stage" \
    -t localhost/plimsoll:test -f Dockerfile "$work/context"
}

# Helm, and a Python that reads YAML: scripts/test-chart installs both.
needs_helm() {
  helm=$dir/helm/helm4
  python=$dir/helm/venv/bin/python
  if ! [ -x "$helm" ] || ! "$python" -c 'import yaml' 2>/dev/null; then
    quiet scripts/test-chart
  fi
  # Helm keeps caches and settings; not in the home of whoever runs this.
  export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm
  unset KUBECONFIG HELM_NAMESPACE
}

# Holds these programs and the libraries that they name, from this machine: FILE, or FILE:PLACE where it stands
# elsewhere in the image. The first argument says how it starts, in lines of a Containerfile.
image_of_workload() {
  local starts=$1 root=$store/workload program library
  shift
  for program in "$@"; do
    install -D "${program%:*}" "$root${program#*:}"
    for library in $(ldd "${program%:*}" 2>/dev/null | grep -o '/[^ )]*'); do
      install -D "$library" "$root$library"
    done
  done
  install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  printf '%s\n' 'FROM scratch' 'COPY . /' 'USER 65532:65532' "$starts" >"$work/Containerfile"
  quiet buildah bud --isolation chroot -t localhost/workload:test -f "$work/Containerfile" "$root"
  rm -rf "$root"
}

# $work/ca.pem, and $work/api.pem with its api.key.
provider_of() {
  local new=(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2)
  quiet "${new[@]}" -keyout "$work/ca.key" -out "$work/ca.pem" -subj "/CN=$name's authority"
  quiet "${new[@]}" -keyout "$work/api.key" -out "$work/api.pem" -subj "/CN=$1" -CA "$work/ca.pem" -CAkey "$work/ca.key" \
    -addext "subjectAltName=DNS:$1" -addext basicConstraints=critical,CA:FALSE
}

pid_of() { podman inspect --format '{{.State.Pid}}' "$1"; }

is_restricted() {
  local pid=$1 place written
  shift
  of_process() { awk -v key="$1:" '$1 == key { $1 = ""; print substr($0, 2) }' "/proc/$pid/status"; }
  is "program" "$(readlink "/proc/$pid/exe")" /usr/bin/plimsoll
  is "user" "$(of_process Uid)" "65532 65532 65532 65532"
  is "group" "$(of_process Gid)" "65532 65532 65532 65532"
  is "effective capabilities" "$(of_process CapEff)" 0000000000000000
  is "the most capabilities it could get" "$(of_process CapBnd)" 0000000000000000
  is "no new privileges" "$(of_process NoNewPrivs)" 1
  is "seccomp (2 filters)" "$(of_process Seccomp)" 2
  # Root on the host may write anywhere, but to what is mounted read-only.
  for place in "$@"; do
    written=$( (: >"/proc/$pid/root$place/written") 2>&1) && die "$place of the container can be written to"
    case $written in
      *"Read-only file system"*) ;;
      *) die "$place of the container: $written" ;;
    esac
  done
}
