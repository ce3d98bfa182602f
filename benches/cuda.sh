#!/usr/bin/env bash
# All checks that need a GPU, in one call: whether its results are right, and how fast it is. Prints one table. Exit code 1 if
# anything was wrong.
#
#   benches/cuda.sh [VADPIPE] [--rehearse] [--only cpu|correctness|speed] [--cpu-figures FILE]
#                   [--columns NAME,…] [--batches N,…]
#
# VADPIPE: a binary built with `--features cuda` (default: target/release/vadpipe). Neither Rust nor a network is needed.
# Needs Python 3 with PyTorch for CUDA. Its wheels contain the cuBLAS and NVRTC that vadpipe then loads.
# --rehearse: runs the whole script on the CPU with a tiny model and without PyTorch, to try the script itself.
# --only: runs one part. `cpu` makes the figures to compare with, on the CPU.
# --cpu-figures FILE: keeps these figures in FILE. They are the same on every machine, so they can be made where no GPU waits.
# --columns, --batches: measure the speed of these programs only (the table's heads), and with these batch sizes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$here/../target/release/vadpipe
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then binary=$1; shift; fi
[ -x "$binary" ] || { echo "cuda.sh: there is no program $binary" >&2; exit 2; }
# Links to the wheels' cuBLAS and NVRTC under the names that vadpipe tries first. Both programs then use the same libraries, even
# if a CUDA toolkit is installed.
links=$(mktemp -d)
trap 'rm -rf "$links"' EXIT
libraries=$(python3 - "$links" <<'PY'
import glob, os, sys
try:
    import nvidia
except ImportError:
    sys.exit()
folders = sorted(folder for root in nvidia.__path__ for folder in glob.glob(f'{root}/*/lib'))
for folder in folders:
    for name in ('libcublas', 'libcublasLt', 'libnvrtc'):
        for library in glob.glob(f'{folder}/{name}.so.[0-9]*'):
            if not os.path.lexists(link := f'{sys.argv[1]}/{name}.so'):
                os.symlink(library, link)
print(':'.join([sys.argv[1], *folders]))
PY
)
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
python3 "$here/cuda.py" "$(realpath "$binary")" "$@"
