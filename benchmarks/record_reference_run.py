"""Records the run that notebook 6 lays the learner's beside: course_utils/reference_run.jsonl.

    OMP_NUM_THREADS=2 python benchmarks/record_reference_run.py     # three minutes

The functions are the notebooks' solutions, the rewards of other seeds those of benchmarks/embedded_runs.py.
"""

import json
import tempfile
from pathlib import Path

from course_utils.config import load_config
from course_utils.embedded import weights_sha256
from course_utils.exercises import load_exercises
from course_utils.export import export_all
from course_utils.reference_run import RECORD, compared_settings
from course_utils.trainer import Trainer
from course_utils.whole_file import write_whole

ROOT = Path(__file__).parent.parent


def main() -> None:
    runs = map(json.loads, (ROOT / "benchmarks/results/embedded_runs.jsonl").read_text().splitlines())
    others = [run["rewards"] for run in runs if run["variant"] == "default"]
    with tempfile.TemporaryDirectory() as folder:
        export_all(ROOT, folder)
        cfg = load_config(ROOT / "configs/config_debug.yaml", [f"training.output_dir={folder}/run"])
        history = list(Trainer(cfg, load_exercises(folder)).train())
    first = {"settings": compared_settings(cfg), "weights": weights_sha256(), "seed_rewards": others}
    lines = [
        first,
        *({name: round(value, 5) for name, value in line.items() if not name.startswith("time/")} for line in history),
    ]
    write_whole("".join(json.dumps(line) + "\n" for line in lines), RECORD)
    print(f"written: {RECORD}")


if __name__ == "__main__":
    main()
