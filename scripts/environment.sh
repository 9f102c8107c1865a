# Sourced by quickstart and test: a virtual environment in .venv with npukv in it.
# Everything that cannot be set up from here is named, with what to do about it.

fail() {
    printf 'npukv: %s\n' "$1" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "found no Python 3.10 or later; install one, or name it: PYTHON=/path/to/python3 bash scripts/quickstart"
}

# make_environment ARGUMENTS-OF-PIP...
make_environment() {
    local python free
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || exit 1
        free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
        [ "$free" -ge 2500 ] || fail "$free MB free here, expected 2500 for torch and its companions; free some space"
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv)"
        printf 'Making .venv with %s\n' "$("$python" --version)" >&2
        "$python" -m venv .venv || fail "the virtual environment could not be made in .venv; see above"
    fi
    printf 'Installing npukv and what it needs (the first time, a few minutes)\n' >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$@" ||
        fail "the installation failed, see above; behind a proxy or without a network, point pip at an index that has
torch, for example: PIP_INDEX_URL=... bash scripts/quickstart"
}
