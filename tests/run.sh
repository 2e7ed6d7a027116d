#!/usr/bin/env bash
# Installs what the tests need and runs all checks: format, lints, documentation, tests, examples.
# Needs a Rust toolchain (rustup.rs); everything else it brings itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.90 or newer from https://rustup.rs, then run this again." >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else echo "not root, and sudo is missing: cannot run: $*" >&2; return 1
  fi
}

install_redis() {
  if command -v apt-get >/dev/null; then as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server
  elif command -v dnf >/dev/null; then as_root dnf install -y redis
  elif command -v apk >/dev/null; then as_root apk add redis
  elif command -v pacman >/dev/null; then as_root pacman -S --noconfirm redis
  elif command -v brew >/dev/null; then brew install redis
  else return 1
  fi
}

if ! command -v redis-server >/dev/null; then
  say "installing redis-server"
  install_redis || { echo "redis-server is missing and could not be installed: install it with your package manager, then run this again." >&2; exit 1; }
fi

say "format"
cargo fmt --check

say "lints: all features, then the library with default and without features"
cargo clippy --quiet --locked --all-targets --all-features -- -D warnings
cargo clippy --quiet --locked --lib -- -D warnings
cargo clippy --quiet --locked --lib --no-default-features -- -D warnings

say "each feature alone"
for feature in $(sed -n '/^\[features\]/,/^\[/{s/^\([a-z][a-z-]*\) *=.*/\1/p}' Cargo.toml | grep -vx default); do
  echo "$feature"
  RUSTFLAGS="-D warnings" cargo check --quiet --locked --lib --no-default-features --features "$feature" --target-dir target/features
done

say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps --all-features

say "tests"
cargo test --quiet --locked --all-features --lib --test it

say "documentation examples"
cargo test --quiet --locked --all-features --doc

say "examples"
cargo build --quiet --locked --examples --all-features

if command -v cargo-deny >/dev/null; then
  say "licences, sources, banned crates"
  cargo deny --all-features check licenses sources bans
fi

say "all checks passed"
