#!/usr/bin/env bash
# Runs a verb on one TPU VM, which is made where it is not there. Add --dry-run to see how.
#   bash launch/tpu_vm.sh --topology=v5e-8 --zone=us-west4-a -- train --workdir=runs/a --config=...
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec biomedgpt launch --target=tpu-vm "$@"
