"""All that a learner may import: the trainer, its parts, and check(). No solution is in here."""

import os

# How long a thread of torch's spins before it sleeps. By default so long that a step takes four times as long as soon
# as anything else wants a core; not at all, and a step on idle cores takes nearly twice as long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Memory for a large tensor comes from the kernel in pages of 2 MB in place of 4 KB, where Linux lets a process ask for
# it. With a large vocabulary each mini-batch's logits are new memory; docs/speed.md has what it gains.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
