"""A few responses of the embedded model, as PPO's first rollout would see them: for looking at, in the notebooks."""
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.config import GenerationConfig, RewardConfig
from course_utils.embedded.problems import draws
from course_utils.policy import EMBEDDED_MODEL, ActorCritic
from course_utils.problems import Problem, Prompt
from course_utils.reward import score
from course_utils.rollout import generate, texts_of

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

    @torch.no_grad()
    def hidden_states(self) -> Tensor:
        """(N, R, H): what a value head sees at the positions that predict the response tokens."""
        ids, mask = _whole(self.buffer)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = self.actor.model.model(ids, attention_mask=mask, position_ids=positions).last_hidden_state
        return hidden[:, -self.mask.shape[1] - 1:-1]


def real_rollout(count: int = 16, seed: int = 0) -> RealRollout:
    """Samples one response for each of `count` training problems; the same ones for the same seed. Takes a second."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL, padding_side="left")
    actor = ActorCritic(AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32)).eval()
    problems = [Problem(draw.question, draw.answer()) for draw in draws("train", count, seed)]
    prompts = [Prompt(problem, tokenizer(f"Question: {problem.question}\nAnswer:").input_ids) for problem in problems]
    generation = GenerationConfig(LONGEST, 0, temperature=1.0, top_k=0, top_p=1.0, do_sample=True)
    uniforms = torch.rand(count, LONGEST, generator=torch.Generator().manual_seed(seed))
    buffer = generate(actor, prompts, tokenizer, generation, uniforms, "cpu")
    responses = texts_of(buffer, tokenizer)
    rewards = [score(text, problem.gold, RewardConfig()).reward for text, problem in zip(responses, problems)]
    return RealRollout(
        actor, [problem.question for problem in problems], [problem.gold for problem in problems], responses,
        [[tokenizer.decode(token) for token in row[:length]] for row, length in zip(
            buffer["response_input_ids"].tolist(), buffer["response_attention_mask"].sum(1).tolist())],
        torch.tensor(rewards), buffer, _logits(actor, buffer))


@torch.no_grad()
def _logits(actor: ActorCritic, buffer: dict[str, Tensor]) -> Tensor:
    logits, _ = actor(*_whole(buffer), logits_to_keep=buffer["response_input_ids"].shape[1] + 1)
    return logits[:, :-1] * buffer["response_attention_mask"].unsqueeze(-1)


def _whole(buffer: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """ids and mask (N, P + R) of prompts and responses."""
    return (torch.cat([buffer["prompt_input_ids"], buffer["response_input_ids"]], dim=1),
            torch.cat([buffer["prompt_attention_mask"], buffer["response_attention_mask"]], dim=1))
