#!/usr/bin/env bash
# Builds the programs trained with the benchmark's load: once with counters, under that load, and again, laid out for what was
# counted (profile-guided optimisation). A request runs through a little of much code; what runs together then lies together.
#
#   scripts/release.sh      two builds, with the load between them
#
# A profile holds for one version of the compiler and one state of the code, and so is made each time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/prepare.sh
prepare build servers

# The work that comes often.
LOAD=commands_256,replay_verified,visible_p50,exchanges_200,policy_eval,gateway_overhead_p50,gateway_rps,gateway_streams_1000
LOAD+=,me,post_message_1,post_message_64,get_50_messages,mesh_events_64,room_1000

host=$(rustc -vV | sed -n 's/^host: //p')
merger=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [[ ! -x $merger ]]; then
  have rustup || die "no $merger: install the tools of this compiler's LLVM (rustup: component llvm-tools)"
  rustup component add llvm-tools
fi

# Absolute: compilers and programs that get it run in other directories.
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
counts=$target/counting/counts profile=$target/symbia.profdata

# build DIRECTORY FLAG. With the target named, only the programs get the flag, and no build script or macro.
build() {
  CARGO_ENCODED_RUSTFLAGS=$2 cargo build --release --locked --target "$host" --target-dir "$1" -p symbia -p xtask
}

build "$target/counting" "-Cprofile-generate=$counts"
rm -rf "$counts"
"$target/counting/$host/release/xtask" bench --quick --only "$LOAD" >&2
"$merger" merge --sparse -o "$profile" "$counts"
# Cargo does not look into the profile: what was built with another one would stay.
rm -rf "$target/trained/$host"
build "$target/trained" "-Cprofile-use=$profile"
echo "$target/trained/$host/release/symbia"
say "measure it with $target/trained/$host/release/xtask bench"
