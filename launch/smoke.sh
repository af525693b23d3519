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
case "$set_name" in
  vqa_rad)
    source=()
    [ -n "${BIOMEDGPT_DATA:-}" ] || source=("--config.source=$data.raw") # downloaded above
    biomedgpt prepare --config=configs/data/vqa_rad.py:split=body_parts --out="$out/body_parts" "${source[@]}"
    arguments="data=$data,body_parts=$out/body_parts" required=organ:20
    ;;
  builtin) # few words, and too few sources for a margin
    arguments="data=$data,vocabulary=500" required=modality:1
    ;;
esac

if [ -f "$out/report.html" ]; then
  echo "Already done; remove $out to run it again."
else
  biomedgpt train --config="configs/smoke.py:stage=1,$arguments" --workdir="$out/stage1"
  biomedgpt train --config="configs/smoke.py:stage=2,$arguments" --workdir="$out/stage2" --config.init.run="$out/stage1"
  if [ ! -f "$out/huggingface/parity.json" ]; then
    rm -rf "$out/huggingface" # left by an export that did not come to its proof
    biomedgpt export --model="$out/stage2" --out="$out/huggingface"
  fi
  rm -rf "$out/imported" "$out/eval"
  biomedgpt import --from="$out/huggingface" --out="$out/imported"
  biomedgpt eval --config="configs/eval.py:data=$data" --model="$out/stage2" --out="$out/eval"
  picture="$(find "${BIOMEDGPT_DATA:-$out}" -name 'synpic*.jpg' 2>/dev/null | sort | sed -n 1p)"
  if [ -n "$picture" ]; then # the built-in set has no picture files
    biomedgpt generate --model="$out/stage2" --image="$picture" --question="Which part of the body is shown?"
  fi
fi
biomedgpt report --runs="$out/stage1,$out/stage2" --export="$out/huggingface" --out="$out/report.html" --require="$required"
