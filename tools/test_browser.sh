#!/usr/bin/env bash
# Install a Chromium for the test of the report's viewer (Debian's package, 64 MB) if it can
# (root and apt-get), else print a message, and the test is skipped. Only `make test` and `make test-all` ask for it.
set -euo pipefail

for name in chromium-headless-shell chromium google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "test browser: installing chromium-headless-shell"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq &&
        apt-get install -y -qq --no-install-recommends chromium-headless-shell >/dev/null; then
        exit 0
    fi
fi
echo "test browser: none found, so the report's viewer is not tested. Debian's package:" >&2
echo "    sudo apt-get install -y --no-install-recommends chromium-headless-shell" >&2
