#!/usr/bin/env bash
# Runs a verb on all machines of a TPU slice, which is made where it is not there. Add --dry-run to see how.
#   bash launch/tpu_pod.sh --topology=v5e-64 --zone=us-west4-a --shared -- train --workdir=/mnt/lab/a --config=...
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec biomedgpt launch --target=tpu-pod "$@"
