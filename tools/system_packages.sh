#!/usr/bin/env bash
# Have the system packages that p2pkit's wheels cannot carry: the libraries that Open3D links to, and
# a C++ compiler for MinkowskiEngine. Installs what is missing where it may (root and apt-get), else
# prints the line to run and exits 1. A second run changes nothing.
#
# usage: tools/system_packages.sh [PYTHON]
set -euo pipefail
python=${1:-python3}

if [ "$(uname -s)" != Linux ]; then
    echo "system packages: nothing is checked on $(uname -s); a C++ compiler is needed"
    exit 0
fi

missing=()
has_library() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
need_library() { has_library "$1" || missing+=("$2"); }

need_library libusb-1.0.so.0 libusb-1.0-0
need_library libgomp.so.1 libgomp1
need_library libGL.so.1 libgl1
need_library libEGL.so.1 libegl1
need_library libX11.so.6 libx11-6
need_library libudev.so.1 libudev1
need_library libidn2.so.0 libidn2-0
command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || missing+=(g++)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
"$python" -c 'import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())' ||
    missing+=(python3-dev)

if [ ${#missing[@]} -eq 0 ]; then
    echo "system packages: all there"
    exit 0
fi

install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "system packages: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "system packages: ${missing[*]} missing (Debian's names). Run this, then start again:" >&2
    echo "    sudo $install" >&2
    exit 1
fi
