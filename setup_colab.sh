#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: bash setup_colab.sh [reproduce | results | test | help] [arguments]

  (nothing)   install what is missing: in Colab or an active virtual environment into the running
              Python, otherwise into .venv beside this script; safe to run again
  reproduce   the same, then: python -m gt_helpers reproduce [arguments]
  results     the same with what runs notebooks, then everything on one model, into the folder
              results: reproduce, the scorecard and the notebooks, as pages under an index.html;
              arguments: --model --prompts --seed --out --only (see docs/real_gpt2.md)
  test        the same with the test tools, then ruff, mypy and the tests but for the notebooks
              and the browser; test --all: those too; further arguments go to pytest
  help        print this text

Runs on Python 3.11 to 3.13; choose one with, e.g., PYTHON=python3.12 bash setup_colab.sh
USAGE
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python3}"

fail() {
    echo "$1" >&2
    exit 1
}

in_colab() {
    PYTHONPATH="$root" "$python" -c \
        'from gt_helpers.environment import in_colab as f; raise SystemExit(not f())' 2>/dev/null
}

in_environment() {
    [ -n "${CONDA_DEFAULT_ENV:-}" ] && [ "$CONDA_DEFAULT_ENV" != base ] ||
        "$python" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null
}

check_version() {  # $1: what to do about a wrong version
    local version
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" ||
        fail "$python does not run; $1."
    case "$version" in
        3.11 | 3.12 | 3.13) ;;
        *) fail "This project runs on Python 3.11, 3.12 or 3.13, but $python is $version; $1." ;;
    esac
}

choose_python() {
    local other="choose one with, e.g., PYTHON=python3.12 bash setup_colab.sh"
    if in_colab || in_environment; then
        check_version "$other"
        return
    fi
    if [ ! -e "$root/.venv" ]; then
        check_version "$other"
        echo "Creating $root/.venv"
        if ! "$python" -m venv "$root/.venv"; then
            rm -rf "$root/.venv"
            fail "$python could not create a virtual environment; its message above says why."
        fi
    fi
    python="$root/.venv/bin/python"
    check_version "delete $root/.venv and run this again"
}

setup() {  # the requirements files
    choose_python
    "$python" "$root/tools/install.py" "$@"
}

case "${1:-}" in
    "")
        setup "$root/requirements.txt"
        if [ "$python" = "$root/.venv/bin/python" ]; then
            echo "Ready. To use it: source \"$root/.venv/bin/activate\""
        else
            echo "Ready."
        fi
        ;;
    reproduce)
        setup "$root/requirements.txt"
        export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" -m gt_helpers "$@"
        ;;
    results)
        shift
        setup "$root/requirements.txt" "$root/requirements-results.txt"
        export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" "$root/tools/run_all.py" "$@"
        ;;
    test)
        shift
        chosen="not notebook and not browser"
        if [ "${1:-}" = --all ]; then
            chosen=""
            shift
        fi
        setup "$root"/requirements{,-results,-test}.txt
        cd "$root"
        export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"  # tiny batches: do not spin for work
        "$python" -m ruff check .
        "$python" -m ruff format --check .
        "$python" -m mypy gt_helpers
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # one worker to a core
        exec "$python" -m pytest -n auto --maxprocesses 8 --dist worksteal -m "$chosen" "$@"
        ;;
    help | --help | -h)
        usage
        ;;
    *)
        echo "Unknown command '$1'; allowed are reproduce, results, test and help, e.g." \
            "bash setup_colab.sh test." >&2
        exit 2
        ;;
esac
