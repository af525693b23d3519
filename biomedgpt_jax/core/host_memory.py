"""What becomes of the host's memory that arrays have left."""

import ctypes
import sys
from glob import glob

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = -1

_ACCELERATORS = "/dev/accel*", "/dev/vfio/*", "/dev/nvidia*", "/dev/kfd"


def keep_freed_memory() -> None:
    """Lets malloc hand out again what was freed, where it would give each large array back to the kernel.

    XLA takes its working memory on a CPU anew for each call, and the kernel fills every page of it with zeros. For the
    rest of the process; without effect on machines with accelerators, and where malloc is not glibc's.

    Call it before anything asks JAX for its devices. Threads have heaps of 64 MiB, where nothing larger has room; they
    must find the process's own when they start.
    """
    host = sys.platform == "linux" and not any(map(glob, _ACCELERATORS))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if host else None
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
