from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.models.connector import MlpConfig
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, PartRemat, Tune, make_llama3_med, trainable
from tests.models.image_rows import PER_IMAGE, make_batch
from tests.models.llava_reference import llava_reference
from tests.models.references import close

FIRST = ["image", *range(1, 17)]
LAST = [*range(20, 36), "image"]
TWO = [3, "image", *range(40, 50), "image", 7]
TEXT = [*range(5, 25)]


@cache
def model(remat: PartRemat = NO_REMAT):
    return make_llama3_med(llava_reference().config, compute_dtype=jnp.float32, remat=remat, lora=None)


@jax.jit
def logits(params, batch):
    return model().unembed(params, model().forward(params, batch))


@pytest.mark.parametrize("rows", [[FIRST, LAST], [TWO, FIRST], [TEXT, TWO]], ids=["ends", "two", "text-only"])
def test_logits_equal_llava(rows):
    reference = llava_reference()
    batch = make_batch(rows, slots=2, length=20)
    used = [batch["images"][row, slot] for row, items in enumerate(rows) for slot in range(items.count("image"))]
    close(logits(reference.params, batch), reference.logits(np.asarray(batch["tokens"]), np.stack(used)))


def test_packed_samples_with_images_equal_separate_rows():
    reference = llava_reference()
    pack = make_batch([[*FIRST, "next", *TEXT, "next", *TWO]], slots=4, length=70)
    packed = logits(reference.params, pack)
    alone = make_batch([FIRST, TEXT, TWO], slots=4, length=70)
    images = alone["images"].at[0, 0].set(pack["images"][0, 0]).at[2, :2].set(pack["images"][0, 1:3])
    separate = logits(reference.params, {**alone, "images": images})
    for segment in range(3):
        close(packed[0, 20 * segment : 20 * (segment + 1)], separate[segment, :20])


def test_empty_slots_never_change_a_result():
    reference = llava_reference()
    batch = make_batch([FIRST, TEXT], slots=2, length=20)
    noisy = {**batch, "images": batch["images"].at[0, 1].set(255).at[1].set(77)}
    np.testing.assert_array_equal(logits(reference.params, batch), logits(reference.params, noisy))


def test_a_batch_without_image_slots_is_text_only():
    reference = llava_reference()
    with_slots = make_batch([TEXT, TEXT[::-1]], slots=1, length=20)
    without = make_batch([TEXT, TEXT[::-1]], slots=0, length=20)
    close(logits(reference.params, without), logits(reference.params, with_slots))


def test_the_ids_at_image_positions_do_not_matter():
    reference = llava_reference()
    batch = make_batch([TWO], slots=2, length=20)
    other = {**batch, "tokens": jnp.where(batch["image_index"] >= 0, 11, batch["tokens"])}
    np.testing.assert_array_equal(logits(reference.params, batch), logits(reference.params, other))


def test_an_index_beyond_the_slots_is_never_clipped():
    reference = llava_reference()
    batch = make_batch([TEXT, FIRST], slots=2, length=20)
    wrong = {**batch, "image_index": batch["image_index"].at[1, 2].set(2 * PER_IMAGE)}
    assert np.isnan(logits(reference.params, wrong)[1, 2:]).all()
    assert np.isfinite(logits(reference.params, wrong)[0]).all()


def test_generation_with_images_equals_the_whole_row():
    reference = llava_reference()
    rows = [TWO, FIRST]
    whole_batch = make_batch(rows, slots=2, length=20)
    whole = logits(reference.params, whole_batch)
    cut = [6, 9]  # items: both prompts end within the text behind their first image
    batch = make_batch([items[:end] for items, end in zip(rows, cut, strict=True)], slots=2, length=20)
    batch = {**batch, "images": whole_batch["images"]}
    lengths = np.asarray(batch["segment_ids"]).sum(1)
    last, kept = jax.jit(model().prefill, static_argnums=2)(reference.params, batch, 24)
    new = jnp.asarray([items[end] for items, end in zip(rows, cut, strict=True)])
    after, _ = jax.jit(model().decode(reference.params))(new, kept)
    for row, length in enumerate(lengths):
        close(last[row], whole[row, length - 1])
        close(after[row], whole[row, length])


def test_trainable_chooses_parts():
    reference = llava_reference()
    paths = leaf_paths(reference.params)

    def chosen(**parts) -> set[str]:
        is_trainable = trainable(reference.config, **parts)
        return {path for path in paths if is_trainable(path)}

    stage_1 = chosen(tower=False, connector=True, decoder=Tune.FROZEN)
    assert stage_1 == {path for path in paths if path.startswith("connector/")}
    stage_2 = chosen(tower=False, connector=True, decoder=Tune.FULL)
    assert stage_2 == {path for path in paths if not path.startswith("tower/")}
    assert chosen(tower=False, connector=True, decoder=Tune.LORA) == stage_1  # this model has no adapters
    tower = chosen(tower=True, connector=False, decoder=Tune.FROZEN)
    assert "tower/patch_embed/kernel" in tower
    assert "tower/post_norm/scale" not in tower  # layer -2 is taken: nothing flows through the last norm


def test_parts_that_do_not_fit_are_refused():
    config = llava_reference().config
    with pytest.raises(UsageError, match="connector gives 33 channels, the decoder takes 32"):
        Llama3MedConfig(config.vision, MlpConfig(2, config.connector.act, 16, 33), config.decoder)
