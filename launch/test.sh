#!/usr/bin/env bash
# Sets up and runs every check: format, lint, types, tests.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" dev
ruff format --check .
ruff check .
pyright --pythonpath "$(command -v python)"
exec pytest -n auto --dist loadfile "$@"
