#!/usr/bin/env bash
# Starts Symbia on this machine: prepares it, builds, and hands over to `symbia up`.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
Usage: ./start.sh [flags] [-- arguments of `symbia up`]

  -n, --new             start over: after you type "yes", stop Symbia and delete its data directory
      --yes             with --new: do not ask
  -r, --rebuild         build Symbia's own code anew
  -s, --service NAME    with --rebuild: name the service you changed; skips the super-admin prompt
      --skip-admin      do not ask for the first super admin
  -h, --help            this text

Data lives in .symbia/ (another place: ./start.sh -- --data-dir DIR).
The first start asks for the super admin. Without a terminal give SYMBIA_ADMIN_NAME, SYMBIA_ADMIN_EMAIL,
SYMBIA_ADMIN_PASSWORD_FILE and SYMBIA_ADMIN_ORG, or --skip-admin.
TEXT
}

fail() { printf 'start.sh: error: %s\n' "$*" >&2; exit 1; }

SERVICES=' identity network logging catalog messaging integrations models runtime assistants '
new='' yes='' rebuild='' service='' skip_admin=''
while [[ $# -gt 0 ]]; do
  case $1 in
    -n | --new) new=1 ;;
    --yes) yes=1 ;;
    -r | --rebuild) rebuild=1 ;;
    -s | --service)
      [[ $# -ge 2 ]] || fail "$1 needs the name of a service:$SERVICES"
      service=$2
      [[ $SERVICES == *" $service "* ]] || fail "there is no service '$service', only:$SERVICES"
      shift ;;
    --skip-admin) skip_admin=1 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) usage >&2; fail "unknown flag '$1'" ;;
  esac
  shift
done
[[ -z $yes || -n $new ]] || fail "--yes only goes with --new"
[[ -z $service || -n $rebuild ]] || echo "start.sh: --service is ignored without --rebuild" >&2
[[ -z $service || -z $rebuild ]] || skip_admin=1

# `symbia up` gets the data directory as an absolute path, so that its processes can be told by their command lines.
data_dir=$PWD/.symbia memory='' arguments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --data-dir) [[ $# -ge 2 ]] || fail "--data-dir needs a directory"; data_dir=$2; shift ;;
    --data-dir=*) data_dir=${1#*=} ;;
    *)
      [[ $1 != --memory ]] || memory=1
      arguments+=("$1") ;;
  esac
  shift
done
data_dir=$(cd "$caller" && realpath -m -- "$data_dir")
if [[ -n ${SYMBIA_ADMIN_PASSWORD_FILE:-} ]]; then
  SYMBIA_ADMIN_PASSWORD_FILE=$(cd "$caller" && realpath -m -- "$SYMBIA_ADMIN_PASSWORD_FILE")
  export SYMBIA_ADMIN_PASSWORD_FILE
fi
[[ -n $memory ]] || arguments+=(--data-dir "$data_dir")
[[ -z $skip_admin ]] || arguments+=(--skip-admin)

# users_of DIR: ours among the processes with DIR, or a path below it, on their command line; "pid name" a line.
users_of() {
  local pattern file pid name
  pattern=$(sed 's/[^^]/[&]/g; s/\^/\\^/g' <<<"$1")
  while IFS= read -r file; do
    pid=${file#/proc/} pid=${pid%/cmdline}
    name=$(cat "/proc/$pid/comm" 2>/dev/null) || continue
    case $name in symbia | nats-server | postgres) echo "$pid $name" ;; esac
  done < <(grep -lzE "(^|=)$pattern(/|\$)" /proc/[0-9]*/cmdline 2>/dev/null || true)
}

# Asks Symbia to stop and waits; it stops the NATS and PostgreSQL that it started.
stop() {
  local pid name users deadline=$((SECONDS + 30))
  users=$(users_of "$data_dir")
  while read -r pid name; do
    [[ $name == symbia ]] && { echo "Stopping Symbia (process $pid)"; kill -TERM "$pid" 2>/dev/null || true; }
  done <<<"$users"
  while users=$(users_of "$data_dir") && [[ -n $users ]]; do
    [[ $SECONDS -lt $deadline ]] || fail "$data_dir is still used by $(paste -sd, <<<"$users"): stop them first; nothing was deleted"
    sleep 0.2
  done
}

start_over() {
  [[ -d /proc/self ]] || fail "--new needs /proc to see what still runs: stop Symbia and delete $data_dir by hand"
  [[ $data_dir != / ]] || fail "/ is no data directory"
  case "$PWD/" in "${data_dir%/}"/*) fail "$data_dir holds this repository: not deleting it" ;; esac
  case "$HOME/" in "${data_dir%/}"/*) fail "$data_dir holds your home directory: not deleting it" ;; esac
  [[ ! -e $data_dir/.git ]] || fail "$data_dir is a repository: not deleting it"
  if [[ -e $data_dir && -z $yes ]]; then
    local answer=''
    echo "This deletes every event, account and key in $data_dir. There is no way back."
    read -r -p 'Type "yes" to go on: ' answer || true
    [[ $answer == yes ]] || fail "not confirmed; nothing was deleted"
  fi
  stop
  rm -rf -- "$data_dir"
}

if [[ -n $new ]]; then start_over; fi

# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh
parts=(build)
# With both set, `symbia up` uses those servers and starts none.
[[ -n ${SYMBIA_NATS_URL:-} && -n ${DATABASE_URL:-} ]] || parts+=(servers)
prepare "${parts[@]}"
if [[ -n $rebuild ]]; then
  packages=()
  for manifest in */Cargo.toml; do packages+=(-p "$(sed -n 's/^name *= *"\(.*\)"/\1/p' "$manifest" | head -n1)"); done
  cargo clean --quiet --release "${packages[@]}"
fi
program=${CARGO_TARGET_DIR:-target}/release/symbia
[[ -x $program ]] || echo "Building Symbia; the first time takes some minutes." >&2
cargo build --release --locked --package symbia
exec "$program" up ${arguments[@]+"${arguments[@]}"}
