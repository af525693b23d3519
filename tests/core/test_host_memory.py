import subprocess
import sys

import pytest

# Page faults of a large array, after another one has come and gone.
PROGRAM = """
import resource, sys
import numpy as np
from biomedgpt_jax.core.host_memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(50_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is not glibc's")
def test_the_next_array_takes_the_memory_of_the_last_one():
    def faults(how):
        return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True).stdout)

    assert faults("kept") < 100
    # Without it each of the 400 MB comes from the kernel, in pages of at most 2 MiB.
    assert faults("given back") > 190
