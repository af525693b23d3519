#!/usr/bin/env bash
# The main job on one machine: real images in; a trained, scored Hugging Face model out.
#     bash launch/smoke.sh             a Llama3-Med in two stages
#     bash launch/smoke.sh biomedgpt   a BiomedGPT that classifies and answers
# Every line is a verb that a user would call. Data: $BIOMEDGPT_DATA/vqa_rad, else a download, else the built-in set.
# Output: $BIOMEDGPT_RUNS/smoke or smoke_biomedgpt (default runs/...). A second call resumes, or says that it is done.
family="${1:-llama3_med}"
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" run
case "$family" in
  llama3_med) out="${BIOMEDGPT_RUNS:-runs}/smoke" ;;
  biomedgpt) out="${BIOMEDGPT_RUNS:-runs}/smoke_biomedgpt" ;;
  *)
    echo "smoke.sh: there is no family '$family'; expected llama3_med or biomedgpt." >&2
    exit 2
    ;;
esac
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
    arguments="data=$data" required=modality:1
    [ "$family" = biomedgpt ] || arguments="$arguments,vocabulary=500"
    ;;
esac

ask_about_a_picture() { # the built-in set has no picture files
  local picture model="$1"
  shift
  picture="$(find "${BIOMEDGPT_DATA:-$out}" -name 'synpic*.jpg' 2>/dev/null | sort | sed -n 1p)"
  [ -z "$picture" ] || biomedgpt generate "$@" --model="$model" --image="$picture" --question="Which part of the body is shown?"
}

export_model() { # a folder without a certificate was left by an export that did not come to its proof
  [ -f "$out/huggingface/parity.json" ] && return
  rm -rf "$out/huggingface"
  biomedgpt export --model="$1" --out="$out/huggingface"
}

llama3_med() {
  biomedgpt train --config="configs/smoke.py:stage=1,$arguments" --workdir="$out/stage1"
  local stage2=(--config="configs/smoke.py:stage=2,$arguments" --workdir="$out/stage2" --config.init.run="$out/stage1")
  biomedgpt lint "${stage2[@]}"
  biomedgpt train "${stage2[@]}"
  export_model "$out/stage2"
  rm -rf "$out/imported" "$out/eval"
  biomedgpt import --from="$out/huggingface" --out="$out/imported"
  biomedgpt eval --config="configs/eval.py:data=$data" --model="$out/stage2" --out="$out/eval"
  ask_about_a_picture "$out/stage2"
}

biomedgpt_small() {
  local last
  biomedgpt lint --config="configs/smoke_biomedgpt.py:$arguments" --workdir="$out/run"
  biomedgpt train --config="configs/smoke_biomedgpt.py:$arguments" --workdir="$out/run"
  export_model "$out/run"
  rm -rf "$out/imported" "$out/eval" "$out/eval_candidates"
  biomedgpt import --from="$out/huggingface" --out="$out/imported"
  biomedgpt eval --config="configs/eval.py:data=$data" --model="$out/imported" --out="$out/eval" \
    --config.pairs.answers="$out/run/answers.json" --config.batch_rows=32
  # What was exported and read back answers as the run did when it ended.
  last="$(find "$out/run/eval" -name predictions.jsonl | sort -V | tail -n 1)"
  cmp "$last" "$out/eval/predictions.jsonl"
  biomedgpt eval --config="configs/eval.py:data=$data" --model="$out/run" --out="$out/eval_candidates" \
    --config.pairs.method=candidates --config.batch_rows=32
  ask_about_a_picture "$out/run" --task=classification
}

case "$family" in
  llama3_med) train=llama3_med runs="$out/stage1,$out/stage2" ;;
  biomedgpt) train=biomedgpt_small runs="$out/run" ;;
esac
if [ -f "$out/report.html" ]; then
  echo "Already done; remove $out to run it again."
else
  "$train"
fi
biomedgpt report --runs="$runs" --export="$out/huggingface" --out="$out/report.html" --require="$required"
