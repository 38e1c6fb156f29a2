"""How good are GAE's advantages, and how much of the returns can any critic explain? Measured against the truth.

    python benchmarks/true_advantages.py --seeds 1 2 3       # some ten minutes a seed on two cores
    python benchmarks/true_advantages.py --report            # prints the two tables of docs/embedded_results.md

The truth can be had here, since the model is tiny: from every prefix of a response the policy goes on CONTINUATIONS
times, and the mean of what these are worth is the prefix's true value V*. From V* follow
- the most that any critic can explain of the returns: 1 - Var(G - V*) / Var(G), the policy's own dice being the rest;
- the true advantage of each token, gamma V*(s_t+1) - V*(s_t), with which GAE's can be compared for each lambda.
Rewards are those of the answers; the KL penalty, at most a few hundredths a token, is left out.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor

from course_utils.config import load_config
from course_utils.exercises import load_exercises
from course_utils.export import export_all
from course_utils.metrics import explained_variance, masked_mean
from course_utils.problems import Prompt
from course_utils.real_rollout import hidden_states
from course_utils.reward import score
from course_utils.rollout import collect, generate, texts_of
from course_utils.trainer import Trainer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/true_advantages.jsonl"
STEPS = (6, 17, 34)  # of the default run, after which the policy is looked at
RESPONSES = 32  # whose every prefix is continued
CONTINUATIONS = 12
OFFLINE = 1024  # other responses, on which the offline critic is fitted
LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0)


def sample(trainer: Trainer, prompts: list[Prompt], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """A buffer of one response a prompt, and their rewards (N,)."""
    uniforms = torch.rand(
        len(prompts), trainer.cfg.generation.max_new_tokens, generator=torch.Generator().manual_seed(seed)
    )
    buffer = collect(trainer.actor, prompts, trainer.tokenizer, trainer.cfg, uniforms, "cpu")
    return buffer, rewards_of(trainer, buffer, prompts)


def rewards_of(trainer: Trainer, buffer: dict[str, Tensor], prompts: list[Prompt], begun: list = ()) -> Tensor:
    """Rewards (N,) of what was begun (texts, none by default) and the buffer's responses together."""
    texts = texts_of(buffer, trainer.tokenizer)
    texts = [start + text for start, text in zip(begun, texts)] if begun else texts
    return torch.tensor(
        [score(text, prompt.problem.gold, trainer.cfg.reward).reward for text, prompt in zip(texts, prompts)]
    )


def returns_of(buffer: dict[str, Tensor], rewards: Tensor, gamma: float) -> Tensor:
    """G (N, R): the final reward, discounted once a token."""
    mask = buffer["response_attention_mask"]
    left = mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1])  # tokens between this one and the reward
    return rewards[:, None] * gamma ** left.clamp(min=0) * mask


def true_values(trainer: Trainer, buffer: dict[str, Tensor], prompts: list[Prompt], seed: int) -> tuple[Tensor, Tensor]:
    """V* before each response token, and the variance of these means, which have CONTINUATIONS samples; both (N, R)."""
    mask, gamma = buffer["response_attention_mask"], trainer.cfg.ppo.gamma
    values, noise = torch.zeros(mask.shape), torch.zeros(mask.shape)
    for t in range(mask.shape[1]):
        rows = [row for row in range(len(mask)) if mask[row, t]]
        prefixes = {row: buffer["response_input_ids"][row, :t].tolist() for row in rows}
        repeated = [row for row in rows for _ in range(CONTINUATIONS)]
        begun = [Prompt(prompts[row].problem, prompts[row].input_ids + prefixes[row]) for row in repeated]
        going_on = replace(trainer.cfg.generation, max_new_tokens=trainer.cfg.generation.max_new_tokens - t)
        dice = torch.Generator().manual_seed(1000 * seed + t)
        uniforms = torch.rand(len(begun), going_on.max_new_tokens, generator=dice)
        ends = generate(trainer.actor, begun, trainer.tokenizer, going_on, uniforms, "cpu")
        rewards = rewards_of(trainer, ends, begun, [trainer.tokenizer.decode(prefixes[row]) for row in repeated])
        worth = returns_of(ends, rewards, gamma)[:, 0].view(len(rows), CONTINUATIONS)
        values[rows, t], noise[rows, t] = worth.mean(1), worth.var(1) / CONTINUATIONS
    return values, noise


def fitted_critic(trainer: Trainer, prompts: list[Prompt]):
    """A linear critic, by ridge regression on the returns of other responses than those it will judge."""
    buffer, rewards = sample(trainer, prompts, seed=2)
    inside = buffer["response_attention_mask"].bool()
    x = with_one(hidden_states(trainer.actor, buffer)[inside]).double()
    y = returns_of(buffer, rewards, trainer.cfg.ppo.gamma)[inside].double()
    weights = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ y).float()
    return lambda buffer: (with_one(hidden_states(trainer.actor, buffer)) @ weights) * buffer["response_attention_mask"]


def with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)


def correlation(a: Tensor, b: Tensor, mask: Tensor) -> float:
    return torch.corrcoef(torch.stack([a[mask.bool()], b[mask.bool()]]))[0, 1].item()


def look_at(trainer: Trainer) -> dict:
    """All numbers of one policy, on RESPONSES problems that it has not been trained on."""
    gamma, prompts = trainer.cfg.ppo.gamma, trainer.prompts_of("validation", RESPONSES)
    buffer, rewards = sample(trainer, prompts, seed=1)
    mask = buffer["response_attention_mask"]
    returns = returns_of(buffer, rewards, gamma)
    truth, noise = true_values(trainer, buffer, prompts, seed=1)
    oracle, _ = true_values(trainer, buffer, prompts, seed=2)  # other dice than those of the truth it is measured by
    after = torch.cat([truth[:, 1:], torch.zeros(len(truth), 1)], dim=1)  # V* of the state that a token leads to
    last = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1])
    advantages = (gamma * after * (1 - last) + rewards[:, None] * last - truth) * mask
    critics = {
        "none": torch.zeros_like(truth),
        "of the run": buffer["values"],
        "12 samples": oracle,
        "fitted offline": fitted_critic(trainer, trainer.prompts_of("train", OFFLINE))(buffer),
    }
    whole = returns[mask.bool()].var(correction=0).item()
    left = masked_mean((returns - truth) ** 2 - noise, mask).item()  # V* is a mean of few: its noise is taken out
    return {
        "reward": rewards.mean().item(),
        "bound": 1 - left / whole,
        "explained": {name: explained_variance(values, returns, mask) for name, values in critics.items()},
        "correlation": {
            name: [correlation(gae(trainer, rewards, values, mask, lam), advantages, mask) for lam in LAMBDAS]
            for name, values in critics.items()
        },
    }


def gae(trainer: Trainer, rewards: Tensor, values: Tensor, mask: Tensor, lam: float) -> Tensor:
    """Whitened, which does not change a correlation."""
    advantages, _ = trainer.exercises.compute_gae_advantages(
        rewards, torch.zeros_like(values), values, mask, trainer.cfg.ppo.gamma, lam
    )
    return advantages


def one_seed(seed: int, solutions: Path) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(
            ROOT / "configs/config_debug.yaml", [f"training.seed={seed}", f"training.output_dir={folder}/run"]
        )
        trainer, lines = Trainer(cfg, load_exercises(solutions)), []
        for step in range(1, max(STEPS) + 1):
            trainer.ppo_step()
            if step in STEPS:
                lines.append({"seed": seed, "step": step, **look_at(trainer)})
                print(json.dumps(lines[-1]), flush=True)
    return lines


def report(lines: list[dict]) -> str:
    """Two tables: what critics explain, and how well GAE's advantages agree with the true ones; medians of seeds."""

    def at(step):
        return [line for line in lines if line["step"] == step]

    critics = ("of the run", "fitted offline")
    text = [
        "| PPO step | reward | critic of the run | fitted offline | most that any critic can |",
        "|---|---|---|---|---|",
    ]
    for step in STEPS:
        cells = [
            mean(line["reward"] for line in at(step)),
            *(median(line["explained"][name] for line in at(step)) for name in critics),
            median(line["bound"] for line in at(step)),
        ]
        text.append(f"| {step} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    text += [
        "",
        "| PPO step | critic | " + " | ".join(f"λ = {lam:g}" for lam in LAMBDAS) + " |",
        "|---|---|" + "---|" * len(LAMBDAS),
    ]
    for step in STEPS:
        for name in ("none", *critics, "12 samples"):
            row = [median(values) for values in zip(*(line["correlation"][name] for line in at(step)))]
            text.append(f"| {step} | {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.report:
        print(report([json.loads(line) for line in RESULTS.read_text().splitlines()]))
        return
    with tempfile.TemporaryDirectory() as folder:
        export_all(ROOT, folder)
        for seed in args.seeds:
            with RESULTS.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in one_seed(seed, Path(folder)))


if __name__ == "__main__":
    main()
