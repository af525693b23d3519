"""taming-transformers' checkpoints of a Gumbel VQ-GAN: the rules of the part that makes codes of a picture.

Its sizes are read off the names and shapes. The decoder, the codes' vectors and the losses are knowingly left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import jax

from biomedgpt_jax.convert.mapping import Rule, import_tensors, prefixed
from biomedgpt_jax.convert.pickled_data import stand_in
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.torch_archive import TorchArchive
from biomedgpt_jax.convert.torch_file import ArchiveTensors
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths, leaf_paths
from biomedgpt_jax.core.types import Params
from biomedgpt_jax.models.vqgan import GUMBEL_F8, VqganConfig, vqgan_functions

IGNORED = (r"decoder\..*", r"loss\..*", r"post_quant_conv\..*", r"quantize\.embed\.weight")
_STATE = "state_dict"
_SIZED = ("encoder.conv_in", "encoder.conv_out", "quant_conv", "quantize.proj")


def read_vqgan(path: Path) -> tuple[VqganConfig, Params]:
    """The encoder in a checkpoint (`last.ckpt`), parameters in float32 on the host.

    Raises:
        RunError: not such a file, or one of another kind of VQ-GAN; tensors that do not fit, by name.
    """
    archive = TorchArchive(path, known=stand_in)
    content = archive.content
    found = content.get(_STATE, content) if isinstance(content, dict) else content
    tensors = ArchiveTensors(archive, archive.state_dict(found, f"the file or its {_STATE}"))
    config = vqgan_config(tensors, str(path))
    like = jax.eval_shape(vqgan_functions(config).init, jax.random.key(0))
    shapes = {leaf: tuple(each.shape) for leaf, each in leaf_paths(like).items()}
    leaves = import_tensors(tensors, vqgan_rules(config), shapes, where=str(path), ignored=IGNORED)
    return config, from_leaf_paths({leaf: array.astype("float32") for leaf, array in leaves})


def vqgan_config(tensors: Tensors, where: str) -> VqganConfig:
    """The sizes that names and shapes say.

    Raises:
        RunError: a tensor that would say one is missing.
    """
    lacking = [f"{name}.weight" for name in _SIZED if f"{name}.weight" not in tensors]
    levels = _numbers(tensors, r"encoder\.down\.(\d+)\..*")
    if lacking or not levels:
        raise RunError(
            f"{where}: lacks {', '.join(lacking) or 'encoder.down.0'}; expected a Gumbel VQ-GAN of taming-transformers "
            "(vqgan_gumbel_f8), whose quantiser is quantize.proj."
        )
    channels, latent, width, codes = (tensors.shape(f"{name}.weight")[0] for name in _SIZED)
    firsts = [f"encoder.down.{level}.block.0.conv1.weight" for level in range(levels)]
    return VqganConfig(
        channels=channels,
        multipliers=tuple(tensors.shape(name)[0] // channels if name in tensors else 0 for name in firsts),
        attention=tuple(f"encoder.down.{level}.attn.0.q.weight" in tensors for level in range(levels)),
        blocks=_numbers(tensors, r"encoder\.down\.0\.block\.(\d+)\..*"),
        latent=latent,
        width=width,
        codes=codes,
        groups=GUMBEL_F8.groups,
        eps=GUMBEL_F8.eps,
    )


def vqgan_rules(config: VqganConfig) -> tuple[Rule, ...]:
    return (
        *prefixed(tuple(_encoder(config)), theirs="encoder."),
        *_conv("quant_conv", "to_quantise"),
        *_conv("quantize.proj", "code_logits"),
    )


def _encoder(config: VqganConfig) -> Iterator[Rule]:
    for name in ("conv_in", "conv_out"):
        yield from _conv(name, name)
    yield from _norm("norm_out", "norm_out")
    for level in range(len(config.multipliers)):
        theirs, ours = f"down.{level}.", f"level{level}/"
        for number in range(config.blocks):
            yield from prefixed(_BLOCK, theirs=f"{theirs}block.{number}.", ours=f"{ours}block{number}/")
            yield from prefixed(_ATTENTION, theirs=f"{theirs}attn.{number}.", ours=f"{ours}attention{number}/")
        yield from _conv(f"{theirs}downsample.conv", f"{ours}halve")
    for number in range(2):
        yield from prefixed(_BLOCK, theirs=f"mid.block_{number + 1}.", ours=f"middle/block{number}/")
    yield from prefixed(_ATTENTION, theirs="mid.attn_1.", ours="middle/attention/")


def _conv(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}.weight", f"{ours}/kernel", "o i h w -> h w i o"),
        Rule(f"{theirs}.bias", f"{ours}/bias", "o -> o"),
    )


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{theirs}.weight", f"{ours}/scale", "c -> c"), Rule(f"{theirs}.bias", f"{ours}/bias", "c -> c"))


_BLOCK = (
    *_norm("norm1", "norm1"),
    *_conv("conv1", "conv1"),
    *_norm("norm2", "norm2"),
    *_conv("conv2", "conv2"),
    *_conv("nin_shortcut", "shortcut"),
)
_ATTENTION = (
    *_norm("norm", "norm"),
    *(rule for name in "qkv" for rule in _conv(name, name)),
    *_conv("proj_out", "out"),
)


def _numbers(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number that the pattern finds in names."""
    return max((int(found[1]) for key in tensors if (found := re.fullmatch(pattern, key))), default=-1) + 1
