# What scripts/test-image and scripts/test-pod share: Debian's podman and buildah with images, containers and
# settings of their own, never the machine's, and one line for each step that holds. To be sourced, by bash,
# as root, in the root of the repository:
#
#   name=test-pod                   what messages begin with
#   binary=…                        the plimsoll that goes into the image
#   . scripts/podman.sh             makes $work and $store; its trap removes them at the end
#   needs_programs openssl          installs podman and the like, and these, from Debian, where they are missing
#   image_of_plimsoll               builds localhost/plimsoll:test by the Dockerfile
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
# Waits until a command succeeds.
eventually() {
  local until=$((SECONDS + 10))
  while [ "$SECONDS" -lt "$until" ]; do
    if "$@" >/dev/null 2>&1; then
      return
    fi
    sleep 0.1
  done
  die "this did not come true within 10 s: $*"
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

# Commands that bear the name of their Debian package.
needs_programs() {
  local command need=()
  for command in podman buildah runc catatonit curl "$@"; do
    command -v "$command" >/dev/null 2>&1 || need+=("$command")
  done
  command -v strip >/dev/null 2>&1 || need+=(binutils)
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
