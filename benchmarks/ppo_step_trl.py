"""TRL's PPOTrainer as a contender of ppo_step.py; runs in a virtual environment of its own, which has TRL 1.9.0.

    python benchmarks/ppo_step_trl.py                 # as shipped: the critic is a second language model
    python benchmarks/ppo_step_trl.py --free-critic   # a critic that costs nothing stands in for it

The reward model costs nothing either, since ours are rules. Gradient checkpointing and half precision, TRL's defaults
on a GPU, are off; an optimizer step is one mini-batch, as it is elsewhere.
"""

import os
import sys
import tempfile
import time

import torch
from datasets import Dataset
from ppo_step_protocol import LEARNING_RATE, Recorder, prompts_of, tokenizer_folder
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from transformers.modeling_outputs import BaseModelOutput

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # noqa: E402


class FreeScorer(nn.Module):
    """What TRL asks of a reward or value model, without any work: one learned number for every token."""

    base_model_prefix = "backbone"

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(1, 1)

    def backbone(self, input_ids: Tensor, **_ignored) -> BaseModelOutput:
        return BaseModelOutput(hidden_states=(torch.ones(*input_ids.shape, 1),))


class Turns(TrainerCallback):
    """Begins and ends the recorder's steps, and sees from inside TRL when sampling ends and when the update begins."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        generate, forward = ppo_trainer.batch_generation, ppo_trainer.forward

        def batch_generation(model, queries, *rest):
            sequences, logits = generate(model, queries, *rest)
            self.responses, self.sampled_at = sequences[:, queries.shape[1] :], time.perf_counter()
            return sequences, logits

        def first_with_gradient(model, *rest):
            if torch.is_grad_enabled() and self.update_at is None:
                self.update_at = time.perf_counter()
            return forward(model, *rest)

        ppo_trainer.batch_generation, ppo_trainer.forward = batch_generation, first_with_gradient

    def on_train_begin(self, args, state, control, **_others):
        self.update_at = None
        self.recorder.begin()
        self.began_at = time.perf_counter()

    def on_step_end(self, args, state, control, **_others):
        ended = (self.responses == args.eos).int().cumsum(1) - (self.responses == args.eos).int() > 0
        self.recorder.end(
            rollout_s=self.sampled_at - self.began_at,
            reference_s=self.update_at - self.sampled_at,
            update_s=time.perf_counter() - self.update_at,
            tokens=self.responses.numel() - ended.sum().item() * (args.stop_token == "eos"),
        )
        if state.global_step < state.max_steps:
            self.on_train_begin(args, state, control)


def main() -> None:
    recorder = Recorder()
    job = recorder.job
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(job), padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(job["model_dir"], dtype=torch.float32) for _ in range(2))
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    critic = (
        FreeScorer()
        if "--free-critic" in sys.argv
        else AutoModelForSequenceClassification.from_pretrained(job["model_dir"], num_labels=1, dtype=torch.float32)
    )
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=job["seed"],
            learning_rate=LEARNING_RATE,
            weight_decay=0.0,
            total_episodes=job["n"] * recorder.total,
            per_device_train_batch_size=job["n"],
            gradient_accumulation_steps=1,
            num_mini_batches=job["minibatches"],
            num_ppo_epochs=job["epochs"],
            local_rollout_forward_batch_size=job["n"],
            num_sample_generations=0,
            response_length=job["resp_len"],
            temperature=1.0,
            stop_token="eos" if "prompts" in job else None,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        args.eos = tokenizer.eos_token_id
        prompts = Dataset.from_dict({"input_ids": prompts_of(job, policy.config.vocab_size)})
        PPOTrainer(
            args,
            tokenizer,
            policy,
            reference,
            FreeScorer(),
            prompts,
            critic,
            eval_dataset=prompts,
            callbacks=[Turns(recorder)],
        ).train()
    recorder.finish()


if __name__ == "__main__":
    main()
