"""A few responses of the embedded model, as PPO's first rollout would see them: for looking at, in the notebooks."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from course_utils.config import GenerationConfig, RewardConfig
from course_utils.embedded.problems import draws
from course_utils.policy import EMBEDDED_MODEL, ActorCritic
from course_utils.problems import Problem, Prompt
from course_utils.reward import score
from course_utils.rollout import generate, texts_of, whole_texts

LONGEST = 64  # tokens of a response


@dataclass(frozen=True)
class RealRollout:
    """N responses of R tokens or fewer."""

    actor: ActorCritic  # the model that wrote them
    questions: list[str]
    golds: list[str]  # the right answers
    responses: list[str]
    tokens: list[list[str]]  # the text of each response token, the end-of-sequence token included
    rewards: Tensor  # (N,)
    buffer: dict[str, Tensor]  # prompt_input_ids, response_input_ids, logprobs, ...: see rollout.generate
    logits: Tensor  # (N, R, V) that each response token was drawn from; 0 off the mask

    @property
    def mask(self) -> Tensor:
        """(N, R), 1 from the first response token through the end-of-sequence token."""
        return self.buffer["response_attention_mask"]


def real_rollout(count: int = 16, seed: int = 0) -> RealRollout:
    """Samples one response for each of `count` training problems; the same ones for the same seed. Takes a second."""
    tokenizer, actor = embedded_tokenizer(), embedded_actor()
    prompts = training_prompts(count, seed)
    problems = [prompt.problem for prompt in prompts]
    buffer = respond(actor, prompts, seed)
    responses = texts_of(buffer, tokenizer)
    return RealRollout(
        actor,
        [problem.question for problem in problems],
        [problem.gold for problem in problems],
        responses,
        [
            [tokenizer.decode(token) for token in row[:length]]
            for row, length in zip(
                buffer["response_input_ids"].tolist(), buffer["response_attention_mask"].sum(1).tolist()
            )
        ],
        torch.tensor(rewards_of(responses, problems)),
        buffer,
        _logits(actor, buffer),
    )


# ------------------------------------------------------------------ its parts, for what else the notebooks try out


@cache
def embedded_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


def embedded_actor(temperature: float = 1.0) -> ActorCritic:
    """The embedded model as it is before PPO, in memory of its own each time."""
    return ActorCritic(AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32), temperature).eval()


def training_prompts(count: int, seed: int) -> list[Prompt]:
    return [prompt_of(Problem(draw.question, draw.answer())) for draw in draws("train", count, seed)]


def prompt_of(problem: Problem) -> Prompt:
    return Prompt(problem, embedded_tokenizer()(f"Question: {problem.question}\nAnswer:").input_ids)


def respond(actor: ActorCritic, prompts: list[Prompt], seed: int | None) -> dict[str, Tensor]:
    """A sampled response to each prompt, or the greedy one where `seed` is None; the buffer of rollout.generate."""
    generation = GenerationConfig(
        LONGEST, 0, temperature=actor.temperature, top_k=0, top_p=1.0, do_sample=seed is not None
    )
    uniforms = (
        None if seed is None else torch.rand(len(prompts), LONGEST, generator=torch.Generator().manual_seed(seed))
    )
    return generate(actor, prompts, embedded_tokenizer(), generation, uniforms, "cpu")


def rewards_of(texts: list[str], problems: list[Problem]) -> list[float]:
    return [score(text, problem.gold, RewardConfig()).reward for text, problem in zip(texts, problems, strict=True)]


@torch.no_grad()
def hidden_states(actor: ActorCritic, buffer: dict[str, Tensor]) -> Tensor:
    """(N, R, H): what the value head sees at the positions that predict the response tokens."""
    ids, mask = whole_texts(buffer)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = actor.model.model(ids, attention_mask=mask, position_ids=positions).last_hidden_state
    return hidden[:, buffer["prompt_input_ids"].shape[1] - 1 : -1]


@torch.no_grad()
def _logits(actor: ActorCritic, buffer: dict[str, Tensor]) -> Tensor:
    logits, _ = actor(*whole_texts(buffer), logits_to_keep=buffer["response_input_ids"].shape[1] + 1)
    return logits[:, :-1] * buffer["response_attention_mask"].unsqueeze(-1)
