"""That what a BiomedGPT's configuration says reaches its batches and its loss."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.data.mixture import Part
from biomedgpt_jax.data.pair_batches import PairShape
from biomedgpt_jax.data.trie import build_trie
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs import train as train_verb
from biomedgpt_jax.verbs.biomedgpt import BIOMEDGPT, objective
from biomedgpt_jax.verbs.pair_data import build_data, encode_training, pair_tokenizer
from tests.command import config
from tests.verbs.test_biomedgpt import SHORT


def parsed(name: str, *options: str):
    return command_line.parse(train_verb, [config(name), *options]).config


def test_settings_reach_the_batches(prepared_data: Path, tmp_path: Path) -> None:
    """Of two paths of the same 8 rows, and of their pre-training examples, two of a row."""
    said = ("--config.data.noise=0.25", "--config.data.source_buckets=(12,)", "--config.data.augmentation=captioned")
    paths = (f"--config.data.paths=('{prepared_data}','{prepared_data}')", "--config.data.weights=(3.0,1.0)")
    for pretraining in (False, True):
        kind = (f"--config.data.pretraining={pretraining}", "--config.data.answers=", "--config.data.patches_kept=5")
        settings = parsed(f"smoke_biomedgpt.py:data={prepared_data}", *SHORT, *said, *paths, *kind)
        spec = BIOMEDGPT.spec(settings)
        tokenizer = pair_tokenizer(settings, spec, tmp_path)
        encoded = encode_training(settings, spec, tokenizer, tmp_path, lambda what, done, total: None)
        made = build_data(settings, spec, tokenizer, encoded, None)
        assert (made.settings.noise, made.settings.patches_kept, made.settings.even) == (0.25, 5, pretraining)
        assert made.settings.buckets == (PairShape(12, 24), PairShape(24, 24)) and made.settings.image_size == (32, 32)
        assert [part.repeats for part in made.mixture.parts] == [1.5, 0.5]
        part = made.mixture.parts[0]
        assert isinstance(part, Part) and len(part.encoded) == (16 if pretraining else 8)
        assert part.encoded.pair(0, np.random.default_rng(0)).view is not None


@pytest.mark.parametrize("task", ["vqa", "caption", "nli", "pretrain"])
def test_the_loss_is_that_of_the_task(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of positions that are sure of the truth by a logit of 40, the last of two halves a little less."""
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    settings = parsed(f"biomedgpt.py:task={task},size=smoke")
    trie = build_trie([(7, 2), (8, 2), (9, 2)]) if task in ("vqa", "nli") else None
    criterion = objective(settings, BIOMEDGPT.spec(settings), trie)
    words = BIOMEDGPT.spec(settings).model.vocab_size
    head = jnp.zeros((1, words)).at[0, 7].set(1.0)
    batch = {
        "targets": jnp.full((2, 10), 7),
        "loss_weights": jnp.full((2, 10), 2.0 if task == "pretrain" else 1.0),
        "answer_nodes": jnp.zeros((2, 10), jnp.int32),
    }
    hidden = jnp.broadcast_to(jnp.array([40.0, 30.0])[:, None, None], (2, 10, 1))
    early, late = (criterion(head, hidden, batch, jnp.int32(step)) for step in (599, 600))
    means = [float(sums.loss / sums.weight) for sums in (early, late)]
    # A tenth for the others: 0.1 x 35. Later a caption leaves out the 4 worst of 20, which are sure by 40.
    expected = {"vqa": (3.5, 3.5), "caption": (3.5, (6 * 4 + 10 * 3) / 16), "nli": (0, 0), "pretrain": (0, 0)}
    assert means == pytest.approx(expected[task], abs=2e-3)
    assert [early.weight, late.weight] == [20, 16 if task == "caption" else 20]
