"""Records what the gallery of mistakes shows: course_utils/break_it/recorded.json.

    python benchmarks/record_break_it.py                    # what is missing, or was made otherwise
    python benchmarks/record_break_it.py --keys gae --seeds 1

The right functions are the notebooks' solutions. A run takes about 20 seconds of one core; the file is written after
each, so the recording can be stopped and goes on where it was.
"""

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from course_utils.break_it.mistakes import MISTAKES, metrics_of
from course_utils.break_it.pictures import RECORDED, RIGHT
from course_utils.break_it.short_run import fingerprint, short_run
from course_utils.exercises import EXERCISES, load_exercises
from course_utils.export import export_all
from course_utils.trainer import TrainingError
from course_utils.whole_file import write_whole

ROOT = Path(__file__).parent.parent


def record(key: str, name: str, seed: int, solutions: str) -> dict[str, list[float]]:
    """The curves of one run; they end early where the run had to stop."""
    import torch

    torch.set_num_threads(1)
    function = getattr(load_exercises(solutions), EXERCISES[key].function)
    if name != RIGHT:
        function = MISTAKES[key][name].wrong(function)
    curves = {metric: [] for metric in metrics_of(key)}
    try:
        for line in short_run(key, function, f"training.seed={seed}"):
            for metric, curve in curves.items():
                curve.append(float(f"{line[metric]:.4g}"))
    except TrainingError as stopped:
        print(f"{key}: {name}, seed {seed}: {str(stopped).splitlines()[0][:100]}", flush=True)
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", nargs="+", choices=MISTAKES, default=list(MISTAKES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    data = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {"settings": {}, "runs": {}}
    for key in args.keys:
        if data["settings"].get(key) != fingerprint(key):
            data["settings"][key], data["runs"][key] = fingerprint(key), {}
        data["runs"][key] = {name: data["runs"][key].get(name, {}) for name in (RIGHT, *MISTAKES[key])}
    missing = [
        (key, name, seed)
        for seed in args.seeds
        for key in args.keys
        for name in data["runs"][key]
        if str(seed) not in data["runs"][key][name]
    ]
    with (
        tempfile.TemporaryDirectory() as solutions,
        ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool,
    ):
        export_all(ROOT, solutions)
        jobs = {pool.submit(record, *run, solutions): run for run in missing}
        for count, job in enumerate(as_completed(jobs), start=1):
            key, name, seed = jobs[job]
            data["runs"][key][name][str(seed)] = job.result()
            write_whole(json.dumps(data, ensure_ascii=False) + "\n", RECORDED)
            print(f"{count} of {len(jobs)}: {key}: {name}, seed {seed}", flush=True)


if __name__ == "__main__":
    main()
