"""Objectives against the formulas of fairseq's and OFA's criteria, written out in torch on whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.train.objectives import all_words, allowed_words, lowest_losses, per_token, smoothing_over_others

torch = pytest.importorskip("torch")

ROWS, LENGTH, WIDTH, WORDS, COLUMNS = 4, 6, 8, 19, 24  # the head has columns of which no word is
SMOOTHING = 0.1
STEP = jnp.int32(7)


def _inputs():
    rng = np.random.default_rng(0)
    head, hidden = (jnp.float32(rng.normal(size=shape)) for shape in ((WIDTH, COLUMNS), (ROWS, LENGTH, WIDTH)))
    batch = {
        "targets": rng.integers(0, WORDS, (ROWS, LENGTH)).astype(np.int32),
        "loss_weights": (rng.random((ROWS, LENGTH)) < 0.7).astype(np.float32),
    }
    return head, hidden, batch


def _token_losses(logits, targets, allowed):
    """OFA's label-smoothed cross-entropy of each token, where `allowed` words alone have a probability."""
    log_probabilities = torch.log_softmax(logits.masked_fill(~allowed, -torch.inf), dim=-1)
    nll = -log_probabilities.gather(-1, targets[..., None])[..., 0]
    smooth = -log_probabilities.masked_fill(~allowed, 0).sum(-1)
    each = SMOOTHING / (allowed.sum(-1) - 1 + 1e-6)
    return (1 - SMOOTHING - each) * nll + each * smooth


def _compare(objective, batch, head, hidden, theirs, parts=1):
    """`theirs` maps torch logits to a mean loss; ours, of all parts together, has that value and those gradients."""

    def loss(head, hidden):
        total = 0.0
        for number in range(parts):
            mine = {name: array[number::parts] for name, array in batch.items()}
            total += (sums := objective(head, hidden[number::parts], mine, STEP)).loss
            weights.append(sums.weight)
        return total / sum(weights[-parts:])

    batch, weights = jax.tree.map(jnp.asarray, batch), []
    value, gradients = jax.value_and_grad(loss, (0, 1))(head, hidden)
    tensors = [torch.tensor(np.asarray(array), requires_grad=True) for array in (head, hidden)]
    expected = theirs(torch.einsum("bsd,dv->bsv", tensors[1], tensors[0]))
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=2e-6)
    for mine, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(mine, tensor.grad, rtol=1e-5, atol=1e-6)


def _sums(objective, head, hidden, batch):
    batch = jax.tree.map(jnp.asarray, batch)
    return objective(head, hidden, batch, STEP)


def _whole(targets):
    return torch.as_tensor(np.arange(COLUMNS) < WORDS).expand(*targets.shape, COLUMNS)


def _options():
    return {"chunk_size": 4, "label_smoothing": smoothing_over_others(SMOOTHING, WORDS), "vocab_size": WORDS}


def test_smoothing_over_the_words_that_exist_equals_fairseq():
    head, hidden, batch = _inputs()
    targets, counted = torch.tensor(batch["targets"]).long(), torch.tensor(batch["loss_weights"]) > 0
    objective = all_words(**_options(), z_loss=0.0)
    _compare(objective, batch, head, hidden, lambda x: _token_losses(x, targets, _whole(targets))[counted].mean())


def test_the_highest_losses_are_left_out_after_some_updates():
    head, hidden, batch = _inputs()
    targets, counted = torch.tensor(batch["targets"]).long(), torch.tensor(batch["loss_weights"]) > 0

    def theirs(logits):
        losses = _token_losses(logits, targets, _whole(targets))[counted]
        return losses.topk(int(len(losses) * (1 - 0.2)), largest=False).values.mean()

    _compare(lowest_losses(0.2, 7, **_options()), batch, head, hidden, theirs)
    early = _sums(lowest_losses(0.2, 8, **_options()), head, hidden, batch)
    assert early.weight == int(counted.sum())


def test_weights_can_make_a_sum_of_means_whatever_the_parts():
    head, hidden, batch = _inputs()
    second = np.array([False, True, True, False])
    counts = batch["loss_weights"].sum(axis=1)
    tokens = {half: counts[second == half].sum() for half in (False, True)}
    factors = {
        half: (2 if half else 1) * counts.sum() / tokens[half] for half in tokens
    }  # the second half counts twice
    batch["loss_weights"] *= np.array([factors[half] for half in second], np.float32)[:, None]
    targets, counted = torch.tensor(batch["targets"]).long(), torch.tensor(batch["loss_weights"]) > 0

    def theirs(logits):
        losses = torch.nn.functional.cross_entropy(logits[..., :WORDS].mT, targets, reduction="none") * counted
        rows = torch.tensor(second)
        return losses[~rows].sum() / tokens[False] + 2 * losses[rows].sum() / tokens[True]

    objective = per_token(all_words(chunk_size=4, label_smoothing=0.0, z_loss=0.0, vocab_size=WORDS))
    for parts in (1, 2):
        _compare(objective, batch, head, hidden, theirs, parts)
    sums = _sums(objective, head, hidden, batch)
    hits = (np.einsum("bsd,dv->bsv", hidden, head)[..., :WORDS].argmax(-1) == batch["targets"]) * batch["loss_weights"]
    np.testing.assert_allclose(sums.correct / sums.weight, hits.sum() / batch["loss_weights"].sum(), rtol=1e-6)


def _answers():
    """A trie with the root, a node of two words, and one after which a single word may follow."""
    words = np.array([2, 5, 9, 11, 17], np.int32)
    following = np.array([[-1, 1, 2, 3, 4], [-1, -1, 5, -1, 6], [7, -1, -1, -1, -1]], np.int32)
    return words, following


def test_softmax_and_smoothing_see_the_allowed_words_alone():
    head, hidden, batch = _inputs()
    words, following = _answers()
    nodes = np.random.default_rng(1).integers(0, 3, (ROWS, LENGTH)).astype(np.int32)
    first_allowed = np.argmax(following >= 0, axis=1)
    batch |= {"answer_nodes": nodes, "targets": words[first_allowed[nodes]]}
    targets, counted = torch.tensor(batch["targets"]).long(), torch.tensor(batch["loss_weights"]) > 0
    allowed = np.zeros((ROWS, LENGTH, COLUMNS), bool)
    allowed[..., words] = (following >= 0)[nodes]
    objective = allowed_words(words, following, label_smoothing=SMOOTHING)
    _compare(objective, batch, head, hidden, lambda x: _token_losses(x, targets, torch.tensor(allowed))[counted].mean())

    logits = np.where(allowed, np.einsum("bsd,dv->bsv", hidden, head), -np.inf)
    hits = (logits.argmax(-1) == batch["targets"]) * batch["loss_weights"]
    sums = _sums(objective, head, hidden, batch)
    assert sums.correct == hits.sum()


def test_a_target_that_no_answer_has_is_no_loss_of_zero():
    head, hidden, batch = _inputs()
    words, following = _answers()
    batch |= {"answer_nodes": np.full((ROWS, LENGTH), 1, np.int32), "targets": np.full((ROWS, LENGTH), 5, np.int32)}
    objective = allowed_words(words, following, label_smoothing=0.0)
    sums = _sums(objective, head, hidden, batch)
    assert np.isposinf(sums.loss)
    batch["loss_weights"] *= 0
    assert _sums(objective, head, hidden, batch).loss == 0
