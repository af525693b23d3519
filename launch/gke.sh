#!/usr/bin/env bash
# Runs a verb on TPU slices of a GKE cluster, through xpk, which uvx runs. Add --dry-run to see how.
#   bash launch/gke.sh --topology=v6e-64 --zone=us-east5-b --cluster=lab --shared -- train --workdir=/mnt/lab/a --config=...
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec biomedgpt launch --target=gke "$@"
