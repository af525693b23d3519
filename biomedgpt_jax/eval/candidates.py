"""How likely each answer of a closed list is, for a batch of sources, reading every shared beginning once.

An answer's score is the sum of its words' log-probabilities among the words that the list allows there. A word that is
the only one costs nothing, so only nodes of the trie where ways part are asked, and those on the way to them. They are
read in the order of a walk that goes down before it goes on: stepping back in the cache is forgetting its last places,
and a row of the cache is never copied. Several walkers share the work for each source.

Axis letters: b sources, w walkers of a source, t steps, e ways on from a node, n answers, p partings on an answer's
way, v vocabulary.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.placing import spread
from biomedgpt_jax.core.sharding import shard
from biomedgpt_jax.core.types import Batch, ModelFns, Params
from biomedgpt_jax.data.trie import Trie
from biomedgpt_jax.eval.decode import Prompts, check_finite
from biomedgpt_jax.eval.trie_decode import check_words

Path = tuple[int, ...]  # a node as the words that lead to it


class Chosen(NamedTuple):
    """The likeliest answer of a closed list for each row, and how likely all are.

    tokens int32 [b t], 0 after the end; lengths int32 [b]; answers: the list, n of them, without stop tokens;
    log_probs float32 [b n].
    """

    tokens: np.ndarray
    lengths: np.ndarray
    answers: tuple[tuple[int, ...], ...]
    log_probs: np.ndarray


_NOTHING = -1  # in place of a word, or of its place


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Walk:
    """What the walkers read, step by step, and where each answer finds the parts of its score."""

    words: jax.Array  # int32 [t w], the word that is read
    places: jax.Array  # int32 [t w], how many were read before it
    first: jax.Array  # int32 [f], the words with which answers begin
    ways: jax.Array  # int32 [t w e], the words that may follow, _NOTHING where there are fewer
    parts: (
        jax.Array
    )  # int32 [n p], places in `first` and then `ways`, one after another; _NOTHING where there are fewer
    depth: int = field(metadata={"static": True})  # places of the cache that a walk needs


def plan_walk(trie: Trie, *, walkers: int, vocab_size: int) -> Walk:
    """Divides the trie among `walkers` rows of the cache for each source; do it once for all batches.

    Raises:
        RunError: a word of the trie is outside the vocabulary, or there is no walker.
    """
    if walkers < 1:
        raise RunError(f"scoring answers needs at least one walker, found {walkers}")
    check_words(trie, vocab_size)
    following = _following(trie)
    shares = _shares(_asked(following), walkers)
    t, w = max(map(len, shares), default=0), max(len(shares), 1)
    words, places = np.zeros((t, w), np.int32), np.zeros((t, w), np.int32)
    widest = max((len(following[path]) for share in shares for path in share), default=0)
    ways = np.full((t, w, widest), _NOTHING, np.int32)
    begins: dict[Path, int] = {(): 0}  # of each node the place of its first way
    for walker, share in enumerate(shares):
        for step, path in enumerate(share):
            words[step, walker], places[step, walker] = path[-1], len(path) - 1
            ways[step, walker, : len(following[path])] = following[path]
            begins[path] = len(following[()]) + (step * w + walker) * widest
    return Walk(
        jnp.asarray(words),
        jnp.asarray(places),
        jnp.array(following[()], jnp.int32),
        jnp.asarray(ways),
        jnp.asarray(_parts(trie, following, begins)),
        max((len(path) for share in shares for path in share), default=0),
    )


def score_answers(model: ModelFns, params: Params, batch: Prompts, walk: Walk, *, cache_length: int) -> np.ndarray:
    """The scores of all answers after each row's own beginning, the batch's `tokens`: float32 [b n].

    The cache has one row for each walker of each source.

    Raises:
        RunError: the cache is too short, or a logit is not a number.
    """
    needed = batch["tokens"].shape[1] + walk.depth
    if cache_length < needed:
        raise RunError(
            f"scoring answers needs a cache for beginning and answer: rows of {batch['tokens'].shape[1]} and "
            f"{walk.depth} words need {needed}, cache_length is {cache_length}. Raise it"
        )
    scores, finite = jax.device_get(_score(model, params, spread(batch), walk, cache_length))
    check_finite(finite)
    return scores


@partial(jax.jit, static_argnums=(0, 4))
def _score(model: ModelFns, params: Params, batch: Batch, walk: Walk, cache_length: int):
    logits, cache = model.prefill(params, batch, cache_length)
    decode = model.decode(params)
    b, (t, w, e) = len(logits), walk.ways.shape
    cache = cache.widen(w)
    begun = cache.lengths  # b w

    def one(step: jax.Array, carry: tuple) -> tuple:
        cache, gains, finite = carry
        cache = cache.rewind(begun + jnp.tile(walk.places[step], b))
        logits, cache = decode(jnp.tile(walk.words[step], b), cache)
        of_ways = _among(logits.reshape(b, w, -1), walk.ways[step])
        return cache, gains.at[:, step].set(of_ways), finite & _finite(logits).reshape(b, w).all(1)

    gains, finite = jnp.zeros((b, t, w, e)), _finite(logits)
    if t:
        _, gains, finite = jax.lax.fori_loop(0, t, one, (cache, gains, finite))
    gains = jnp.concatenate([_among(logits[:, None], walk.first[None])[:, 0], gains.reshape(b, -1)], 1)
    scores = jnp.where(walk.parts == _NOTHING, 0, gains[:, walk.parts]).sum(-1)
    # Each of several processes reads all scores.
    return shard(scores, None, None), shard(finite, None)


def _among(logits: jax.Array, ways: jax.Array) -> jax.Array:
    """Log-probabilities [b w e] of the words `ways` [w e] if only these may follow, 0 where there are fewer."""
    there = ways != _NOTHING
    of_ways = jnp.take_along_axis(logits, jnp.where(there, ways, 0)[None], 2)
    least = jnp.finfo(jnp.float32).min  # finite, so that nothing is NaN
    return jnp.where(there, jax.nn.log_softmax(jnp.where(there, of_ways, least)), 0)


def _finite(logits: jax.Array) -> jax.Array:
    return ~jnp.isnan(logits).any(-1)


def _following(trie: Trie) -> dict[Path, list[int]]:
    """The words that may follow each beginning of an answer."""
    following: dict[Path, dict[int, None]] = {}
    for answer in trie.answers:
        for length, word in enumerate(answer):
            following.setdefault(answer[:length], {})[word] = None
    return {path: list(words) for path, words in following.items()}


def _asked(following: dict[Path, list[int]]) -> list[Path]:
    """The nodes below the root where ways part, and those on the way to them; each before what is below it."""
    partings = (path for path, words in following.items() if len(words) > 1)
    return sorted({path[:length] for path in partings for length in range(1, len(path) + 1)})


def _shares(paths: list[Path], walkers: int) -> list[list[Path]]:
    """Runs of the walk of about the same size, each with the way to its first node."""
    size = max(-(-len(paths) // walkers), 1)
    runs = (paths[start : start + size] for start in range(0, len(paths), size))
    return [[run[0][:length] for length in range(1, len(run[0]))] + run for run in runs]


def _parts(trie: Trie, following: dict[Path, list[int]], begins: dict[Path, int]) -> np.ndarray:
    parts = [
        [
            begins[answer[:length]] + following[answer[:length]].index(word)
            for length, word in enumerate(answer)
            if len(following[answer[:length]]) > 1
        ]
        for answer in trie.answers
    ]
    longest = max(map(len, parts))
    return np.array([part + [_NOTHING] * (longest - len(part)) for part in parts], np.int32)
