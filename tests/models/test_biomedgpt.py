"""BiomedGPT against an independent build of its equations in torch, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.models.biomedgpt import normalised, present
from biomedgpt_jax.models.biomedgpt_config import (
    PRESETS,
    PUBLISHED_PARAMETERS,
    biomedgpt_preset,
    counted_parameters,
    is_statistic,
)
from biomedgpt_jax.models.biomedgpt_positions import extend_positions
from tests.models.biomedgpt_rows import MEAN, STD, make, reference, rows, tiny, torch_logits
from tests.models.torch_biomedgpt import random_biomedgpt

CODES = 257  # a beginning and 16 x 16 codes

BATCHES = {
    "1024 words, no image, a long target": lambda: rows((1024, 9), (5, 400)),
    "256 px, mixed, codes among text, a hole": lambda: (
        rows((9, 12, 4), (CODES, 4, 5), image=256)
        | {
            "code_targets": np.array([True, False, False]),
            "image_hole": np.array([True, False, False]),
            "image_mask": np.array([True, True, False]),
        }
    ),
    "384 px, 1024 words": lambda: rows((1024,), (3,), image=384),
    "480 px": lambda: rows((5,), (4,), image=480),
}
MIXED = rows((9, 6, 7), (6, 3, 5), image=64) | {"image_mask": np.array([True, False, True])}


def close(ours, theirs, where=None):
    """Within 1e-4 of numbers of size about 1, where they count."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and np.abs(theirs).max() > 0.5
    where = np.ones(ours.shape[:2], bool) if where is None else where.astype(bool)
    np.testing.assert_allclose(ours[where], theirs[where], rtol=0, atol=1e-4)


def logits(model, params, batch):
    return jax.jit(lambda params, batch: model.unembed(params, model.forward(params, batch)))(params, batch)


@pytest.mark.parametrize("name", BATCHES)
def test_logits_equal_those_of_torch(name):
    it, batch = reference(), BATCHES[name]()
    ours = logits(make(it.config), it.params, batch)
    theirs = torch_logits(it.theirs, batch)
    assert 0.5 < theirs.std() < 10
    close(ours[..., : it.config.vocab_size], theirs, where=batch["segment_ids"])
    assert (ours[..., it.config.vocab_size :] < -1e30).all()


@pytest.mark.parametrize(
    "switches",
    [{"scale_attention": False, "add_decoder_positions": True}, {"scale_mlp": False, "scale_heads": False}],
)
def test_switches_change_the_model_as_in_torch(switches):
    it = reference(tiny(**switches))
    batch = rows((9, 5), (4, 6)) | {"code_targets": np.array([True, False])}
    ours = logits(make(it.config), it.params, batch)
    close(ours[..., : it.config.vocab_size], torch_logits(it.theirs, batch), where=batch["segment_ids"])
    leaves = "".join(leaf_paths(it.params))
    for switch, name in (("scale_attention", "out_norm"), ("scale_mlp", "inner_norm"), ("scale_heads", "head_scale")):
        assert (name in leaves) is switches.get(switch, True)


def test_each_part_equals_that_of_torch():
    it = reference()
    torch_logits(it.theirs, MIXED)

    def parts(params, batch):
        ours = it.bind(params)
        pixels, seen = normalised(batch["images"], None, MEAN, STD), present(batch["images"], batch["image_mask"])
        found = {"stem": ours.encoder.stem(pixels, None, remat=Remat.NONE)[0]}
        words = ours.embed(batch["source_tokens"], jnp.float32)
        patches, _ = ours.encoder.patches(pixels, seen, None, remat=Remat.NONE)
        source = ours.encoder(words, batch["source_mask"], patches, remat=Remat.NONE)
        bias = ours.encoder._bias(source.positions, patches, words.shape[1])
        found |= {"encoder": source.hidden, "absolute": bias.absolute}
        for number in range(it.config.encoder_layers):
            layer = jax.tree.map(lambda leaf: leaf[number], ours.encoder.layers)  # noqa: B023 (called at once)
            found[f"bias{number}"] = layer.bias(bias)
        target = ours.embed(batch["tokens"], jnp.float32)
        return found | {"decoder": ours.decoder(target, source, None, remat=Remat.NONE)}, source.mask

    found, mask = jax.jit(parts)(it.params, MIXED)
    places = {"encoder": mask, "decoder": MIXED["segment_ids"]}
    for name, ours in found.items():
        theirs = it.theirs.seen[name]
        close(ours, theirs.permute(0, 2, 3, 1) if name == "stem" else theirs, where=places.get(name))


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_each_size_has_the_published_number_of_parameters(name):
    config = biomedgpt_preset(name)
    shapes = jax.eval_shape(make(config).init, jax.random.key(0))
    assert counted_parameters(config, shapes) == PUBLISHED_PARAMETERS[name]
    sums = {"stem": 0, "embedding": 0, "encoder": 0, "decoder": 0, "tables": 0, "rest": 0}
    for path, leaf in leaf_paths(shapes).items():
        if is_statistic(path):
            continue
        side, part = path.split("/")[:2]
        kind = part if part in ("stem", "embedding") else side if part == "layers" else "rest"
        sums["tables" if path.endswith(("text_bias", "image_bias")) else kind] += leaf.size
    sums["embedding"] -= (config.padded_vocab_size - config.vocab_size) * config.width
    assert tuple(sums.values()) == BREAKDOWN[name]


BREAKDOWN = {  # facts, section 2
    "tiny": (8_543_296, 15_220_992, 3_169_296, 4_226_080, 236_896, 2_091_776),
    "medium": (27_535_424, 30_441_984, 12_630_048, 16_840_768, 473_792, 4_969_984),
    "base": (27_535_424, 45_662_976, 42_573_384, 56_766_096, 1_066_032, 8_634_624),
    "large": (43_179_072, 60_883_968, 151_277_760, 201_707_904, 2_842_752, 13_085_696),
    "huge": (43_179_072, 76_104_960, 472_566_144, 315_049_344, 4_264_128, 18_323_200),
}


def test_an_unknown_size_is_refused_with_the_list():
    assert set(PRESETS) - set(PUBLISHED_PARAMETERS) == {"smoke"}
    with pytest.raises(UsageError, match=r"giant.*tiny, medium, base, large, huge"):
        biomedgpt_preset("giant")


def test_parameters_begin_as_published():
    config = tiny(encoder_layers=1, decoder_layers=1, stem_blocks=(2, 1, 1))
    leaves = {
        path: np.asarray(leaf) for path, leaf in leaf_paths(jax.jit(make(config).init)(jax.random.key(3))).items()
    }
    for path, leaf in leaves.items():
        name = path.rsplit("/", 1)[-1]
        if name in ("bias", "mean"):
            assert not leaf.any(), path
        elif name in ("scale", "head_scale", "variance"):
            assert (leaf == 1).all(), path
        elif "stem" in path and leaf.size > 100:
            fan_out = np.prod(leaf.shape[-4:-2]) * leaf.shape[-1]
            assert leaf.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.4), path
        elif leaf.size > 500:
            assert leaf.std() == pytest.approx(0.02, rel=0.15), path
    table = leaves["embed/embedding"]
    zero = np.flatnonzero(~table.any(axis=1))
    assert zero.tolist() == [1, *range(config.vocab_size, config.padded_vocab_size)]


def test_bfloat16_changes_only_the_rounding():
    it, batch = reference(), rows((9, 5), (6, 6))
    exact = torch_logits(it.theirs, batch)
    rounded = logits(make(it.config, dtype=jnp.bfloat16), it.params, batch)[..., : it.config.vocab_size]
    assert rounded.dtype == jnp.float32
    assert 1e-3 < np.abs(rounded[0] - exact[0]).max() / np.abs(exact).max() < 0.1


def test_extended_positions_are_read_between_two_of_the_old_ones():
    it = reference(tiny(text_positions=66, bucket_reach=64, text_buckets=8))
    params, config = extend_positions(it.params, it.config, 127)
    assert config.text_positions == 129
    for side in ("encoder", "decoder"):
        old, new = (np.asarray(tree[side]["positions"]["text"]) for tree in (it.params, params))
        np.testing.assert_array_equal(new[[0, 2, 126]], old[[0, 1, 63]])
        np.testing.assert_allclose(new[61], (old[30] + old[31]) / 2, atol=1e-6)
        np.testing.assert_array_equal(new[127:], old[64:])
    batch = rows((100,), (3,))
    with pytest.raises(UsageError, match="100 tokens does not fit the model's 64 positions"):
        jax.eval_shape(make(it.config).forward, it.params, batch)
    ours = logits(make(config), params, batch)
    close(ours[..., : config.vocab_size], torch_logits(extended(it, config, params), batch))
    with pytest.raises(UsageError, match="not cut to 60"):
        extend_positions(it.params, it.config, 60)


def extended(it, config, params):
    """The reference with longer tables, all distances from 63 on in one bucket."""
    theirs = random_biomedgpt(config, seed=0)
    state = it.theirs.state_dict()
    for side in ("encoder", "decoder"):
        state[f"{side}.embed_positions.weight"] = torch.tensor(np.asarray(params[side]["positions"]["text"]))
    theirs.load_state_dict(state)
    places = torch.arange(config.text_positions)
    near = (places[:, None] - places).clamp(-63, 63)
    for side in (theirs.encoder, theirs.decoder):
        side.token_rp_bucket = side.token_rp_bucket[near.clamp(min=0), (-near).clamp(min=0)]
    return theirs


def test_an_image_that_the_tables_do_not_know_is_refused():
    it, batch = reference(), rows((3,), (2,), image=688)
    with pytest.raises(UsageError, match=r"43 x 43 patches is too large.*672 pixels"):
        jax.eval_shape(make(it.config).forward, it.params, batch)
    assert jax.eval_shape(make(it.config).forward, it.params, rows((3,), (2,), image=672)).shape == (1, 2, 32)
