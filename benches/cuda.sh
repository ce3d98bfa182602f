#!/usr/bin/env bash
# Everything that needs a GPU, in one call: is what a GPU computes right, and is it quick enough? Prints one table; any failure ends it.
#
#   benches/cuda.sh [VADPIPE] [--rehearse]
#
# VADPIPE: a binary built with `--features cuda` (target/release/vadpipe if none is given; neither Rust nor a network is needed).
# Needs Python 3 with PyTorch for CUDA, whose wheels also bring the cuBLAS and NVRTC that vadpipe loads where no toolkit is installed.
# --rehearse: runs the whole script on the CPU with a tiny model and without PyTorch, to try the script itself.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$here/../target/release/vadpipe
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then binary=$1; shift; fi
[ -x "$binary" ] || { echo "cuda.sh: there is no program $binary" >&2; exit 2; }
libraries=$(python3 - <<'PY'
import glob, sysconfig
roots = {sysconfig.get_path(name) for name in ('purelib', 'platlib')}
print(':'.join(sorted(folder for root in roots for folder in glob.glob(f'{root}/nvidia/*/lib'))))
PY
)
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec python3 "$here/cuda.py" "$(realpath "$binary")" "$@"
