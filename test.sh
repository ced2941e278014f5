#!/usr/bin/env bash
# Runs every test, against a real nats-server and PostgreSQL that the tests start themselves.
#
#   ./test.sh [--long] [arguments of the test runner, e.g. a test's name]
#
# --long adds the fault tests at their full number of rounds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

case ${1:-} in
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --long) export SYMBIA_TEST_LONG=1 NEXTEST_PROFILE=long; shift ;;
esac

# shellcheck source=scripts/prepare.sh
source scripts/prepare.sh
prepare build servers tests

# The programs first, with the features that the tests will have, so that nothing is built twice.
cargo build --locked --workspace --bins --tests
SYMBIA_TEST_BIN=$(realpath "${CARGO_TARGET_DIR:-target}/debug/symbia")
export SYMBIA_TEST_BIN

# apart: sets where tests keep what they write, gone with them: in memory where there is plenty, else on the disk. A tenth
# of their time went into making and deleting files on the disk.
apart() {
  local where=${TMPDIR:-/tmp} free available
  free=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) || true
  available=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo 2>/dev/null) || true
  if ((${free:-0} > 6 << 20 && ${available:-0} > 10 << 20)); then where=/dev/shm; fi
  TMPDIR=$(mktemp -d "$where/symbia-test.XXXXXX")
  trap 'rm -rf "$TMPDIR"' EXIT
  # Also for the account that runs PostgreSQL where tests run as root.
  chmod 711 "$TMPDIR"
  export TMPDIR SYMBIA_POSTGRES_DIR=$TMPDIR
}
apart

# has_doc_tests: is there a code block in a doc comment that rustdoc would run? Asked of the text, since rustdoc takes
# a minute to find out.
has_doc_tests() {
  git ls-files -z -- '*.rs' | xargs -0 awk '
    FNR == 1 { inside = 0 }
    /^[ \t]*\/\/[\/!] *```/ {
      language = $0; sub(/.*```/, "", language)
      if (!inside && language ~ /^(rust|no_run|should_panic|compile_fail|edition.*)?$/) found = 1
      inside = !inside
    }
    END { exit !found }'
}

if has_doc_tests && [[ $# == 0 ]]; then cargo test --locked --workspace --doc; fi
if command -v cargo-nextest >/dev/null; then
  cargo nextest run --locked --workspace "$@"
else
  cargo test --locked --workspace --bins --lib --tests "$@"
fi
