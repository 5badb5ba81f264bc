"""Memory that PyTorch frees stays with the process.

glibc hands large blocks back to the system as soon as they are free, and every new tensor of some megabytes is then
made of pages that the system has to find and to clear first. On two cores that was a third of the time of a training
step and of a forward pass; the peak of memory is the same without it (docs/performance.md).
"""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_KEPT_BYTES = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Let this process use freed memory again rather than return it, up to 2 GB of it.

    For programs, not for libraries: it is called where segfed is the program. Returns False where the C library is
    another one than glibc, which changes nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
