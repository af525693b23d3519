"""What all processes say, by the coordination service alone: it works where devices or versions do not."""

import jax
from jax._src import distributed  # the coordination service's client, which JAX does not export

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.processes import who_is_missing

_SECONDS = 120.0


def gather(name: str, text: str, seconds: float = _SECONDS) -> list[str]:
    """The `text` of every process, in their order; `name` must be new. Waits for all.

    Raises:
        RunError: some did not come in time; names them.
    """
    state = distributed.global_state
    client = state.client
    if client is None:
        return [text]
    keys = [f"biomedgpt/{name}/{number}" for number in range(state.num_processes or 1)]
    try:
        client.key_value_set(keys[state.process_id], text)
        client.wait_at_barrier(name, int(1000 * seconds))
        return [client.blocking_key_value_get(key, int(1000 * seconds)) for key in keys]
    except jax.errors.JaxRuntimeError as error:
        raise who_is_missing(error) or RunError(f"{name}: {error}") from error
