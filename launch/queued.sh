#!/usr/bin/env bash
# Asks Google for TPU slices and runs a verb on them as soon as they are there. Add --dry-run to see how.
#   bash launch/queued.sh --topology=2xv5e-256 --zone=us-west4-a --staging=gs://lab/code --shared -- train --workdir=/mnt/lab/a --config=...
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec biomedgpt launch --target=queued "$@"
