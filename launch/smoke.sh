#!/usr/bin/env bash
# The main job on one machine: real images in; a trained, scored Hugging Face model out.
# Every line is a verb that a user would call. Data: $BIOMEDGPT_DATA/vqa_rad, else a download, else the built-in set.
# Output: $BIOMEDGPT_RUNS/smoke (default runs/smoke). A second call resumes, or says that it is done.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
out="${BIOMEDGPT_RUNS:-runs}/smoke"
mkdir -p "$out"

if [ ! -f "$out/data.txt" ]; then
  if [ -n "${BIOMEDGPT_DATA:-}" ]; then
    biomedgpt prepare --config=configs/data/vqa_rad.py --out="$out/vqa_rad"
    echo vqa_rad >"$out/data.txt"
  elif biomedgpt prepare --config=configs/data/vqa_rad.py --out="$out/vqa_rad"; then
    echo vqa_rad >"$out/data.txt"
  else
    echo "VQA-RAD could not be downloaded; using the built-in set of real images from Python packages."
    biomedgpt prepare --config=configs/data/builtin.py --out="$out/builtin"
    echo builtin >"$out/data.txt"
  fi
fi
set_name="$(cat "$out/data.txt")"
data="$out/$set_name"
# The built-in set is small: few words, and sources too few for a margin.
case "$set_name" in
  vqa_rad) vocabulary=1000 required=organ:20 ;;
  builtin) vocabulary=500 required=modality:1 ;;
esac

for stage in 1 2; do
  biomedgpt train --config="configs/smoke.py:stage=$stage,data=$data,vocabulary=$vocabulary" --workdir="$out/stage$stage" \
    $([ "$stage" = 1 ] || echo "--config.init.run=$out/stage1")
done
biomedgpt export --model="$out/stage2" --out="$out/huggingface"
biomedgpt report --runs="$out/stage1,$out/stage2" --export="$out/huggingface" --out="$out/report.html" --require=$required
