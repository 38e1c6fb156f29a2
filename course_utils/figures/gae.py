"""Pictures of notebook 4: one reward for many tokens, where the prospects changed, and GAE on real responses."""

from math import ceil

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course_utils.figures.show import BLUE, ORANGE, new_figure
from course_utils.figures.token_explorer import diverging, signed, visible
from course_utils.problems import Problem, Prompt
from course_utils.real_rollout import RealRollout, embedded_tokenizer, hidden_states, respond, rewards_of
from course_utils.rollout import texts_of

LINE = 13  # tokens in a line of a heat map
FULL_COLOUR = 0.6  # the advantage that has it: the same at every γ and λ, so that pictures can be compared
RIDGE = 300.0  # large enough for a critic that has seen few responses
CONTINUATIONS = 8
CASES = ((1, 0), (1, 0.8), (1, 1), (0.9, 1))  # γ, λ: where notebook 4 asks to set the sliders, and one between


# ------------------------------------------------------------------ why: one reward for all tokens


def draw_one_reward(rollout: RealRollout, rows: tuple[int, ...]) -> tuple[Figure, str]:
    """What each token is credited with if nobody says which of them earned the reward."""
    mean = rollout.rewards.mean().item()
    return _draw_heat_maps(
        f"Reward of the response minus the mean reward, {mean:.2f}: the same for each token",
        [
            (_name(rollout, row), rollout.tokens[row], [rollout.rewards[row].item() - mean] * len(rollout.tokens[row]))
            for row in rows
        ],
    )


# ------------------------------------------------------------------ which token was it?


def draw_prospects(rollout: RealRollout, row: int) -> tuple[Figure, str]:
    """The mean reward if the model goes on by itself from each prefix of a response: the true value V(s)."""
    tokens, prospects = rollout.tokens[row], true_values(rollout, row)
    names = ["(question)", *map(visible, tokens)]
    steps = [after - before for before, after in zip(prospects, prospects[1:])]
    worst = min(range(len(steps)), key=steps.__getitem__)
    figure = new_figure(3.4)
    axes = figure.subplots()
    axes.bar(range(len(names)), prospects, color=[ORANGE if i == worst + 1 else BLUE for i in range(len(names))])
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
    axes.set(ylim=(0, 1), ylabel="mean reward from here", xlim=(-0.7, len(names) - 0.3))
    title = f"Orange: after “{visible(tokens[worst])}” the prospects fall by {-steps[worst]:.2f}"
    axes.set_title(f"{title} ({CONTINUATIONS} ends sampled after each token)", fontsize=11, parse_math=False)
    return figure, (
        f"{title}, the largest fall. Mean reward of {CONTINUATIONS} ends that the model wrote, after each "
        "token: " + ", ".join(f"{name} {value:.2f}" for name, value in zip(names, prospects)) + "."
    )


def true_values(rollout: RealRollout, row: int, count: int = CONTINUATIONS) -> list[float]:
    """Mean rewards of `count` ends sampled before the first token, after each of the others, and of what was written:
    as many as there are tokens, and one."""
    tokenizer, begun = embedded_tokenizer(), range(len(rollout.tokens[row]))
    prompt = rollout.buffer["prompt_input_ids"][row][rollout.buffer["prompt_attention_mask"][row].bool()].tolist()
    response = rollout.buffer["response_input_ids"][row].tolist()
    problem = Problem(rollout.questions[row], f"#### {rollout.golds[row]}")
    prompts = [Prompt(problem, prompt + response[:t]) for t in begun for _ in range(count)]
    ends = texts_of(respond(rollout.actor, prompts, seed=0), tokenizer)
    starts = [tokenizer.decode(response[:t]) for t in begun for _ in range(count)]
    rewards = rewards_of([start + end for start, end in zip(starts, ends)], [problem] * len(ends))
    return [*torch.tensor(rewards).view(-1, count).mean(1).tolist(), rollout.rewards[row].item()]


# ------------------------------------------------------------------ GAE with a critic of its own


class LinearCritic:
    """Values that are linear in the model's last hidden states, fitted to the responses that are not `unseen`."""

    def __init__(self, rollout: RealRollout, unseen: tuple[int, ...]):
        self.rollout, self.unseen = rollout, unseen
        self.mask = rollout.mask.bool()
        self.hidden = hidden_states(rollout.actor, rollout.buffer)  # (N, R, H)
        self.seen = self.mask.clone()
        self.seen[list(unseen)] = False

    def values(self, gamma: float) -> Tensor:
        """(N, R), by ridge regression on the returns: the reward, discounted once for each token that is to come."""
        to_come = self.mask.sum(1, keepdim=True) - 1 - torch.arange(self.mask.shape[1])  # (N, R)
        returns = self.rollout.rewards.unsqueeze(1) * gamma ** to_come.clamp(min=0)
        x, y = self.hidden[self.seen].double(), returns[self.seen].double()  # (n, H), (n,)
        middle, x, mean = x.mean(0), x - x.mean(0), y.mean()
        weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ (y - mean))
        return ((self.hidden.double() - middle) @ weights + mean).float() * self.mask


def draw_gae(critic: LinearCritic, gamma: float, lam: float) -> tuple[Figure, str]:
    """The raw advantages of the responses that the critic has not seen."""
    return _draw_heat_maps(
        f"Raw advantages, γ = {gamma:.2f}, {_name_of(lam)}",
        [
            (_name(critic.rollout, row), critic.rollout.tokens[row], _advantages_of(critic, row, gamma, lam))
            for row in critic.unseen
        ],
    )


def draw_lambdas(critic: LinearCritic, row: int) -> tuple[Figure, str]:
    """One response for each of CASES: how far the news of its last token reaches back."""
    return _draw_heat_maps(
        f"{_name(critic.rollout, row)}: raw advantages",
        [
            (
                f"γ = {gamma:.2f}, {_name_of(lam)}",
                critic.rollout.tokens[row],
                _advantages_of(critic, row, gamma, lam),
            )
            for gamma, lam in CASES
        ],
    )


def _advantages_of(critic: LinearCritic, row: int, gamma: float, lam: float) -> list[float]:
    length = len(critic.rollout.tokens[row])
    rewards = [0.0] * (length - 1) + [critic.rollout.rewards[row].item()]  # before training there is no KL to pay
    return advantages(rewards, critic.values(gamma)[row, :length].tolist(), gamma, lam)


def advantages(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """GAE of one response, each token's sum written out: Σ (γλ)^l δ_(t+l), arXiv:1506.02438, equation 16."""
    deltas = [reward + gamma * after - value for reward, value, after in zip(rewards, values, [*values[1:], 0])]
    return [sum((gamma * lam) ** later * delta for later, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


def _name(rollout: RealRollout, row: int) -> str:
    reward = rollout.rewards[row].item()
    return f"{'Right' if reward == 1 else 'Wrong'} response, reward {reward:.2g}"


def _name_of(lam: float) -> str:
    return f"λ = {lam:.2f}" + {0.0: ": TD, looks one token ahead", 1.0: ": Monte Carlo, waits for the reward"}.get(
        lam, ", between TD (0) and Monte Carlo (1)"
    )


# ------------------------------------------------------------------ heat maps


def _draw_heat_maps(title: str, panels: list[tuple[str, list[str], list[float]]]) -> tuple[Figure, str]:
    """A heat map for each (name, tokens, values), one below the other."""
    lines = [ceil(len(tokens) / LINE) for _, tokens, _ in panels]
    figure = new_figure(0.4 + sum(0.35 + 0.42 * n for n in lines))
    figure.suptitle(title, fontsize=11)
    for axes, panel in zip(figure.subplots(len(panels), 1, height_ratios=lines, squeeze=False).flat, panels):
        _draw_heat_map(axes, *panel)
    return figure, f"{title}. " + " ".join(_describe(*panel) for panel in panels)


def _draw_heat_map(axes: Axes, name: str, tokens: list[str], values: list[float]) -> None:
    """One cell a token: its text, and the value below."""
    for i, (token, value) in enumerate(zip(tokens, values, strict=True)):
        line, column = divmod(i, LINE)
        axes.add_patch(Rectangle((column, line), 1, 1, facecolor=diverging(value / FULL_COLOUR), edgecolor="white"))
        text = visible(token)
        axes.text(
            column + 0.5,
            line + 0.3,
            text,
            ha="center",
            va="center",
            fontsize=9.5 if len(text) < 9 else 8,
            parse_math=False,
        )
        axes.text(column + 0.5, line + 0.74, signed(value), ha="center", va="center", fontsize=8)
    axes.set(xlim=(0, LINE), ylim=(ceil(len(tokens) / LINE), 0))
    axes.axis("off")
    axes.set_title(name, fontsize=10, loc="left")


def _describe(name: str, tokens: list[str], values: list[float]) -> str:
    if len(set(values)) == 1:
        return f"{name}: each of its {len(tokens)} tokens {signed(values[0])}."
    return f"{name}: " + ", ".join(f"{visible(token)} {signed(value)}" for token, value in zip(tokens, values)) + "."
