"""A run's config for another engine: where a model outgrows this trainer, verl or OpenRLHF trains it with the same PPO.

    python -m course_utils.engines verl --config configs/config.yaml
    python -m course_utils.engines openrlhf --config configs/config.yaml ppo.learning_rate=5e-7

writes build/verl or build/openrlhf: train.sh, the problems as train.jsonl and test.jsonl, and reward.py around this
course's reward; and prints train.sh, which names what the engine has no counterpart for. docs/engines.md says more.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from shlex import quote

from course_utils.config import Config, ConfigError, RewardConfig, load_config
from course_utils.engine_settings import Answers, Options, Shell, openrlhf, verl
from course_utils.plain_error import PlainError
from course_utils.problems import Problem, load_problems

REWARD = '''"""The course's reward, as verl (compute_score) and OpenRLHF (reward_func) ask for it."""
import torch

from course_utils.config import RewardConfig
from course_utils.reward import score

REWARD = {reward}


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    result = score(solution_str, ground_truth, REWARD)
    return {{"score": result.reward, "acc": float(result.correct), "well_formed": float(result.well_formed)}}


def reward_func(queries, prompts, labels, **_):
    """`queries` are prompts and responses as one text each."""
    for query, prompt in zip(queries, prompts):
        if not query.startswith(prompt):  # its #### would be taken for the answer's
            raise ValueError(f"cannot tell prompt and response apart in {{query!r}}")
    results = [score(query[len(prompt):], label, REWARD) for query, prompt, label in zip(queries, prompts, labels)]
    rewards = torch.tensor([result.reward for result in results])
    return {{"rewards": rewards, "scores": rewards,
            "extra_logs": {{"accuracy": torch.tensor([float(result.correct) for result in results])}}}}
'''


def export(engine: str, cfg: Config, folder: Path) -> str:
    """Writes the four files into `folder`; returns the text of train.sh.

    Raises:
        ConfigError: the engine cannot load the model, or cannot share out the rollout.
        DataError: the problems cannot be read.
    """
    if cfg.model.name in ("embedded", "smollm2") or cfg.model.name.endswith(".gguf"):
        raise ConfigError(
            f"model.name={cfg.model.name} is read by this trainer alone; set model.name to a model of "
            "the Hub or a folder, such as the folder final/ of a run"
        )
    data = cfg.dataset
    train = load_problems(data, data.split)[: cfg.training.num_samples]
    test = load_problems(data, data.eval_split)[: data.eval_samples]
    if len(train) < cfg.ppo.rollout_samples:
        raise ConfigError(
            f"ppo.rollout_samples={cfg.ppo.rollout_samples} must not exceed the {len(train)} problems: "
            "other engines take no problem twice in a rollout"
        )
    answers, besides = ENGINES[engine].settings(cfg, len(train))
    script = train_script(engine, cfg, answers, besides)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.sh").write_text(script, encoding="utf-8")
    (folder / "reward.py").write_text(reward_module(cfg.reward), encoding="utf-8")
    for name, problems in ("train.jsonl", train), ("test.jsonl", test):
        lines = [json.dumps(row(problem, cfg), ensure_ascii=False) + "\n" for problem in problems]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return script


def reward_module(reward: RewardConfig) -> str:
    return REWARD.format(reward=reward)


def row(problem: Problem, cfg: Config) -> dict:
    """A problem in the columns that verl asks for, and `label`, OpenRLHF's."""
    text = cfg.dataset.prompt_format.replace("{question}", problem.question)
    return {
        "data_source": cfg.dataset.name,
        "prompt": [{"role": "user", "content": text}],
        "reward_model": {"style": "rule", "ground_truth": problem.gold},
        "label": problem.gold,
    }


def train_script(engine: str, cfg: Config, answers: Answers, besides: Options) -> str:
    """The shell script that starts the engine, with what it leaves out as comments."""
    left = [(key, text) for key, text in answers.items() if isinstance(text, str)]
    options = [option for answer in answers.values() if isinstance(answer, dict) for option in answer.items()]
    lines = [
        "#!/usr/bin/env bash",
        f"# PPO as in course_utils, by {ENGINES[engine].version}. In its environment:",
        "#   pip install omegaconf && pip install --no-deps -e <the folder of this course>",
        "# What these settings became:",
        *(f"#   {key}={attrgetter(key)(cfg)!r}: {text}" for key, text in left),
        "# This many GPUs; the responses of an update are shared out among them.",
        "GPUS=${GPUS:-1}",
        'HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)',
        "",
        " \\\n    ".join([ENGINES[engine].command, *ENGINES[engine].spelt([*options, *besides.items()])]),
    ]
    return "\n".join(lines) + "\n"


def overrides(options: list[tuple[str, object]]) -> Iterator[str]:
    """name=value in hydra's grammar, quoted for the shell."""
    for name, value in options:
        if value is None:
            value = "null"
        elif isinstance(value, list):
            value = "[" + ",".join(value) + "]"
        elif isinstance(value, str) and not isinstance(value, Shell) and not value.isidentifier():
            value = json.dumps(value, ensure_ascii=False)  # hydra would take a comma for a list
        yield f"{name}={in_shell(value)}"


def flags(options: list[tuple[str, object]]) -> Iterator[str]:
    """--name value ..., quoted for the shell; --name where the value is True."""
    for name, value in options:
        if value is True:
            yield f"--{name}"
        elif value is not False:
            values = value if isinstance(value, list) else [value]
            yield " ".join([f"--{name}", *map(in_shell, values)])


def in_shell(value: object) -> str:
    return f'"{value}"' if isinstance(value, Shell) else quote(str(value))


@dataclass(frozen=True)
class Engine:
    version: str  # that the settings were checked with
    command: str
    settings: Callable[[Config, int], tuple[Answers, Options]]
    spelt: Callable[[list[tuple[str, object]]], Iterator[str]]  # options for the command line


ENGINES = {
    "verl": Engine("verl 0.9.1", "python3 -m verl.trainer.main_ppo", verl, overrides),
    "openrlhf": Engine("OpenRLHF 0.11.2", "python3 -m openrlhf.cli.train_ppo_ray", openrlhf, flags),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--config", required=True, help="a YAML file, e.g. configs/config.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any setting, e.g. ppo.learning_rate=5e-7")
    args = parser.parse_intermixed_args()
    try:
        print(export(args.engine, load_config(args.config, args.overrides), Path("build") / args.engine), end="")
    except (PlainError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
