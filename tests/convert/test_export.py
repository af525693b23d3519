"""Exported folders load in transformers and give our logits; the processor gives our pixels and ids."""

import io
import sys
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from biomedgpt_jax.convert.export import Form, export_decoder, export_model
from biomedgpt_jax.convert.leaves import below, cast, in_memory
from biomedgpt_jax.convert.reimport import reimport
from biomedgpt_jax.convert.torch_model import exported_model
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.prompts import TEMPLATES
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.tasks import encode_prompt, encode_sample, expand
from biomedgpt_jax.data.tokenizers import load_tokenizer
from biomedgpt_jax.eval.decode import greedy
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.s2 import MapSize
from biomedgpt_jax.models.vit import Features
from tests.convert.exported import CARD, DECODER, TOWERS, export_text, exported, read_json, tiny, tokenizer

FINAL = Features(layer=-1, final_norm=True, keep_prefix=False)
WITH_CLASS = Features(layer=1, final_norm=False, keep_prefix=True)
TIED = replace(DECODER, tied=True, rope_scaling=None, rope_theta=7e3)
GEMMA = replace(TIED, norm_offset=1.0, embed_scale=40**0.5, activation=Activation.GELU_TANH)
NARROW = replace(DECODER, width=24, heads=4)
QWEN2 = replace(DECODER, head_dim=8, qkv_bias=True, rope_scaling=None)

MODELS = {
    "clip": lambda: tiny(TOWERS["clip"]),
    "clip with class token, tied": lambda: tiny(TOWERS["clip"], features=WITH_CLASS, decoder=TIED),
    "siglip, relu": lambda: tiny(TOWERS["siglip"], connector="mlp2x_relu"),
    "siglip, qwen2": lambda: tiny(TOWERS["siglip"], decoder=QWEN2),
    "clip at three scales": lambda: tiny(TOWERS["clip"], scales=(28, 56, 84)),
    "siglip, largest map": lambda: tiny(TOWERS["siglip"], scales=(30, 60), output=MapSize.LARGEST, connector="linear"),
    "dinov2, other size": lambda: tiny(TOWERS["dinov2"], scales=(28, 56), features=WITH_CLASS, connector="mlp3x_gelu"),
    "dinov2 with registers": lambda: tiny(TOWERS["dinov2-registers"], scales=(28, 84), connector="resampler"),
    "q-former": lambda: tiny(
        TOWERS["clip"], scales=(28, 56), connector="qformer", queries=6, width=36, depth=3, heads=3, hidden=20
    ),
    "h-optimus": lambda: tiny(TOWERS["h-optimus"], scales=(28, 56, 84), features=FINAL, decoder=TIED),
    "mixture": lambda: tiny(
        TOWERS["clip"], second=TOWERS["dinov2"], connector="mof_mlp", features=replace(FINAL, final_norm=False)
    ),
    "identity": lambda: tiny(
        TOWERS["clip"], features=FINAL, connector="identity", decoder=replace(DECODER, width=24, heads=4)
    ),
}
LLAVA = ("clip", "clip with class token, tied", "siglip, relu", "siglip, qwen2")
OURS = tuple(name for name in MODELS if name not in LLAVA)


@cache
def made(name):
    return MODELS[name]()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return export_text(folder, tokenizer(folder))


@pytest.fixture
def remote_code(tmp_path, monkeypatch):
    """Remote code is copied below tmp_path, and nothing of an earlier copy is found."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        del sys.modules[name]


def questions(model, text, seed=0):
    """Two rows with two images each: ids int [b s], images uint8 [b i h w 3]."""
    rng = np.random.default_rng(seed)
    size, image = model.config.image_size, [text.image_id] * model.config.tokens_per_image
    words = [rng.integers(10, 330, 12).tolist() for _ in range(4)]
    rows = [[text.bos_id, *image, *words[0], *image, *words[1]], [text.bos_id, *words[2], *image, *image, *words[3]]]
    return np.asarray(rows), rng.integers(0, 256, (2, 2, size, size, 3), dtype=np.uint8)


def pixels(model, images):
    tower = model.config.vision.tower
    flat = images.reshape(-1, *images.shape[-3:]).astype(np.float32) / np.float32(255)
    scaled = (flat - np.asarray(tower.mean, np.float32)) / np.asarray(tower.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def assert_same_logits(model, loaded, text):
    tokens, images = questions(model, text)
    ours = model.logits(tokens, images, text.image_id)
    with torch.no_grad():
        theirs = loaded(input_ids=torch.from_numpy(tokens), pixel_values=pixels(model, images)).logits.numpy()
    assert np.abs(theirs - ours).max() / np.abs(ours).max() < 1e-5
    # The pictures must matter, or the comparison would not see them.
    blind = model.logits(tokens, 255 - images, text.image_id)
    assert np.abs(blind - ours).max() / np.abs(ours).max() > 1e-2


@pytest.mark.parametrize("name", LLAVA)
def test_stock_llava_gives_our_logits_and_comes_back_bit_equal(tmp_path, text, name):
    model = made(name)
    export = exported(tmp_path / "out", model, text)
    assert export.form is Form.LLAVA
    with exported_model(export.folder) as loaded:
        assert type(loaded) is transformers.LlavaForConditionalGeneration
        assert_same_logits(model, loaded, text)
    back = reimport(export.folder, model.leaves, model.config)
    assert (back.passed, back.unequal) == (True, ())
    assert back.leaves == len(jax.tree.leaves(model.params))


@pytest.mark.parametrize("name", OURS)
def test_our_modeling_file_gives_our_logits_and_comes_back_bit_equal(tmp_path, text, name):
    model = made(name)
    export = exported(tmp_path / "out", model, text)
    assert export.form is Form.LLAMA3MED
    with exported_model(export.folder) as loaded:
        assert_same_logits(model, loaded, text)
    assert reimport(export.folder, model.leaves, model.config).passed


@pytest.mark.usefixtures("remote_code")
def test_our_modeling_file_loads_by_trust_remote_code(tmp_path, text):
    model = made("clip at three scales")
    folder = exported(tmp_path / "out", model, text).folder
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True
    )
    assert not any(report.values())
    assert_same_logits(model, loaded.eval(), text)
    assert read_json(folder / "biomedgpt.json") == {"template": "llama3", "geometry": "pad"}
    names = read_json(folder / "config.json")
    assert (names["s2_scales"], names["vision_feature_select_strategy"]) == ("28,56,84", "patch")
    state = loaded.state_dict()
    assert "vision_tower._vision_tower.vision_model.encoder.layers.2.self_attn.q_proj.weight" in state
    assert "connector._connector.2.bias" in state
    assert "language_model.model.layers.1.mlp.gate_proj.weight" in state


def test_wrong_number_of_image_positions_is_refused_by_our_file(tmp_path, text):
    model = made("clip at three scales")
    tokens, images = questions(model, text)
    folder = exported(tmp_path / "out", model, text).folder
    wrong = "64 image positions in the text, 48 image features"
    with exported_model(folder) as loaded, pytest.raises(ValueError, match=wrong):
        loaded(input_ids=torch.from_numpy(tokens), pixel_values=pixels(model, images)[:3])


def test_bfloat16_in_shards(tmp_path, text):
    model = made("clip")
    leaves = cast(model.leaves, "bfloat16")
    folder = export_model(tmp_path / "out", leaves, model.config, text, "pad", CARD, max_shard_bytes=60_000).folder
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    loaded = transformers.LlavaForConditionalGeneration.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    ours = np.asarray(model.params["connector"]["linears"]["0"]["kernel"].astype(jnp.bfloat16), np.float32)
    np.testing.assert_array_equal(loaded.model.multi_modal_projector.linear_1.weight.detach().float().numpy().T, ours)
    assert reimport(folder, leaves, model.config).passed
    other = in_memory(jax.tree.map(lambda x: x + 0.1, model.params))
    assert not reimport(folder, cast(other, "bfloat16"), model.config).passed


@pytest.mark.parametrize("decoder", [DECODER, TIED, QWEN2, GEMMA], ids=["llama", "tied", "qwen2", "gemma"])
def test_the_decoder_alone(tmp_path, text, decoder):
    model = tiny(TOWERS["clip"], decoder=decoder)
    folder = export_decoder(tmp_path / "out", below(model.leaves, "decoder/"), decoder, text, CARD).folder
    tokens = np.random.default_rng(0).integers(0, 330, (2, 600))
    ours = model.logits(tokens, np.zeros((2, 0, 28, 28, 3), np.uint8), text.image_id + 1000)
    with exported_model(folder) as loaded, torch.no_grad():
        theirs = loaded(input_ids=torch.from_numpy(tokens)).logits.numpy()
    assert np.abs(theirs - ours).max() / np.abs(ours).max() < 1e-5
    assert reimport(folder, below(model.leaves, "decoder/"), decoder).passed


def picture(width: int, height: int) -> bytes:
    array = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("geometry", ["pad", "resize", "crop"])
@pytest.mark.parametrize("shape", [(61, 40), (33, 90), (28, 28)])
def test_the_processor_gives_our_pixels(tmp_path, text, geometry, shape):
    model = made("siglip, relu")
    folder = exported(tmp_path / "out", model, text, geometry=geometry).folder
    data = picture(*shape)
    background = tuple(int(255 * value) for value in model.config.vision.tower.mean)
    ours = pixels(model, load_square(data, model.config.image_size, Geometry(geometry), background)[None])
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    theirs = processor.image_processor(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]
    # One step of uint8 is 0.0078: equal before the normalisation, whose rounding differs.
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["clip", "siglip, relu", "clip at three scales", "siglip, largest map", "dinov2 with registers"]
)
def test_the_processor_gives_our_ids(tmp_path, text, name):
    model = made(name)
    folder = exported(tmp_path / "out", model, text).folder
    ours = tokenizer(text.tokenizer_folder.parent)
    sample = Sample("a", (0, 1), (Turn(" Liver? <image>\n", "Yes."), Turn("<image> And  here?", "Liver.")), {})
    encoded = encode_prompt(sample, TEMPLATES["llama3"], ours)
    expected, _, _ = expand(encoded, model.config.tokens_per_image, ours.image_token_id)
    conversation = [
        {"role": "user", "content": " Liver? <image>\n"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " And  here?"}]},
    ]
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    conversation[2]["content"] = "<image> And  here?"
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    images = [Image.open(io.BytesIO(picture(40, 30)))] * 2
    found = processor(images=images, text=prompt, add_special_tokens=False, return_tensors="np")
    assert found["input_ids"][0].tolist() == expected.tolist()
    whole = encode_sample(sample, TEMPLATES["llama3"], ours)
    said = processor.apply_chat_template([*conversation, {"role": "assistant", "content": "Liver."}])
    ids = processor(images=images, text=said, add_special_tokens=False, return_tensors="np")["input_ids"][0]
    assert ids.tolist() == expand(whole, model.config.tokens_per_image, ours.image_token_id)[0].tolist()


@pytest.mark.usefixtures("remote_code")
@pytest.mark.parametrize("name", ["clip", "clip at three scales"])
def test_the_code_in_the_card_runs_and_gives_our_answer(tmp_path, text, name, monkeypatch, capsys):
    model, ours = made(name), tokenizer(text.tokenizer_folder.parent)
    folder = exported(tmp_path / "out", model, text).folder
    (folder / "picture.png").write_bytes(picture(50, 40))
    monkeypatch.chdir(folder)
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(compile(code, "README.md", "exec"), {})
    background = tuple(int(255 * value) for value in model.config.vision.tower.mean)
    image = load_square(picture(50, 40), model.config.image_size, Geometry.PAD, background)
    prompt = encode_prompt(Sample("a", (0,), (Turn("Which organ is shown?", ""),), {}), TEMPLATES["llama3"], ours)
    tokens, _, _ = expand(prompt, model.config.tokens_per_image, ours.image_token_id)
    batch = model.batch(tokens[None], image[None, None], ours.image_token_id)
    said = greedy(
        model.fns, model.params, batch, max_new_tokens=64, stop_ids=ours.stop_ids, cache_length=len(tokens) + 64
    )
    # Random answers hold broken UTF-8, which each library shows in its own way.
    expected = load_tokenizer(folder).decode(said.tokens[0, : said.lengths[0]])
    assert len(expected) > 10
    assert capsys.readouterr().out.rstrip("\n") == expected.rstrip("\n")


def test_the_card_states_use_licences_and_scores(tmp_path, text):
    card = (exported(tmp_path / "out", made("clip"), text).folder / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "not a medical device" in card
    assert "| vqa_rad | strict/v1 | closed accuracy | 50.0% (40.0% to 60.0%) | 48.9% | 10 |" in card
    assert "| tower | nobody | unknown: ask its source |" in card
    assert "The licence is unknown of tower nobody" in card
    assert "A note | with a bar." in card and "trust_remote_code" not in card


def test_what_cannot_be_exported_says_why(tmp_path, text):
    model = made("h-optimus")
    with pytest.raises(UsageError, match=r"3 scales \(28, 56, 84\); its tower is neither.*last norm"):
        exported(tmp_path / "out", model, text, Form.LLAVA)
    clip = made("clip")
    with pytest.raises(RunError, match=r"not expected: decoder/adapter/a"):
        export_model(
            tmp_path / "out",
            in_memory({**clip.params, "decoder": {**clip.params["decoder"], "adapter": {"a": np.zeros(1)}}}),
            clip.config,
            text,
            "pad",
            CARD,
        )
    with pytest.raises(RunError, match="uses id 999, the decoder's embedding has 330 rows"):
        exported(tmp_path / "out", clip, replace(text, image_id=999))
    with pytest.raises(RunError, match=r"chat_template.jinja: not there"):
        (tmp_path / "empty").mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "empty" / name).write_bytes((text.tokenizer_folder / name).read_bytes())
        exported(tmp_path / "out", clip, replace(text, tokenizer_folder=tmp_path / "empty"))
    strange = tiny(replace(TOWERS["clip"], pre_norm=False))
    with pytest.raises(RunError, match="layout of no published family"):
        exported(tmp_path / "out", strange, text)
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]
    exported(tmp_path / "out", clip, text)
    with pytest.raises(UsageError, match="is not empty"):
        exported(tmp_path / "out", clip, text)
