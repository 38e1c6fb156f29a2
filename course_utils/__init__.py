"""All that a learner may import: the trainer, its parts, and check(). No solution is in here."""
import os

# Threads that wait by spinning make a step many times slower as soon as anything else wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
