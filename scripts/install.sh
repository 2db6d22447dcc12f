# Makes .venv and installs this package with everything its scripts and tests need. Sourced by the other scripts.
# Nothing is installed again while setup.cfg is the same.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
stamp=.venv/installed.cfg
if ! cmp -s setup.cfg "$stamp"; then
    python=$(command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python 3.11 or newer is needed; $python is $("$python" --version)." >&2
        exit 1
    fi
    echo "Installing into .venv (a few minutes the first time) ..."
    [ -x .venv/bin/python ] || "$python" -m venv .venv || exit 1
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[train,plots,dev]' || exit 1
    cp setup.cfg "$stamp"
fi
