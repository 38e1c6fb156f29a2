"""Greedy accuracy on held-out problems, with its uncertainty."""

from dataclasses import dataclass
from math import sqrt

from course_utils.policy import ActorCritic
from course_utils.problems import Prompt
from course_utils.reward import score
from course_utils.rollout import generate, texts_of


@dataclass(frozen=True)
class Evaluation:
    """Shares in [0, 1] over `count` problems, the 95 % interval of the strict accuracy, and the answers."""

    accuracy: float
    low: float
    high: float
    flexible_accuracy: float
    well_formed: float
    count: int
    samples: list[dict]

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.count}"


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion right/count (Wilson 1927); sound near 0 and 1 too."""
    share, z = right / count, 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return centre - half, centre + half


def evaluate(actor: ActorCritic, prompts: list[Prompt], tokenizer, cfg, device) -> Evaluation:
    """Decodes every prompt greedily and scores it as in training."""
    samples, scores = [], []
    for start in range(0, len(prompts), cfg.ppo.batch_size):
        part = prompts[start : start + cfg.ppo.batch_size]
        texts = texts_of(generate(actor, part, tokenizer, cfg.generation, None, device), tokenizer)
        for prompt, text in zip(part, texts):
            result = score(text, prompt.problem.gold, cfg.reward)
            scores.append(result)
            samples.append(
                {
                    "question": prompt.problem.question,
                    "gold": prompt.problem.gold,
                    "response": text,
                    "correct": result.correct,
                }
            )
    count = len(scores)
    right = sum(s.correct for s in scores)
    low, high = wilson_interval(right, count)
    return Evaluation(
        right / count,
        low,
        high,
        sum(s.flexible_correct for s in scores) / count,
        sum(s.well_formed for s in scores) / count,
        count,
        samples,
    )
