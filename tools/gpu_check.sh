#!/usr/bin/env bash
# What a GPU does with this checkout, in eight minutes: the tests marked `cuda`, the teacher alone and
# in an extraction, training steps of both engines. Each figure is printed as soon as it is known; the
# table and the JSON come last. Needs a CUDA build of torch and no network.
#
# usage: tools/gpu_check.sh [--minkowski] [--wheels FOLDER] [OPTION of gpu_check.py]...
#
#   --minkowski      build MinkowskiEngine for CUDA first, about nine minutes on two cores
#   --wheels FOLDER  install what is missing from the wheels in this folder
#   PYTHON           interpreter; `.venv/bin/python`, where that exists, else `python3`
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ -x .venv/bin/python ] && python=.venv/bin/python
fi
minkowski=no wheels=
while [ $# -gt 0 ]; do
    case $1 in
    --minkowski) minkowski=yes && shift ;;
    --wheels) wheels=$2 && shift 2 ;;
    *) break ;;
    esac
done
if [ -n "$wheels" ]; then
    torch=$(sed -n 's/^TORCH := //p' Makefile)
    "$python" -m pip install -q --no-index --find-links "$wheels" "$torch" -e . pytest
fi
export PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
if [ $minkowski = yes ]; then
    "$python" -m p2pkit.cli.main doctor --install minkowski --cuda
fi
tests=0
"$python" -m pytest -q -m cuda tests || tests=$?
"$python" tools/gpu_check.py "$@"
exit $tests
