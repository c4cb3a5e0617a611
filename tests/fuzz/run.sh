#!/usr/bin/env bash
# Fuzz the decoder under the address and undefined-behaviour sanitisers. Usage: run.sh [SECONDS [CASES [ARCHIVES]]]
# First libFuzzer on decode.c for SECONDS (60), then CASES (100000) mutated coded arrays in one C program, then ARCHIVES
# (10000) mutated archives through the Python front end.
# Needs clang with its runtime (Debian: clang and libclang-rt-dev of one version), else status 2; PYTHON names a Python that has onnxc's
# requirements.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-60}
cases=${2:-100000}
archives=${3:-10000}
python=${PYTHON:-python3}
clang=$(compgen -c clang | grep -E '^clang(-[0-9]+)?$' | sort -u | head -n 1 || true)
[ -n "$clang" ] || { echo "run.sh: clang is not installed" >&2; exit 2; }
runtime=$("$clang" -print-file-name="libclang_rt.asan-$(uname -m).so")
[ -e "$runtime" ] || { echo "run.sh: the sanitisers of $clang are not installed" >&2; exit 2; }
work=$(mktemp -d "${TMPDIR:-/tmp}/onnxc-fuzz.XXXXXX")
trap 'rm -rf "$work"' EXIT
flags=(-g -O1 -fno-sanitize-recover=all -I onnxc/runtime/c)

"$clang" "${flags[@]}" -fsanitize=fuzzer,address,undefined tests/fuzz/decode_fuzz.c onnxc/runtime/c/decode.c -o "$work/fuzz"
PYTHONPATH=. "$python" tests/fuzz/seeds.py "$work/seeds"
mkdir "$work/found"
"$work/fuzz" -max_total_time="$seconds" -max_len=16384 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
  -artifact_prefix="$work/" "$work/found" "$work/seeds" >"$work/log" 2>&1 || {
  grep -vE '^#[0-9]+' "$work/log" >&2
  for artifact in "$work"/{crash,leak,timeout,oom}-*; do
    [ ! -e "$artifact" ] || { echo "the input, in base64:"; base64 -w 0 "$artifact"; echo; } >&2
  done
  exit 1
}
grep -E '^(Done|stat::)' "$work/log"
grep -E 'cov:' "$work/log" | tail -n 1

"$clang" "${flags[@]}" -Wall -Wextra -Werror -fsanitize=address,undefined tests/fuzz/{mutate,decode_fuzz}.c onnxc/runtime/c/decode.c -o "$work/mutate"
ASAN_OPTIONS=quarantine_size_mb=16 "$work/mutate" "$cases" "$work"/seeds/*

"$clang" "${flags[@]}" -fsanitize=address,undefined -shared-libasan -shared -fPIC onnxc/runtime/c/decode.c -o "$work/decode.so"
LD_PRELOAD=$runtime ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=. "$python" tests/fuzz/mutate.py "$archives" "$work/decode.so"
