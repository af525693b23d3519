#!/usr/bin/env bash
# Runs a verb on GPU nodes under Slurm. Add --dry-run to see how.
#   bash launch/slurm.sh --topology=h100-16 --shared --option=--partition=gpu -- train --workdir=runs/a --config=...
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec biomedgpt launch --target=slurm "$@"
