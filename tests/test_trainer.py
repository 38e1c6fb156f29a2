"""The cycle: what each part hands to the next, what stops a run, and what a run leaves behind."""

import json
import math
import shutil
from dataclasses import replace
from functools import wraps
from itertools import count
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from course_utils.accelerator import make_accelerator
from course_utils.checkpoint import CheckpointError, latest, save, step_of
from course_utils.config import ConfigError
from course_utils.evaluate import Evaluation
from course_utils.exercises import EXERCISES, LOSSES, UPDATE_METRICS, ExerciseError, load_exercises
from course_utils.metrics import read_metrics
from course_utils.policy import load_actor
from course_utils.problems import load_problems
from course_utils.reward import Score
from course_utils.trainer import Trainer, TrainingError, describe_rollout, notes

SEED_METRICS = {
    "loss/policy",
    "loss/value",
    "loss/entropy",
    "loss/total",
    "params/policy_clip_frac",
    "params/value_clip_frac",
    "params/approx_kl",
    "params/grad_norm",
    "rollout/reward_mean",
}


@pytest.fixture
def make_trainer(small_config, solutions):
    """A trainer of a small run; keyword arguments replace single exercises."""

    def make(*overrides, **functions):
        return Trainer(small_config(*overrides), replace(load_exercises(solutions), **functions))

    return make


def test_a_run_writes_what_the_course_promises(make_trainer):
    trainer = make_trainer()
    history = list(trainer.train())
    assert [line["step"] for line in history] == [1, 2, 3]
    assert SEED_METRICS <= history[0].keys()
    assert {
        "rollout/kl",
        "rollout/response_length",
        "rollout/explained_variance",
        "time/tokens_per_second",
        "time/rollout_share",
        "time/reference_share",
        "time/update_share",
    } <= history[0].keys()
    assert "eval/accuracy" in history[-1] and "eval/accuracy" not in history[0]
    assert read_metrics(trainer.folder / "metrics.jsonl") == history
    assert {
        "metrics.jsonl",
        "effective_config.yaml",
        "samples_before.jsonl",
        "samples_after.jsonl",
        "step_2",
        "step_3",
        "final",
    } == {path.name for path in trainer.folder.iterdir()}
    model = AutoModelForCausalLM.from_pretrained(trainer.folder / "final")
    tokens = AutoTokenizer.from_pretrained(trainer.folder / "final")("Question: 1", return_tensors="pt")
    torch.testing.assert_close(model(tokens.input_ids).logits, trainer.unwrapped.model(tokens.input_ids).logits)


def test_the_numbers_of_a_rollout_by_hand():
    buffer = {
        "response_attention_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]]),
        "rewards": torch.tensor([1.0, 0.1, 0.1, 0.0]),
        "values": torch.tensor([[0.0, 1.0], [2.0, 50.0], [0.0, 1.0], [2.0, 50.0]]),
        "returns": torch.tensor([[0.0, 2.0], [4.0, 50.0], [0.0, 2.0], [4.0, 50.0]]),  # twice the values
    }
    answers = [(True, True, True), (False, True, True), (False, False, True), (False, False, False)]
    scores = [Score(reward, *answer) for reward, answer in zip(buffer["rewards"].tolist(), answers)]
    kl = torch.tensor([[1.0, 2.0], [3.0, 0.0], [-1.0, 1.0], [2.0, 0.0]])
    assert describe_rollout(buffer, scores, kl) == {
        "rollout/reward_mean": pytest.approx(0.3),
        "rollout/accuracy": 0.25,
        "rollout/flexible_accuracy": 0.5,
        "rollout/well_formed": 0.75,
        "rollout/kl": 2,  # a response, not a token
        "rollout/response_length": 1.5,
        "rollout/value_mean": 1,
        "rollout/explained_variance": pytest.approx(0.75),
    }


def test_each_number_of_an_evaluation_is_written_under_its_own_name(make_trainer, monkeypatch):
    trainer = make_trainer("training.total_ppo_steps=1")
    results = iter(Evaluation(n, n + 1, n + 2, n + 3, n + 4, 8, [{"n": n}]) for n in (10, 20))
    monkeypatch.setattr(trainer, "evaluate", lambda: next(results))
    (line,) = trainer.train()
    assert {name: line[name] for name in line if name.startswith(("before/", "eval/"))} == {
        "before/accuracy": 10,
        "before/low": 11,
        "before/high": 12,
        "eval/accuracy": 20,
        "eval/low": 21,
        "eval/high": 22,
        "eval/flexible_accuracy": 23,
        "eval/well_formed": 24,
    }
    samples = [(trainer.folder / f"samples_{when}.jsonl").read_text() for when in ("before", "after")]
    assert samples == ['{"n": 10}\n', '{"n": 20}\n']


def test_another_split_is_evaluated_on_as_many_of_its_problems(make_trainer, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr("course_utils.trainer.evaluate", lambda _, prompts, *__: [prompt.problem for prompt in prompts])
    data = trainer.cfg.dataset
    assert trainer.evaluate() == load_problems(data, data.eval_split)[:8]
    assert trainer.evaluate("test_wordings") == load_problems(data, "test_wordings")[:8]


def test_a_steps_update_metrics_are_the_means_of_its_epochs(make_trainer):
    epochs = count()

    def numbered(*_):
        return {name: number + 10 * epoch for epoch in [next(epochs)] for number, name in enumerate(UPDATE_METRICS)}

    line = make_trainer("ppo.epochs=3", run_ppo_update_epoch=numbered).ppo_step()
    assert [line[name] for name in UPDATE_METRICS] == [number + 10 for number in range(len(UPDATE_METRICS))]


def test_the_time_of_a_step_is_shared_out_among_its_parts(make_trainer, monkeypatch):
    """By a clock that goes on by 1 whenever it is looked at: three parts of 1 in a step of 7."""
    trainer = make_trainer()
    monkeypatch.setattr("course_utils.trainer.time", SimpleNamespace(perf_counter=count().__next__))
    line = trainer.ppo_step()
    assert [line[f"time/{part}_share"] for part in ("rollout", "reference", "update")] == pytest.approx([1 / 7] * 3)
    assert line["time/step_seconds"] == 7
    assert line["time/tokens_per_second"] == pytest.approx(16 * line["rollout/response_length"] / 7)


def test_problems_that_are_too_long_are_left_out_and_counted_aloud(make_trainer, capsys):
    trainer = make_trainer()
    assert len(trainer.prompts_of("train", 20)) == 20 and "skipped" not in capsys.readouterr().out
    longest = sorted(len(prompt.input_ids) for prompt in trainer.prompts_of("train", 20))[-2]
    trainer.cfg = replace(trainer.cfg, dataset=replace(trainer.cfg.dataset, max_prompt_length=longest - 1))
    kept = len(trainer.prompts_of("train", 20))
    assert kept <= 18
    words = f"{20 - kept} of 20 problems of train are longer than dataset.max_prompt_length={longest - 1} tokens"
    assert words in capsys.readouterr().out


def test_the_first_ratio_is_one_in_every_step(make_trainer):
    trainer = make_trainer()
    assert all(line["params/max_ratio_deviation"] < 1e-5 for line in trainer.train())
    buffer, _ = trainer.rollout(4)
    with torch.no_grad():
        trainer.unwrapped.model.get_input_embeddings().weight.mul_(1.1)
    assert trainer.ratio_deviation(buffer).max() > 0.01  # the metric sees a policy that is not the one that sampled


def test_log_probs_that_were_rounded_otherwise_in_sampling_are_scored_again(make_trainer, monkeypatch):
    trainer = make_trainer()
    buffer, _ = trainer.rollout(1)
    sampled = buffer["logprobs"]
    assert trainer.begin_at_ratio_1(buffer)["params/max_ratio_deviation"] < 1e-5
    assert buffer["logprobs"] is sampled  # a pass less
    next_token = trainer.unwrapped.next_token
    monkeypatch.setattr(trainer.unwrapped, "next_token", lambda *args: [1.00002 * part for part in next_token(*args)])
    buffer, _ = trainer.rollout(1)
    as_sampled = trainer.ratio_deviation(buffer).max()
    assert 1e-5 < as_sampled < 1e-3
    told = trainer.begin_at_ratio_1(buffer)
    assert told["params/sampled_ratio_deviation"] == as_sampled and told["params/max_ratio_deviation"] < 1e-5
    torch.testing.assert_close(buffer["logprobs"], sampled, atol=1e-5, rtol=0)


def test_a_model_that_samples_otherwise_than_it_scores_is_refused(make_trainer, monkeypatch):
    trainer = make_trainer()
    next_token = trainer.unwrapped.next_token
    monkeypatch.setattr(trainer.unwrapped, "next_token", lambda *args: [1.1 * part for part in next_token(*args)])
    with pytest.raises(TrainingError, match="PPO step 1: before the first update the ratio is off 1 by up to 0"):
        trainer.ppo_step()


def test_a_model_that_draws_random_numbers_in_training_only_is_refused_too(make_trainer):
    trainer = make_trainer()

    def noise(module, _inputs, output):
        return output + torch.randn_like(output) * output.std() if module.training else output

    trainer.unwrapped.model.get_input_embeddings().register_forward_hook(noise)
    with pytest.raises(TrainingError, match="because it draws random numbers in its layers"):
        trainer.ppo_step()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_half_precision_it_is_refused_too_where_it_is_more_than_rounding(make_trainer, monkeypatch, dtype):
    trainer = make_trainer(f"model.torch_dtype={dtype}", "dataset.max_gen_length=8", "ppo.rollout_samples=8")
    buffer, _ = trainer.rollout(1)
    assert trainer.ratio_deviation(buffer).mean() < 0.01
    assert trainer.begin_at_ratio_1(buffer)["params/sampled_ratio_deviation"] < 0.1
    next_token = trainer.unwrapped.next_token
    monkeypatch.setattr(trainer.unwrapped, "next_token", lambda *args: [p.roll(7, -1) for p in next_token(*args)])
    with pytest.raises(TrainingError, match="the ratio is off 1 by up to .* in the median.*Try model.torch_dtype"):
        trainer.ppo_step()


def test_the_policy_starts_at_the_reference_and_leaves_it_while_the_reference_stays(make_trainer):
    trainer = make_trainer("ppo.learning_rate=1e-3")
    before = {name: p.clone() for name, p in trainer.reference.named_parameters()}
    kl = [line["rollout/kl"] for line in trainer.train()]
    assert abs(kl[0]) < 1e-4 and abs(kl[-1]) > 1e-3
    assert all(torch.equal(p, before[name]) for name, p in trainer.reference.named_parameters())


def test_gae_gets_rewards_penalties_times_the_coefficient_and_the_critics_values(make_trainer, solutions):
    seen = []
    gae = load_exercises(solutions).compute_gae_advantages

    def spy(*arguments):
        seen.append([a.clone() if isinstance(a, torch.Tensor) else a for a in arguments])
        return gae(*arguments)

    trainer = make_trainer(
        "ppo.kl_coeff=0.5", "ppo.gamma=0.9", "ppo.lam=0.8", "ppo.learning_rate=1e-3", compute_gae_advantages=spy
    )
    history = list(trainer.train())
    assert len(seen) == 3  # once a rollout, not once an epoch
    rewards, penalties, values, mask, gamma, lam = seen[-1]
    assert (gamma, lam) == (0.9, 0.8)
    assert rewards.mean().item() == pytest.approx(history[-1]["rollout/reward_mean"])
    assert (penalties / 0.5).sum(1).mean().item() == pytest.approx(history[-1]["rollout/kl"], rel=1e-4)
    assert (penalties[mask == 0] == 0).all() and (values[mask == 0] == 0).all()
    assert (seen[0][2] == 0).all() and values.abs().max() > 0  # the critic begins at 0 and has learned since


def test_the_same_advantages_serve_every_epoch_and_the_given_losses_are_used(make_trainer, solutions):
    update, calls, buffers = load_exercises(solutions).run_ppo_update_epoch, [], []
    import inspect

    original = inspect.unwrap(update).__globals__["compute_policy_loss"]

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    trainer = make_trainer("ppo.epochs=3", "training.total_ppo_steps=1", compute_policy_loss=counted)
    learner = trainer.exercises.run_ppo_update_epoch

    @wraps(learner)
    def spy(actor, optimizer, scheduler, buffer, cfg, device):
        buffers.append({name: tensor.clone() for name, tensor in buffer.items()})
        return learner(actor, optimizer, scheduler, buffer, cfg, device)

    trainer.exercises.run_ppo_update_epoch = spy
    list(trainer.train())
    assert len(buffers) == 3 and len(calls) == 3 * 2  # epochs, and mini-batches of 8 of 16 in each
    for name in ("advantages", "returns", "logprobs", "values"):
        assert torch.equal(buffers[0][name], buffers[2][name])


def test_two_trainers_of_the_same_functions_do_not_get_into_each_others_way(small_config, solutions):
    def gradient(again: bool) -> float:
        exercises = load_exercises(solutions)
        trainer = Trainer(small_config("ppo.entropy_coeff=5"), exercises)
        if again:  # its entropy leaves no gradient
            Trainer(small_config("ppo.entropy_coeff=0"), exercises)
        return trainer.ppo_step()["params/grad_norm"]

    assert gradient(False) == gradient(True)


def test_prompts_go_on_from_step_to_step(make_trainer):
    trainer = make_trainer("training.num_samples=40", "training.total_ppo_steps=2")
    rows = [trainer.rollout(step)[0]["prompt_input_ids"] for step in (1, 2)]
    texts = [tuple(trainer.tokenizer.batch_decode(ids, skip_special_tokens=True)) for ids in rows]
    assert len(set(texts[0]) | set(texts[1])) == 32  # 2 × 16 of 40 problems, none twice


def test_a_step_draws_its_own_responses_and_draws_them_again(make_trainer):
    trainer = make_trainer("training.num_samples=1")  # one prompt in all rows of all steps
    first, second, again = (trainer.rollout(step)[0] for step in (1, 2, 1))
    assert torch.equal(first["prompt_input_ids"], second["prompt_input_ids"])
    assert torch.equal(first["response_input_ids"], again["response_input_ids"])
    texts, other_texts = (trainer.tokenizer.batch_decode(step["response_input_ids"]) for step in (first, second))
    assert texts != other_texts


def test_the_scheduler_counts_every_optimizer_step_of_the_run(make_trainer):
    # 16 rollouts in mini-batches of 5 are 4, in groups of 3 are 2 optimizer steps, 2 epochs, 3 PPO steps.
    trainer = make_trainer(
        "ppo.mini_batch_size=5", "ppo.gradient_accumulation_steps=3", "ppo.scheduler=linear", "ppo.warmup_steps=0"
    )
    rates = [trainer.lr_scheduler.get_last_lr()[0] for _ in trainer.train()]
    assert trainer.lr_scheduler.last_epoch == 12
    assert rates == pytest.approx([rate * trainer.cfg.ppo.learning_rate for rate in (2 / 3, 1 / 3, 0)], abs=1e-12)


def test_gradient_checkpointing_changes_nothing_but_the_memory(make_trainer):
    runs = [list(make_trainer(f"training.gradient_checkpointing={switch}").train()) for switch in ("true", "false")]
    for line, other in zip(*runs):
        assert {k: pytest.approx(v, rel=1e-4, abs=1e-6) for k, v in line.items() if not k.startswith("time/")} == {
            k: v for k, v in other.items() if not k.startswith("time/")
        }


def test_in_half_precision_the_first_ratio_is_near_one(make_trainer):
    trainer = make_trainer("model.torch_dtype=bfloat16", "training.total_ppo_steps=1")
    assert next(trainer.train())["params/max_ratio_deviation"] < 1e-3
    assert {p.dtype for p in trainer.unwrapped.parameters()} == {torch.float32}  # or small updates would round away


def test_without_a_kl_coefficient_no_reference_is_loaded_and_the_run_says_what_that_hides(make_trainer, capsys):
    trainer = make_trainer("ppo.kl_coeff=0", "training.total_ppo_steps=1")
    assert trainer.reference is None
    assert next(trainer.train())["rollout/kl"] == 0
    assert capsys.readouterr().out.count("ppo.kl_coeff=0: no reference is kept, so the KL to it is not measured") == 1
    assert make_trainer("ppo.kl_coeff=1e-12").reference  # as the note advises
    assert "ppo.kl_coeff" not in capsys.readouterr().out


@pytest.mark.parametrize("override", ["generation.top_k=5", "generation.top_p=0.9", "generation.min_new_tokens=3"])
def test_a_run_that_samples_from_another_distribution_than_it_scores_says_so(small_config, override):
    (note,) = notes(small_config(override))
    assert override in note and "the policy gradient is biased" in note
    assert not list(notes(small_config()))


def test_without_an_entropy_coefficient_the_entropy_is_logged_and_leaves_no_graph(make_trainer, solutions):
    """The zeros that a graph would send back change nothing, to the last bit."""

    def one_step(keep_graph: bool) -> tuple[dict, dict]:
        def noting(*given):
            with torch.set_grad_enabled(keep_graph or torch.is_grad_enabled()):
                loss = load_exercises(solutions).compute_entropy_loss(*given)
            assert loss.requires_grad == keep_graph
            return loss

        trainer = make_trainer("ppo.entropy_coeff=0", compute_entropy_loss=noting)
        metrics = trainer.ppo_step()
        return {name: metrics[name] for name in SEED_METRICS}, trainer.actor.state_dict()

    (metrics, weights), (wanted_metrics, wanted_weights) = one_step(False), one_step(True)
    assert metrics == wanted_metrics and metrics["loss/entropy"] > 0
    assert all(torch.equal(weight, wanted_weights[name]) for name, weight in weights.items())


@pytest.mark.parametrize("where", ["loss", "gradient", "metric"])
def test_nan_stops_the_run_and_keeps_the_last_checkpoint(make_trainer, solutions, where):
    policy_loss = load_exercises(solutions).compute_policy_loss
    poisoned_from = 2 * 2 * 2 + 2  # two steps of two epochs of two mini-batches; then the second epoch of step 3
    calls = []

    def poison(*arguments):
        calls.append(1)
        loss, clip_frac, kl = policy_loss(*arguments)
        if len(calls) > poisoned_from:
            # sqrt at 0: the loss is finite, its gradient is not.
            loss = {"loss": loss * torch.nan, "gradient": loss + torch.sqrt(loss - loss), "metric": loss}[where]
            clip_frac = clip_frac * torch.nan if where == "metric" else clip_frac
        return loss, clip_frac, kl

    trainer = make_trainer(compute_policy_loss=poison)
    with pytest.raises(TrainingError) as stopped:
        list(trainer.train())
    message = str(stopped.value)
    assert "PPO step 3, epoch 2" in message and "ppo.learning_rate" in message and "step_2" in message
    assert len(json.loads((trainer.folder / "non_finite_step_3.json").read_text())) == 8  # the mini-batch
    assert all(p.isfinite().all() for p in trainer.unwrapped.parameters())
    assert [line["step"] for line in read_metrics(trainer.folder / "metrics.jsonl")] == [1, 2]
    assert latest(trainer.folder).name == "step_2"


def test_a_diverged_model_stops_the_run_before_exercise_4_is_asked(make_trainer, solutions):
    gae, asked = load_exercises(solutions).compute_gae_advantages, []
    one_huge_step = (
        "ppo.learning_rate=1e10 ppo.epochs=1 ppo.mini_batch_size=16 ppo.warmup_steps=0 ppo.scheduler=constant"
    )
    trainer = make_trainer(
        *one_huge_step.split(), compute_gae_advantages=lambda *given: asked.append(given) or gae(*given)
    )
    with pytest.raises(
        TrainingError, match=r"^PPO step 2, rollout: .* of 16 responses .*smaller ppo.learning_rate"
    ) as stop:
        list(trainer.train())
    assert len(asked) == 1 and "non_finite_step_2.json" in str(stop.value)
    assert "No checkpoint was written yet." in str(stop.value)
    assert len(json.loads((trainer.folder / "non_finite_step_2.json").read_text())) == 16


def test_a_reference_that_computes_nan_is_not_blamed_on_exercise_4(make_trainer):
    trainer = make_trainer()
    with torch.no_grad():
        trainer.reference.model.get_input_embeddings().weight.fill_(math.inf)
    with pytest.raises(TrainingError, match="log-probs under the actor or the reference of 16 responses"):
        trainer.ppo_step()


def test_a_metric_that_is_not_finite_is_told_where_the_model_was_never_asked(make_trainer):
    trainer = make_trainer(run_ppo_update_epoch=lambda *_: dict.fromkeys(UPDATE_METRICS, math.nan))
    with pytest.raises(TrainingError, match="loss/policy, .* is not finite"):
        trainer.ppo_step()


@pytest.mark.parametrize("factor", [math.nan, 1e11])  # finite, and nothing computed with it is
def test_no_checkpoint_is_written_of_a_model_that_computes_nan(make_trainer, factor):
    trainer = make_trainer("training.save_interval=1")
    next(trainer.train())
    with torch.no_grad():
        for parameter in trainer.unwrapped.parameters():
            parameter.mul_(factor)
    with pytest.raises(TrainingError, match="PPO step 1.*no checkpoint is written.* last good checkpoint is .*step_1"):
        trainer.save("step_2")
    assert latest(trainer.folder).name == "step_1" and not list(trainer.folder.glob(".*"))


def test_a_full_disk_loses_nothing(make_trainer, monkeypatch):
    trainer = make_trainer("training.save_interval=1")
    steps = trainer.train()
    next(steps)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="the disk is full.*step_1.*resume=auto"):
        next(steps)
    assert latest(trainer.folder).name == "step_1" and not list(trainer.folder.glob(".*"))
    assert [line["step"] for line in read_metrics(trainer.folder / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("number, loss", list(enumerate(LOSSES, 1)))
def test_a_loss_of_the_wrong_form_is_not_blamed_on_exercise_5(make_trainer, number, loss):
    with pytest.raises(ExerciseError, match=f"^exercise {number}: {loss} must return .*notebooks/0{number}_"):
        make_trainer(**{loss: lambda *_: torch.ones(8)}).ppo_step()


def test_a_losses_metrics_may_be_plain_numbers(make_trainer, solutions):
    policy_loss = load_exercises(solutions).compute_policy_loss
    trainer = make_trainer(compute_policy_loss=lambda *given: [policy_loss(*given)[0], 0.25, 0])
    assert trainer.ppo_step()["params/policy_clip_frac"] == 0.25


@pytest.mark.parametrize(
    "result, complaint",
    [
        ((torch.zeros(16, 3), torch.zeros(16, 3)), "shape"),
        (torch.zeros(16, 24), "two tensors"),
    ],
)
def test_advantages_of_the_wrong_form_are_named(make_trainer, result, complaint):
    trainer = make_trainer(compute_gae_advantages=lambda *_: result)
    with pytest.raises(ExerciseError, match=f"compute_gae_advantages.*{complaint}"):
        next(trainer.train())


def test_advantages_that_are_not_finite_are_named(make_trainer):
    trainer = make_trainer(compute_gae_advantages=lambda r, k, values, *_: (values + math.nan, values))
    with pytest.raises(ExerciseError, match="advantages that are not finite"):
        next(trainer.train())


@pytest.mark.parametrize("number, argument", [(0, "final_rewards"), (2, "values"), (3, "response_mask")])
def test_a_gae_that_changes_an_input_is_named(make_trainer, solutions, number, argument):
    def careless(*given):
        result = load_exercises(solutions).compute_gae_advantages(*given)
        given[number].sub_(1)
        return result

    with pytest.raises(ExerciseError, match=f"^exercise 4: compute_gae_advantages changed its argument {argument} in"):
        make_trainer(compute_gae_advantages=careless).ppo_step()


def test_a_gae_that_changes_a_shape_is_named(make_trainer, solutions):
    def careless(*given):
        result = load_exercises(solutions).compute_gae_advantages(*given)
        given[2].unsqueeze_(0)
        return result

    with pytest.raises(ExerciseError, match="^exercise 4: .* changed its argument values in place"):
        make_trainer(compute_gae_advantages=careless).ppo_step()


def test_an_update_without_its_metrics_is_named(make_trainer):
    trainer = make_trainer(run_ppo_update_epoch=lambda *_: {"loss/policy": 0.0})
    with pytest.raises(ExerciseError, match="lacks loss/value"):
        next(trainer.train())


@pytest.mark.parametrize("several", [[0.1, 0.2], None, torch.zeros(2)])
def test_a_metric_that_is_not_one_number_is_named(make_trainer, several):
    trainer = make_trainer(run_ppo_update_epoch=lambda *_: dict.fromkeys(UPDATE_METRICS, 0.0) | {"loss/value": several})
    with pytest.raises(ExerciseError, match="loss/value as one number, not"):
        next(trainer.train())


def test_advantages_may_come_as_a_list(make_trainer, solutions):
    """As check() and the judge have it."""
    gae = load_exercises(solutions).compute_gae_advantages
    assert next(make_trainer(compute_gae_advantages=lambda *given: [*gae(*given)]).train())["step"] == 1


@pytest.mark.parametrize(
    "key, old, new, line",
    [
        (
            "entropy",
            "log_probs).sum(dim=-1)",
            "log_probs).sum(dim=-1)[:, :2]",
            "mean_entropy = (entropy * response_mask)",
        ),
        ("gae", "tokens = response_mask.sum()", "tokens = response_mask.total()", "tokens = response_mask.total()"),
        ("gae", "tokens = response_mask.sum()", "raise SystemExit('bye')", "raise SystemExit('bye')"),
        ("policy_loss", "    return ", "    exit()\n    return ", "exit()"),
    ],
)
def test_what_an_exported_function_raises_is_told_with_its_line(small_config, solutions, tmp_path, key, old, new, line):
    exercise, own = EXERCISES[key], tmp_path / "exercises"
    shutil.copytree(solutions, own)
    source = (own / exercise.module_file).read_text()
    assert old in source
    (own / exercise.module_file).write_text(source.replace(old, new))
    with pytest.raises(ExerciseError) as stopped:
        next(Trainer(small_config(), load_exercises(own)).train())
    message = str(stopped.value)
    assert message.startswith(f"exercise {exercise.number}, {own / exercise.module_file}, line ")
    assert line in message.splitlines()[0] and exercise.notebook in message and "export" in message


def test_what_other_code_raises_passes_as_it_is(make_trainer):
    def broken(*_):
        raise KeyError("of nobody's module")

    with pytest.raises(KeyError, match="of nobody's module"):
        next(make_trainer(compute_gae_advantages=broken).train())


def test_a_gpu_config_on_a_cpu_says_so(make_trainer):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="training.device=cuda.*no CUDA GPU"):
        make_trainer("training.device=cuda")


@pytest.mark.parametrize(
    "device, gpu, on_cpu", [("auto", True, False), ("auto", False, True), ("cuda", True, False), ("cpu", True, True)]
)
def test_the_automatic_device_is_a_cuda_gpu_where_there_is_one(device, gpu, on_cpu, small_config, monkeypatch):
    """Elsewhere it is the CPU: left to Accelerate, it would be a Mac's GPU."""
    made = Mock(return_value=Mock(num_processes=1))
    monkeypatch.setattr("course_utils.accelerator.Accelerator", made)
    monkeypatch.setattr(
        "course_utils.accelerator.PartialState", lambda cpu, **_: Mock(device=torch.device("cpu" if cpu else "cuda"))
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    make_accelerator(small_config(f"training.device={device}"))
    assert made.call_args.kwargs["cpu"] == on_cpu


def test_8bit_adam_on_a_cpu_is_a_note_not_an_error(make_trainer, capsys):
    trainer = make_trainer("ppo.use_8bit_adam=true")
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert capsys.readouterr().out.count("32-bit AdamW") == 1


def test_a_new_run_never_writes_into_an_old_folder(make_trainer):
    first = make_trainer("training.total_ppo_steps=1")
    list(first.train())
    second = make_trainer("training.total_ppo_steps=1")
    assert second.folder.name == f"{first.folder.name}-2"


def test_a_stopped_loop_goes_on_where_it_stopped(make_trainer):
    trainer = make_trainer()
    for _ in trainer.train():
        break
    assert [line["step"] for line in trainer.train()] == [2, 3]


class Stopped(BaseException):
    """As KeyboardInterrupt, of which a test that fails would end pytest."""


def stop_in_call(number: int, function):
    """The function, whose call of this number is stopped by hand."""
    calls = []

    def stopping(*arguments, **named):
        calls.append(1)
        if len(calls) == number:
            raise Stopped
        return function(*arguments, **named)

    return stopping


def test_a_run_stopped_in_an_update_does_the_step_again_and_keeps_to_the_schedule(make_trainer, solutions):
    policy_loss = load_exercises(solutions).compute_policy_loss
    trainer = make_trainer(compute_policy_loss=stop_in_call(4, policy_loss))  # two optimizer steps, and a half
    with pytest.raises(Stopped):
        next(trainer.train())
    assert trainer.step == 0 and trainer.lr_scheduler.last_epoch == 0
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.lr_scheduler.get_last_lr()[0]
    assert all(parameter.grad is None for parameter in trainer.unwrapped.parameters())
    before = (trainer.folder / "samples_before.jsonl").read_bytes()
    first, *_ = trainer.train()
    assert (trainer.folder / "samples_before.jsonl").read_bytes() == before and "before/accuracy" in first
    assert [line["step"] for line in read_metrics(trainer.log.path)] == [1, 2, 3]
    assert trainer.lr_scheduler.last_epoch == 3 * 2 * 2  # steps, epochs, mini-batches


@pytest.mark.parametrize("number", [2, 3])  # of an evaluation in step 2, and in the last
def test_a_run_stopped_in_an_evaluation_loses_no_line(make_trainer, monkeypatch, number):
    trainer = make_trainer("training.eval_interval=2")
    monkeypatch.setattr(trainer, "evaluate", stop_in_call(number, trainer.evaluate))
    with pytest.raises(Stopped):
        list(trainer.train())
    list(trainer.train())
    lines = read_metrics(trainer.log.path)
    assert [(line["step"], "eval/accuracy" in line, "before/accuracy" in line) for line in lines] == [
        (1, False, True),
        (2, True, False),
        (3, True, False),
    ]
    assert step_of(trainer.folder / "final") == 3


@pytest.mark.parametrize("number", [1, 2])  # of step_3, of final
def test_a_run_stopped_in_its_last_checkpoints_writes_both(make_trainer, monkeypatch, number):
    trainer = make_trainer("training.save_interval=3")
    monkeypatch.setattr("course_utils.checkpoint.save", stop_in_call(number, save))
    with pytest.raises(Stopped):
        list(trainer.train())
    assert list(trainer.train()) == []
    assert [step_of(trainer.folder / name) for name in ("step_3", "final")] == [3, 3]
    lines = read_metrics(trainer.log.path)
    assert [(line["step"], "eval/accuracy" in line) for line in lines] == [(1, False), (2, False), (3, True)]


def test_a_run_that_fails_to_load_leaves_no_folder(make_trainer, monkeypatch):
    def loads(*arguments):
        (run / "tinier-zero").mkdir()  # as TensorBoard has begun by then
        return failing(*arguments)

    run, failing = make_trainer().folder.with_name("run-2"), stop_in_call(1, load_actor)
    monkeypatch.setattr("course_utils.policy.load_actor", loads)
    with pytest.raises(Stopped):
        make_trainer()
    assert make_trainer().folder == run
