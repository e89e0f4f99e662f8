#!/bin/sh
# Checks what the system must provide, installs it where it may, else says the one command to type.
python=$1
missing=""
if [ -z "$python" ]; then
    missing="python3 python3-venv"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing="$(basename "$(readlink -f "$(command -v "$python")")")-venv"
fi
command -v c++ >/dev/null 2>&1 || missing="$missing g++"
if [ -n "$python" ] && ! "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null; then
    missing="$missing $(basename "$(readlink -f "$(command -v "$python")")")-dev"
fi
[ -z "$missing" ] && exit 0
install="apt-get update && apt-get install -y --no-install-recommends $missing"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing" | tr -s ' '
    export DEBIAN_FRONTEND=noninteractive
    sh -c "$install" >/dev/null || { echo "could not install; try: $install" >&2; exit 1; }
    [ -n "$python" ] || { echo "python3 is installed now; run make again" >&2; exit 1; }
else
    echo "edgetem needs Python 3.11 or 3.12 with venv and headers, and a C++ compiler. Type: sudo sh -c '$install'" >&2
    exit 1
fi
