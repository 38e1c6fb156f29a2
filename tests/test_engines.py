"""A run's config for verl and OpenRLHF: nothing is dropped, and each value is the one that computes the same."""

import json
import os
import runpy
import subprocess
import sys

import pytest
import yaml

from course_utils.config import KEYS, ConfigError, RewardConfig, load_config
from course_utils.engines import ENGINES, export, reward_module
from course_utils.problems import load_problems
from course_utils.reward import score
from tests import warm
from tests.conftest import ROOT

NAMES = yaml.safe_load((ROOT / "tests/engine_names.yaml").read_text())
PROBLEMS = "dataset.name=embedded"  # 4000 to train on
UNUSUAL = (
    "ppo.clip_ratio=.inf",
    "ppo.max_grad_norm=.inf",
    "ppo.kl_coeff=0",
    "ppo.scheduler=linear",
    "model.lora=8",
    "ppo.value_learning_rate=null",
    "tracking=tensorboard",
    "wandb.report_to_wandb=true",
    "wandb.name=first",
    "model.torch_dtype=float32",
    "training.resume=auto",
)
SETTINGS = [
    ("config.yaml",),
    ("config.yaml", *UNUSUAL),
    ("config_colab.yaml",),
    ("config_smollm2.yaml", "model.name=a/model", "tracking=trackio"),
]


def load(name: str, *overrides: str):
    return load_config(ROOT / "configs" / name, [PROBLEMS, *overrides])


def arguments(tmp_path, engine: str, *overrides: str) -> list[str]:
    """What the written script gives to the engine, a stand-in for it having been called by bash."""
    export(engine, load("config.yaml", *overrides), tmp_path / engine)
    stand_in = tmp_path / "python3"
    stand_in.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    stand_in.chmod(0o755)
    run = subprocess.run(
        ["bash", str(tmp_path / engine / "train.sh")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "GPUS": "4"},
    )
    return json.loads(run.stdout)[2:]


def verl_overrides(tmp_path, *overrides: str) -> dict[str, str]:
    return dict(argument.split("=", 1) for argument in arguments(tmp_path, "verl", *overrides))


def openrlhf_flags(tmp_path, *overrides: str) -> dict[str, list[str]]:
    found = {}
    for argument in arguments(tmp_path, "openrlhf", *overrides):
        if argument.startswith("--"):
            values = found[argument[2:]] = []
        else:
            values.append(argument)
    return found


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_key_of_the_schema_is_answered_for(engine, settings, tmp_path):
    cfg = load(*settings)
    answers, besides = ENGINES[engine].settings(cfg, 4000)
    assert answers.keys() == KEYS.keys()
    told = export(engine, cfg, tmp_path).splitlines()
    for key, answer in answers.items():
        if isinstance(answer, str):
            assert any(line.startswith(f"#   {key}=") and line.endswith(answer) for line in told), key
    names = [name for answer in answers.values() if isinstance(answer, dict) for name in answer] + list(besides)
    assert len(names) == len(set(names)) and set(names) <= set(NAMES[engine])


def test_verl_is_told_the_same_ppo(tmp_path):
    found = verl_overrides(tmp_path)
    actor, critic = "actor_rollout_ref.actor", "critic"
    expected = {
        "data.train_batch_size": 512,
        f"{actor}.ppo_mini_batch_size": 16,
        f"{actor}.ppo_micro_batch_size_per_gpu": 2,
        f"{actor}.ppo_epochs": 2,
        f"{actor}.optim.lr": 2e-6,
        f"{critic}.optim.lr": 1e-5,
        f"{actor}.optim.min_lr_ratio": 0.05,
        f"{actor}.optim.clip_grad": 1,
        f"{critic}.optim.clip_grad": 1,
        # 64 updates a step, 5 of which warm up: no whole step. With 1, all 64 would be made with a rate of 0.
        f"{actor}.optim.lr_warmup_steps": 0,
        "+critic.ppo_infer_max_token_len_per_gpu": 2 * (512 + 256),
        f"{actor}.optim.weight_decay": 0,
        f"{actor}.clip_ratio": 0.2,
        f"{actor}.clip_ratio_low": 0.2,
        f"{actor}.clip_ratio_high": 0.2,
        f"{critic}.cliprange_value": 0.2,
        f"{actor}.entropy_coeff": 0.01,
        "algorithm.kl_ctrl.kl_coef": 0.05,
        "algorithm.gamma": 0.99,
        "algorithm.lam": 0.95,
        "data.max_prompt_length": 512,
        "data.max_response_length": 256,
        "actor_rollout_ref.rollout.temperature": 1,
        "actor_rollout_ref.rollout.top_k": -1,
        "data.seed": 42,
        "trainer.total_training_steps": 100,
        "trainer.total_epochs": 100,  # out of reach, though filtered prompts make a pass shorter
        "trainer.n_gpus_per_node": 4,
    }
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected)
    assert float(found[f"{actor}.clip_ratio_c"]) > 1e6  # the second clip, which the course's loss has not
    assert found["algorithm.use_kl_in_reward"] == "True" and found["algorithm.kl_penalty"] == "kl"
    assert found["actor_rollout_ref.model.path"] == found["critic.model.path"] == '"Qwen/Qwen1.5-1.8B-Chat"'
    assert found["data.train_files"] == str(tmp_path / "verl/train.jsonl")
    assert found["data.tokenizer"] == found["critic.model.tokenizer_path"] == "null"  # hydra's None: the model's own


def test_openrlhf_is_told_the_same_ppo(tmp_path):
    found = openrlhf_flags(tmp_path)
    expected = {
        "rollout.batch_size": [512],
        "train.batch_size": [16],
        "train.micro_batch_size": [2],
        "train.max_epochs": [2],
        "actor.adam.lr": [2e-6],
        "critic.adam.lr": [1e-5],
        "actor.adam.betas": [0.9, 0.999],
        "actor.min_lr_ratio": [0.05],
        "actor.max_norm": [1],
        "critic.max_norm": [1],
        "actor.eps_clip": [0.2],
        "critic.value_clip": [0.2],
        "actor.entropy_coef": [0.01],
        "algo.kl.init_coef": [0.05],
        "algo.advantage.gamma": [0.99],
        "algo.advantage.lambd": [0.95],
        "data.max_len": [768],
        "rollout.max_new_tokens": [256],
        "rollout.temperature": [1],
        "train.seed": [42],
        "train.num_episodes": [13],  # 51,200 responses on 4000 problems
        "actor.lr_warmup_ratio": [5 / (4000 // 16 * 13 * 2)],
        "actor.num_gpus_per_node": [4],
        "vllm.num_engines": [4],
        "reward.clip_range": [0, 1],
    }
    for name, values in expected.items():
        assert [float(value) for value in found[name]] == pytest.approx(values), name
    assert found["algo.kl.estimator"] == ["k1"] and "algo.kl.use_loss" not in found
    assert found["actor.gradient_checkpointing_enable"] == found["data.apply_chat_template"] == []
    assert "ckpt.load_enable" not in found
    assert found["reward.remote_url"] == [str(tmp_path / "openrlhf/reward.py")]


@pytest.mark.parametrize("name", ["a, b", "$(touch here)", "it's", 'a "b"', "$HOME"])
def test_a_name_reaches_the_engine_as_it_stands(name, tmp_path):
    override = f"wandb.name={json.dumps(name)}"
    assert json.loads(verl_overrides(tmp_path, override)["trainer.experiment_name"]) == name
    assert openrlhf_flags(tmp_path, override, "tracking=wandb")["logger.wandb.run_name"] == [name]
    assert not (tmp_path / "here").exists()


def test_the_problems_are_those_of_the_trainer(tmp_path):
    cfg = load("config.yaml", "training.num_samples=512", "dataset.eval_samples=3")  # as many as a rollout takes
    export("verl", cfg, tmp_path)
    for name, split, count in ("train", "train", 512), ("test", "test", 3):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        problems = load_problems(cfg.dataset, split)[:count]
        assert len(rows) == count
        for row, problem in zip(rows, problems):
            assert row["label"] == row["reward_model"]["ground_truth"] == problem.gold
            assert row["prompt"] == [
                {"role": "user", "content": cfg.dataset.prompt_format.replace("{question}", problem.question)}
            ]


def test_both_engines_get_the_courses_reward(tmp_path):
    reward = RewardConfig(correct=2.0, well_formed=0.25)
    (tmp_path / "reward.py").write_text(reward_module(reward))
    module = runpy.run_path(str(tmp_path / "reward.py"))
    prompt = "Question: 1 + 1? End with #### <number>\nAnswer:"
    responses = ["It is 2.\n#### 2<|im_end|>", "#### 3", "2", "#### 1\n#### 2", ""]
    paid = [score(response, "2", reward).reward for response in responses]
    assert paid == [2.0, 0.25, 0, 0.25, 0]
    assert [
        module["compute_score"](data_source="", solution_str=response, ground_truth="2", extra_info={})["score"]
        for response in responses
    ] == paid
    answer = module["reward_func"]([prompt + response for response in responses], [prompt] * 5, ["2"] * 5)
    assert answer["rewards"].tolist() == paid and answer["extra_logs"]["accuracy"].tolist() == [1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="prompt and response apart"):
        module["reward_func"](["another text"], [prompt], ["2"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.name=embedded"], "model.name=embedded is read by this trainer alone"),
        (["model.name=weights/a.gguf"], "set model.name to a model of the Hub or a folder"),
        (["ppo.rollout_samples=500"], "ppo.rollout_samples=500 must be a multiple of .* = 16"),
        (["ppo.rollout_samples=15"], "ppo.rollout_samples=15 must be a multiple of ppo.mini_batch_size=2"),
        (["training.num_samples=511"], "must not exceed the 511 problems"),
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_no_engine_can_do_is_refused(engine, overrides, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        export(engine, load("config.yaml", *overrides), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_script_that_it_writes(tmp_path):
    command = [*warm.COMMAND, "-m", "course_utils.engines", "verl", "--config", str(ROOT / "configs/config.yaml")]
    run = subprocess.run(
        [*command, PROBLEMS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.stdout == (tmp_path / "build/verl/train.sh").read_text()
    refused = subprocess.run(
        [*command, "model.name=embedded"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert refused.returncode == 1 and refused.stderr.startswith("error: model.name=embedded")
