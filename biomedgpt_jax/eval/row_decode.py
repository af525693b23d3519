"""Generation where each row has settings of its own, some tokens at a time: for those who read along, or stop early.

Axis letters: b rows, t new tokens, v vocabulary. As in `decode.py` rows are right-padded prompts and shapes are static.
Settings are arrays, so that others than before compile nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.placing import spread
from biomedgpt_jax.core.types import ModelFns, Params
from biomedgpt_jax.eval.decode import Limits, Prompts, check_finite
from biomedgpt_jax.eval.largest import place_of_largest
from biomedgpt_jax.eval.trie_decode import TrieTable


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 takes the likeliest; `top_k` 0 and `top_p` 1 keep all words.

    `top_k` is applied first; then the fewest words whose probabilities reach `top_p` are kept.
    """

    temperature: float
    top_k: int
    top_p: float

    def __post_init__(self):
        if not (0 <= self.temperature < inf and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise UsageError(
                f"temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}: expected temperature and "
                "top_k 0 or more, top_p above 0 and at most 1"
            )


GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowSettings:
    """Of each row: how its words are drawn, and at most how many. A row of 0 words ends before it begins."""

    temperature: Any  # float32 [b]; 0 takes the likeliest word
    top_k: Any  # int32 [b]; 0 keeps all
    top_p: Any  # float32 [b]
    keys: Any  # random keys [b]
    most: Any  # int32 [b]
    drawn: bool = field(metadata={"static": True})  # False: every row takes the likeliest word, which is faster


def row_settings(samplings: Sequence[Sampling], seeds: Sequence[tuple[int, int]], most: Sequence[int]) -> RowSettings:
    """What a row draws depends on its own two seeds alone, and not on its neighbours."""
    pairs = (np.array(seeds, object) % 2**32).astype(np.uint32)
    return RowSettings(
        temperature=np.array([each.temperature for each in samplings], np.float32),
        top_k=np.array([each.top_k for each in samplings], np.int32),
        top_p=np.array([each.top_p for each in samplings], np.float32),
        keys=jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))(pairs[:, 0], pairs[:, 1]),
        most=np.array(most, np.int32),
        drawn=any(each.temperature > 0 for each in samplings),
    )


class RowDecoder:
    """Answers under way.

    Attributes:
        tokens: int32 [b t], 0 after the end. lengths: int32 [b], the stop token not counted.
        done: bool [b]; a row that is done with as many tokens as it may have met no stop token.
    """

    def __init__(
        self,
        model: ModelFns,
        params: Params,
        batch: Prompts,
        limits: Limits,
        settings: RowSettings,
        trie: TrieTable | None = None,
    ):
        """Reads the prompts and says the first token. `limits.max_new_tokens` is t, the most that any row may ask for.

        Raises:
            RunError: a logit is not a number.
        """
        self._model, self._params, self._limits = model, params, limits
        self._settings, self._trie = settings, trie
        logits, cache = _prefill(model, params, spread(batch), limits.cache_length)
        self._state, self._cache = _first(logits, limits, settings, trie), cache
        self._read()

    def go_on(self, tokens: int, stopped: np.ndarray) -> None:
        """So many tokens more for every row that is neither done nor in `stopped`, bool [b].

        Raises:
            RunError: a logit is not a number.
        """
        self._state, self._cache = _more(
            self._model,
            self._params,
            self._state,
            self._cache,
            stopped,
            min(self._said + tokens, self._limits.max_new_tokens),
            self._limits,
            self._settings,
            self._trie,
        )
        self._read()

    def _read(self) -> None:
        state = self._state
        said, self.tokens, self.lengths, self.done, finite = jax.device_get(
            (state.step, state.tokens, state.lengths, state.done, state.finite)
        )
        self._said = int(said)
        check_finite(finite)


class _State(NamedTuple):
    step: jax.Array  # int32 [], tokens said by the rows that still run
    token: jax.Array  # int32 [b], the last one
    nodes: Any  # int32 [b], of the trie; None without one
    tokens: jax.Array
    lengths: jax.Array
    done: jax.Array
    finite: jax.Array


@partial(jax.jit, static_argnums=(0, 3))
def _prefill(model: ModelFns, params: Params, batch: Any, cache_length: int):
    return model.prefill(params, batch, cache_length)


@partial(jax.jit, static_argnums=1)
def _first(logits: jax.Array, limits: Limits, settings: RowSettings, trie: TrieTable | None) -> _State:
    b = logits.shape[0]
    nothing = _State(
        step=jnp.zeros((), jnp.int32),
        token=jnp.zeros(b, jnp.int32),
        nodes=None if trie is None else trie.start(b),
        tokens=jnp.zeros((b, limits.max_new_tokens), jnp.int32),
        lengths=jnp.zeros(b, jnp.int32),
        done=settings.most <= 0,
        finite=jnp.ones(b, bool),
    )
    return _follow(nothing, logits, limits, settings, trie)


@partial(jax.jit, static_argnums=(0, 6), donate_argnums=3)
def _more(
    model: ModelFns,
    params: Params,
    state: _State,
    cache: Any,
    stopped: jax.Array,
    until: jax.Array,
    limits: Limits,
    settings: RowSettings,
    trie: TrieTable | None,
):
    decode = model.decode(params)

    def body(carry):
        state, cache = carry
        logits, cache = decode(state.token, cache)
        return _follow(state, logits, limits, settings, trie), cache

    def running(carry):
        return (carry[0].step < until) & ~carry[0].done.all()

    return jax.lax.while_loop(running, body, (state._replace(done=state.done | stopped), cache))


def _follow(state: _State, logits: jax.Array, limits: Limits, settings: RowSettings, trie: TrieTable | None) -> _State:
    """One token more per row, written down where the row still runs."""
    finite = state.finite & (~jnp.isnan(logits).any(-1) | state.done)
    nodes = state.nodes
    if trie is not None:
        logits = jnp.where(trie.allowed(nodes, logits.shape[-1]), logits, -jnp.inf)
    token = draw(logits, limits, settings, state.step)
    if trie is not None:
        nodes = trie.follow(nodes, token)
    done = state.done | jnp.isin(token, jnp.array(limits.stop_ids, jnp.int32))
    tokens = state.tokens.at[:, state.step].set(jnp.where(done, 0, token))
    lengths = state.lengths + ~done
    return _State(state.step + 1, token, nodes, tokens, lengths, done | (lengths >= settings.most), finite)


def draw(logits: jax.Array, limits: Limits, settings: RowSettings, step: jax.Array) -> jax.Array:
    """The next token int32 [b] for float32 logits [b v], as each row's settings say."""
    logits = limits.bar(limits.exist(logits))
    likeliest = place_of_largest(logits)
    if not settings.drawn:
        return likeliest
    v = logits.shape[-1]
    warm = logits / jnp.where(settings.temperature > 0, settings.temperature, 1)[:, None]
    ranked = -jnp.sort(-warm, -1)  # likeliest first
    kept = jnp.where(settings.top_k > 0, jnp.minimum(settings.top_k, v), v)[:, None]
    warm = jnp.where(warm >= jnp.take_along_axis(ranked, kept - 1, -1), warm, -jnp.inf)
    ranked = jnp.where(jnp.arange(v) < kept, ranked, -jnp.inf)
    probability = jax.nn.softmax(ranked, -1)
    before = jnp.cumsum(probability, -1) - probability  # mass of the likelier words
    top_p = settings.top_p[:, None]
    least = jnp.min(jnp.where((before < top_p) | (top_p >= 1), ranked, jnp.inf), -1, keepdims=True)
    warm = jnp.where(warm >= least, warm, -jnp.inf)
    keys = jax.vmap(jax.random.fold_in, (0, None))(settings.keys, step)
    drawn = jax.vmap(jax.random.categorical)(keys, warm).astype(jnp.int32)
    return jnp.where(settings.temperature > 0, drawn, likeliest)
