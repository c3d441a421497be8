#!/usr/bin/env bash
# Install the system packages that p2pkit's wheels cannot contain: Python's venv, and a C++ compiler with
# Python's headers, which only a build of MinkowskiEngine needs. Installs what is missing if it can
# (root and apt-get), else prints the command to run; exits with 1 only if p2pkit cannot run without.
# A second run changes nothing.
#
# usage: tools/system_packages.sh [--open3d] [PYTHON]      --open3d: also the libraries it links to
set -euo pipefail
open3d=no
if [ "${1:-}" = --open3d ]; then
    open3d=yes
    shift
fi
python=${1:-python3}

if [ "$(uname -s)" != Linux ]; then
    echo "system packages: not checked on $(uname -s); MinkowskiEngine needs a C++ compiler"
    exit 0
fi

needed=()
useful=()
need_library() {
    "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null || useful+=("$2")
}

"$python" -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv)
command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || useful+=(g++)
"$python" -c 'import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())' ||
    useful+=(python3-dev)
if [ "$open3d" = yes ]; then
    need_library libusb-1.0.so.0 libusb-1.0-0
    need_library libgomp.so.1 libgomp1
    need_library libGL.so.1 libgl1
    need_library libEGL.so.1 libegl1
    need_library libX11.so.6 libx11-6
    need_library libudev.so.1 libudev1
    need_library libidn2.so.0 libidn2-0
fi

missing=("${needed[@]}" "${useful[@]}")
if [ ${#missing[@]} -eq 0 ]; then
    echo "system packages: complete"
    exit 0
fi
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "system packages: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq &&
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; then
        exit 0
    fi
fi
echo "system packages: ${missing[*]} missing (Debian's names). This adds them:" >&2
echo "    sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
if [ ${#needed[@]} -ne 0 ]; then
    exit 1
fi
echo "Continuing without: p2pkit works, but MinkowskiEngine may not build here." >&2
