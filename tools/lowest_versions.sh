#!/usr/bin/env bash
# Run the tests with the lowest versions that pyproject.toml allows, in a temporary virtual
# environment: 3.5 GB of disk and about as long as `make test`. The checkout is not written to;
# uncommitted changes are not tested. torch is not the lowest: an old one is a CUDA build of 5 GB, so the
# Makefile's is kept (`TORCH`), and what has to fit it (torchvision) is as new as that.
#
# MinkowskiEngine comes from the cache of wheels if one was built for this torch, else is compiled;
# recordings are not needed. Name tests, or options of pytest, to run fewer.
#
# usage: nice tools/lowest_versions.sh [PYTEST ARGUMENT]...      PYTHON=python3.12 for another Python
set -euo pipefail
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
torch=${TORCH:-$(sed -n 's/^TORCH := //p' "$root/Makefile")}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
bin=$work/venv/bin
# pip finds the CPU build of torch if configured to; uv then keeps what is installed.
"$bin/python" -m pip install -qq "$torch" uv
installed=$("$bin/python" -c 'from importlib.metadata import version; print(version("torch"))')
echo "torch==$installed" >"$work/torch.txt"

mkdir "$work/checkout"
git -C "$root" archive HEAD | tar -x -C "$work/checkout"
cd "$work/checkout"
"$bin/uv" pip install -q --python "$bin/python" --resolution lowest-direct \
    --constraint "$work/torch.txt" -e '.[dev]'
"$bin/uv" pip list -q --python "$bin/python" | grep -iE "$(
    sed -nE 's/^    "([A-Za-z0-9_-]+).*[>=]=.*/^\1 /p' pyproject.toml | sort -u | paste -sd '|'
)"
"$bin/p2pkit" doctor --install minkowski

# The profile has no deadlines, which a busy machine would miss.
status=0
env -u P2PKIT_DATA -u PYTHONPATH OMP_NUM_THREADS=1 PATH="$bin:$PATH" \
    "$bin/python" -m pytest -n 2 --dist loadfile -q -m "not realdata" \
    --hypothesis-profile=ci "$@" || status=$?
if [ "$status" -ne 0 ]; then
    echo "lowest versions: something failed; if p2pkit needs a newer version, raise the lower bound" >&2
fi
exit "$status"
