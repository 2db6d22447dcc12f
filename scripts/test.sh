#!/usr/bin/env bash
# Installs into .venv if need be and runs the tests; arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/install.sh"
exec .venv/bin/python -m pytest -n auto --dist worksteal "$@"
