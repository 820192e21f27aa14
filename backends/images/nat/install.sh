#!/bin/sh
# The NAT runtime as a virtual environment, the same for every image and for this machine's own: install.sh DIRECTORY REQUIREMENTS
# Makes the environment where there is none yet, with $PYTHON (by default python3, which must be 3.11 to 3.13).
set -eu

directory=$1
requirements=$2
test -x "$directory/bin/python" || "${PYTHON:-python3}" -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-input -r "$requirements"
"$directory/bin/python" -c 'import nat'
