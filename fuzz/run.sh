#!/usr/bin/env bash
# Runs fuzz targets one after the other: fuzz/run.sh [SECONDS [TARGET...]]. Stops at the first finding, which is then in
# fuzz/artifacts. Needs a nightly toolchain and `cargo install cargo-fuzz`.
#
# Bounds: 512 MiB of memory, 64 MiB in one allocation, 10 seconds and 64 KiB for one input. No sanitizer: there is no
# unsafe code in what is fuzzed; what is looked for are panics, overflows, hangs and memory without bound.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-120}"
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for file in targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
for target in "${targets[@]}"; do
  echo "== $target, $seconds s"
  cargo +nightly fuzz run --fuzz-dir . --sanitizer none "$target" -- \
    -max_total_time="$seconds" -rss_limit_mb=512 -malloc_limit_mb=64 -timeout=10 -max_len=65536 -print_final_stats=1
done
