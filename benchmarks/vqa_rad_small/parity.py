"""Our import of the real weights against transformers on real inputs, in float32.

    python benchmarks/vqa_rad_small/parity.py --published=weights/published --weights=weights --data=data/official \
        --out=parity.json

The tower's last hidden states of held-out pictures at two sizes, the decoder's logits of their questions, and the
greedy answer to a question that only a trained decoder answers. Exit code 1 when something differs by more than
TOLERANCE of the largest value.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import AutoTokenizer, Dinov2Model, LlamaForCausalLM

from biomedgpt_jax.checkpoint.weights import load_weights, weights_table
from biomedgpt_jax.core.config_json import from_json
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.models.llama import LlamaConfig
from biomedgpt_jax.models.parts import make_decoder, make_tower_encoder
from biomedgpt_jax.models.vit import Features, VitConfig

TOLERANCE = 1e-4
SIZES = (70, 224)  # pixels per side: what the small run uses, and the size of the package's own graph
NUM_IMAGES, NUM_TOKENS, NEW_TOKENS = 8, 256, 40
QUESTION = "What does MRI stand for?"
LAST = Features(layer=-1, final_norm=True, keep_prefix=True)
GREY = (124, 116, 104)


def main() -> int:
    arguments = _arguments()
    split = PreparedSplit(arguments.data, "test")
    with jax.default_matmul_precision("highest"):
        result = {
            "tower": tower_parity(arguments.published / "tower", arguments.weights / "tower", split),
            "decoder": decoder_parity(arguments.published / "decoder", arguments.weights / "decoder", split),
        }
    differences = [*(each["relative"] for each in result["tower"].values()), result["decoder"]["relative"]]
    result["passed"] = max(differences) <= TOLERANCE and result["decoder"]["greedy_equal"]
    text = json.dumps(result, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)
    return 0 if result["passed"] else 1


def tower_parity(published: Path, weights: Path, split: PreparedSplit) -> dict[str, dict[str, float]]:
    """Largest difference of the last hidden states, for each size."""
    config = from_json(VitConfig, weights_table(weights)["meta"]["config"], str(weights))
    theirs, info = Dinov2Model.from_pretrained(published, dtype=torch.float32, output_loading_info=True)
    _check_loaded(info)
    params = _params(weights)
    found = {}
    for size in SIZES:
        pixels = np.stack([load_square(split.image(n), size, Geometry.PAD, GREY) for n in range(NUM_IMAGES)])
        ours = np.asarray(make_tower_encoder(config, LAST)(params, jnp.asarray(pixels)))
        normal = (pixels.astype(np.float32) / 255 - np.float32(config.mean)) / np.float32(config.std)
        with torch.no_grad():
            reference = theirs(torch.from_numpy(normal.transpose(0, 3, 1, 2))).last_hidden_state.numpy()
        found[str(size)] = {**_difference(ours, reference), "images": NUM_IMAGES}
    return found


def decoder_parity(published: Path, weights: Path, split: PreparedSplit) -> dict[str, Any]:
    """Logits of the questions of the split, and the greedy answer to QUESTION."""
    config = from_json(LlamaConfig, weights_table(weights)["meta"]["config"], str(weights))
    theirs, info = LlamaForCausalLM.from_pretrained(published, dtype=torch.float32, output_loading_info=True)
    _check_loaded(info)
    tokenizer = AutoTokenizer.from_pretrained(published)
    model, params = make_decoder(config, compute_dtype=jnp.float32, remat=Remat.NONE), _params(weights)
    ids = tokenizer(" ".join(split[n].turns[0].question for n in range(64)))["input_ids"][:NUM_TOKENS]
    ours = np.asarray(jax.jit(lambda p, b: model.unembed(p, model.forward(p, b)))(params, _batch(ids)))[0]
    with torch.no_grad():
        reference = theirs(torch.tensor([ids])).logits[0].numpy()
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False)
    prompt_ids = tokenizer(prompt + "<|im_start|>assistant\n")["input_ids"]
    stop = tokenizer.eos_token_id
    decoded = greedy(
        model,
        params,
        _batch(prompt_ids),
        max_new_tokens=NEW_TOKENS,
        stop_ids=(stop,),
        cache_length=len(prompt_ids) + NEW_TOKENS,
    )
    answer = decoded.tokens[0, : decoded.lengths[0]].tolist()
    with torch.no_grad():
        said = theirs.generate(
            torch.tensor([prompt_ids]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=stop, pad_token_id=stop
        )[0, len(prompt_ids) :].tolist()
    return {
        **_difference(ours, reference),
        "tokens": len(ids),
        "argmax_equal": float((ours.argmax(-1) == reference.argmax(-1)).mean()),
        "greedy_equal": answer == [token for token in said if token != stop],
        "answer": tokenizer.decode(answer),
    }


def _params(weights: Path) -> Params:
    """All of a weights folder in float32 on the first device."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    table: dict[str, Any] = {}
    for path, record in weights_table(weights)["leaves"].items():
        *parents, name = path.split("/")
        node = table
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = jax.ShapeDtypeStruct(tuple(record["shape"]), jnp.float32, sharding=place)
    return load_weights(weights, table)


def _batch(ids: list[int]) -> dict[str, np.ndarray]:
    length = len(ids)
    return {
        "tokens": np.array([ids], np.int32),
        "segment_ids": np.ones((1, length), np.int32),
        "positions": np.arange(length, dtype=np.int32)[None],
    }


def _difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    largest = float(np.abs(ours - theirs).max())
    return {"max_abs": largest, "relative": largest / float(np.abs(theirs).max())}


def _check_loaded(info: dict[str, Any]) -> None:
    left = {key: value for key, value in info.items() if value}
    if left:
        raise SystemExit(f"transformers did not load the folder without remainder: {left}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("published", "weights", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
