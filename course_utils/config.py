"""The settings of a run: a schema, and load_config, which reads them from YAML files and the command line.

A file may name others under `defaults:`; it inherits their values and overrides what it repeats. A field below
without a default has to be set in one of them. Whatever is unknown, of the wrong type or impossible is refused with a
ConfigError before anything is loaded.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError
from transformers.trainer_utils import SchedulerType
from yaml import YAMLError

from course_utils.disk import write_file
from course_utils.plain_error import PlainError

PROJECT_ROOT = Path(__file__).resolve().parents[1]


class ConfigError(PlainError, ValueError):
    """A setting that cannot be used; the message names the key, the value and what is expected."""


# fmt: off
# The comments are a table of what each key means.

@dataclass
class ModelConfig:
    name: str = MISSING                  # "embedded", "smollm2", a model of the Hub, a folder, or a .gguf file
    tokenizer_name: str | None = None    # null = the same as name
    trust_remote_code: bool = False      # run code that comes with the model: only if you trust its author
    # The type that is computed in. Weights are always float32: bfloat16 would round updates of 2e-6 away.
    torch_dtype: str = MISSING           # float32, bfloat16, float16, or auto = the best type of the device
    lora: int = 0                        # rank of the LoRA adapters that are trained (needs peft); 0 = all weights are


@dataclass
class DatasetConfig:
    name: str = MISSING                  # "embedded", a data set of the Hub, or a folder of JSONL files
    config: str | None = None            # configuration of a Hub data set ("main" for GSM8K)
    split: str = MISSING                 # problems to train on
    prompt_format: str = MISSING         # the prompt; {question} is replaced by the problem's question
    max_prompt_length: int = MISSING     # tokens; longer prompts are skipped, never cut
    max_gen_length: int = MISSING        # tokens of a response, if generation.max_new_tokens says no other number
    eval_split: str = "test"             # held-out problems
    eval_samples: int = 200              # how many of them an evaluation uses


@dataclass
class RewardConfig:
    correct: float = 1.0                 # for the right number after ####
    well_formed: float = 0.1             # for a wrong number after ####; reward.py says what this invites


@dataclass
class PPOConfig:
    learning_rate: float = MISSING       # AdamW, peak of the schedule
    value_learning_rate: float | None = None  # of the value head; null = learning_rate
    epochs: int = MISSING                # passes over each rollout
    batch_size: int = MISSING            # prompts that are sampled at once: a matter of memory only
    mini_batch_size: int = MISSING       # responses in one forward and backward pass
    gradient_accumulation_steps: int = MISSING  # mini-batches in one optimizer step
    kl_coeff: float = MISSING            # weight of the KL penalty to the reference (beta); 0 = no reference is kept,
                                         # and the KL not measured; 1e-12 has no effect but measures it
    clip_ratio: float = MISSING          # epsilon of the policy loss; .inf = no clipping
    clip_range_value: float = MISSING    # how far one rollout pulls a value; .inf = no clipping
    vf_coeff: float = MISSING            # weight of the value loss
    entropy_coeff: float = MISSING       # weight of the entropy bonus
    gamma: float = MISSING               # discount a token
    lam: float = MISSING                 # lambda of GAE
    use_8bit_adam: bool = MISSING        # bitsandbytes' AdamW8bit, where CUDA and the package are there
    max_grad_norm: float = MISSING       # gradients with a larger norm are scaled down to it; .inf = never
    rollout_samples: int = MISSING       # responses in one PPO step
    scheduler: str = MISSING             # learning rate schedule, by its name in transformers
    warmup_steps: int = MISSING          # optimizer steps from 0 to learning_rate
    min_lr: float = MISSING              # where the schedules with "min_lr" in their name end; the value head's ends
                                         # at the same share of its own peak


@dataclass
class TrainingConfig:
    total_ppo_steps: int = MISSING       # rollout and update cycles
    seed: int = MISSING
    log_interval: int = MISSING          # PPO steps between what trackers and the progress bar are told
    save_interval: int = MISSING         # PPO steps between checkpoints
    output_dir: str = MISSING            # everything the run writes
    device: str = MISSING                # cpu, cuda, cuda:N, or auto = cuda where there is one
    gradient_checkpointing: bool = MISSING  # recompute activations in the backward pass: less memory, slower
    eval_interval: int = 10              # PPO steps between evaluations
    num_samples: int | None = None       # train on the first n problems only; null = all
    resume: str = "never"                # auto = go on with the newest run of these settings


@dataclass
class GenerationConfig:
    max_new_tokens: int = MISSING        # tokens of a response
    min_new_tokens: int = MISSING        # above 0 bans an early end of text, of which scoring knows nothing
    # PPO's ratio compares two policies on samples of the old one, so sampling and scoring have to mean the same
    # distribution. Scoring knows the temperature; top-k and top-p, of which it knows nothing, are off by default.
    temperature: float = MISSING         # of sampling and of scoring
    top_k: int = MISSING                 # sample among the k likeliest tokens only; 0 = off
    top_p: float = MISSING               # sample among the likeliest tokens that sum to p; 1.0 = off
    do_sample: bool = MISSING            # must be true


@dataclass
class WandbConfig:
    report_to_wandb: bool = False        # log to Weights & Biases, beside what `tracking` names
    project: str = "tinier-zero"         # the project's name, for wandb and trackio
    name: str | None = None              # of the run; null = wandb makes one up

# fmt: on


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    # Where the metrics go beside metrics.jsonl, which is always written: tensorboard, wandb, trackio, or none.
    tracking: str = "none"


SECTIONS = {section.name: section.type for section in fields(Config) if is_dataclass(section.type)}
KEYS = {f"{name}.{entry.name}": entry.type for name, section in SECTIONS.items() for entry in fields(section)}
KEYS["tracking"] = str

TRACKERS = ("none", "tensorboard", "wandb", "trackio")
DTYPES = ("float32", "bfloat16", "float16", "auto")
# Left out: two schedules that wait for a metric, and one with a length of decay that no key here sets.
SCHEDULERS = tuple(
    s.value for s in SchedulerType if s.value not in ("reduce_lr_on_plateau", "greedy", "warmup_stable_decay")
)

RULES = [  # keys, what their values must satisfy (NaN satisfies nothing), the same in words
    (
        "dataset.max_prompt_length dataset.max_gen_length dataset.eval_samples ppo.epochs ppo.batch_size "
        "ppo.mini_batch_size ppo.gradient_accumulation_steps ppo.rollout_samples training.total_ppo_steps "
        "training.log_interval training.save_interval training.eval_interval training.num_samples "
        "generation.max_new_tokens",
        lambda x: x >= 1,
        "at least 1",
    ),
    (
        "ppo.learning_rate ppo.value_learning_rate generation.temperature",
        lambda x: 0 < x < math.inf,
        "finite and above 0",
    ),
    ("ppo.clip_ratio ppo.clip_range_value ppo.max_grad_norm", lambda x: x > 0, "above 0"),
    (
        "reward.correct reward.well_formed ppo.kl_coeff ppo.vf_coeff ppo.entropy_coeff ppo.min_lr "
        "ppo.warmup_steps generation.min_new_tokens generation.top_k model.lora",
        lambda x: 0 <= x < math.inf,
        "finite and not negative",
    ),
    ("training.seed", lambda x: 0 <= x < 2**31, "between 0 and 2**31 - 1"),  # each PPO step adds 1000
    ("ppo.gamma ppo.lam", lambda x: 0 <= x <= 1, "between 0 and 1"),
    ("generation.top_p", lambda x: 0 < x <= 1, "above 0 and at most 1"),
    ("generation.do_sample", lambda x: x, "true: PPO learns by comparing samples, and greedy text is none"),
    ("model.name dataset.name training.output_dir", lambda x: x.strip(), "a name, not an empty text"),
    ("dataset.prompt_format", lambda x: "{question}" in x, "a text that contains {question}"),
    ("model.torch_dtype", lambda x: x in DTYPES, "one of " + ", ".join(DTYPES)),
    ("ppo.scheduler", lambda x: x in SCHEDULERS, "one of " + ", ".join(SCHEDULERS)),
    ("training.device", lambda x: re.fullmatch(r"cpu|auto|cuda(:\d+)?", x), "cpu, cuda, cuda:N or auto"),
    ("tracking", lambda x: x in TRACKERS, "one of " + ", ".join(TRACKERS)),
    ("training.resume", lambda x: x in ("never", "auto"), "never or auto"),
]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The settings in a YAML file and in those it inherits from, with `key=value` overrides on top.

    Raises:
        ConfigError: for a file that is missing or broken, a key that is unknown or not set, a value of the
            wrong type or out of its range, and values that do not go together.
    """
    cfg = OmegaConf.structured(Config)
    for source, layer in [*_read_layers(Path(path)), *map(_read_override, overrides)]:
        _merge(cfg, layer, source)
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise ConfigError(
                f"{path} leaves these keys without a value: {', '.join(missing)}. Set them, or "
                "inherit them with `defaults: [configs/config.yaml]`."
            )
        result = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:  # a ${...} that leads nowhere, in a circle or to a wrong type
        raise ConfigError(f"{path}: {error.full_key} has no usable value: {_reason(error)}") from error
    if faults := [*_broken_rules(result), *_broken_combinations(result)]:
        raise ConfigError(f"{path} with its overrides cannot be used:\n  " + "\n  ".join(faults))
    return result


def save_config(cfg: Config, path: str | Path) -> None:
    """Writes every setting with its final value, in a form that load_config reads back."""
    write_file(OmegaConf.to_yaml(OmegaConf.structured(cfg)), Path(path))


def check_shares(cfg: Config, processes: int) -> None:
    """ConfigError: the processes cannot share a mini-batch or a rollout out."""
    for key in ("mini_batch_size", "rollout_samples"):
        if getattr(cfg.ppo, key) % processes:
            raise ConfigError(
                f"ppo.{key}={getattr(cfg.ppo, key)} cannot be shared by {processes} processes; make it a multiple"
            )


def of_one_process(cfg: Config, processes: int) -> Config:
    """The config with one process's share of a mini-batch."""
    return replace(cfg, ppo=replace(cfg.ppo, mini_batch_size=cfg.ppo.mini_batch_size // processes))


def trackers(cfg: Config) -> list[str]:
    """Where metrics go beside metrics.jsonl: what `tracking` names, and wandb where it is switched on apart."""
    named = [cfg.tracking, *(["wandb"] if cfg.wandb.report_to_wandb else [])]
    return [name for name in dict.fromkeys(named) if name != "none"]


def check_context(cfg: Config, context_length: int) -> None:
    """Raises ConfigError if the longest prompt and response exceed the model's context, all in tokens."""
    prompt, response = cfg.dataset.max_prompt_length, cfg.generation.max_new_tokens
    if prompt + response > context_length:
        raise ConfigError(
            f"dataset.max_prompt_length={prompt} and generation.max_new_tokens={response} make "
            f"{prompt + response} tokens, but {cfg.model.name} reads only {context_length}. "
            "Lower one of the two."
        )


def _read_layers(path: Path, heirs: tuple[Path, ...] = ()) -> list[tuple[str, dict]]:
    """[(file, its settings), ...] of a file and all that it inherits from, the most basic first."""
    if path.resolve() in heirs:
        chain = " -> ".join(str(file) for file in (*heirs, path.resolve()))
        raise ConfigError(f"defaults: goes in a circle: {chain}")
    layer = read_yaml(path)
    bases = layer.pop("defaults", [])
    if not isinstance(bases, list):
        raise ConfigError(f"{path}: defaults={bases!r} must be a list of files, such as [config.yaml]")
    layers = []
    for base in map(str, bases):
        found = [file for file in (path.parent / base, PROJECT_ROOT / base) if file.is_file()]
        if not found:
            raise ConfigError(
                f"{path}: defaults names {base}, which is neither in {path.parent.resolve()} nor in {PROJECT_ROOT}"
            )
        layers += _read_layers(found[0], (*heirs, path.resolve()))
    return [*layers, (str(path), layer)]


def read_yaml(path: Path) -> dict:
    """The sections of a file as it stands. ConfigError: it cannot be read."""
    try:
        layer = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no config file {path}") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line} is not valid YAML: {_reason(error)}") from error
    except (OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {_reason(error)}") from error
    if not isinstance(layer, dict):
        raise ConfigError(f"{path} must consist of sections such as `ppo:`, not of a list")
    return layer


def _read_override(override: str) -> tuple[str, dict]:
    if not override.partition("=")[0].strip() or "=" not in override:
        raise ConfigError(f"override {override!r} is not of the form key=value, as in ppo.learning_rate=5e-7")
    try:
        return "command line", OmegaConf.to_container(OmegaConf.from_dotlist([override]))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"cannot read override {override!r}: {_reason(error)}. A value with special "
            "characters needs quotes inside the shell's."
        ) from error


def _merge(cfg, layer: dict, source: str) -> None:
    """Puts the settings of one source into cfg (an OmegaConf of Config), checking names and types."""
    for key, value in _by_key(layer, source):
        if key not in KEYS:
            raise _unknown(key, value, source)
        try:
            if KEYS[key] is bool and isinstance(value, int | float) and value not in (0, 1):
                raise ValidationError  # OmegaConf takes every whole number but 0 for true
            OmegaConf.update(cfg, key, value, merge=False)
        except OmegaConfBaseException as error:
            expected = getattr(KEYS[key], "__args__", [KEYS[key]])[0].__name__  # T of T | None
            raise ConfigError(f"{key}={value!r} ({source}) must be of type {expected}") from error


def _by_key(layer: dict, source: str) -> Iterator[tuple[str, object]]:
    """(section.key, value) of all settings of a source."""
    for name, value in layer.items():
        if name not in SECTIONS:
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", entry) for key, entry in value.items())
        else:
            first = fields(SECTIONS[name])[0].name
            raise ConfigError(f"{name}={value!r} ({source}): {name} is a section with keys, such as {name}.{first}")


def _unknown(key: str, value, source: str) -> ConfigError:
    same_name = [known for known in KEYS if known.endswith("." + str(key).split(".")[-1])]
    nearest = (same_name or get_close_matches(str(key), [*KEYS, *SECTIONS], n=1, cutoff=0))[0]
    return ConfigError(f"unknown key {key}={value!r} ({source}). The nearest valid one is {nearest}.")


def _broken_rules(cfg: Config) -> list[str]:
    return [
        f"{key}={value} must be {words}"
        for keys, holds, words in RULES
        for key in keys.split()
        if (value := attrgetter(key)(cfg)) is not None and not holds(value)
    ]


def _broken_combinations(cfg: Config) -> list[str]:
    ppo, generation, reward = cfg.ppo, cfg.generation, cfg.reward
    faults = []
    if ppo.mini_batch_size > ppo.rollout_samples:
        faults.append(
            f"ppo.mini_batch_size={ppo.mini_batch_size} must not exceed ppo.rollout_samples={ppo.rollout_samples}"
        )
    if generation.min_new_tokens > generation.max_new_tokens:
        faults.append(
            f"generation.min_new_tokens={generation.min_new_tokens} must not exceed "
            f"generation.max_new_tokens={generation.max_new_tokens}"
        )
    if reward.well_formed >= reward.correct:
        faults.append(
            f"reward.well_formed={reward.well_formed} must be below reward.correct="
            f"{reward.correct}, or a wrong answer pays as much as the right one"
        )
    if ppo.scheduler.endswith("min_lr") and ppo.min_lr > ppo.learning_rate:
        faults.append(f"ppo.min_lr={ppo.min_lr} must not exceed ppo.learning_rate={ppo.learning_rate}")
    if ppo.scheduler == "polynomial" and ppo.learning_rate <= 1e-7:
        faults.append(f"ppo.learning_rate={ppo.learning_rate} must exceed 1e-07, where ppo.scheduler=polynomial ends")
    return faults


def _reason(error: Exception) -> str:
    """What a library's error says, without the lines of context that it adds."""
    return getattr(error, "problem", None) or str(error).split("\n")[0]
