"""The PPO cycle: rollout -> KL penalties and GAE -> update epochs -> repeat, with five functions given from outside.

    trainer = Trainer(load_config("configs/config_debug.yaml"), load_exercises("exercises"))
    for metrics in trainer.train():
        print(metrics["rollout/reward_mean"])

What belongs to the machine is here and not in the learner's code: processes, mixed precision, checkpoints, the check
for NaN. `run_ppo_update_epoch` calls loss.backward() and optimizer.step() as on a single CPU.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from course_utils import checkpoint, fsdp, policy
from course_utils.accelerator import make_accelerator, start_trackers
from course_utils.blame import naming_the_exercise
from course_utils.config import Config, of_one_process, save_config
from course_utils.disk import write_file
from course_utils.evaluate import Evaluation, evaluate
from course_utils.exercises import UPDATE_METRICS, Exercises
from course_utils.memory import check_gpu
from course_utils.metrics import MetricsLog, explained_variance, masked_mean, read_metrics
from course_utils.optimizer import make_optimizer, make_scheduler
from course_utils.plain_error import PlainError
from course_utils.problems import Prompt, load_problems, make_prompts, prompt_stream
from course_utils.results import check_advantages, check_unchanged, check_update_metrics, checking_losses
from course_utils.reward import Score, score
from course_utils.rollout import collate, collect, pad_prompts, score_logprobs, texts_of, whole_texts
from course_utils.run_folder import SETTINGS, came_to_something, open_run

T = TypeVar("T")
SAMPLE = 8  # rows that are looked at where all would cost a pass of the model


class TrainingError(PlainError):
    """A run that had to stop: in which step, why, what to try, and what is safe on the disk."""


class Trainer:
    """One run of PPO. `train()` yields the metrics of each step; `step` counts the finished ones."""

    def __init__(self, cfg: Config, exercises: Exercises):
        exercises = checking_losses(exercises)
        if not cfg.ppo.entropy_coeff:  # logged all the same, but no gradient has to go back through it
            exercises = replace(exercises, compute_entropy_loss=torch.no_grad()(exercises.compute_entropy_loss))
        self.cfg, self.exercises = cfg, exercises
        self.accelerator = make_accelerator(cfg)
        self.device = self.accelerator.device
        set_seed(cfg.training.seed)
        shape = policy.load_shape(cfg)  # what the model cannot read is refused before anything takes time
        if self.device.type == "cuda":
            total = torch.cuda.get_device_properties(self.device).total_memory
            check_gpu(shape, self.cfg_of_process, total, self.accelerator.print, fsdp.shards(self.accelerator))
        for note in notes(cfg):
            self.accelerator.print(note)
        self.tokenizer = policy.load_tokenizer(cfg, self.accelerator.print)
        self.prompts = self.prompts_of(cfg.dataset.split, cfg.training.num_samples)
        self.eval_prompts = self.prompts_of(cfg.dataset.eval_split, cfg.dataset.eval_samples)

        self.step = 0
        self._before: dict[str, float] = {}  # the evaluation before the first step, until its line is written
        self._unwritten: dict = {}  # the line of the newest step, until it is in metrics.jsonl
        self._running, self._where = 0, "PPO step 0"  # what to name if the run has to stop
        self.folder, resume_from = self._open_folder()
        try:
            start_trackers(self.accelerator, cfg, self.folder)
            self._load(resume_from)
        except BaseException:
            if self.accelerator.is_main_process and not came_to_something(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        if self.accelerator.is_main_process:
            self.log = MetricsLog(self.folder / "metrics.jsonl", self.step)
            save_config(cfg, self.folder / SETTINGS)

    def _load(self, resume_from: Path | None) -> None:
        """Models, optimizer and schedule, as they begin or as a checkpoint has them."""
        cfg = self.cfg
        actor = self._placed(policy.load_actor(cfg, resume_from))
        needs_copy = cfg.ppo.kl_coeff and not cfg.model.lora
        self.reference = self._placed(policy.load_reference(cfg)) if needs_copy else None
        self.actor = self.sampler = actor
        if actor.sharded:
            self.sampler = policy.load_reference(cfg).to(self.device)
            fsdp.copy_weights(actor, self.sampler)
        elif self.accelerator.num_processes > 1:
            self.actor = self.accelerator.prepare_model(actor)
        self.optimizer = make_optimizer(cfg, actor, self.device, self.accelerator.print)
        self.optimizer.register_step_pre_hook(self._before_optimizer_step)
        self.lr_scheduler = make_scheduler(cfg, self.optimizer)
        if resume_from:
            state = checkpoint.restore(resume_from, self.optimizer, self.lr_scheduler, actor.sharded)
            self.step = state["step"]
            if actor.loss_scale:
                actor.loss_scale.load_state_dict(state["loss_scale"])

    # ---------------------------------------------------------------- the cycle

    def train(self) -> Iterator[dict]:
        """Runs the steps that are left. Stop it where you like: finished steps are in metrics.jsonl, and calling it
        again goes on. A step that was stopped in its update begins again, with the weights as they are by then."""
        total = self.cfg.training.total_ppo_steps
        if self.step == 0 and not self._before:
            result = self.evaluate()
            self._save_samples("samples_before.jsonl", result)
            self._before = {"before/accuracy": result.accuracy, "before/low": result.low, "before/high": result.high}
        if self.step == total and not self._unwritten and checkpoint.step_of(self.folder / "final") != total:
            self._finish()
        while self._unwritten or self.step < total:
            metrics = self._unwritten = self._unwritten or self.ppo_step() | self._before
            self._record(metrics)
            yield metrics
        self.accelerator.end_training()

    def ppo_step(self) -> dict:
        """The next step: one rollout and the update epochs on it."""
        step = self.step + 1
        # A seed for each step: a resumed run draws what an uninterrupted one would have drawn.
        set_seed(self.cfg.training.seed + 1000 * step + self.accelerator.process_index)
        self._running, self._where = step, f"PPO step {step}, rollout"
        spent: dict[str, float] = {}  # seconds in each part
        start = time.perf_counter()
        with timed(spent, "rollout"):
            buffer, scores = self.rollout(step)
            deviation = self.begin_at_ratio_1(buffer)
        self._where = f"PPO step {step}, reference"
        with timed(spent, "reference"):
            kl = self.add_advantages(buffer)
        metrics = {"step": step, **describe_rollout(buffer, scores, kl), **deviation}
        with timed(spent, "update"):
            metrics |= self.update(buffer)
        if loss_scale := self.unwrapped.loss_scale:
            metrics |= {"params/loss_scale": loss_scale.value, "params/skipped_updates": loss_scale.skipped}
        seconds = time.perf_counter() - start
        metrics |= {f"time/{name}_share": part / seconds for name, part in spent.items()}
        tokens = buffer["response_attention_mask"].sum().item()
        self.step = step
        return metrics | {"time/step_seconds": seconds, "time/tokens_per_second": tokens / seconds}

    def rollout(self, step: int) -> tuple[dict[str, Tensor], list[Score]]:
        """Samples cfg.ppo.rollout_samples responses, shared out over the processes, and scores them."""
        cfg, count = self.cfg, self.cfg.ppo.rollout_samples
        prompts = list(islice(prompt_stream(self.prompts, cfg.training.seed, (step - 1) * count), count))
        noise = torch.Generator().manual_seed(cfg.training.seed + 1000 * step)
        uniforms = self._mine(torch.rand(count, cfg.generation.max_new_tokens, generator=noise))
        buffer = self._fitting(
            "batch_size",  # of self.cfg, which is another one when memory has run out
            lambda: collect(self.sampler, self._mine(prompts), self.tokenizer, self.cfg, uniforms, self.device),
        )
        buffer = self._gather(buffer)
        self._stop_if_not_finite("log-probs or values", buffer["logprobs"] + buffer["values"], buffer)
        scores = [
            score(text, prompt.problem.gold, cfg.reward)
            for text, prompt in zip(texts_of(buffer, self.tokenizer), prompts)
        ]
        buffer["rewards"] = torch.tensor([s.reward for s in scores], device=self.device)
        return buffer, scores

    def begin_at_ratio_1(self, buffer: dict[str, Tensor]) -> dict[str, float]:
        """Attention over a cache rounds otherwise than the update's, which has none: little in float32, more in large
        models and in half precision. Where ratio_deviation() is more than 1e-5, all log-probs are scored again, as the
        update will.

        Returns:
            params/sampled_ratio_deviation, the largest as sampled, and params/max_ratio_deviation, the largest with
            which the update begins.
        Raises:
            TrainingError: it is more than rounding: above 1e-3 at any token, or in half precision, where single tokens
                may be far off (a router turns to another expert), above 0.3 in the median.
        """
        self.actor.train()  # as in the update: sampling's eval() would hide what draws random numbers
        deviation = self.ratio_deviation(buffer)
        largest, median = deviation.max().item(), deviation.median().item()
        half = self.unwrapped.compute_dtype != torch.float32
        if not (median <= 0.3 if half else largest <= 1e-3):  # nor where it is NaN
            raise TrainingError(
                f"PPO step {self.step + 1}: before the first update the ratio is off 1 by up to {largest:.2g}, by "
                f"{median:.2g} in the median. {self.cfg.model.name} samples and scores differently, for instance "
                "because it draws random numbers in its layers or does not take padding on the left. "
                f"{'Try model.torch_dtype=float32, or use' if half else 'Use'} another model."
            )
        begins_with = largest
        if self._on_any_process(largest > 1e-5):
            buffer["logprobs"] = self._scored(self.unwrapped, buffer)
            begins_with = self.ratio_deviation(buffer).max().item()
        return {"params/sampled_ratio_deviation": largest, "params/max_ratio_deviation": begins_with}

    def add_advantages(self, buffer: dict[str, Tensor]) -> Tensor:
        """Adds ref_logprobs, advantages and returns (N, R) to the buffer; returns log π − log π_ref (N, R)."""
        ppo, mask = self.cfg.ppo, buffer["response_attention_mask"]
        buffer["ref_logprobs"] = self.reference_logprobs(buffer)
        kl = (buffer["logprobs"] - buffer["ref_logprobs"]) * mask
        self._stop_if_not_finite("log-probs under the actor or the reference", kl, buffer)
        given = buffer["rewards"], ppo.kl_coeff * kl, buffer["values"], mask
        before = [tensor.clone() for tensor in given]
        with naming_the_exercise():
            result = self.exercises.compute_gae_advantages(*given, ppo.gamma, ppo.lam)
        check_unchanged("compute_gae_advantages", before, given)
        buffer["advantages"], buffer["returns"] = check_advantages(result, mask.shape)
        return kl

    def reference_logprobs(self, buffer: dict[str, Tensor]) -> Tensor:
        """(N, R), under the model as it was before PPO; without a KL penalty, under the actor."""
        if not self.cfg.ppo.kl_coeff:
            return buffer["logprobs"].clone()
        frozen = policy.without_adapters(self.sampler) if self.cfg.model.lora else nullcontext(self.reference)
        with frozen as reference:
            return self._scored(reference, buffer)

    def update(self, buffer: dict[str, Tensor]) -> dict[str, float]:
        """cfg.ppo.epochs passes of run_ppo_update_epoch over this process's rows; the mean of their metrics."""
        self.exercises.connect()  # here, since another trainer of the same functions may have put in its own losses
        self.actor.train()
        schedule = self.lr_scheduler.state_dict()
        try:
            epochs = self._epochs(buffer)
            if self.unwrapped.sharded:
                fsdp.copy_weights(self.actor, self.sampler)
            means = [sum(epoch[name] for epoch in epochs) / len(epochs) for name in UPDATE_METRICS]
            means = self.accelerator.reduce(torch.tensor(means, device=self.device), reduction="mean").tolist()
            return dict(zip(UPDATE_METRICS, means))
        except BaseException:  # a stop by hand above all, after which the step begins again
            self._rewind(schedule)
            raise

    def _epochs(self, buffer: dict[str, Tensor]) -> list[dict[str, float]]:
        """The metrics of each epoch."""
        rows = self._rows_of_process(buffer)
        epochs = []
        # Of the prompt only its last position predicts a token of the response. One more, so that a learner's slip by
        # one position reads what it would read.
        first_read = buffer["prompt_input_ids"].shape[1] - 2
        for epoch in range(1, self.cfg.ppo.epochs + 1):
            self._where = f"PPO step {self._running}, epoch {epoch}"
            with naming_the_exercise(), self.unwrapped.read_from(first_read):
                metrics = self._fitting(
                    "mini_batch_size",
                    lambda: self.exercises.run_ppo_update_epoch(
                        self.actor, self.optimizer, self.lr_scheduler, rows, self.cfg_of_process, self.device
                    ),
                )
            epochs.append(check_update_metrics(metrics))
            bad = [name for name, value in epochs[-1].items() if not math.isfinite(value)]
            if bad:
                self._stop(f"{', '.join(bad)} is not finite")
        return epochs

    def ratio_deviation(self, buffer: dict[str, Tensor]) -> Tensor:
        """|π/π_old − 1| (T,) at the tokens of the first SAMPLE responses: 0 but for rounding, or sampling and scoring
        do not mean the same policy."""
        part = {name: tensor[:SAMPLE] for name, tensor in buffer.items()}
        log_ratio = self._score_rows(self.unwrapped, part) - part["logprobs"]
        return (log_ratio.exp() - 1).abs()[part["response_attention_mask"].bool()]

    # ---------------------------------------------------------------- evaluation, checkpoints

    def evaluate(self, split: str | None = None) -> Evaluation:
        """Greedy accuracy on cfg.dataset.eval_split, or on as many problems of another split."""
        prompts = self.prompts_of(split, self.cfg.dataset.eval_samples) if split else self.eval_prompts
        return self._fitting(
            "batch_size", lambda: evaluate(self.sampler, prompts, self.tokenizer, self.cfg, self.device)
        )

    def save(self, name: str) -> Path:
        """Writes a checkpoint of the model as it is and of the number of finished steps. All processes call it, and the
        main one writes.

        Raises:
            TrainingError: the model computes NaN or Inf, so that nobody could go on from it.
        """
        self._stop_if_unusable()
        parts = {"model": self.unwrapped.model, "value_head": self.unwrapped.value_head, "optimizer": self.optimizer}
        if self.unwrapped.sharded:
            tensors = {name: fsdp.gathered(part, self.accelerator.is_main_process) for name, part in parts.items()}
        else:
            tensors = {name: part.state_dict() for name, part in parts.items()}
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state: dict[str, Any] = {"step": self.step}
            if loss_scale := self.unwrapped.loss_scale:
                state["loss_scale"] = loss_scale.state_dict()
            checkpoint.save(self.folder / name, self.unwrapped.model, self.tokenizer, tensors, self.lr_scheduler, state)
        return self.folder / name

    @property
    def unwrapped(self) -> policy.ActorCritic:
        return self.accelerator.unwrap_model(self.actor)

    def _record(self, metrics: dict) -> None:
        training = self.cfg.training
        last = self.step == training.total_ppo_steps
        evaluated = last or self.step % training.eval_interval == 0
        if evaluated:
            metrics |= self._evaluation()
        if self.accelerator.is_main_process:
            self.log.append(metrics)
        self._before, self._unwritten = {}, {}
        if self.step == 1 or evaluated or self.step % training.log_interval == 0:
            self.accelerator.log({name: metrics[name] for name in metrics if name != "step"}, step=self.step)
        if last or self.step % training.save_interval == 0:
            self.save(f"step_{self.step}")
        if last:
            self.save("final")

    def _finish(self) -> None:
        """Writes what is missing of a run that was stopped after its last step: the evaluation, made again, and the
        checkpoints."""
        evaluation = self._evaluation()
        if self.accelerator.is_main_process:
            lines = read_metrics(self.log.path)
            # The line of a step that was stopped in its evaluation may be lost: the last is of another model.
            self.log.write([line | evaluation if line["step"] == self.step else line for line in lines])
        self.save(f"step_{self.step}")
        self.save("final")

    def _evaluation(self) -> dict[str, float]:
        result = self.evaluate()
        self._save_samples("samples_after.jsonl", result)
        return {
            "eval/accuracy": result.accuracy,
            "eval/low": result.low,
            "eval/high": result.high,
            "eval/flexible_accuracy": result.flexible_accuracy,
            "eval/well_formed": result.well_formed,
        }

    def _save_samples(self, name: str, result: Evaluation) -> None:
        if self.accelerator.is_main_process:
            lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in result.samples]
            write_file("".join(lines), self.folder / name)

    # ---------------------------------------------------------------- set-up and safety

    def prompts_of(self, split: str, count: int | None) -> list[Prompt]:
        """The first `count` problems of a split as prompts; those that are too long are skipped, and said."""
        data = self.cfg.dataset
        problems = load_problems(data, split)[:count]
        prompts, skipped = make_prompts(problems, self.tokenizer, data)
        if skipped:
            self.accelerator.print(
                f"{skipped} of {len(problems)} problems of {split} are longer than "
                f"dataset.max_prompt_length={data.max_prompt_length} tokens and are skipped"
            )
        return prompts

    def _open_folder(self) -> tuple[Path, Path | None]:
        found = [open_run(self.cfg) if self.accelerator.is_main_process else None]
        return broadcast_object_list(found)[0]

    def _placed(self, model: policy.ActorCritic) -> policy.ActorCritic:
        """The model on this process's device: whole, or with FSDP this process's part of it."""
        if fsdp.shards(self.accelerator) == 1:
            return model.to(self.device)
        layers = fsdp.shard(model, self.device)
        self.accelerator.print(
            f"FSDP: a model of {layers} layers, sharded over {self.accelerator.num_processes} processes"
        )
        return model

    def _rows_of_process(self, buffer: dict[str, Tensor]) -> dict[str, Tensor]:
        """This process's rows of a buffer."""
        return {name: self._mine(rows) for name, rows in buffer.items()}

    def _mine(self, rows):
        """This process's rows of a tensor or a list."""
        return rows[self.accelerator.process_index :: self.accelerator.num_processes]

    def _scored(self, model: policy.ActorCritic, buffer: dict[str, Tensor]) -> Tensor:
        """Log-probs (N, R) of the responses under `model`, each process scoring its rows."""
        return self._gather({"logprobs": self._score_rows(model, self._rows_of_process(buffer))})["logprobs"]

    def _score_rows(self, model: policy.ActorCritic, rows: dict[str, Tensor]) -> Tensor:
        """Log-probs of these rows of a buffer, in this process: as many at a time as in the update, where the logits of
        all positions have to fit too."""
        return self._fitting(
            "mini_batch_size", lambda: score_logprobs(model, rows, self.cfg_of_process.ppo.mini_batch_size)
        )

    def _gather(self, buffer: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of all processes in the order of the prompts, on every process."""
        processes = self.accelerator.num_processes
        if processes == 1:
            return buffer
        parts = gather_object([{name: tensor.cpu() for name, tensor in buffer.items()}])
        joined = collate(parts, self.tokenizer.pad_token_id)
        rows = torch.arange(len(next(iter(joined.values())))).view(processes, -1).T.flatten()
        return {name: tensor[rows].to(self.device) for name, tensor in joined.items()}

    def _fitting(self, key: str, work: Callable[[], T]) -> T:
        """What work() returns. As often as memory runs out, ppo.`key` is halved for the rest of the run and work()
        begins again: sampling gives the same responses, and an update epoch sees those mini-batches twice that came
        before. Half a mini-batch (a third, a fifth, where it has no half) is accumulated twice as often, so that an
        optimizer step means as many responses as before, and the schedule counts the epoch once.

        Raises:
            TrainingError: what cannot be halved any more does not fit.
        """
        schedule = self.lr_scheduler.state_dict()
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                smaller = self._smaller(key, error)
            # Not above: the error's traceback keeps the tensors alive.
            clear_device_cache(garbage_collection=True)
            if key == "mini_batch_size":
                self._rewind(schedule)
            self.cfg = replace(self.cfg, ppo=replace(self.cfg.ppo, **smaller))
            self.accelerator.print(f"PPO step {self.step + 1}: out of memory; going on with ppo.{key}={smaller[key]}")

    def _smaller(self, key: str, error: RuntimeError) -> dict[str, Any]:
        """ppo.`key` at half its size and what changes with it, or the TrainingError that _fitting() promises."""
        ppo, processes = self.cfg.ppo, self.accelerator.num_processes
        size = getattr(ppo, key)
        part = size // 2
        while part and key == "mini_batch_size" and (size % part or part % processes):
            part -= 1
        if not part or key == "mini_batch_size" and processes > 1:  # one alone cannot take more mini-batches
            smaller = f"ppo.{key}={part}, " if part else ""
            raise TrainingError(
                f"PPO step {self.step + 1}: out of memory with ppo.{key}={size}. Go on with "
                "training.resume=auto and training.gradient_checkpointing=true, unless it is; or begin a new run with "
                f"{smaller}a smaller generation.max_new_tokens or a smaller model."
            ) from error
        if key == "mini_batch_size":
            return {key: part, "gradient_accumulation_steps": size // part * ppo.gradient_accumulation_steps}
        return {key: part}

    def _rewind(self, schedule: dict) -> None:
        """Forgets what an update that broke off has done to gradients and to the learning rate."""
        self.optimizer.zero_grad()
        self.lr_scheduler.load_state_dict(schedule)
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr()):
            group["lr"] = rate

    @property
    def cfg_of_process(self) -> Config:
        return of_one_process(self.cfg, self.accelerator.num_processes)

    def _before_optimizer_step(self, optimizer, _args, _kwargs) -> None:
        """Leaves a step out in which float16 overflowed; stops the run at any other gradient that is not finite."""
        loss_scale = self.unwrapped.loss_scale
        if loss_scale and loss_scale.overflowed(self._on_any_process):
            optimizer.zero_grad()  # without gradients, AdamW leaves weights and moments alone
            if loss_scale.value < 1:
                self._stop("the gradients overflow float16 however small they are scaled")
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            self._stop("a gradient is not finite (NaN or Inf)")

    def _on_any_process(self, here: bool) -> bool:
        return bool(self.accelerator.reduce(torch.tensor(float(here), device=self.device)) > 0)

    def _stop_if_unusable(self) -> None:
        """Finite weights may still be so large that nothing else is: a few prompts show it."""
        ids, mask = pad_prompts(self.eval_prompts[:SAMPLE], self.tokenizer.pad_token_id, self.device)
        with torch.no_grad():
            outputs = self.sampler(ids, mask, logits_to_keep=1)
        if not all(tensor.isfinite().all() for tensor in (*outputs, *self.sampler.parameters())):
            self._stop(
                "the weights, or what the model computes with them, are not finite; no checkpoint is written of them",
                ids,
            )

    def _stop_if_not_finite(self, what: str, numbers: Tensor, buffer: dict[str, Tensor]) -> None:
        """Before an exercise gets them, and the blame. `numbers` (N, R) of the buffer's responses."""
        bad = ~numbers.isfinite().all(1)
        if bad.any():
            self._stop(f"{what} of {int(bad.sum())} responses are not finite", whole_texts(buffer)[0][bad])

    def _stop(self, what: str, texts: Tensor | None = None) -> None:
        """Ends the run; `texts` are the token ids in question, else the last mini-batch."""
        kept = checkpoint.latest(self.folder)
        process = f"_process_{self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""
        batch = self.folder / f"non_finite_step_{self._running}{process}.json"
        texts = self.unwrapped.last_batch if texts is None else texts
        write_file(json.dumps(self.tokenizer.batch_decode(texts), indent=1), batch)
        raise TrainingError(
            f"{self._where}: {what}. The texts are in {batch}. "
            + (f"The last good checkpoint is {kept}. " if kept else "No checkpoint was written yet. ")
            + "Check your losses for a division by zero or a log of 0, export them, and go on with "
            "training.resume=auto. Or begin a new run with a smaller ppo.learning_rate or ppo.max_grad_norm, or with "
            "model.torch_dtype=float32."
        )


def notes(cfg: Config) -> Iterator[str]:
    """What is easily taken for something else in a run with these settings."""
    if not cfg.ppo.kl_coeff:
        yield (
            "ppo.kl_coeff=0: no reference is kept, so the KL to it is not measured and shows as 0; "
            "ppo.kl_coeff=1e-12 measures it"
        )
    for name, whole in {"top_k": 0, "top_p": 1.0, "min_new_tokens": 0}.items():
        if (value := getattr(cfg.generation, name)) != whole:
            yield (
                f"generation.{name}={value}: responses come from another distribution than the one that is scored, so "
                f"the policy gradient is biased; {whole} samples from the whole one"
            )


def describe_rollout(buffer: dict[str, Tensor], scores: list[Score], kl: Tensor) -> dict[str, float]:
    """The metrics of a rollout, before the update."""
    mask, count = buffer["response_attention_mask"], len(scores)
    return {
        "rollout/reward_mean": buffer["rewards"].mean().item(),
        "rollout/accuracy": sum(s.correct for s in scores) / count,
        "rollout/flexible_accuracy": sum(s.flexible_correct for s in scores) / count,
        "rollout/well_formed": sum(s.well_formed for s in scores) / count,
        "rollout/kl": kl.sum(1).mean().item(),  # nats a response, by the k1 estimator; not measured: see notes()
        "rollout/response_length": mask.sum(1).float().mean().item(),
        "rollout/value_mean": masked_mean(buffer["values"], mask).item(),
        "rollout/explained_variance": explained_variance(buffer["values"], buffer["returns"], mask),
    }


@contextmanager
def timed(spent: dict[str, float], name: str) -> Iterator[None]:
    """A block whose seconds are put into spent[name]."""
    start = time.perf_counter()
    yield
    spent[name] = time.perf_counter() - start
