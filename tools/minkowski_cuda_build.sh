#!/usr/bin/env bash
# Build MinkowskiEngine for CUDA in a fresh environment, from pip's packages only: torch's CUDA build
# and the four packages that add the compiler. Prints the time and the self-check, deletes the
# environment. 7 GB of disk, and on 2 cores 9 to 15 minutes for one architecture.
#
# No GPU is needed to build; without one the self-check runs on the CPU.
#
# usage: nice tools/minkowski_cuda_build.sh [PYTHON]      TORCH_CUDA_ARCH_LIST=9.0 for another GPU
set -euo pipefail
python=${1:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
torch=$(sed -n 's/^TORCH := //p' "$root/Makefile")
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache # no wheel that was built before
unset CUDA_HOME CUDA_PATH
"$python" -m venv "$work/venv"
bin=$work/venv/bin
"$bin/python" -m pip install -qq -c "$root/constraints.txt" 'pip>=23.1' "$torch" "$root"
"$bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None and "pip found a CPU torch")'
began=$SECONDS
"$bin/p2pkit" doctor --install minkowski --cuda
echo "$((SECONDS - began)) s for the architectures $TORCH_CUDA_ARCH_LIST on $(nproc) cores"
