"""Settings: what is inherited, what overrides it, and what is refused with which words."""

import re
from pathlib import Path

import pytest

from course_utils.config import KEYS, RULES, Config, ConfigError, check_context, load_config, save_config

CONFIGS = Path(__file__).parents[1] / "configs"
DEBUG = CONFIGS / "config_debug.yaml"


def refusal(*overrides, path=DEBUG) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- what is read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path):
    assert isinstance(load_config(path), Config)


def test_debug_inherits_and_overrides():
    main, debug = load_config(CONFIGS / "config.yaml"), load_config(DEBUG)
    assert (main.model.name, debug.model.name) == ("Qwen/Qwen1.5-1.8B-Chat", "embedded")
    assert (main.training.device, debug.training.device) == ("cuda", "cpu")
    assert debug.ppo.max_grad_norm == main.ppo.max_grad_norm == 1.0
    assert main.training.output_dir == "outputs/ppo_gsm8k_Qwen/Qwen1.5-1.8B-Chat"


def test_embedded_default_asks_in_the_words_of_its_warm_start():
    from course_utils.embedded.warm_start import PROMPT

    assert load_config(DEBUG).dataset.prompt_format == PROMPT


def test_main_config_samples_from_the_policy_that_is_scored():
    generation = load_config(CONFIGS / "config.yaml").generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (1.0, 0, 1.0)
    assert generation.min_new_tokens == 0


def test_overrides_win_and_are_converted():
    cfg = load_config(
        DEBUG,
        [
            "ppo.learning_rate=5e-5",
            "ppo.epochs=3",
            "training.num_samples=8",
            "training.device=cuda:1",
            "wandb.name=null",
            "model.trust_remote_code=true",
            r'dataset.prompt_format="Q: {question}\nA:"',
            "ppo.epochs=4",
        ],
    )
    assert cfg.ppo.learning_rate == 5e-5 and cfg.ppo.epochs == 4 and cfg.training.num_samples == 8
    assert cfg.training.device == "cuda:1" and cfg.wandb.name is None and cfg.model.trust_remote_code is True
    assert cfg.dataset.prompt_format == "Q: {question}\nA:"


def test_what_no_file_names_is_off_or_as_it_is_described():
    cfg = Config()
    assert not (cfg.model.trust_remote_code or cfg.model.lora or cfg.wandb.report_to_wandb)
    assert (cfg.tracking, cfg.training.resume, cfg.dataset.eval_split) == ("none", "never", "test")
    assert (cfg.reward.correct, cfg.reward.well_formed) == (1.0, 0.1)  # as reward.py has it


def test_interpolation_follows_an_override():
    assert load_config(DEBUG, ["dataset.max_gen_length=17"]).generation.max_new_tokens == 17


def test_defaults_are_found_beside_the_file_and_in_the_project(tmp_path):
    write(tmp_path / "base.yaml", "defaults: [configs/config_debug.yaml]\nppo: {epochs: 7, lam: 0.5}\n")
    cfg = load_config(write(tmp_path / "mine.yaml", "defaults: [base.yaml]\nppo: {lam: 0.25}\n"))
    assert (cfg.ppo.epochs, cfg.ppo.lam, cfg.model.name) == (7, 0.25, "embedded")


def test_a_default_beside_the_file_comes_before_the_projects_own(tmp_path):
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "config_debug.yaml", "defaults: [configs/config.yaml]\nppo: {epochs: 7}\n")
    assert load_config(write(tmp_path / "mine.yaml", "defaults: [configs/config_debug.yaml]\n")).ppo.epochs == 7


def test_of_two_defaults_the_later_wins(tmp_path):
    write(tmp_path / "a.yaml", "ppo: {epochs: 3, lam: 0.5}\n")
    write(tmp_path / "b.yaml", "ppo: {lam: 0.25}\n")
    cfg = load_config(write(tmp_path / "c.yaml", "defaults: [configs/config.yaml, a.yaml, b.yaml]\n"))
    assert (cfg.ppo.epochs, cfg.ppo.lam) == (3, 0.25)


def test_saved_config_reads_back_the_same(tmp_path):
    cfg = load_config(DEBUG, ["ppo.clip_ratio=inf", "model.name='1e5'", "ppo.value_learning_rate=1e-3"])
    save_config(cfg, tmp_path / "run" / "effective_config.yaml")
    assert load_config(tmp_path / "run" / "effective_config.yaml") == cfg
    assert "${" not in (tmp_path / "run" / "effective_config.yaml").read_text()


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, key, value, nearest",
    [
        ("ppo.learningrate=3", "ppo.learningrate", "3", "ppo.learning_rate"),
        ("ppo.temperature=0.5", "ppo.temperature", "0.5", "generation.temperature"),
        ("ppo.seed=1", "ppo.seed", "1", "training.seed"),
        ("epochs=3", "epochs", "3", "ppo.epochs"),
        ("pppo={epochs: 3}", "pppo", "{'epochs': 3}", "ppo"),
    ],
)
def test_unknown_key(override, key, value, nearest):
    words = f"unknown key {key}={value} (command line). The nearest valid one is {nearest}."
    assert refusal(override) == words


def test_unknown_key_in_a_file_names_the_file(tmp_path):
    path = write(tmp_path / "mine.yaml", "defaults: [configs/config.yaml]\nppo: {clip: 0.1}\n")
    assert f"unknown key ppo.clip=0.1 ({path})" in refusal(path=path)


@pytest.mark.parametrize(
    "override, words",
    [
        ("ppo.epochs=1.5", "ppo.epochs=1.5 (command line) must be of type int"),
        ("ppo.epochs=true", "ppo.epochs=True (command line) must be of type int"),
        ("ppo.epochs=", "ppo.epochs=None (command line) must be of type int"),
        ("ppo.lam=high", "ppo.lam='high' (command line) must be of type float"),
        ("training.num_samples=few", "training.num_samples='few' (command line) must be of type int"),
        ("model.name=[a]", "model.name=['a'] (command line) must be of type str"),
        ("ppo.use_8bit_adam=maybe", "ppo.use_8bit_adam='maybe' (command line) must be of type bool"),
        ("ppo.use_8bit_adam=2", "ppo.use_8bit_adam=2 (command line) must be of type bool"),
        ("ppo.epochs.x=1", "ppo.epochs={'x': 1} (command line) must be of type int"),
        ("ppo=5", "ppo=5 (command line): ppo is a section with keys, such as ppo.learning_rate"),
    ],
)
def test_wrong_type(override, words):
    assert refusal(override) == words


@pytest.mark.parametrize("override", ["ppo.epochs", "--ppo.epochs", "=5", ""])
def test_override_without_key_and_value(override):
    assert f"override {override!r} is not of the form key=value" in refusal(override)


@pytest.mark.parametrize("override", ["ppo.epochs=[1", "ppo.epochs='${'"])
def test_override_that_is_not_yaml(override):
    assert f"cannot read override {override!r}" in refusal(override)


COUNTS = (
    "dataset.max_prompt_length dataset.max_gen_length dataset.eval_samples ppo.epochs ppo.batch_size "
    "ppo.mini_batch_size ppo.gradient_accumulation_steps ppo.rollout_samples training.total_ppo_steps "
    "training.log_interval training.save_interval training.eval_interval training.num_samples "
    "generation.max_new_tokens"
).split()
COEFFICIENTS = ("reward.correct reward.well_formed ppo.kl_coeff ppo.vf_coeff ppo.entropy_coeff ppo.min_lr").split()


@pytest.mark.parametrize(
    "override",
    [
        *(f"{key}=0" for key in COUNTS),
        *(f"{key}=-0.5" for key in COEFFICIENTS),
        "ppo.warmup_steps=-1",
        *(
            f"{key}={value}"
            for key in ("ppo.learning_rate", "ppo.value_learning_rate", "generation.temperature")
            for value in ("0.0", "-1.0", "inf", "nan")
        ),
        *(
            f"{key}={value}"
            for key in ("ppo.clip_ratio", "ppo.clip_range_value", "ppo.max_grad_norm")
            for value in ("0.0", "-0.2", "nan")
        ),
        *(f"{key}={value}" for key in ("ppo.gamma", "ppo.lam") for value in ("-0.1", "1.1", "nan")),
        "generation.top_p=0.0",
        "generation.top_p=1.1",
        "generation.top_k=-1",
        "generation.min_new_tokens=-1",
        "training.seed=-1",
        "training.seed=2147483648",
        "training.device=gpu",
        "training.device=cuda:x",
        "training.resume=always",
        "model.torch_dtype=float64",
        "ppo.scheduler=cosin",
        "ppo.scheduler=greedy",
    ],
)
def test_value_out_of_range(override):
    assert f"\n  {override} must be " in refusal(override)


@pytest.mark.parametrize("key", ["model.name", "dataset.name", "training.output_dir"])
def test_an_empty_name_is_refused(key):
    assert f"{key}= must be a name, not an empty text" in refusal(f"{key}=''")


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["generation.do_sample=false"], "generation.do_sample=False must be true: PPO learns by comparing"),
        (["dataset.prompt_format='Answer:'"], "dataset.prompt_format=Answer: must be a text that contains"),
        (
            ["ppo.mini_batch_size=129", "ppo.rollout_samples=128"],
            "ppo.mini_batch_size=129 must not exceed ppo.rollout_samples=128",
        ),
        (
            ["generation.min_new_tokens=65", "generation.max_new_tokens=64"],
            "generation.min_new_tokens=65 must not exceed generation.max_new_tokens=64",
        ),
        (["reward.well_formed=0.5", "reward.correct=0.5"], "reward.well_formed=0.5 must be below reward.correct=0.5"),
    ],
)
def test_impossible_value(overrides, words):
    assert words in refusal(*overrides)


def test_schedule_cannot_end_above_its_peak():
    rates = ["ppo.learning_rate=0.0004", "ppo.min_lr=0.001"]
    words = "ppo.min_lr=0.001 must not exceed ppo.learning_rate=0.0004"
    assert words in refusal("ppo.scheduler=cosine_with_min_lr", *rates)
    load_config(DEBUG, ["ppo.scheduler=linear", *rates])  # does not look at min_lr


def test_a_polynomial_schedule_cannot_begin_below_its_end():
    words = "ppo.learning_rate=1e-08 must exceed 1e-07"
    assert words in refusal("ppo.scheduler=polynomial", "ppo.learning_rate=1e-8")
    load_config(DEBUG, ["ppo.scheduler=linear", "ppo.learning_rate=1e-8"])  # ends at 0
    load_config(DEBUG, ["ppo.scheduler=polynomial", "ppo.learning_rate=2e-7"])


def test_all_faults_are_told_at_once():
    message = refusal("ppo.gamma=2", "ppo.lam=2", "ppo.mini_batch_size=999999")
    assert all(key in message for key in ("ppo.gamma", "ppo.lam", "ppo.mini_batch_size"))


def test_more_prompts_at_once_than_a_rollout_has_are_harmless():
    assert load_config(DEBUG, ["ppo.batch_size=999"]).ppo.batch_size == 999


def test_limits_themselves_are_allowed():
    load_config(
        DEBUG,
        [
            "ppo.gamma=0",
            "ppo.lam=1",
            "ppo.mini_batch_size=128",
            "ppo.rollout_samples=128",
            "ppo.clip_ratio=inf",
            "ppo.kl_coeff=0",
            "generation.top_p=1",
            "training.seed=0",
            "generation.min_new_tokens=64",
            "generation.max_new_tokens=64",
        ],
    )


def test_every_number_has_a_rule():
    with_rule = {key for keys, _, _ in RULES for key in keys.split()}
    numbers = {key for key, kind in KEYS.items() if kind in (int, float, int | None, float | None)}
    assert numbers <= with_rule <= KEYS.keys()


def test_prompt_and_response_must_fit_the_context():
    cfg = load_config(DEBUG, ["dataset.max_prompt_length=64", "generation.max_new_tokens=64"])
    check_context(cfg, 128)
    words = "dataset.max_prompt_length=64 and generation.max_new_tokens=64 make 128 tokens, but embedded reads only 127"
    with pytest.raises(ConfigError, match=words):
        check_context(cfg, 127)


# --- files that cannot be read ------------------------------------------------------------------------------


def test_missing_file():
    assert refusal(path="nowhere.yaml") == "there is no config file nowhere.yaml"


def test_missing_default(tmp_path):
    message = refusal(path=write(tmp_path / "mine.yaml", "defaults: [nowhere.yaml]\n"))
    assert "mine.yaml: defaults names nowhere.yaml, which is neither in" in message


def test_circle(tmp_path):
    write(tmp_path / "a.yaml", "defaults: [b.yaml]\n")
    write(tmp_path / "b.yaml", "defaults: [a.yaml]\n")
    assert re.search(r"circle: \S*a\.yaml -> \S*b\.yaml -> \S*a\.yaml$", refusal(path=tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("ppo:\n  epochs: 1\n  epochs: 2\n", "mine.yaml line 3 is not valid YAML: found duplicate key epochs"),
        ("ppo:\n\tepochs: 1\n", "mine.yaml line 2 is not valid YAML"),
        ("ppo: {lam: '${'}\n", "cannot read"),
        ("ppo: [1\n", "mine.yaml line 2 is not valid YAML"),
        ("- ppo\n", "must consist of sections such as `ppo:`"),
        ("5\n", "cannot read"),
        ("ppo:\n", "ppo=None"),
        ("defaults: config.yaml\n", "defaults='config.yaml' must be a list of files"),
        ("ppo: {epochs: 1}\n", "leaves these keys without a value: dataset.max_gen_length"),
        ("defaults: [configs/config.yaml]\nppo: {epochs: '${ppo.epochs}'}\n", "ppo.epochs has no usable value"),
        ("defaults: [configs/config.yaml]\nppo: {epochs: '${model.name}'}\n", "ppo.epochs has no usable value"),
        ("defaults: [configs/config.yaml]\nppo: {epochs: '${ppo.epoch}'}\n", "'ppo.epoch' not found"),
    ],
)
def test_broken_file(tmp_path, text, words):
    assert words in refusal(path=write(tmp_path / "mine.yaml", text))


def test_file_that_is_not_text(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\xfa\x00")
    assert "mine.yaml" in refusal(path=tmp_path / "mine.yaml")
    assert "cannot read" in refusal(path=tmp_path)  # a folder
