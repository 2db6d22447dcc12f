#!/usr/bin/env bash
# Installs into .venv if need be and runs the tests; arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/install.sh"
# One thread in each of as many processes as there are cores.
OMP_NUM_THREADS=1 exec .venv/bin/python -m pytest -n auto --dist worksteal "$@"
