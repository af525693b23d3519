"""Llama in Meta's layout: the same arrays as from the folder of transformers, from two ranks and from one."""

import hashlib
import json

import numpy as np
import pytest
import torch
import transformers

from biomedgpt_jax.convert.importer import import_folder
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.decoders import PRESETS
from tests.command import assert_refused, biomedgpt

HEADS, KV_HEADS, WIDTH, WORDS = 4, 2, 32, 64
PARAMS = {
    "dim": WIDTH,
    "n_layers": 2,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "vocab_size": WORDS,
    "multiple_of": 8,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 3e-5,
    "rope_theta": 5e5,
    "use_scaled_rope": True,
    "rope_scaling_factor": 8,
}
MLP = 112  # int(1.3 * int(8 * 32 / 3)) = 110, up to a multiple of 8
NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
}


def interleaved(rows, heads):
    """Row 2i of a head is row i of Hugging Face's, row 2i + 1 is row i + half."""
    each = rows.shape[0] // heads
    out = torch.empty_like(rows)
    for head in range(heads):
        for i in range(each // 2):
            out[head * each + 2 * i] = rows[head * each + i]
            out[head * each + 2 * i + 1] = rows[head * each + each // 2 + i]
    return out


def meta_state(model):
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("q_proj.weight") or key.endswith("k_proj.weight"):
            value = interleaved(value, HEADS if "q_proj" in key else KV_HEADS)
        for ours, theirs in NAMES.items():
            key = key.replace(ours, theirs)
        state[key.removeprefix("model.")] = value.detach().clone()
    return {**state, "rope.freqs": torch.ones(4)}


def shared(state, ranks, embedding_axis):
    """The state dicts of the ranks, as Meta's parallel modules hold them."""
    rows, columns = ("wq", "wk", "wv", "w1", "w3", "output"), ("wo", "w2")
    parts = [{} for _ in range(ranks)]
    for key, value in state.items():
        inside = key.split(".")[-2]
        axis = (
            embedding_axis if inside == "tok_embeddings" else 0 if inside in rows else 1 if inside in columns else None
        )
        shares = [value] * ranks if axis is None else value.chunk(ranks, axis)
        for part, share in zip(parts, shares, strict=True):
            part[key] = share.clone()
    return parts


def write(folder, parts, **changes):
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{number:02d}.pth")
    (folder / "params.json").write_text(json.dumps({key: v for key, v in (PARAMS | changes).items() if v is not ...}))
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        rms_norm_eps=3e-5,
        rope_theta=5e5,
        rope_scaling={**scaling, "original_max_position_embeddings": 8192},
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def parts(model):
    return shared(meta_state(model), 2, 0)


@pytest.mark.parametrize(("ranks", "embedding_axis"), [(1, 0), (2, 0), (2, 1)])
def test_bits_are_those_of_transformers(tmp_path, model, ranks, embedding_axis):
    model.save_pretrained(tmp_path / "hf")
    reference = import_folder(tmp_path / "hf")
    folder = write(tmp_path / "meta", shared(meta_state(model), ranks, embedding_axis))
    found = import_folder(folder)
    assert found.config == reference.config
    theirs, ours = dict(reference.leaves), dict(found.leaves)
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path].view(np.uint16), leaf.view(np.uint16), err_msg=path)


def test_the_command_line_imports_it_with_its_tokenizer_and_hashes(tmp_path, parts):
    folder = write(tmp_path / "meta", parts)
    (folder / "tokenizer.model").write_bytes(b"words")
    called = biomedgpt("import", f"--from={folder}", f"--out={tmp_path / 'out'}")
    assert called.code == 0, called
    table = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert table["meta"]["part"] == "decoder"
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("[cp]*")}
    assert table["meta"]["source"] == hashes and len(hashes) == 3
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"words"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe_args": 3}, "attributes we do not know: moe_args = 3"),
        ({"dim": ...}, "missing: dim"),
        ({"vocab_size": None}, "vocab_size is None, expected a whole number"),
        ({"n_heads": 0}, "n_heads is 0, expected a whole number, 1 or more"),
        ({"multiple_of": 64}, r"mlp.gate_proj.weight has shape \(112, 32\), expected \(128, 32\)"),
        ({"vocab_size": 100}, r"tok_embeddings.weight has shape \(32, 32\) in each of 2 files"),
        ({"rope_scaling_factor": ...}, "not by which factor"),
    ],
)
def test_params_that_do_not_fit_are_named(tmp_path, parts, changes, message):
    with pytest.raises(RunError, match=message):
        import_folder(write(tmp_path / "meta", parts, **changes))


def test_ranks_that_do_not_fit_are_named(tmp_path, parts):
    folder = write(tmp_path / "meta", parts)
    assert import_folder(write(tmp_path / "meta", parts, vocab_size=-1)).config.vocab_size == WORDS
    (folder / "consolidated.01.pth").rename(folder / "consolidated.02.pth")
    with pytest.raises(RunError, match=r"without a gap .* found consolidated.00.pth, consolidated.02.pth"):
        import_folder(folder)
    other = {**parts[1], "norm.weight": parts[1]["norm.weight"] + 1}
    folder = write(tmp_path / "norms", [parts[0], other])
    called = biomedgpt("import", f"--from={folder}", f"--out={tmp_path / 'out'}")
    assert_refused(called, 1, "consolidated.01.pth: tensor norm.weight differs")
    assert not (tmp_path / "out" / "arrays").exists()
    with pytest.raises(RunError, match=r"consolidated.01.pth: tensor output.weight is absent"):
        import_folder(write(tmp_path / "short", [parts[0], {k: v for k, v in parts[1].items() if "output" not in k}]))


def test_published_sizes_say_the_scaling():
    from biomedgpt_jax.convert.meta import params_config

    sizes = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024}
    params = {**sizes, "ffn_dim_multiplier": 1.3, "norm_eps": 1e-5, "rope_theta": 5e5, "use_scaled_rope": True}
    assert params_config(params, 128256, False, "params.json") == PRESETS["llama-3.1-8b"]
