#!/usr/bin/env bash
# Runs a program of tests for `cargo test`, in CI: ends one that hangs, and runs what failed once more, alone. What passes
# then is flaky: it is noted in the file that IRONCLAD_FLAKY names, and is a bug of the test or of the product that its
# next reader should find, but no reason to throw a day's work away. What fails twice has failed.
#
#   CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=tests/again.sh cargo test
#
# IRONCLAD_TEST_SECONDS: how long a program may run, 900 unless told. Not for benches: they are not tests.
set -uo pipefail
program="$1"
shift
limit="${IRONCLAD_TEST_SECONDS:-900}"
said="$(mktemp)"
trap 'rm -f "$said"' EXIT

timeout --kill-after=10 "$limit" "$program" "$@" | tee "$said"
status=${PIPESTATUS[0]}
if [ "$status" -eq 0 ]; then exit 0; fi

# The names below the last `failures:`; none of them if it was ended, or died.
mapfile -t failed < <(awk '/^failures:$/ { count = 0; next } /^    [^ ]+$/ { names[count++] = $1 } END { for (i = 0; i < count; i++) print names[i] }' "$said")
if [ "$status" -eq 101 ] && [ ${#failed[@]} -gt 0 ] && [ ${#failed[@]} -le 5 ]; then
  again=(--exact "${failed[@]}" --test-threads 1)
elif [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
  printf '\n%s did not end within %s seconds; these tests had begun:\n' "$program" "$limit" >&2
  grep 'has been running for over' "$said" >&2
  mapfile -t failed < <(sed -n 's/^test \(.*\) has been running for over.*/\1/p' "$said" | sort -u)
  again=("$@")
else
  exit "$status"
fi
printf '\n%s: once more: %s\n' "$program" "${failed[*]:-all of it}" >&2
timeout --kill-after=10 "$limit" "$program" "${again[@]}" || exit $?
printf '%s %s\n' "$(basename "$program")" "${failed[*]:-all of it}" >>"${IRONCLAD_FLAKY:-/dev/null}"
