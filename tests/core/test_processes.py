"""What is said of other processes, where there are none."""

import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.processes import join, who_is_missing


def test_alone_a_broken_connection_is_not_another_process():
    assert who_is_missing(OSError("Connection reset by peer")) is None


@pytest.mark.parametrize(("processes", "process"), [(None, None), (2, None), (2, 2), (2, -1)])
def test_a_place_among_the_processes_must_be_said(processes, process):
    with pytest.raises(UsageError, match="needs --processes=N and --process=0 to N - 1"):
        join("localhost:8476", processes, process)
