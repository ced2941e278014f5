#!/usr/bin/env bash
# Writes .env for compose.yaml with fresh random secrets, readable by its owner only. Keeps an existing one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -e .env ]]; then
  chmod 600 .env
  echo ".env is there already; kept. Deleting it is for empty volumes only: servers that hold data know the old secrets." >&2
  exit 0
fi

# A letter first: the NATS configuration reads a value that begins with a digit as a number.
secret() { printf 's%s' "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"; }

umask 077
# noclobber: two runs at once cannot mix their secrets.
set -o noclobber
cat >.env <<TEXT
# Secrets of this installation. Losing NATS_STORE_KEY loses the event log.
POSTGRES_PASSWORD=$(secret)
NATS_PASSWORD=$(secret)
NATS_CLUSTER_PASSWORD=$(secret)
NATS_STORE_KEY=$(secret)
SESSION_SECRET=$(secret)
TEXT
echo "Wrote .env with fresh secrets (mode 0600). Next: docker compose up --build --detach" >&2
