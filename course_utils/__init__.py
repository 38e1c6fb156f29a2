"""All that a learner may import: the trainer, its parts, and check(). No solution is in here."""

import os

# How long a thread of torch's spins before it sleeps. By default so long that a step takes four times as long as soon
# as anything else wants a core; not at all, and a step on idle cores takes nearly twice as long.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
