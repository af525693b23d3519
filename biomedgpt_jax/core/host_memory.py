"""What becomes of the host's memory that arrays have left."""

import ctypes
import sys

import jax

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1


def keep_freed_memory() -> None:
    """Lets malloc hand out again what was freed, where it would give each large array back to the kernel.

    XLA takes its working memory on a CPU anew for each call, and the kernel fills every page of it with zeros. For the
    rest of the process; without effect on accelerators, and where malloc is not glibc's.
    """
    host = jax.default_backend() == "cpu" and sys.platform == "linux"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if host else None
    if mallopt is None:
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    # Threads have heaps of 64 MiB, where nothing larger has room.
    mallopt(_M_ARENA_MAX, 1)
