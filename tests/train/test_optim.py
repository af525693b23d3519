import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths, map_with_path
from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shardings
from biomedgpt_jax.train.optim import (
    Decay,
    OptimConfig,
    assign_groups,
    like_optimizer_state,
    make_optimizer,
    warmup,
)

AXES = {
    "connector": {"kernel": ("features", "embed"), "bias": ("embed",)},
    "decoder": {
        "layers": {
            "q": {
                "kernel": ("layers", "embed", "heads", "head_dim"),
                "bias": ("layers", "heads", "head_dim"),
            },
            "norm": {"scale": ("layers", "norm")},
        }
    },
}
SHAPES = {
    "connector/kernel": (4, 8),
    "connector/bias": (8,),
    "decoder/layers/q/kernel": (2, 8, 2, 4),
    "decoder/layers/q/bias": (2, 2, 4),
    "decoder/layers/norm/scale": (2, 8),
}
DECAYED = {"connector/kernel", "decoder/layers/q/kernel"}


def _config(**changes):
    base = {
        "learning_rate": 3e-2,
        "group_rates": {"connector": 1e-1},
        "total_steps": 20,
        "warmup_ratio": 0.12,
        "rate_decay": Decay.COSINE,
        "b1": 0.9,
        "b2": 0.95,
        "eps": 1e-6,
        "weight_decay": 0.3,
        "decay_vectors": False,
        "clip_norm": 1.0,
    }
    return OptimConfig(**(base | changes))


def _random(seed):
    rng = np.random.default_rng(seed)
    return map_with_path(lambda path, _: rng.normal(size=SHAPES[path]).astype(np.float32), AXES)


@pytest.mark.parametrize(("rate_decay", "decay_vectors"), [(Decay.COSINE, False), (Decay.LINEAR, True)])
def test_twenty_steps_equal_torch_adamw_with_clipping_and_schedule(rate_decay, decay_vectors):
    torch = pytest.importorskip("torch")
    import transformers

    config = _config(rate_decay=rate_decay, decay_vectors=decay_vectors)
    start, gradients = _random(0), [_random(1 + step) for step in range(config.total_steps)]
    theirs = {path: torch.nn.Parameter(torch.tensor(leaf)) for path, leaf in leaf_paths(start).items()}
    adamw = torch.optim.AdamW(
        [
            {
                "params": [parameter],
                "lr": 1e-1 if path.startswith("connector") else 3e-2,
                "weight_decay": 0.3 if decay_vectors or path in DECAYED else 0.0,
            }
            for path, parameter in theirs.items()
        ],
        betas=(config.b1, config.b2),
        eps=config.eps,
    )
    schedule = getattr(transformers, f"get_{rate_decay.value}_schedule_with_warmup")
    scheduler = schedule(adamw, num_warmup_steps=3, num_training_steps=20)

    optimizer = make_optimizer(config, AXES)
    ours = jax.tree.map(jnp.asarray, start)
    opt_state = optimizer.transform.init(ours)
    for step, gradient in enumerate(gradients):
        # Small gradients on some steps, so that clipping is both on and off.
        gradient = jax.tree.map(lambda g, s=step: g * (0.01 if s % 3 == 0 else 1.0), gradient)
        for path, leaf in leaf_paths(gradient).items():
            theirs[path].grad = torch.tensor(leaf)
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), config.clip_norm)
        rates = optimizer.learning_rates(jnp.int32(step))
        np.testing.assert_allclose(rates["connector"], adamw.param_groups[0]["lr"], rtol=1e-5, atol=1e-9)
        adamw.step()
        scheduler.step()
        updates, opt_state = optimizer.transform.update(gradient, opt_state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        for path, leaf in leaf_paths(ours).items():
            np.testing.assert_allclose(leaf, theirs[path].detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=path)


def test_schedule_starts_at_zero_peaks_after_warmup_and_ends_at_zero():
    factor = warmup(Decay.COSINE, 100, 0.03)
    np.testing.assert_allclose([factor(step) for step in (0, 1, 3, 100)], [0, 1 / 3, 1, 0], atol=1e-7)
    assert warmup(Decay.COSINE, 10, 0.0)(0) == 1


def test_every_parameter_is_in_one_group():
    groups = assign_groups(["connector"], SHAPES)
    assert {path for path, group in groups.items() if group == "connector"} == {
        "connector/kernel",
        "connector/bias",
    }
    with pytest.raises(UsageError, match=r"\['tower'\] match no trainable parameter.*connector.*decoder"):
        assign_groups(["tower"], SHAPES)
    with pytest.raises(UsageError, match="all match connector/kernel"):
        assign_groups(["connector", "connector/kernel"], SHAPES)
    with pytest.raises(UsageError, match="no trainable parameter"):
        assign_groups(["conn"], SHAPES)


def test_default_group_disappears_when_nothing_is_left_for_it():
    optimizer = make_optimizer(_config(group_rates={"connector": 1e-1, "decoder": 1e-2}), AXES)
    assert optimizer.peaks == {"connector": 1e-1, "decoder": 1e-2}


def test_moments_lie_where_their_parameters_lie():
    mesh = make_mesh(MeshShape(data=1, fsdp=4, tensor=2, context=1))
    of_params = shardings(mesh, AXES)
    replicated = jax.sharding.NamedSharding(mesh, PartitionSpec())
    optimizer = make_optimizer(_config(), AXES)
    abstract = jax.eval_shape(optimizer.transform.init, _random(0))
    placed = like_optimizer_state(optimizer, abstract, of_params, replicated)
    moments = [leaf.spec for leaf in jax.tree.leaves(placed)]
    kernel = of_params["decoder"]["layers"]["q"]["kernel"].spec
    assert kernel == PartitionSpec(None, ("fsdp", "context"), "tensor", None)
    assert moments.count(kernel) == 2  # first and second moment
    assert len(moments) == 2 * len(SHAPES) + 2 and moments.count(PartitionSpec()) >= 2
