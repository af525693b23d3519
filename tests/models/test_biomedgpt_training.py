"""The model as it learns: what is dropped, which statistics normalise, which patches are seen, what is recomputed."""

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import leaf_paths, merge, split
from biomedgpt_jax.models.biomedgpt import sampled
from biomedgpt_jax.models.biomedgpt_config import BatchNorm, Learning, is_statistic
from biomedgpt_jax.models.biomedgpt_encoder import Patches, layer_noises
from tests.models.biomedgpt_rows import STILL, make, params_of, reference, rows, torch_logits

BATCH = rows((9, 6, 7), (6, 3, 5), image=64) | {"image_mask": np.array([True, True, True])}
WORDS = rows((4,), (3,))
SYNCED = Learning(dropout=0.0, drop_path=0.0, batch_norm=BatchNorm.SYNCED)


def learn(learning, batch, seed=0):
    it = reference()
    train = jax.jit(make(it.config, learning).train)
    hidden, statistics = train(it.params, batch, jax.random.key(seed))
    return np.asarray(hidden), leaf_paths(statistics)


def test_where_nothing_is_dropped_and_statistics_are_frozen_it_learns_as_it_answers():
    it = reference()
    hidden, statistics = learn(STILL, BATCH)
    torch_logits(it.theirs, BATCH)
    there = BATCH["segment_ids"].astype(bool)
    np.testing.assert_allclose(hidden[there], it.theirs.seen["decoder"].numpy()[there], rtol=0, atol=1e-4)
    assert statistics == {path: statistics[path] for path in leaf_paths(it.params) if is_statistic(path)}
    for path, leaf in statistics.items():
        np.testing.assert_array_equal(leaf, leaf_paths(it.params)[path])
    without, kept = learn(SYNCED, WORDS)
    np.testing.assert_array_equal(list(kept), list(statistics))
    assert all((kept[path] == leaf).all() for path, leaf in statistics.items()) and np.isfinite(without).all()


def test_live_statistics_normalise_and_move_as_in_torch():
    it = reference()
    hidden, statistics = learn(SYNCED, BATCH)
    before = {name: tensor.clone() for name, tensor in it.theirs.state_dict().items()}
    it.theirs.encoder.embed_images.train()
    torch_logits(it.theirs, BATCH)
    expected = it.theirs.seen["decoder"].numpy()
    moved = leaf_paths(params_of(it.theirs, it.config))
    it.theirs.encoder.embed_images.eval()
    it.theirs.load_state_dict(before)
    there = BATCH["segment_ids"].astype(bool)
    np.testing.assert_allclose(hidden[there], expected[there], rtol=0, atol=1e-4)
    for path, leaf in statistics.items():
        np.testing.assert_allclose(leaf, moved[path], rtol=1e-4, atol=1e-5, err_msg=path)
        assert np.abs(leaf - leaf_paths(it.params)[path]).max() > 1e-3, path


def test_the_same_key_drops_the_same_and_each_key_another():
    noisy = Learning(dropout=0.1, drop_path=0.1, batch_norm=BatchNorm.FROZEN)
    first, again, other = (learn(noisy, BATCH, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    still = learn(STILL, BATCH)[0]
    assert 0.01 < np.abs(first - still).mean() / np.abs(still).mean() < 1


def test_branches_are_dropped_the_more_often_the_deeper_they_are():
    keys, rates = layer_noises(5, Learning(dropout=0.0, drop_path=0.2, batch_norm=BatchNorm.FROZEN), jax.random.key(0))
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15, 0.2], atol=1e-7)
    assert len({tuple(each.tolist()) for each in jax.random.key_data(keys)}) == 5


def test_so_many_patches_are_seen_as_the_batch_says_others_each_time():
    mask = jnp.asarray([[True] * 16, [True] * 16, [False] * 16])
    draws = [
        sampled(Patches(mask[..., None], mask, (4, 4)), jnp.asarray([3, 16, 5]), jax.random.key(seed)).mask
        for seed in range(40)
    ]
    assert all(draw.sum(axis=1).tolist() == [3, 16, 0] for draw in draws)
    often = np.mean([draw[0] for draw in draws], axis=0)
    assert often.min() > 0 and often.max() < 0.5
    # The patches that are not seen change nothing: none seen is no picture.
    batch = BATCH | {"patches_kept": np.array([0, 16, 16])}
    hidden, _ = learn(STILL, batch)
    text_first = BATCH | {"image_mask": np.array([False, True, True])}
    np.testing.assert_allclose(hidden, learn(STILL, text_first)[0], rtol=0, atol=1e-5)


def device(batch):
    return {name: jnp.asarray(array) for name, array in batch.items()}


def gradients_of(remat):
    model, (trainable, statistics) = (
        make(reference().config, SYNCED, remat=remat),
        split(reference().params, lambda path: not is_statistic(path)),
    )

    def total(trainable):
        return jnp.sum(jnp.sin(model.train(merge(trainable, statistics), device(WORDS), jax.random.key(0))[0]))

    return jax.grad(total), trainable


def test_policies_keep_what_their_names_say():
    products = {}
    for remat in (Remat.NONE, Remat.MINIMAL, Remat.FULL):
        gradients, trainable = gradients_of(remat)
        products[remat] = str(jax.make_jaxpr(gradients)(trainable)).count(" dot_general[")
    assert products[Remat.NONE] <= products[Remat.MINIMAL] < products[Remat.FULL], products
