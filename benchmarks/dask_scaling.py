"""How does grading scale with students and with Dask workers? One JSON line a run.

    python benchmarks/dask_scaling.py                                   # 10, 20 and 40 students on 1 and 2 workers
    python benchmarks/dask_scaling.py --students 2 --workers 1          # does it run?

Each run grades its class of benchmarks/class_grading.py from nothing, on a cluster of this machine: a scheduler and
workers of one thread each, which are processes of their own, as on other machines. More workers than cores would show
nothing. Cost a notebook is worker-seconds; that it does not depend on the number of students is what extrapolation
to larger classes rests on.
"""

import argparse
import json
import os
import tempfile
from datetime import date
from pathlib import Path

from class_grading import lay_out, seconds
from distributed import LocalCluster

from autograder.grade import cores

RESULTS = Path(__file__).parent / "results/dask_scaling.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", type=int, default=[10, 20, 40])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for students in args.students:
        for workers in args.workers:  # one after the other for each class, so that a busy minute meets both
            with (
                tempfile.TemporaryDirectory() as folder,
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
                ) as cluster,
            ):
                course = Path(folder) / "course"
                lay_out(course, students)
                taken = seconds(course, "-m", "autograder", "grade", "--scheduler", cluster.scheduler_address)
            line = {
                "date": str(date.today()),
                "cores": cores(),
                "students": students,
                "notebooks": 5 * students,
                "workers": workers,
                "seconds": round(taken, 1),
                "worker_seconds_a_notebook": round(workers * taken / (5 * students), 2),
            }
            print(json.dumps(line), flush=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
