#!/usr/bin/env bash
# Runs a verb on processes of this machine, and again when it was preempted. Each worker of a pod runs this.
#   bash launch/local.sh --processes=2 -- train --workdir=runs/a --config=...
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec biomedgpt launch --target=local "$@"
