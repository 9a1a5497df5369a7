#!/usr/bin/env bash
# Builds the page's engine into web/page/engine.wasm, or into the file that is named. It needs rustup's target
# wasm32-unknown-unknown and nothing else.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")/page/engine.wasm}")
cd "$(dirname "$0")/.."
target=wasm32-unknown-unknown
# Vectors that every browser has since 2023.
export RUSTFLAGS="-C target-feature=+simd128"
cargo build --profile web --target $target --package performer-ddpm-web
cp "${CARGO_TARGET_DIR:-target}/$target/web/performer_ddpm_web.wasm" "$out"
echo "$out: $(wc -c < "$out") bytes, $(gzip -9 -c "$out" | wc -c) in gzip"
