#!/usr/bin/env bash
# Rewrites the lock files from pyproject.toml: one universal lock each, for Python 3.11 and later.
# requirements.txt: what runs need, with DICOM and the built-in set; requirements-dev.txt: what tests add.
# torch is left out: launch/setup.sh installs it for the tests, from whatever build the machine offers.
set -euo pipefail
cd "$(dirname "$0")/.."
compile="uv pip compile pyproject.toml --universal --python-version 3.11 --quiet --no-header --no-annotate"
$compile --extra medical --extra builtin --output-file requirements.txt "$@"
$compile --extra medical --extra builtin --extra dev --constraint requirements.txt \
  --output-file requirements-dev.txt "$@"
