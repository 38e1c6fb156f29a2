"""The recorded run, when a run may be compared with it, and what the table of symptoms makes of good and bad runs."""

import json
from copy import deepcopy
from statistics import mean, median

import nbformat
import pytest

from course_utils import symptoms
from course_utils.config import load_config
from course_utils.embedded.warm_start import sha256
from course_utils.figures.comparison import draw_comparison
from course_utils.policy import EMBEDDED_MODEL
from course_utils.reference_run import differences, reference_run
from course_utils.symptoms import SYMPTOMS, symptom_table
from tests.conftest import ROOT

CONFIG = ROOT / "configs/config_debug.yaml"


def test_the_record_is_a_whole_run_of_the_default_settings():
    reference = reference_run()
    steps = load_config(CONFIG).training.total_ppo_steps
    assert [line["step"] for line in reference.history] == list(range(1, steps + 1))
    assert reference.weights == sha256(EMBEDDED_MODEL / "model.safetensors"), "another model: record the run again"
    runs = map(json.loads, (ROOT / "benchmarks/results/embedded_runs.jsonl").read_text().splitlines())
    assert reference.seed_rewards == [run["rewards"] for run in runs if run["variant"] == "default"]
    assert reference.history[-1]["eval/accuracy"] > 0.85 > 0.5 > reference.history[0]["before/accuracy"]


def test_what_notebook_6_says_of_the_default_run_is_what_the_record_holds():
    history = reference_run().history
    reward, kl, entropy, explained = (
        [line[metric] for line in history]
        for metric in ("rollout/reward_mean", "rollout/kl", "loss/entropy", "rollout/explained_variance")
    )
    notebook = nbformat.read(ROOT / "notebooks/06_train_gsm8k/train_gsm8k.ipynb", as_version=4)
    text = " ".join(" ".join(cell.source for cell in notebook.cells).split())
    assert f"In the default run the model begins with {history[0]['before/accuracy']:.1%}".replace("%", " %") in text
    assert f"the reward goes from {reward[0]:.1f} (sampled" in text and f"right) to {mean(reward[-5:]):.2f}." in text
    assert f"The KL rises to about {median(kl[9:20]):.0f} nats within ten to twenty steps" in text
    assert f"then falls to about {median(kl[-5:]):.1f}:" in text
    assert f"The entropy falls from {entropy[0]:.3f} to {mean(entropy[-5:]):.2f} nats" in text
    last_third = explained[-(len(history) // 3) :]
    assert f"The explained variance climbs from {explained[0]:.0f} to about {mean(last_third):.1f}, unsteadily" in text
    assert kl.index(max(kl)) + 1 == 5 and "as at step 5 of the default run" in text


@pytest.mark.parametrize(
    "overrides, found",
    [
        ([], []),
        (["training.seed=1", "training.output_dir=x", "dataset.eval_samples=8", "wandb.project=y"], []),
        (
            ["ppo.clip_ratio=0.1", "training.total_ppo_steps=10"],
            ["ppo.clip_ratio is 0.1 here and 0.2 there", "training.total_ppo_steps is 10 here and 34 there"],
        ),
    ],
)
def test_only_a_run_with_the_same_settings_is_compared(overrides, found):
    assert differences(load_config(CONFIG, overrides)) == found


def test_the_comparison_draws_yours_the_reference_and_the_band():
    reference = reference_run()
    history = [line | {"rollout/reward_mean": 0.3} for line in reference.history[:7]]
    figure, words = draw_comparison(history)
    reward = figure.axes[0]
    curves = {line.get_label(): list(line.get_ydata()) for line in reward.lines}
    assert curves["yours"] == [0.3] * 7
    assert curves["the course's"] == [line["rollout/reward_mean"] for line in reference.history]
    band = reward.collections[0].get_paths()[0].vertices  # (points, 2)
    last = [seed[-1] for seed in reference.seed_rewards]
    at_the_end = band[band[:, 0] == len(reference.history), 1]
    assert (min(at_the_end), max(at_the_end)) == (pytest.approx(min(last)), pytest.approx(max(last)))
    means = [sum(seed[2:7]) / 5 for seed in reference.seed_rewards]
    assert f"0.30, and {min(means):.2f} to {max(means):.2f}" in words and "at PPO step 7" in words
    assert "No step is finished" in draw_comparison([])[1]


def test_a_run_that_was_continued_is_drawn_to_its_end():
    history = reference_run().history
    longer = [*history, history[-1] | {"step": len(history) + 1, "rollout/kl": 9.0}]
    figure, words = draw_comparison(longer)
    assert figure.axes[0].get_xlim()[1] > len(longer) and f"at PPO step {len(longer)}" in words
    assert f"KL 9.0 and {history[-1]['rollout/kl']:.1f} nats" in words  # the reference's last step


def shown(history):
    return [symptom.judge.__name__ for symptom in SYMPTOMS if symptom.judge(history)[0]]


def test_the_reference_run_shows_no_symptom_at_any_step():
    history = reference_run().history
    for steps in range(symptoms.SOONEST, len(history) + 1):
        assert shown(history[:steps]) == []


def test_recorded_runs_with_sound_and_with_bad_settings_are_told_apart():
    """By their rewards and KL: the benchmark keeps no other curves. The limits were not fitted to most of these."""
    template = reference_run().history
    found = {}
    for run in map(json.loads, (ROOT / "benchmarks/results/embedded_runs.jsonl").read_text().splitlines()):
        history = [
            line | {"rollout/reward_mean": reward, "rollout/kl": run["kl_end"]}
            for line, reward in zip(template, run["rewards"])
        ]
        found.setdefault(run["variant"], []).append(
            [name for name in shown(history) if name in ("flat_reward", "lost_reward", "high_kl")]
        )
    assert found["default"] == [[]] * 5 and found["lam_1"] == [[]] * 3
    assert found["no_kl"] == [["high_kl"]] * 3
    assert all("flat_reward" in names or "lost_reward" in names for names in found["lam_0"])
    assert "lost_reward" in found["no_clip"][0] or "flat_reward" in found["no_clip"][0]


@pytest.mark.parametrize(
    "name, metric, value",
    [
        ("flat_reward", "rollout/reward_mean", lambda step: 0.35),
        ("lost_reward", "rollout/reward_mean", lambda step: 0.3 if step < 8 else 0.9 if step < 20 else 0.6),
        ("high_kl", "rollout/kl", lambda step: step / 2),
        ("useless_critic", "rollout/explained_variance", lambda step: 0),
        ("much_clipping", "params/policy_clip_frac", lambda step: 0.4),
        ("odd_length", "rollout/response_length", lambda step: 20 + step),
    ],
)
def test_each_symptom_alone_is_found(name, metric, value):
    history = [line | {"loss/entropy": 0.08, metric: value(line["step"])} for line in reference_run().history]
    assert shown(history) == [name]


def test_the_numbers_beside_each_symptom_by_hand():
    metrics = [name for name in reference_run().history[0] if name.startswith(("rollout/", "params/", "loss/"))]
    history = [dict.fromkeys(metrics, step) for step in range(1, 13)]
    assert {symptom.judge.__name__: symptom.judge(history)[1] for symptom in SYMPTOMS} == {
        "flat_reward": "2.00 → 10.00",  # the first three steps, and the last five
        "lost_reward": "best 10.00, now 10.00",
        "high_kl": "10.0 nats",
        "useless_critic": "10.50",  # the last third
        "much_clipping": "10.00",
        "collapsed_entropy": "2.000 → 10.000 nats",
        "odd_length": "2 → 10 tokens",
    }


def test_a_low_entropy_is_a_symptom_only_while_the_reward_is_low():
    low = [line | {"loss/entropy": 0.5 ** line["step"]} for line in reference_run().history]
    assert shown(low) == []
    for number, line in enumerate(low):
        line["rollout/reward_mean"] = 0.3 + 0.01 * number
    assert shown(low) == ["collapsed_entropy"]


def test_the_table_compares_after_as_many_steps_and_waits_before_it_judges():
    reference = reference_run().history
    history = deepcopy(reference[:12])
    for line in history:
        line["rollout/reward_mean"] = 0.25
    table = symptom_table(history, reference)
    assert "✗ <b>yes</b><br>0.25 → 0.25" in table and table.count("✗") == 1
    assert symptoms.flat_reward(reference[:12])[1] in table  # not the numbers at the reference's end
    assert "The course's" not in symptom_table(history)
    for early in ([], history[: symptoms.SOONEST - 1]):
        assert symptom_table(early, reference).count("too early: wait for step 10") == 2 * len(SYMPTOMS)
    assert "too early" not in symptom_table(history[:10], reference)


def test_symptoms_name_every_exercise():
    assert {number for number in "12345" if any(f"({number})" in s.meaning for s in SYMPTOMS)} == set("12345")
