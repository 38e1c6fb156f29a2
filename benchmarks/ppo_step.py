"""One PPO step measured: ours, ours without one of its savings (ppo_step_gains.py), the bare work (ppo_step_floor.py)
and TRL's PPOTrainer (ppo_step_trl.py); and how the cost of ours grows.

    python benchmarks/ppo_step.py             # all that docs/speed.md shows, which it writes
    python benchmarks/ppo_step.py --steps 2   # does it run?
    python benchmarks/ppo_step.py --report    # writes docs/speed.md from the results that are there
    python benchmarks/ppo_step.py --stdin     # our step alone, for one JSON line: ppo_step_protocol.py says which

Each contender is a process of its own, since memory is compared too, and all wait while one makes a step; so a busy
minute of the machine meets them all, and a ratio is that of two neighbouring steps. Left out: the trainer that this
course began from, whose code is not here; it can take part as a further entry of CONTENDERS.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path
from string import Template

import numpy as np
from ppo_step_protocol import EMBEDDED, LEARNING_RATE, Recorder, prompts_of, tokenizer_folder, vocabulary_of
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.config import load_config
from course_utils.exercises import load_exercises
from course_utils.export import export_all
from course_utils.plain_error import PlainError
from course_utils.policy import load_tokenizer
from course_utils.problems import Problem, Prompt, load_problems, make_prompts
from course_utils.trainer import Trainer

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS, GAINS, GROWTH = (HERE / f"results/{name}.jsonl" for name in ("ppo_step", "ppo_step_gains", "ppo_step_growth"))
TRL_VENV = ROOT / "build/trl-venv"
TRL = "trl==1.9.0"  # the last line of TRL that has PPO
CONTENDERS = {
    "ours": [sys.executable, HERE / "ppo_step.py", "--stdin"],
    "floor": [sys.executable, HERE / "ppo_step_floor.py"],
    "floor, logits of responses only": [sys.executable, HERE / "ppo_step_floor.py", "--response-logits"],
    "TRL 1.9.0": [TRL_VENV / "bin/python", HERE / "ppo_step_trl.py"],
    "TRL 1.9.0, free critic": [TRL_VENV / "bin/python", HERE / "ppo_step_trl.py", "--free-critic"],
}
SAVINGS = {  # what is taken away, by ppo_step_gains.py or in the environment: what we do instead
    "second_pass": "log-probabilities and values kept from sampling: no second pass of the actor",
    "ended_rows": "rows that have ended leave the batch",
    "padding": "rows of about one length together: padding is not computed",
    "all_logits": "logits where they are read only",
    "whole_softmax": "scoring without the log-softmax of the whole vocabulary",
    "no_grad": "sampling keeps nothing for a backward pass",
    "entropy_graph": "an entropy that is not rewarded is logged without a backward pass",
    "fused_adam": "AdamW in one pass over the weights",
    "huge_pages": "memory for large tensors in pages of 2 MB",
    "kept_memory": "128 MB of memory kept for the next tensors, in place of 64",
}
# The most that glibc keeps by its own rule.
GLIBC_AT_MOST = [f"MALLOC_MMAP_THRESHOLD_={32 << 20}", f"MALLOC_TRIM_THRESHOLD_={64 << 20}"]
PARTS = ("rollout", "reference", "update")
COMMON = {"prompt_len": 40, "minibatches": 2, "epochs": 2, "warmup": 1, "seed": 0}
SMALL = {"vocab_size": 640, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2}  # 0.5M
LARGE = {"vocab_size": 49152, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4}  # 11M
WORKLOADS = {  # name: (model, job)
    "fixed lengths, vocabulary 640": (SMALL, COMMON | {"n": 64, "resp_len": 64}),
    "fixed lengths, vocabulary 49,152": (LARGE, COMMON | {"n": 16, "resp_len": 48}),
    "real lengths, embedded default": (EMBEDDED, COMMON | {"n": 128, "resp_len": 64, "minibatches": 4}),
}
GROWN = {  # what grows: [(model, job), ...], over a factor of at least 16
    "rollouts": [(SMALL, {"n": n}) for n in (8, 16, 32, 64, 128)],
    "response length": [(SMALL, {"resp_len": length}) for length in (16, 32, 64, 128, 256)],
    "model size": [
        (SMALL | {"hidden_size": width, "intermediate_size": 4 * width}, {}) for width in (64, 128, 256, 512)
    ],
    "vocabulary": [(SMALL | {"vocab_size": size}, {}) for size in (1024, 4096, 16384, 49152)],
}


# ---------------------------------------------------------------- our step


def step_ours(recorder: Recorder) -> None:
    """The trainer's own ppo_step, with the course's solutions."""
    job = recorder.job
    with tempfile.TemporaryDirectory() as folder:
        solutions, problems = Path(folder) / "solutions", Path(folder) / "problems"
        export_all(ROOT, solutions)
        problems.mkdir()
        (problems / "train.jsonl").write_text(json.dumps({"question": "1", "answer": "#### 1"}))
        prompts = prompts_of(job, vocabulary_of(job))
        cfg = load_config(
            ROOT / "configs/config_debug.yaml",
            [
                f"model.name={job['model_dir']}",
                f"model.tokenizer_name={tokenizer_folder(job)}",
                f"dataset.name={problems}",
                "dataset.eval_split=train",
                "dataset.prompt_format='{question}'",
                f"dataset.max_prompt_length={max(map(len, prompts))}",
                f"generation.max_new_tokens={job['resp_len']}",
                f"generation.min_new_tokens={0 if 'prompts' in job else job['resp_len']}",
                f"ppo.rollout_samples={job['n']}",
                f"ppo.batch_size={job['n']}",
                f"ppo.mini_batch_size={-(-job['n'] // job['minibatches'])}",
                f"ppo.epochs={job['epochs']}",
                f"ppo.learning_rate={LEARNING_RATE}",
                "ppo.value_learning_rate=null",
                "ppo.min_lr=0",
                f"training.seed={job['seed']}",
                f"training.output_dir={folder}/run",
            ],
        )
        trainer = Trainer(cfg, load_exercises(solutions))
        trainer.prompts = [Prompt(Problem("", "#### 1"), ids) for ids in prompts]
        for _ in range(recorder.total):
            recorder.begin()
            metrics = trainer.ppo_step()
            seconds = metrics["time/step_seconds"]
            tokens = round(metrics["time/tokens_per_second"] * seconds)
            recorder.end(**{f"{name}_s": metrics[f"time/{name}_share"] * seconds for name in PARTS}, tokens=tokens)
    recorder.finish()


# ---------------------------------------------------------------- taking turns


class Process:
    """A contender at work on a job; it makes one step a turn."""

    def __init__(self, command: list, job: dict):
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        self.turn(json.dumps(job | {"paced": True}))

    def turn(self, line: str = ""):
        """What it says after the step: "ready" for the next one, or the results.

        Raises:
            RuntimeError: it has ended instead; with the end of what it wrote to its stderr.
        """
        with suppress(BrokenPipeError):  # it has ended: what it wrote to its stderr says why
            print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise RuntimeError(f"{self.process.args} has failed:\n{self.errors.read()[-3000:]}")
        return json.loads(answer)

    def end(self) -> None:
        try:
            self.process.communicate(timeout=60)  # closes its stdin, at which it ends
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.errors.close()


def measure(commands: dict[str, list], job: dict) -> dict[str, dict]:
    """The result of each contender on the job, by name; they make their steps in turns."""
    with ExitStack() as stack:
        processes = {}
        for name, command in commands.items():
            processes[name] = Process(command, job)
            stack.callback(processes[name].end)
        for _ in range(job["warmup"] + job["steps"]):
            results = {name: process.turn() for name, process in processes.items()}
    return results


@contextmanager
def model_folder(model: dict | Path) -> Iterator[Path]:
    """The folder of a model: its own, or a temporary one with a Llama of random weights."""
    if isinstance(model, Path):
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(
            LlamaConfig(
                **model,
                num_attention_heads=4,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                eos_token_id=1,
                pad_token_id=0,
            )
        ).save_pretrained(folder)
        yield Path(folder)


def embedded_prompts() -> list[list[int]]:
    cfg = load_config(ROOT / "configs/config_debug.yaml")
    prompts, _ = make_prompts(load_problems(cfg.dataset, "train"), load_tokenizer(cfg), cfg.dataset)
    return [prompt.input_ids for prompt in prompts]


def summary(result: dict, base: dict) -> dict:
    """Of one contender: [lower quartile, median, upper quartile] of the seconds and of its steps over the base's."""
    seconds = np.array(result["step_s"])
    shares = {name: float(np.median(np.array(result[f"{name}_s"]) / seconds)) for name in PARTS}
    return {
        "step_s": quartiles(seconds),
        "times": quartiles(seconds / np.array(base["step_s"])),
        "shares": {name: round(share, 3) for name, share in shares.items()},
        "tokens_per_s": round(float(np.median(np.array(result["tokens"]) / seconds))),
        "peak_rss_mb": round(result["peak_rss_mb"]),
        "loaded_rss_mb": round(result["loaded_rss_mb"]),
    }


def quartiles(numbers: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in np.quantile(numbers, (0.25, 0.5, 0.75))]


def machine(threads: int) -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "date": str(date.today()),
        "cpu": ", ".join(sorted(names)),
        "threads": threads,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def compare(contenders: dict[str, list], base: str, workloads: list[str], steps: int, threads: int) -> list[dict]:
    """A line for each workload and contender; `base` is the one by which the others are divided."""
    lines = []
    for workload in workloads:
        model, job = WORKLOADS[workload]
        with model_folder(model) as folder:
            job = job | {"steps": steps, "threads": threads, "model_dir": str(folder)}
            if model == EMBEDDED:
                job["prompts"] = embedded_prompts()
            results = measure(contenders, job)
        for name, result in results.items():
            lines.append(
                {
                    "workload": workload,
                    "contender": name,
                    "steps": steps,
                    **summary(result, results[base]),
                    **machine(threads),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
    return lines


def make_trl_venv() -> None:
    """TRL in an environment of its own, with the course's own torch and transformers; once."""
    if (TRL_VENV / "installed").exists():
        return
    same = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "accelerate", "numpy")]
    subprocess.run([sys.executable, "-m", "venv", TRL_VENV], check=True)
    subprocess.run([TRL_VENV / "bin/python", "-m", "pip", "install", "--quiet", TRL, *same], check=True)
    (TRL_VENV / "installed").touch()


# ---------------------------------------------------------------- how cost grows


def work(model: dict, job: dict) -> tuple[int, float]:
    """The model's parameters and, up to a factor, the multiplications of a step. A token meets every weight matrix,
    the head among them, and the tokens before it in each layer's attention."""
    width, layers = model["hidden_size"], model["num_hidden_layers"]
    weights = layers * (4 * width**2 + 3 * width * model["intermediate_size"]) + width * model["vocab_size"]
    length = job["prompt_len"] + job["resp_len"]
    return weights, job["n"] * length * (weights + layers * width * length)


def grow(steps: int, threads: int) -> list[dict]:
    """A line for each size of what grows."""
    lines = []
    for what, sizes in GROWN.items():
        for model, change in sizes:
            job = COMMON | {"n": 16, "resp_len": 64, "steps": steps, "threads": threads} | change
            with model_folder(model) as folder:
                result = measure({"ours": CONTENDERS["ours"]}, job | {"model_dir": str(folder)})["ours"]
            weights, amount = work(model, job)
            size = {
                "rollouts": job["n"],
                "response length": job["resp_len"],
                "model size": weights,
                "vocabulary": model["vocab_size"],
            }[what]
            lines.append(
                {
                    "grows": what,
                    "size": size,
                    "work": amount,
                    "steps": steps,
                    "step_s": quartiles(np.array(result["step_s"])),
                    "peak_rss_mb": round(result["peak_rss_mb"]),
                    **machine(threads),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
    return lines


def exponent(sizes: list[float], costs: list[float]) -> float:
    """The b of cost = a · size^b, by least squares in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


# ---------------------------------------------------------------- the report

PAGE = Template("""\
# How fast a PPO step is

`make bench` measures it and writes this page. A step is a rollout, a pass of the reference and 2 epochs of updates, in
float32. The floor is the bare work in transformers' own modules: one generation with a KV cache, one forward pass of a
reference, and forward, backward and AdamW for each mini-batch; no critic, no entropy, no reward. The second floor
computes logits only where the responses need them. TRL as shipped has a second language model as its critic; with a
free critic that model costs nothing. TRL's reward model costs nothing in both.

$machine.

Medians of $steps steps, in brackets the quartiles; the contenders make their steps in turns, and × floor is a step
over the floor's neighbouring step. Shares are those of rollout, reference (with advantages) and update; what is
missing to 100% are checks and bookkeeping. Tokens are those of responses, to their end. Memory is the peak of the
process, Python and libraries included; in brackets, what it held before the first step.

$tables
## What each saving is worth

Our step with one saving taken away, over our step: 1.10 means that without it a step takes 10% longer. Two more have
no row. The reference is left out where `ppo.kl_coeff` is 0, which saves its share above. A prefill could be shared by
several samples of one prompt; here all prompts of a rollout differ. With fixed lengths no row ends
early and nothing is padded, so those two rows show the noise of the machine; what is no further from 1 than they are
cannot be told from it.

$gains
## How cost grows

Our step, with 16 rollouts of 40 + 64 tokens and the model of vocabulary 640 where nothing else is said. The expected
exponent is that of the multiplications, counted for the same sizes; what does not grow, the calls of small operations
above all, lowers the measured one.

$growth""")


def compared_table(lines: list[dict]) -> str:
    rows = [
        "| | × floor | seconds a step | rollout / reference / update | tokens a second | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        low, middle, high = line["step_s"]
        shares = " / ".join(f"{share:.0%}" for share in line["shares"].values())
        ratio = "{1:.2f} ({0:.2f} – {2:.2f})".format(*line["times"])
        rows.append(
            f"| {line['contender']} | {ratio} | {middle:.2f} ({low:.2f} – {high:.2f}) | {shares} | "
            f"{line['tokens_per_s']:,} | {line['peak_rss_mb']:,} ({line['loaded_rss_mb']:,}) |"
        )
    return "\n".join(rows)


def gains_table(lines: list[dict]) -> str:
    workloads = list(dict.fromkeys(line["workload"] for line in lines))
    rows = [
        "| what we do | " + " | ".join(f"without it: {name} | MB" for name in workloads) + " |",
        "|---" * (1 + 2 * len(workloads)) + "|",
    ]
    for key, words in {"ours": "everything", **SAVINGS}.items():
        cells = [words]
        for workload in workloads:
            (line,) = (line for line in lines if (line["workload"], line["contender"]) == (workload, key))
            cells += ["{1:.2f} ({0:.2f} – {2:.2f})".format(*line["times"]), f"{line['peak_rss_mb']:,}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def growth_table(lines: list[dict]) -> str:
    rows = [
        "| what grows | from – to | seconds a step | fitted exponent | expected | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for what in dict.fromkeys(line["grows"] for line in lines):
        some = [line for line in lines if line["grows"] == what]
        sizes, seconds = [line["size"] for line in some], [line["step_s"][1] for line in some]
        memory = [line["peak_rss_mb"] for line in some]
        rows.append(
            f"| {what} | {sizes[0]:,} – {sizes[-1]:,} | {' · '.join(f'{x:.2f}' for x in seconds)} | "
            f"{exponent(sizes, seconds):.2f} | {exponent(sizes, [line['work'] for line in some]):.2f} | "
            f"{memory[0]:,} – {memory[-1]:,} |"
        )
    return "\n".join(rows) + "\n"


def report(lines: list[dict], gains: list[dict], growth: list[dict]) -> str:
    """docs/speed.md from the lines of the three results."""
    tables = "".join(
        f"## {workload}\n\n{compared_table([x for x in lines if x['workload'] == workload])}\n\n"
        for workload in dict.fromkeys(line["workload"] for line in lines)
    )
    of = lines[0]
    where = (
        f"{of['cpu']}, {of['threads']} threads, Python {of['python']}, torch {of['torch']}, "
        f"transformers {of['transformers']}, {of['date']}"
    )
    return PAGE.substitute(
        machine=where, steps=of["steps"], tables=tables, gains=gains_table(gains), growth=growth_table(growth)
    )


def write_lines(lines: list[dict], path: Path) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stdin", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.stdin:
        try:
            step_ours(Recorder())
        except PlainError as error:  # such as lengths beyond the model's context
            sys.exit(f"error: {error}")
        return
    if not args.report:
        make_trl_venv()
        without = {key: [sys.executable, HERE / "ppo_step_gains.py", key] for key in SAVINGS}
        without["huge_pages"] = ["env", "THP_MEM_ALLOC_ENABLE=0", *CONTENDERS["ours"]]
        without["kept_memory"] = ["env", *GLIBC_AT_MOST, *CONTENDERS["ours"]]
        size = args.steps, args.threads
        write_lines(compare(CONTENDERS, "floor", list(WORKLOADS), *size), RESULTS)
        write_lines(compare({"ours": CONTENDERS["ours"], **without}, "ours", list(WORKLOADS), *size), GAINS)
        write_lines(grow(*size), GROWTH)
    (ROOT / "docs/speed.md").write_text(report(*map(read_lines, (RESULTS, GAINS, GROWTH))))


if __name__ == "__main__":
    main()
