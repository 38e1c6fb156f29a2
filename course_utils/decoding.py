"""What a model remembers of the texts that it goes on with, token by token: the cache of keys and values.

A model that has no such cache reads the whole text anew for each token: NoCache. A GrowingCache lets rows that have
ended leave, which saves work where computing takes the time, on a CPU. On a GPU a step of one token a row is so little
work that the launching of its hundreds of kernels takes most of the time: a GraphedCache records them once as a CUDA
graph, which is launched as one.
"""

import warnings

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from course_utils.policy import ActorCritic


class GrowingCache:
    """A cache that is one token longer with each step."""

    def __init__(self, actor: ActorCritic):
        self.actor, self.cache = actor, DynamicCache(config=actor.model.config)

    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, V) and values (B,) after prompts (B, P) that are padded on the left."""
        self.mask = prompt_mask
        return self.actor.next_token(prompt_ids, self.mask, self.cache)

    def go_on(self, tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (b, V) and values (b,) after one more token (b,) in those rows (b,) of the last call that go on."""
        if len(rows) < len(self.mask):
            self.cache.reorder_cache(rows)  # takes fewer rows too; linear attention's layers have no other way
            self.mask = self.mask[rows]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self.actor.next_token(tokens[:, None], self.mask, self.cache)


class NoCache:
    """For models that take no cache of keys and values, such as Mamba, RWKV and the first GPT: right, and slow."""

    def __init__(self, actor: ActorCritic):
        self.actor = actor

    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
        self.ids, self.mask = prompt_ids, prompt_mask
        logits, values = self.actor(self.ids, self.mask, logits_to_keep=1)
        return logits[:, -1], values[:, -1]

    def go_on(self, tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        ids, mask = self.ids[rows], self.mask[rows]
        return self.read(torch.cat([ids, tokens[:, None]], 1), torch.cat([mask, mask.new_ones(len(rows), 1)], 1))


class FixedLayer(DynamicLayer):
    """One layer's keys and values (B, heads, length, size), at addresses that stay. A step is written at position
    `at` (1,); whoever attends has to mask what is not written yet. They are kept in the type that attention computes
    in: the same numbers, for autocast would round them to it in each step."""

    def __init__(self, filled: DynamicLayer, steps: int, at: Tensor, dtype: torch.dtype):
        super().__init__()
        self.at, self.is_initialized = at, True
        self.keys, self.values = (
            torch.cat([seen.to(dtype), seen.new_zeros(*seen.shape[:2], steps, seen.shape[3], dtype=dtype)], dim=2)
            for seen in (filled.keys, filled.values)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.at, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.at, value_states.to(self.values.dtype))
        return self.keys, self.values


class GraphedCache:
    """A cache of fixed length, and the step over it as a CUDA graph. Rows that have ended stay in, unread."""

    def __init__(self, actor: ActorCritic, steps: int):
        self.actor, self.steps, self.cache = actor, steps, DynamicCache(config=actor.model.config)

    def read(self, prompt_ids: Tensor, prompt_mask: Tensor) -> tuple[Tensor, Tensor]:
        result = self.actor.next_token(prompt_ids, prompt_mask, self.cache)
        count, width = prompt_mask.shape
        self.rows = torch.arange(count, device=prompt_mask.device)
        self.at = self.rows.new_tensor([width])
        self.tokens, self.positions = prompt_ids[:, -1:].clone(), prompt_mask.sum(1, keepdim=True)  # (B, 1)
        seen = prompt_mask.bool()
        self.visible = torch.cat([seen, seen.new_zeros(count, self.steps)], dim=1)[:, None, None]  # (B, 1, 1, P+steps)
        self.visible[..., width] = True
        for index, layer in enumerate(self.cache.layers):  # one after the other: never memory for two whole caches
            self.cache.layers[index] = FixedLayer(layer, self.steps, self.at, self.actor.compute_dtype)
        self.replay = self._capture()
        return result

    def go_on(self, tokens: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.rows = self.rows[rows]
        self.tokens[self.rows, 0] = tokens
        logits, values = self.replay()
        logits, values = logits[self.rows], values[self.rows]
        self.at += 1
        self.positions += 1
        self.visible.index_fill_(3, self.at, True)
        return logits, values

    def _step(self) -> tuple[Tensor, Tensor]:
        return self.actor.next_token(self.tokens, self.visible, self.cache, self.positions)

    def _capture(self):
        """A function that does what _step() does."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is set up in a first call must not be recorded; it writes what the
            self._step()  # first replay will write over
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self._step()

        def replay() -> tuple[Tensor, Tensor]:
            graph.replay()
            return result

        return replay


def begin(
    actor: ActorCritic, prompt_ids: Tensor, prompt_mask: Tensor, steps: int
) -> tuple[NoCache | GrowingCache | GraphedCache, Tensor, Tensor]:
    """A cache for `steps` tokens more that has read the prompts (B, P); the logits (B, V) and values (B,) after them.
    Where the model's own cache is of another kind, NoCache, with a warning."""
    try:
        cache = make_cache(actor, steps, prompt_ids.device)
        return cache, *cache.read(prompt_ids, prompt_mask)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # memory that runs out is a RuntimeError
        if not actor.takes_cache:
            raise
        name, reason = type(actor.model).__name__, " ".join(str(error).split())
        warnings.warn(f"{name} is sampled from without a cache, which is slow: {reason:.300}", stacklevel=2)
        actor.takes_cache = False
        return begin(actor, prompt_ids, prompt_mask, steps)


def make_cache(actor: ActorCritic, steps: int, device: torch.device) -> NoCache | GrowingCache | GraphedCache:
    """NoCache where the model takes none. A GraphedCache on a GPU, for models that take positions and a mask of
    booleans, whose layers all attend to all tokens, and which do the same work whatever the tokens and positions are: a
    mixture of experts does not, nor do rotary embeddings that change with the length."""
    if not actor.takes_cache:
        return NoCache(actor)
    config = actor.model.config
    graphed = (
        device.type == "cuda"
        and config._attn_implementation == "sdpa"
        and actor.takes_positions
        and not getattr(config, "alibi", False)  # Falcon: made from a mask (B, T)
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
        and not any(name.endswith("experts") for name in vars(config))
        and not any(getattr(part, "rope_type", "") in ("dynamic", "longrope") for part in actor.model.modules())
    )
    return GraphedCache(actor, steps) if graphed else GrowingCache(actor)
