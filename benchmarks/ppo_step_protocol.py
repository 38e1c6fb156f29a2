"""How a contender of ppo_step.py is driven: one JSON line in, one JSON line out. Needs torch alone.

In:  n, prompt_len, resp_len, minibatches, epochs, steps, warmup, threads, seed, model_dir (a Hugging Face folder).
     Prompts are random tokens of one length, and no response ends early. With `prompts`, lists of token ids, those are
     cycled through instead, and a response ends at EOS or after resp_len tokens. With `paced` a step begins when a
     further line comes in, so that several contenders can take turns.
Out: step_s, rollout_s, reference_s, update_s, tokens (of responses), each a list over the counted steps; peak_rss_mb of
     the process and loaded_rss_mb, which it had before the first step.
"""

import json
import os
import random
import resource
import sys
import time
from pathlib import Path

import torch

EMBEDDED = Path(__file__).parent.parent / "course_utils/embedded/model"
LEARNING_RATE = 1e-6  # so small that the lengths of responses stay what they are
LEAST = {  # the keys that hold a whole number, and the smallest one that each may hold
    **dict.fromkeys(("n", "prompt_len", "resp_len", "minibatches", "epochs", "steps", "threads"), 1),
    **dict.fromkeys(("warmup", "seed"), 0),
}
RESERVED = 2  # the ids of padding and of the end in the embedded tokenizer: no random prompt holds them


class Recorder:
    """Times the steps of one job. begin() and end() enclose each step; finish() prints the result."""

    def __init__(self):
        # What the libraries print must not come between the lines of the protocol.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        try:
            self.job = read_job(sys.stdin.readline())
        except ValueError as error:
            sys.exit(f"error: {error}")
        self._steps, self._loaded = [], None
        torch.set_num_threads(self.job["threads"])
        torch.manual_seed(self.job["seed"])

    @property
    def total(self) -> int:
        return self.job["warmup"] + self.job["steps"]

    def begin(self) -> None:
        """Waits for its turn where steps are paced, and starts the clock."""
        if self._loaded is None:
            self._loaded = _peak_mb()
        if self.job.get("paced"):
            self._say("ready")
            if not sys.stdin.readline():
                sys.exit("whoever gives the turns has gone")
        self._start = time.perf_counter()

    def end(self, **parts: float) -> None:
        """Of the step just done: rollout_s, reference_s, update_s and tokens."""
        self._steps.append({"step_s": time.perf_counter() - self._start, **parts})

    def finish(self) -> None:
        counted = self._steps[self.job["warmup"] :]
        self._say(
            {
                **{name: [step[name] for step in counted] for name in counted[0]},
                "peak_rss_mb": _peak_mb(),
                "loaded_rss_mb": self._loaded,
            }
        )
        if self.job.get("paced"):
            sys.stdin.readline()  # ending is work too, and others may still be making their last step

    def _say(self, line) -> None:
        print(json.dumps(line), file=self._out, flush=True)


def read_job(line: str) -> dict:
    """The job that a line describes. ValueError, naming the key: it is not one, or nobody could do it."""
    try:
        job = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{line.strip()!r:.60} is not one line of JSON: {error}") from error
    if not isinstance(job, dict):
        raise ValueError(f"{job!r:.60} is not a JSON object with the keys {', '.join(LEAST)} and model_dir")
    if missing := [key for key in (*LEAST, "model_dir") if key not in job]:
        raise ValueError(f"the key {missing[0]} is missing")
    for key, least in LEAST.items():
        if type(job[key]) is not int or job[key] < least:
            raise ValueError(f"{key}={job[key]!r} must be a whole number, at least {least}")
    vocabulary_of(job)
    return job


def vocabulary_of(job: dict) -> int:
    """How many tokens its model knows. ValueError: the folder has no config.json that says so."""
    try:
        return int(json.loads((Path(job["model_dir"]) / "config.json").read_text())["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"model_dir={job['model_dir']!r} must be the folder of a Hugging Face model, with config.json: {error!r}"
        ) from error


def prompts_of(job: dict, vocabulary: int) -> list[list[int]]:
    """The prompts of all steps, n a step."""
    count = job["n"] * (job["warmup"] + job["steps"])
    if "prompts" in job:
        return [job["prompts"][i % len(job["prompts"])] for i in range(count)]
    dice = random.Random(job["seed"])
    return [dice.choices(range(RESERVED, vocabulary), k=job["prompt_len"]) for _ in range(count)]


def tokenizer_folder(job: dict) -> Path:
    """The model's own tokenizer or, where the folder holds none, the embedded model's: it has only to name the end."""
    folder = Path(job["model_dir"])
    return folder if (folder / "tokenizer_config.json").is_file() else EMBEDDED


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
