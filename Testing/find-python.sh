#!/bin/sh
# Print the Python interpreter to build the environment with, or say on stderr why there is none.
#
# Fit is a CPython 3.10 to 3.13 (slicer-core has wheels for these and no other) that can make virtual environments.
# PYTHON, when set, is the only candidate: somebody who names an interpreter wants that one or an error.

set -u

if [ -n "${PYTHON:-}" ]; then
    candidates=$PYTHON
else
    candidates="python3 python3.13 python3.12 python3.11 python3.10"
fi

seen=""
lacks_venv=""
for candidate in $candidates; do
    version=$("$candidate" -c 'import platform; print(platform.python_implementation(), platform.python_version())' \
        2>/dev/null) || continue
    case $version in
    "CPython 3.10."* | "CPython 3.11."* | "CPython 3.12."* | "CPython 3.13."*) ;;
    *)
        seen="$seen $candidate ($version)"
        continue
        ;;
    esac
    # Debian and its relatives ship Python without ensurepip; `python -m venv` fails half-way there.
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
    lacks_venv="$lacks_venv $candidate"
done

if [ -n "$lacks_venv" ]; then
    set -- $lacks_venv
    short=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "error: $1 cannot make virtual environments because its ensurepip or venv package is missing." >&2
    echo "       On Debian or Ubuntu: apt-get install python$short-venv (as root), then run make again." >&2
elif [ -n "${PYTHON:-}" ]; then
    echo "error: PYTHON=$PYTHON is no usable CPython 3.10, 3.11, 3.12 or 3.13${seen:+; found:$seen}." >&2
else
    echo "error: no CPython 3.10, 3.11, 3.12 or 3.13 found on the PATH${seen:+; found only:$seen}." >&2
    echo "       Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
fi
exit 1
