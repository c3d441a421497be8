#!/usr/bin/env bash
# Try a newcomer's set-up: make fresh environments one at a time, run `make install` and a short demo
# in each, print one line of the table in docs/installation.md, delete the environment. Each takes
# minutes and 2 to 6 GB; MinkowskiEngine is compiled once for each torch and Python, then comes from
# the cache of wheels (`P2PKIT_FRESH_CACHE`, a folder that is kept; by default a temporary one).
#
# usage: nice tools/fresh_machines.sh [ROW]...      without ROW: all; the names of the rows are below
#
#   PYTHON311, PYTHON312, PYTHON313   interpreters; pyenv's where these are not set
#   CPU_INDEX                         option of pip for a CPU build of torch, such as an --index-url;
#                                     empty if pip finds one by default
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/fresh-machines-XXXXXX")
cache=${P2PKIT_FRESH_CACHE:-$work/cache}
trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT

ROWS=(
    # name              Python  torch  what is special
    "python311          3.11    cpu    -"
    "python312          3.12    cpu    -"
    "python313          3.13    cpu    -"
    "cuda-torch         3.12    cuda   no-nvcc"
    "nvcc-incomplete    3.12    cuda   nvcc-incomplete"
    "nvcc-incomplete-cpu 3.11   cpu    nvcc-incomplete"
    "nvcc-other         3.12    cuda   nvcc-other"
    "no-compiler        3.11    cpu    no-compiler"
    "not-root           3.11    cpu    not-root"
    "no-network         3.11    cpu    no-network"
    "home-unwritable    3.11    cpu    home-unwritable"
    "path-with-spaces   3.11    cpu    path-with-spaces"
)
UNTRIED=("macOS" "Windows with WSL 2")

interpreter() { # 3.12 -> a path, or nothing
    local version=$1 variable=PYTHON${1//./}
    if [ -n "${!variable:-}" ]; then
        echo "${!variable}"
        return
    fi
    local found
    for found in "$HOME/.pyenv/versions/$version".*/bin/python "$(command -v "python$version")"; do
        if [ -x "$found" ] && "$found" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$found"
            return
        fi
    done
}

hide() { # NAME...: a PATH without these commands, made of links to all others
    local bin=$1 folder file name
    shift
    mkdir -p "$bin"
    IFS=:
    for folder in $PATH; do
        for file in "$folder"/*; do
            name=${file##*/}
            [ -x "$file" ] && [ ! -e "$bin/$name" ] && ln -s "$file" "$bin/$name"
        done
    done
    unset IFS
    for name in "$@"; do rm -f "$bin"/$name; done
}

fake_nvcc() { # FOLDER VERSION: a toolkit without the headers of the math libraries
    mkdir -p "$1/bin" "$1/include"
    printf '#!/bin/sh\necho "Cuda compilation tools, release %s, V%s.1"\n' "$2" "$2" >"$1/bin/nvcc"
    chmod +x "$1/bin/nvcc"
    touch "$1/include/cuda_runtime.h"
}

prepare() { # SPECIAL: sets `checkout`, and exports PATH and HOME of the row
    checkout=$work/row/p2pkit
    export HOME=$work/row/home PATH XDG_CACHE_HOME=$cache P2PKIT_CACHE=$work/row/shards
    mkdir -p "$HOME" "$cache"
    local bin=$work/row/bin
    case $1 in
    nvcc-incomplete) fake_nvcc "$work/row/cuda" 13.0 && PATH=$work/row/cuda/bin:$PATH ;;
    nvcc-other) fake_nvcc "$work/row/cuda" 11.8 && PATH=$work/row/cuda/bin:$PATH ;;
    no-compiler)
        hide "$bin" c++ g++ clang++ 'x86_64-linux-gnu-*' gcc cc apt-get nvcc && PATH=$bin
        XDG_CACHE_HOME=$work/row/cache # no wheel that was built elsewhere
        ;;
    home-unwritable)
        unset XDG_CACHE_HOME
        # root may write anywhere, but not below a file.
        rmdir "$HOME" && touch "$HOME"
        ;;
    path-with-spaces) checkout="$work/row/my code/p2pkit" ;;
    *) hide "$bin" nvcc && PATH=$bin ;;
    esac
    mkdir -p "$checkout"
    git -C "$root" archive HEAD | tar -x -C "$checkout"
}

as_user() { # runs a command as the row's user
    if [ "$special" = not-root ] && [ "$(id -u)" -eq 0 ]; then
        chown -R nobody "$work/row" "$cache"
        chmod go+rx "$work"
        setpriv --reuid=nobody --clear-groups env "$@"
    else
        env "$@"
    fi
}

row() { # NAME PYTHON TORCH SPECIAL
    local python began minutes gigabytes log=$work/row/log result engine torch
    special=$4
    python=$(interpreter "$2")
    if [ -z "$python" ]; then
        echo "| $1 | $2 | $3 | not tried: no Python $2 here | | |"
        return
    fi
    rm -rf "$work/row" && mkdir -p "$work/row"
    (
        prepare "$special"
        cd "$checkout" || exit 1
        began=$SECONDS
        "$python" -m venv .venv
        # What pip finds by default: PyPI's build for Linux has CUDA in it.
        torch=$(sed -n 's/^TORCH := //p' Makefile)
        if [ "$3" = cpu ]; then
            .venv/bin/python -m pip install -qq ${CPU_INDEX:-} "$torch" >>"$log" 2>&1
        fi
        as_user make install "PYTHON=$python" >>"$log" 2>&1
        result=$?
        minutes=$(((SECONDS - began + 30) / 60))
        if [ $result -eq 0 ]; then
            local -a cut=()
            [ "$special" = no-network ] && cut=(unshare --net)
            "${cut[@]}" bash -c 'true' 2>/dev/null || cut=()
            as_user OMP_NUM_THREADS=1 "${cut[@]}" .venv/bin/p2pkit demo --frames 24 --steps 2 \
                >>"$log" 2>&1
            result=$?
        fi
        gigabytes=$(du -sm .venv | awk '{printf "%.1f", $1 / 1000}')
        torch=$(.venv/bin/python -c 'import torch; print(torch.version.cuda or "CPU")')
        engine=$(sed -n 's/^engine: *\([a-z]*\).*/\1/p' "$log" | tail -1)
        if [ $result -eq 0 ]; then
            echo "| $1 | $2 | $torch | ${engine:-?} | $minutes | $gigabytes |"
        else
            echo "| $1 | $2 | $torch | FAILED: $(tail -1 "$log") | $minutes | $gigabytes |"
        fi
        grep -E '^(MinkowskiEngine was not|no CUDA build|passed over|Ready|Not ready)' "$log" |
            sed 's/^/    /' >&2
        if [ -n "${KEEP_LOGS:-}" ]; then mkdir -p "$KEEP_LOGS" && cp "$log" "$KEEP_LOGS/$1.log"; fi
    )
    chmod -R u+w "$work/row" 2>/dev/null
    rm -rf "$work/row"
}

echo "| machine | Python | torch's CUDA | engine | minutes | GB |"
echo "|---|---|---|---|--:|--:|"
wanted=" $* "
for line in "${ROWS[@]}"; do
    read -r name python torch special <<<"$line"
    if [ $# -eq 0 ] || [[ $wanted == *" $name "* ]]; then
        row "$name" "$python" "$torch" "$special"
    fi
done
if [ $# -eq 0 ]; then
    for name in "${UNTRIED[@]}"; do echo "| $name | | | not tried | | |"; done
fi
