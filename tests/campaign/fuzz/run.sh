#!/usr/bin/env bash
# Fuzzes targets one after the other, each for SECONDS, and prints a table.
#
#   run.sh SECONDS [TARGET…]
#
# Needs a nightly toolchain and cargo-fuzz. Inputs that reach new code are kept in work/TARGET, and the next run
# starts from them. Inputs that break a property are kept in artifacts/TARGET. Exit status: 0 no failure, 1 failures,
# 2 wrong usage.
set -euo pipefail
cd "$(dirname "$0")"

if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: run.sh SECONDS [TARGET…]" >&2
  exit 2
fi
seconds=$1
shift
mapfile -t all < <(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v '^vadpipe-fuzz$')
targets=("$@")
[ $# -gt 0 ] || targets=("${all[@]}")
for target in "${targets[@]}"; do
  [ -d "corpus/$target" ] || { echo "there is no target $target; there are: ${all[*]}" >&2; exit 2; }
done
command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2; exit 2; }

# Most of a target's time would be spent in the address sanitizer, which finds little in code without `unsafe`.
cargo +nightly fuzz build --fuzz-dir . --sanitizer none
# A copy, so that the sources and the target folder may change while this runs.
mkdir -p work/bin
built="${CARGO_TARGET_DIR:-target}/$(rustc +nightly -vV | sed -n 's/^host: //p')/release"
for target in "${targets[@]}"; do cp "$built/$target" work/bin/; done
# The fuzzer ends at a failure. It is restarted at most this many times.
restarts=10

# The caches that targets make are small and many, so they are in memory where that is possible.
TMPDIR=$(mktemp -d -p /dev/shm vadpipe-fuzz-XXXXXX 2>/dev/null || mktemp -d -t vadpipe-fuzz-XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

count() { find "artifacts/$1" -type f 2>/dev/null | wc -l; }
# The last number after a word in a log; 0 if there is none.
last() { grep -oE "$1:? *[0-9]+" "$2" 2>/dev/null | tail -n 1 | grep -oE '[0-9]+$' || echo 0; }

failed=0
rows=()
for target in "${targets[@]}"; do
  mkdir -p "work/$target" "artifacts/$target"
  log="work/$target.log"
  : >"$log"
  before=$(count "$target")
  begin=$SECONDS
  executions=0 first='' cov=0 added=0 ends=0
  while left=$((seconds - (SECONDS - begin))) && [ "$left" -gt 0 ] && [ "$ends" -le "$restarts" ]; do
    flags=(-max_total_time="$left" -print_final_stats=1 -timeout=30 -rss_limit_mb=2560 -artifact_prefix="artifacts/$target/")
    [ -f "dictionaries/$target" ] && flags+=(-dict="dictionaries/$target")
    part="work/$target.part.log"
    status=0
    "work/bin/$target" "${flags[@]}" "work/$target" "corpus/$target" >"$part" 2>&1 || status=$?
    cat "$part" >>"$log"
    # Coverage of the committed corpus and what earlier runs added.
    first=${first:-$(grep -m 1 -oE 'INITED cov: [0-9]+' "$part" | grep -oE '[0-9]+' || true)}
    cov=$(last 'cov' "$part")
    executions=$((executions + $(last 'stat::number_of_executed_units' "$part")))
    added=$((added + $(last 'stat::new_units_added' "$part")))
    rm -f "$part"
    [ "$status" = 0 ] && break
    ends=$((ends + 1))
  done
  crashes=$(($(count "$target") - before))
  # The fuzzer may also end without leaving an input, for instance if it is killed.
  [ "$crashes" = 0 ] && crashes=$ends
  [ "$crashes" = 0 ] || failed=1
  row=$(printf '%-12s %8s %12s %10s %14s %10s %8s' "$target" "$((SECONDS - begin))" "$executions" "$cov" "$((cov - ${first:-0}))" "$added" "$crashes")
  echo "$row"
  rows+=("$row")
done

printf '\n%-12s %8s %12s %10s %14s %10s %8s\n' target seconds executions coverage "new coverage" "new inputs" crashes
printf '%s\n' "${rows[@]}"
exit "$failed"
