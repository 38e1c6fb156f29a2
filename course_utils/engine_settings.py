"""The settings of a run under the names of two engines: verl 0.9.1 (hydra overrides) and OpenRLHF 0.11.2 (flags).

Each function answers for every key of our schema (config.KEYS): with the engine's own settings for it, or with a text
that says what is left out. What the engine needs besides, to compute the same PPO, is returned apart.
"""

from math import ceil

from course_utils.config import Config, ConfigError, trackers

Options = dict[str, object]
Answers = dict[str, Options | str]


class Shell(str):
    """A value in which the shell fills in a variable of the script."""


TRAIN, TEST, REWARD = Shell("$HERE/train.jsonl"), Shell("$HERE/test.jsonl"), Shell("$HERE/reward.py")
GPUS, WANDB_KEY = Shell("$GPUS"), Shell("$WANDB_API_KEY")

FILES = "is in train.jsonl and test.jsonl"


def verl(cfg: Config, _prompts: int) -> tuple[Answers, Options]:
    """As overrides of verl's ppo_trainer.yaml; it counts in PPO steps, so the number of problems does not matter."""
    actor, critic = "actor_rollout_ref.actor", "critic"
    model, rollout, ref = "actor_rollout_ref.model", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
    ppo, training, sampling = cfg.ppo, cfg.training, cfg.generation
    updates, longest = updates_in_a_step(cfg), cfg.dataset.max_prompt_length + sampling.max_new_tokens
    lora = {
        f"{model}.lora_rank": cfg.model.lora,
        f"{model}.lora_alpha": 2 * cfg.model.lora,
        f"{critic}.model.lora_rank": cfg.model.lora,
        f"{critic}.model.lora_alpha": 2 * cfg.model.lora,
        f"{rollout}.load_format": "safetensors",
    }
    answers: Answers = {
        "model.name": under(cfg.model.name, f"{model}.path", f"{critic}.model.path"),
        "model.tokenizer_name": under(
            cfg.model.tokenizer_name, f"{model}.tokenizer_path", f"{critic}.model.tokenizer_path", "data.tokenizer"
        ),
        "model.trust_remote_code": under(
            cfg.model.trust_remote_code,
            f"{model}.trust_remote_code",
            f"{critic}.model.trust_remote_code",
            "data.trust_remote_code",
        ),
        "model.torch_dtype": verl_dtype(cfg.model.torch_dtype),
        "model.lora": lora if cfg.model.lora else {},
        "dataset.name": {"data.train_files": TRAIN, "data.val_files": TEST},
        "dataset.config": FILES,
        "dataset.split": FILES,
        "dataset.prompt_format": FILES,
        "dataset.eval_split": FILES,
        "dataset.eval_samples": FILES,
        "training.num_samples": FILES,
        "dataset.max_prompt_length": {
            "data.max_prompt_length": cfg.dataset.max_prompt_length,
            "data.filter_overlong_prompts": True,
        },
        "dataset.max_gen_length": "generation.max_new_tokens is what counts, here as there",
        "reward.correct": "is in reward.py",
        "reward.well_formed": "is in reward.py",
        "ppo.learning_rate": {f"{actor}.optim.lr": ppo.learning_rate},
        "ppo.value_learning_rate": {f"{critic}.optim.lr": ppo.value_learning_rate or ppo.learning_rate},
        "ppo.epochs": {f"{actor}.ppo_epochs": ppo.epochs},
        "ppo.batch_size": "vLLM packs what it samples as memory allows",
        "ppo.mini_batch_size": under(
            ppo.mini_batch_size,
            f"{actor}.ppo_micro_batch_size_per_gpu",
            f"{critic}.ppo_micro_batch_size_per_gpu",
            f"{rollout}.log_prob_micro_batch_size_per_gpu",
            f"{ref}.log_prob_micro_batch_size_per_gpu",
        )
        # The critic is asked for the former, but packs as many tokens as this into a pass: else 32,768.
        | {"+critic.ppo_infer_max_token_len_per_gpu": ppo.mini_batch_size * longest},
        "ppo.gradient_accumulation_steps": {f"{actor}.ppo_mini_batch_size": responses_in_an_update(cfg)},
        "ppo.kl_coeff": {
            "algorithm.use_kl_in_reward": ppo.kl_coeff > 0,
            "algorithm.kl_ctrl.kl_coef": ppo.kl_coeff,
            "algorithm.kl_ctrl.type": "fixed",
            "algorithm.kl_penalty": "kl",
        },
        "ppo.clip_ratio": under(
            ppo.clip_ratio, f"{actor}.clip_ratio", f"{actor}.clip_ratio_low", f"{actor}.clip_ratio_high"
        ),
        "ppo.clip_range_value": {f"{critic}.cliprange_value": ppo.clip_range_value},
        "ppo.vf_coeff": "the critic is a model of its own with an optimizer of its own: nothing to weigh",
        "ppo.entropy_coeff": {f"{actor}.entropy_coeff": ppo.entropy_coeff},
        "ppo.gamma": {"algorithm.gamma": ppo.gamma},
        "ppo.lam": {"algorithm.lam": ppo.lam},
        "ppo.use_8bit_adam": {
            f"{part}.optim.{name}": value
            for part in (actor, critic)
            for name, value in (("optimizer", "AdamW8bit"), ("optimizer_impl", "bitsandbytes.optim"))
        }
        if ppo.use_8bit_adam
        else {},
        "ppo.max_grad_norm": under(ppo.max_grad_norm, f"{actor}.optim.clip_grad", f"{critic}.optim.clip_grad"),
        "ppo.rollout_samples": {"data.train_batch_size": ppo.rollout_samples},
        "ppo.scheduler": verl_schedule(cfg),
        # There the rate changes once a PPO step, not with each update, and in the first of a warm-up it is 0.
        "ppo.warmup_steps": under(
            0 if ppo.scheduler == "constant" else ppo.warmup_steps // updates,
            f"{actor}.optim.lr_warmup_steps",
            f"{critic}.optim.lr_warmup_steps",
        ),
        "ppo.min_lr": under(
            ppo.min_lr / ppo.learning_rate, f"{actor}.optim.min_lr_ratio", f"{critic}.optim.min_lr_ratio"
        )
        if ppo.scheduler.endswith("min_lr")
        else {},
        "training.total_ppo_steps": {
            "trainer.total_training_steps": training.total_ppo_steps,
            # A limit of its own, out of reach: a pass is one step or more, however many prompts are too long.
            "trainer.total_epochs": training.total_ppo_steps,
        },
        "training.seed": under(
            training.seed, "data.seed", f"{actor}.data_loader_seed", f"{critic}.data_loader_seed", f"{rollout}.seed"
        ),
        "training.log_interval": "every step is logged",
        "training.save_interval": {"trainer.save_freq": training.save_interval},
        "training.output_dir": {"trainer.default_local_dir": f"{training.output_dir}_verl"},
        "training.device": "CUDA GPUs, all that the script names",
        "training.gradient_checkpointing": under(
            training.gradient_checkpointing,
            f"{model}.enable_gradient_checkpointing",
            f"{critic}.model.enable_gradient_checkpointing",
        ),
        "training.eval_interval": {"trainer.test_freq": training.eval_interval},
        "training.resume": {"trainer.resume_mode": "auto" if training.resume == "auto" else "disable"},
        "generation.max_new_tokens": {"data.max_response_length": sampling.max_new_tokens},
        "generation.min_new_tokens": "responses may end at any length",
        "generation.temperature": {f"{rollout}.temperature": sampling.temperature},
        "generation.top_k": {f"{rollout}.top_k": sampling.top_k or -1},
        "generation.top_p": {f"{rollout}.top_p": sampling.top_p},
        "generation.do_sample": {f"{rollout}.do_sample": True},
        "wandb.report_to_wandb": "is in trainer.logger",
        "wandb.project": {"trainer.project_name": cfg.wandb.project},
        "wandb.name": {"trainer.experiment_name": cfg.wandb.name or "ppo"},
        "tracking": {"trainer.logger": ["console", *trackers(cfg)]},
    }
    return answers, {
        "algorithm.adv_estimator": "gae",
        f"{actor}.use_kl_loss": False,
        f"{actor}.clip_ratio_c": 1e9,  # a second clip of the ratio, at 3, unless it is out of reach
        f"{actor}.loss_agg_mode": "token-mean",
        f"{actor}.shuffle": True,
        **under(0.0, f"{actor}.optim.weight_decay", f"{critic}.optim.weight_decay"),
        f"{rollout}.name": "vllm",
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.n": 1,
        "reward.custom_reward_function.path": REWARD,
        "reward.custom_reward_function.name": "compute_score",
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": GPUS,
    }


def openrlhf(cfg: Config, prompts: int) -> tuple[Answers, Options]:
    """As flags of openrlhf.cli.train_ppo_ray, without their dashes; True is a flag without a value. `prompts` is the
    number of problems to train on, by passes over which it counts."""
    ppo, training, sampling = cfg.ppo, cfg.training, cfg.generation
    episodes = ceil(training.total_ppo_steps * ppo.rollout_samples / prompts)  # the last rollout of one is smaller
    updates = prompts // responses_in_an_update(cfg) * episodes * ppo.epochs  # as the engine counts them
    answers: Answers = {
        "model.name": under(cfg.model.name, "actor.model_name_or_path", "critic.model_name_or_path"),
        "model.tokenizer_name": "the model's own tokenizer is used",
        "model.trust_remote_code": "code that comes with a model is always run",
        "model.torch_dtype": {"ds.param_dtype": "fp16" if cfg.model.torch_dtype == "float16" else "bf16"}
        if cfg.model.torch_dtype != "float32"
        else "computes in bf16 or fp16 only: bf16 is taken",
        "model.lora": {"ds.lora.rank": cfg.model.lora, "ds.lora.alpha": 2 * cfg.model.lora} if cfg.model.lora else {},
        "dataset.name": {"data.prompt_dataset": TRAIN, "eval.dataset": TEST},
        "dataset.config": FILES,
        "dataset.split": FILES,
        "dataset.prompt_format": FILES,
        "dataset.eval_split": FILES,
        "dataset.eval_samples": FILES,
        "training.num_samples": FILES,
        "dataset.max_prompt_length": {"data.max_len": cfg.dataset.max_prompt_length + sampling.max_new_tokens},
        "dataset.max_gen_length": "generation.max_new_tokens is what counts, here as there",
        "reward.correct": {"reward.clip_range": [0, cfg.reward.correct]},  # no reward is beyond
        "reward.well_formed": "is in reward.py",
        "ppo.learning_rate": {"actor.adam.lr": ppo.learning_rate},
        "ppo.value_learning_rate": {"critic.adam.lr": ppo.value_learning_rate or ppo.learning_rate},
        "ppo.epochs": {"train.max_epochs": ppo.epochs},
        "ppo.batch_size": "vLLM packs what it samples as memory allows",
        "ppo.mini_batch_size": under(ppo.mini_batch_size, "train.micro_batch_size", "rollout.micro_batch_size"),
        "ppo.gradient_accumulation_steps": {"train.batch_size": responses_in_an_update(cfg)},
        "ppo.kl_coeff": {"algo.kl.init_coef": ppo.kl_coeff, "algo.kl.estimator": "k1"},
        "ppo.clip_ratio": {"actor.eps_clip": ppo.clip_ratio},
        "ppo.clip_range_value": {"critic.value_clip": ppo.clip_range_value},
        "ppo.vf_coeff": "the critic is a model of its own with an optimizer of its own: nothing to weigh",
        "ppo.entropy_coeff": {"actor.entropy_coef": ppo.entropy_coeff},
        "ppo.gamma": {"algo.advantage.gamma": ppo.gamma},
        "ppo.lam": {"algo.advantage.lambd": ppo.lam},
        "ppo.use_8bit_adam": "has none; --ds.adam_offload keeps the moments in the host's memory instead",
        "ppo.max_grad_norm": under(  # 0 is DeepSpeed's "never"
            0 if ppo.max_grad_norm == float("inf") else ppo.max_grad_norm, "actor.max_norm", "critic.max_norm"
        ),
        "ppo.rollout_samples": {"rollout.batch_size": ppo.rollout_samples, "rollout.n_samples_per_prompt": 1},
        "ppo.scheduler": under(ppo.scheduler, "actor.lr_scheduler", "critic.lr_scheduler"),
        "ppo.warmup_steps": under(ppo.warmup_steps / updates, "actor.lr_warmup_ratio", "critic.lr_warmup_ratio"),
        "ppo.min_lr": under(ppo.min_lr / ppo.learning_rate, "actor.min_lr_ratio", "critic.min_lr_ratio"),
        "training.total_ppo_steps": {"train.num_episodes": episodes},
        "training.seed": {"train.seed": training.seed},
        "training.log_interval": {"logger.logging_steps": training.log_interval},
        "training.save_interval": {"ckpt.save_steps": training.save_interval, "ckpt.save_hf": True},
        "training.output_dir": {
            "ckpt.output_dir": f"{training.output_dir}_openrlhf/final",
            "ckpt.path": f"{training.output_dir}_openrlhf/steps",
        },
        "training.device": "CUDA GPUs, all that the script names",
        "training.gradient_checkpointing": {"actor.gradient_checkpointing_enable": training.gradient_checkpointing},
        "training.eval_interval": {"eval.steps": training.eval_interval},
        "training.resume": {"ckpt.load_enable": training.resume == "auto"},
        "generation.max_new_tokens": {"rollout.max_new_tokens": sampling.max_new_tokens},
        "generation.min_new_tokens": "responses may end after one token",
        "generation.temperature": {"rollout.temperature": sampling.temperature},
        "generation.top_k": "samples among all tokens",
        "generation.top_p": {"rollout.top_p": sampling.top_p},
        "generation.do_sample": "always samples",
        "wandb.report_to_wandb": {"logger.wandb.key": WANDB_KEY} if "wandb" in trackers(cfg) else {},
        "wandb.project": {"logger.wandb.project": cfg.wandb.project},
        "wandb.name": {"logger.wandb.run_name": cfg.wandb.name} if cfg.wandb.name else {},
        "tracking": "has no trackio"
        if cfg.tracking == "trackio"
        else {"logger.tensorboard_dir": f"{training.output_dir}_openrlhf/tensorboard"}
        if cfg.tracking == "tensorboard"
        else {},
    }
    return answers, {
        "algo.advantage.estimator": "gae",
        **under([0.9, 0.999], "actor.adam.betas", "critic.adam.betas"),
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.apply_chat_template": True,
        "reward.remote_url": REWARD,
        "eval.temperature": 0,
        "eval.n_samples_per_prompt": 1,
        "eval.split": "train",
        **under(
            GPUS, "actor.num_gpus_per_node", "critic.num_gpus_per_node", "ref.num_gpus_per_node", "vllm.num_engines"
        ),
        "vllm.gpu_memory_utilization": 0.5,
        "ds.zero_stage": 3,
        **under(True, "train.colocate_all", "vllm.enable_sleep", "ds.enable_sleep"),
    }


def under(value: object, *names: str) -> Options:
    """One value under several names."""
    return dict.fromkeys(names, value)


def responses_in_an_update(cfg: Config) -> int:
    """Responses in one optimizer step.

    Raises:
        ConfigError: a rollout is not a multiple of it, or it is not one of a mini-batch. Here the last step and the
            last mini-batch are smaller; the engines pad, drop or refuse them.
    """
    ppo = cfg.ppo
    group = ppo.mini_batch_size * ppo.gradient_accumulation_steps
    together = min(group, ppo.rollout_samples)
    if ppo.rollout_samples % together or together % ppo.mini_batch_size:
        raise ConfigError(
            f"ppo.rollout_samples={ppo.rollout_samples} must be a multiple of ppo.mini_batch_size="
            f"{ppo.mini_batch_size} and, if not below it, of ppo.mini_batch_size × ppo.gradient_accumulation_steps = "
            f"{group}: other engines have no smaller last step"
        )
    return together


def updates_in_a_step(cfg: Config) -> int:
    return cfg.ppo.epochs * cfg.ppo.rollout_samples // responses_in_an_update(cfg)


def verl_dtype(name: str) -> Options:
    """Weights stay float32 there too; bfloat16 is what it computes in unless told otherwise."""
    engines = "actor_rollout_ref.actor.fsdp_config", "actor_rollout_ref.ref.fsdp_config", "critic.fsdp"
    if name in ("bfloat16", "auto"):
        return {"actor_rollout_ref.rollout.dtype": "bfloat16"}
    # The plus adds a key that verl's classes have and its YAML does not name.
    return {
        "actor_rollout_ref.rollout.dtype": name,
        **under(name, *(f"+{engine}.mixed_precision.param_dtype" for engine in engines)),
    }


def verl_schedule(cfg: Config) -> Options | str:
    kinds = {
        "constant": "constant",
        "constant_with_warmup": "constant",
        "cosine": "cosine",
        "cosine_with_min_lr": "cosine",
    }
    names = "actor_rollout_ref.actor.optim.lr_scheduler_type", "critic.optim.lr_scheduler_type"
    if cfg.ppo.scheduler not in kinds:
        return "knows constant and cosine only: the rate stays constant"
    return under(kinds[cfg.ppo.scheduler], *names)
