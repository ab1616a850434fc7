# Sourced by quickstart.sh and test.sh: makes .venv with the tested versions and puts it on PATH.
# Usage: source scripts/_environment.sh [extras], from the repository root.

extras="${1:-}"
target=".${extras:+[$extras]}"
stamp=".venv/.installed-${extras:-base}"
wanted="$(cat pyproject.toml scripts/constraints.txt | cksum)"

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    echo "error: Python 3.10 or newer with the venv module is needed; install it, or set PYTHON=/path/to/python3" >&2
    return 2
}

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python="$(find_python)" || exit 2
        echo "Making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    echo "Installing ldm and its dependencies, about 6 GB with PyTorch (several minutes the first time)"
    .venv/bin/python -m pip install --disable-pip-version-check \
        -e "$target" -c scripts/constraints.txt
    echo "$wanted" >"$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
