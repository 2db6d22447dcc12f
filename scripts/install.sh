# Makes .venv and installs this package with everything its scripts and tests need. Sourced by the other scripts.
# Nothing is installed again while setup.cfg is the same.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
stamp=.venv/installed.cfg
if ! cmp -s setup.cfg "$stamp"; then
    if [ ! -x .venv/bin/python ]; then
        python=
        for candidate in python3 python3.11 python3.12 python3.13 python3.14 python; do
            # Run it: a version manager may have a command for a Python that is not installed.
            if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
        if [ -z "$python" ]; then
            echo "Python 3.11 or newer with venv is needed, and none was found. Install it and run this again." >&2
            exit 1
        fi
        "$python" -m venv .venv || exit 1
    fi
    echo "Installing into .venv (a few minutes the first time) ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[train,plots,dev]' || exit 1
    cp setup.cfg "$stamp"
fi
