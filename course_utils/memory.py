"""How much memory a run needs, by part, before it takes any: an estimate from the model's shape and the settings.

    python -m course_utils.memory --config configs/config_colab.yaml     # prints the table of a config's model
    python -m course_utils.memory --config configs/config.yaml --fsdp 4 ppo.mini_batch_size=8  # in each of 4 processes

What is certain is counted (weights, gradients, optimizer, reference, cache); activations and logits are counted for a
Llama-like layer and for losses as in the course's solutions. tests/test_memory.py holds both against measured peaks.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from course_utils.config import Config, ConfigError, check_shares, load_config, of_one_process
from course_utils.plain_error import PlainError
from course_utils.policy import compute_dtype, load_shape

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Memory:
    """Bytes. `kept` is there all the time; sampling and the update take turns."""

    weights: float
    reference: float
    copy: float  # with FSDP, the whole weights to sample with
    optimizer: float
    sampling: float  # the cache and the logits of one step
    update: float  # gradients, rounded weights, activations and logits of one mini-batch

    @property
    def kept(self) -> float:
        return self.weights + self.reference + self.copy + self.optimizer

    @property
    def peak(self) -> float:
        return self.kept + max(self.sampling, self.update)


def estimate(model: PretrainedConfig, cfg: Config, processes: int = 1) -> Memory:
    """The memory of a run of `model` with the settings of `cfg`, with the longest prompts and responses; or what it
    takes in each process where FSDP shares the weights out over several."""
    with torch.device("meta"):
        shell = AutoModelForCausalLM.from_config(model, trust_remote_code=cfg.model.trust_remote_code)
    model = model.get_text_config()  # of a model that reads pictures too, the part that is trained here
    head, embedding = shell.get_output_embeddings().weight, shell.get_input_embeddings().weight
    layers = [layer for layer in shell.modules() if isinstance(layer, torch.nn.Linear) and layer.weight is not head]
    matrices = sum(layer.weight.numel() for layer in layers)
    own_head = 0 if head is embedding else head.numel()

    width, count, rank, ppo = compute_dtype(cfg).itemsize, shell.num_parameters(), cfg.model.lora, cfg.ppo
    trained = sum(rank * (layer.in_features + layer.out_features) for layer in layers) if rank else count
    frozen = count * width if rank else 0
    frozen_copy = count * FLOAT32 - (matrices + own_head) * (FLOAT32 - width)
    of_adam = 1 if ppo.use_8bit_adam and cfg.training.device != "cpu" and processes == 1 else FLOAT32
    rounded = 0  # In half precision the backward pass needs the weights as they were rounded.
    if width < FLOAT32 and not rank:
        rounded = width * (head.numel() + (0 if cfg.training.gradient_checkpointing else matrices))

    # Of what no layer holds, the embedding above all, weights and gradients are whole during the update.
    whole = 2 * FLOAT32 * (embedding.numel() + own_head) if processes > 1 else 0

    response = cfg.generation.max_new_tokens
    tokens = cfg.dataset.max_prompt_length + response
    cache = tokens * model.num_hidden_layers * _keys_and_values(model) * width
    activations = tokens * _activations(model, width, cfg.training.gradient_checkpointing)
    logits = (tokens + 4.5 * response) * model.vocab_size * FLOAT32  # so many copies: measured
    return Memory(
        weights=trained * FLOAT32 / processes + frozen,
        reference=frozen_copy / processes if ppo.kl_coeff and not rank else 0,
        copy=frozen_copy if processes > 1 else 0,
        optimizer=trained * 2 * of_adam / processes,  # AdamW keeps two numbers a weight
        sampling=ppo.batch_size * (cache + 4 * model.vocab_size * FLOAT32),
        update=trained * FLOAT32 / processes + whole + rounded + ppo.mini_batch_size * (activations + logits),
    )


def check_gpu(
    shape: PretrainedConfig, cfg: Config, total: float, note: Callable[[str], None], processes: int = 1
) -> None:
    """Says what a GPU with `total` bytes will not hold of a model of this shape, before it is loaded; where FSDP shares
    it out over several processes, of its part.

    Raises:
        ConfigError: not even the weights and what belongs to them fit.
    """
    try:
        memory = estimate(shape, cfg, processes)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # a shape of another form
        note(f"how much memory {cfg.model.name} needs is not estimated: {error}")
        return
    needs = (
        f"{cfg.model.name} needs about {memory.peak / 1e9:.0f} GB with these settings, and this GPU has "
        f"{total / 1e9:.0f}"
    )
    less = "model.lora=16, ppo.use_8bit_adam=true or a smaller model (configs/config_colab.yaml)"
    if processes > 1:  # LoRA and 8-bit Adam are not for FSDP
        less = "more GPUs, a smaller model or another engine (docs/engines.md)"
    if memory.kept > total:
        raise ConfigError(
            f"{needs}: its weights, the reference and the optimizer alone take {memory.kept / 1e9:.0f}. Use {less}"
        )
    if memory.peak > total:
        note(
            f"{needs}: batches are halved if it runs out. training.gradient_checkpointing=true, a smaller "
            f"generation.max_new_tokens, {less} need less"
        )


def _keys_and_values(model: PretrainedConfig) -> int:
    """Numbers a token has of both, in one layer."""
    heads = getattr(model, "num_key_value_heads", None) or getattr(model, "num_attention_heads", 0)
    if not heads:  # Mamba and RWKV keep a state, which does not grow
        return 0
    return 2 * heads * (getattr(model, "head_dim", None) or model.hidden_size // model.num_attention_heads)


def _activations(model: PretrainedConfig, width: int, checkpointing: bool) -> float:
    """Bytes a token that the backward pass keeps. A layer keeps the inputs of its norms and their results before the
    scale (float32), and the inputs of its matrix products: queries, keys, values, the attention's result, and in the
    MLP gate, up, their activation and their product."""
    hidden, layers = model.hidden_size, model.num_hidden_layers
    inner = getattr(model, "intermediate_size", None) or 4 * hidden  # GPT-2's generation has other names for it
    layer = 4 * hidden * FLOAT32 + (5 * hidden + _keys_and_values(model) + 4 * inner) * width
    return layers * hidden * FLOAT32 + layer if checkpointing else layers * layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, e.g. configs/config_colab.yaml")
    parser.add_argument("--fsdp", type=int, default=1, metavar="N", help="processes that share the weights out")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    if args.fsdp < 1:
        parser.error(f"--fsdp {args.fsdp}: it is a number of processes, 1 or more")
    try:
        cfg = load_config(args.config, args.overrides)
        check_shares(cfg, args.fsdp)
        memory = estimate(load_shape(cfg), of_one_process(cfg, args.fsdp), args.fsdp)
    except PlainError as error:
        sys.exit(f"error: {error}")
    for part, size in [*asdict(memory).items(), ("peak", memory.peak)]:
        print(f"{part:10} {size / 1e9:8.2f} GB")


if __name__ == "__main__":
    main()
