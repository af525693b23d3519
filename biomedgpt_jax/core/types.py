"""The types that cross folders: what a batch, a model and a training state are.

Axis letters: b rows, s tokens of a row, t source tokens of a row, d model width, v vocabulary, i image slots of a row,
h w pixels, n c features of an image and their channels, m samples of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import jax
from jaxtyping import Array, Bool, Float, Int, UInt8

Params = dict[str, Any]  # nested dict, leaves are arrays
AxesTree = dict[str, Any]  # the same nesting, leaves are tuples of logical axis names


DecodeStep = Callable[[jax.Array, Any], tuple[jax.Array, Any]]  # tokens [b], cache -> logits [b v], cache


class Batch(TypedDict):
    """One device batch; each row is a pack of samples (segment ids 1..k, 0 is padding).

    It holds images, or in their place what the frozen tower makes of them (from a cache). Empty slots are zeros.
    """

    tokens: Int[Array, "b s"]
    targets: Int[Array, "b s"]  # the next token of the same segment
    loss_weights: Float[Array, "b s"]  # 1 where the position predicts a supervised token
    segment_ids: Int[Array, "b s"]
    positions: Int[Array, "b s"]  # restart at 0 in each segment
    image_index: Int[Array, "b s"]  # slot * tokens_per_image + k, or -1 for text
    images: NotRequired[UInt8[Array, "b i h w 3"]]
    features: NotRequired[Float[Array, "b i n c"]]


class PairBatch(TypedDict):
    """One device batch of an encoder-decoder; each row is one source and its target.

    `tokens` are what the decoder reads: a beginning, words that are given, and the target but its last token.
    """

    source_tokens: Int[Array, "b t"]
    source_mask: Bool[Array, "b t"]  # False on padding
    tokens: Int[Array, "b s"]
    targets: Int[Array, "b s"]  # the next token
    loss_weights: Float[Array, "b s"]  # 0 where the next token is given or there is none; else the row's confidence
    segment_ids: Int[Array, "b s"]  # 1, 0 on padding
    positions: Int[Array, "b s"]
    images: NotRequired[UInt8[Array, "b 1 h w 3"]]
    image_mask: NotRequired[Bool[Array, " b"]]  # False: the row is text alone; stands beside `images`
    image_hole: NotRequired[Bool[Array, " b"]]  # the middle of the picture is hidden from the encoder
    patches_kept: NotRequired[Int[Array, " b"]]  # so many patches, drawn at random, are seen in training
    code_targets: NotRequired[Bool[Array, " b"]]  # the target is the codes of a picture
    answer_nodes: NotRequired[Int[Array, "b s"]]  # node of the answers' trie that says which words may come next


Train = Callable[[Params, Any, jax.Array], tuple[jax.Array, Params]]


def no_statistics(path: str) -> bool:
    """The `is_statistic` of a model without running statistics."""
    return False


def as_they_are(params: Params) -> Params:
    """The `ready` of a model that answers best with parameters as they are."""
    return params


@dataclass(frozen=True)
class ModelFns:
    """A model as pure functions over nested dicts; all that leaves `models/`.

    `forward` is the model as it answers. `train`, where there is one, is the model as it learns: from parameters,
    batch and a random key to hidden states and the new values of the running statistics, by the nested names that
    they have among the parameters.
    """

    init: Callable[[jax.Array], Params]  # key -> float32 parameters
    axes: Callable[[], AxesTree]
    forward: Callable[[Params, Any], jax.Array]  # a Batch or a PairBatch -> hidden [b s d]
    unembed: Callable[[Params, jax.Array], jax.Array]  # hidden [... d] -> float32 logits [... v]
    head: Callable[[Params], jax.Array]  # -> [d v] in the type of hidden states, whose product with them are logits
    prefill: Callable[[Params, Any, int], tuple[jax.Array, Any]]  # -> logits [b v], cache
    decode: Callable[[Params], DecodeStep]  # what is the same for every token is done here, once
    vocab_size: int | None = None  # words of the head that exist, where more pad its layout
    train: Train | None = None
    is_statistic: Callable[[str], bool] = no_statistics  # parameter path -> a running statistic, never trained
    ready: Callable[[Params], Params] = as_they_are  # the same for all above, perhaps a copy: answers are made faster


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a step maps to itself. `frozen` passes through untouched.

    Trainable parameters, frozen ones and running statistics are disjoint parts of the model's tree.
    """

    step: Any  # int32 [], or its shape and sharding in an abstract state
    trainable: Params
    frozen: Params
    opt_state: Any
    statistics: Params = field(default_factory=dict)  # float32, as `ModelFns.train` gives them; {} where there are none
    average: Params = field(default_factory=dict)  # moving average of `trainable`, float32; {} where it is off
