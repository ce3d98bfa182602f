#!/usr/bin/env bash
# Everything that needs a GPU, in one call: is what a GPU computes right, and is it quick enough? Prints one table; exit code 1 if
# anything was wrong.
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
# The wheels' cuBLAS and NVRTC under the names that are tried first, so that PyTorch and vadpipe have the same, whatever toolkit is there.
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
