"""All that a learner may import: the trainer, its parts, and check(). No solution is in here."""

import ctypes
import os
import sys
from contextlib import suppress

# How long a thread of torch's spins before it sleeps. By default so long that a step takes four times as long as soon
# as anything else wants a core; not at all, and a step on idle cores takes nearly twice as long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Memory for a large tensor comes from the kernel in pages of 2 MB in place of 4 KB, where Linux lets a process ask for
# it. With a large vocabulary each mini-batch's logits are new memory; docs/speed.md has what it gains.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# Tensors of up to 32 MB take the memory that others have left, of which glibc keeps 128 MB. By its own rule it keeps
# less, and the same memory goes back to the kernel and comes anew many times in a step.
if sys.platform == "linux" and not {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"} & os.environ.keys():
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    with suppress(AttributeError):  # a C library that is not glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 32 << 20)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 128 << 20)
