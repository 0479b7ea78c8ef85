# Shared by the scripts beside it; sourced, never run.
# Invariant: sourcing it changes nothing but shell options, the working directory (the checkout) and CARGO_TARGET_DIR.
# shellcheck shell=bash
set -euo pipefail

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$CHECKOUT"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CHECKOUT/target}

say() { printf '%s\n' "$*"; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Says so before a build that will be long: RocksDB's C++ and Pingora are compiled once per target directory.
announce_build() { # debug|release
  compgen -G "$CARGO_TARGET_DIR/$1/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null && return 0
  say "The first build compiles RocksDB and Pingora: 15 to 25 minutes on 2 cores. cargo shows its progress below;"
  say "it looks still for minutes while librocksdb-sys is built. Later builds take seconds to a minute."
}
