"""Exercise 5: run_ppo_update_epoch, on the worker's small actor and with its stand-in losses.

Each criterion has epochs of its own, in which the mistakes that belong to other criteria do no harm: a "flat" actor
says the same at every position, and a "neutral" buffer holds the same numbers wherever one tensor could be taken for
another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import factorial, prod

import torch
from torch import Tensor

from autograder import reference, worker
from autograder.rubrics import Draw, close, error_in_words, mask_of, numberless, untouched
from course_utils.checks.minibatch_update import OF_THE_BUFFER, rotated, shuffle_problem
from course_utils.exercises import LOSSES, UPDATE_METRICS

PPO = {
    "mini_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "clip_ratio": 0.2,
    "clip_range_value": 0.2,
    "vf_coeff": 1.0,
    "entropy_coeff": 0.0,
    "max_grad_norm": 1e6,
}
HINTS = {"forward": 2, "losses": 1, "minibatches": 2, "step": 2, "metrics": 3}
ADVICE = {  # where the actor has moved otherwise
    "losses": "The total is policy + vf_coeff · value + entropy_coeff · entropy loss",
    "minibatches": "Every response of an accumulation group counts the same, in the last, smaller group too, which is "
    "stepped like the others",
    "step": "After each group, the last one too: clip the norm of all gradients, optimizer.step(), "
    "lr_scheduler.step(), zero_grad(), or the next epoch begins with old gradients or an old learning rate",
}
PREDICTED = (
    ("compute_value_loss", "values_new"),
    ("compute_entropy_loss", "logits_new"),
    ("compute_policy_loss", "log_probs_new"),
)


def cases(draw: Draw) -> list["Epoch"]:
    return [*_forward(draw), *_losses(draw), *_minibatches(draw), *_step(draw), *_metrics(draw)]


def _forward(draw: Draw) -> Iterator["Epoch"]:
    for lengths, width in ((mask_of(5, 2, 4), 4), (mask_of(1, 3, 3, 2), 5)):
        buffer = _buffer(draw, lengths, neutral=False, prompt_width=width)
        yield Epoch("forward", _actor(draw, flat=False), buffer, {})
    sure = _actor(draw, flat=False)  # log-probs far below 0, and values far from it
    sure |= {"logits": sure["logits"] * 60, "actor_values": sure["actor_values"] * 20}
    yield Epoch("forward", sure, _buffer(draw, mask_of(3, 2), neutral=False), {})
    for _ in range(3):  # the last mini-batch is of one response, whose prompt is the longest once in nine times
        buffer = _buffer(draw, mask_of(3, 2, 4, 1, 2, 3, 1, 4, 2), neutral=False, prompt_width=6)
        in_turn = {"mini_batch_size": 2, "gradient_accumulation_steps": 3}
        yield Epoch("forward", _actor(draw, flat=False), buffer, in_turn)


def _losses(draw: Draw) -> Iterator["Epoch"]:
    for _ in range(2):
        ppo = {
            "mini_batch_size": 3,  # all of them: how several mini-batches are weighed is asked elsewhere
            "clip_ratio": draw.number(0.1, 0.3),
            "clip_range_value": draw.number(0.4, 0.8),
            "vf_coeff": draw.number(0.2, 0.8),
            "entropy_coeff": draw.number(0.05, 0.3),
        }
        yield Epoch("losses", _actor(draw), _buffer(draw, mask_of(4, 2, 3), neutral=False), ppo)
    far = _buffer(draw, mask_of(4, 2, 3), neutral=False)
    far |= {name: far[name] * 30 for name in ("values", "advantages", "returns")}
    far["logprobs"] = far["logprobs"] - 8  # what moved far is trained on too
    yield Epoch("losses", _actor(draw), far, {"mini_batch_size": 3, "vf_coeff": 0.5, "entropy_coeff": 0.2})


def _minibatches(draw: Draw) -> Iterator["Epoch"]:
    for responses, size, steps in ((5, 2, 2), (7, 2, 2), (9, 4, 1), (9, 4, 3), (3, 8, 1)):
        cut = {"mini_batch_size": size, "gradient_accumulation_steps": steps}
        buffer = _buffer(draw, mask_of(*([3] * responses)))
        yield _of_values("minibatches", _actor(draw), buffer, cut, seed=draw.seed())
    # Of unequal length, one to a mini-batch; the same number all along a response, so that its mask does not matter.
    unequal = _buffer(draw, mask_of(4, 1, 2, 1, 3))
    for name in ("response_input_ids", "ref_logprobs", "logprobs", "values", "advantages", "returns"):
        unequal[name] = unequal[name][:, :1].expand_as(unequal[name]).clone()
    cut = {"mini_batch_size": 1, "gradient_accumulation_steps": 3}
    yield _of_values("minibatches", _actor(draw), unequal, cut, seed=draw.seed())
    eighteen, seed = _buffer(draw, mask_of(*([2, 1, 3, 1, 2, 3] * 3))), draw.seed()
    for drawn in (0, 0, 7):
        cut = {"mini_batch_size": 3}
        yield Epoch("minibatches", _actor(draw), eighteen, cut, seed=seed, shuffled=True, drawn=drawn)
    yield _weighed("minibatches", draw, 9, {"mini_batch_size": 4, "gradient_accumulation_steps": 3})


def _step(draw: Draw) -> Iterator["Epoch"]:
    for steps, norm in ((2, 1e6), (2, 0.05), (1, 0.05)):
        clipped = {"mini_batch_size": 1, "gradient_accumulation_steps": steps, "max_grad_norm": norm}
        buffer = _buffer(draw, mask_of(3, 3, 3, 3, 3))
        yield _of_values("step", _actor(draw), buffer, clipped, seed=draw.seed())
    changes = {"mini_batch_size": 1, "gradient_accumulation_steps": 2, "max_grad_norm": 0.05}
    yield _weighed("step", draw, 5, changes)


def _metrics(draw: Draw) -> Iterator["Epoch"]:
    for size, steps in ((2, 2), (3, 1)):
        yield Epoch(
            "metrics",
            _actor(draw),
            _buffer(draw, mask_of(3, 3, 3, 3, 3)),
            # So small that gradients which no zero_grad() took away do not show here.
            {"mini_batch_size": size, "gradient_accumulation_steps": steps, "max_grad_norm": 1e-6},
            seed=draw.seed(),
        )
    likelier = _buffer(draw, mask_of(3, 3, 3))
    for name in ("logprobs", "ref_logprobs"):
        likelier[name] = likelier[name] - 8  # than they were, almost all tokens: approx_kl is below 0
    yield Epoch("metrics", _actor(draw), likelier, {})
    weighed = {"vf_coeff": 0.5, "entropy_coeff": 0.2}
    yield Epoch("metrics", _actor(draw), _buffer(draw, mask_of(3, 3, 3)), weighed, requires="losses")


def across(cases: list["Epoch"], answers: list[tuple[dict, dict]]) -> dict[str, str]:
    """Problems that show only in several answers together: criterion -> what is wrong."""
    if any("kind" in told and not untouched(case.buffer, tensors) for case, (told, tensors) in zip(cases, answers)):
        return {"minibatches": "it changes the buffer; the next epoch needs it"}
    if any("kind" in told and told.get("as_it_was") is not True for told, _ in answers):
        return {
            "minibatches": "it changes cfg.ppo, adds to the buffer or takes from it, or leaves gradients switched off; "
            "the next epoch needs all of it as it was"
        }
    eighteen = [case for case in cases if case.shuffled]
    told = [(case.order(x), said.get("drawn_next")) for case, (said, x) in zip(cases, answers) if case.shuffled]
    cut, drawn_next = map(list, zip(*told))
    if not all(cut):
        return {}
    lengths = [eighteen[0].buffer[f"{name}_attention_mask"].sum(1) for name in ("prompt", "response")]
    problem = shuffle_problem(cut, lengths, drawn_next, eighteen[0].drawn_next())
    if not problem and _in_turn(cases, answers):
        problem = "the responses are shuffled for some numbers of them only: shuffle them with torch.randperm, always"
    return {"minibatches": problem} if problem else {}


def _in_turn(cases: list["Epoch"], answers: list[tuple[dict, dict]]) -> bool:
    """Whether more of the other epochs go through the buffer in turn than one right solution of 100,000 does by chance:
    of n responses n of their n! orders are in turn. (The numbers of responses can be read here, so that a submission
    could shuffle those only that are looked at.)"""
    others = [
        sum(case.order(tensors), [])
        for case, (_, tensors) in zip(cases, answers)
        if case.criterion == "minibatches" and not case.shuffled
    ]
    return prod(len(order) / factorial(len(order)) for order in others if order and rotated(order)) < 1e-5


@dataclass
class Epoch:
    """One epoch, replayed by the reference in the order in which the submission took the responses."""

    criterion: str
    actor: dict  # embedding, logits, actor_values, flat
    buffer: dict[str, Tensor]
    changes: dict  # of PPO
    seed: int = 0
    shuffled: bool = False
    drawn: int = 0  # random numbers since the seed was set
    requires: str = ""  # a criterion: where that has failed, this epoch is not judged, or one mistake would cost two

    @property
    def ppo(self) -> dict:
        return PPO | self.changes

    @property
    def rates(self) -> list[float]:
        """The learning rate of each optimizer step: another one each time where the scheduler's step is to show, none
        where it is to be seen what a mini-batch holds, is asked and logged, whatever was trained before it."""
        rate = 0.0 if self.criterion in ("forward", "metrics") or self.shuffled else 0.5
        return [round(rate / (step + 1), 4) if self.criterion == "step" else rate for step in range(16)]

    @property
    def one_step_more(self) -> bool:
        """Whether the worker takes a step after the epoch, which shows what the epoch has left behind."""
        return self.criterion == "step"

    @property
    def kept(self) -> float:
        """The share of the parameters that a step leaves: where steps are counted, one too many shows."""
        return 0.9 if self.criterion == "step" else 1.0

    def request(self) -> tuple[dict, dict[str, Tensor]]:
        tensors = {name: tensor.clone() for name, tensor in self.buffer.items()}
        tensors |= {name: self.actor[name].clone() for name in ("embedding", "logits", "actor_values")}
        return {
            "kind": "epoch",
            "seed": self.seed,
            "drawn": self.drawn,
            "flat": self.actor["flat"],
            "one_step_more": self.one_step_more,
            "rates": self.rates,
            "kept": self.kept,
            "ppo": self.ppo,
        }, tensors

    def order(self, tensors: dict[str, Tensor]) -> list[list[int]]:
        """The rows of each mini-batch, told by their prompts; [] where an input is not made of whole rows."""
        whole = torch.cat([self.buffer["prompt_input_ids"], self.buffer["response_input_ids"]], 1).tolist()
        row_of, found = {tuple(row): number for number, row in enumerate(whole)}, []
        calls = [tensors[name] for name in sorted(tensors) if name.startswith("call")]
        if any(ids.dim() != 2 or ids.shape[1] != len(whole[0]) for ids in calls) or sum(map(len, calls)) > 2 * len(
            whole
        ):
            return []
        for call in range(len(calls)):
            rows = [row_of.get(tuple(row)) for row in tensors[f"call{call}"].tolist()]
            if None in rows:
                return []
            if found[-1:] != [rows]:  # a mini-batch may be shown to the actor twice, as for values of their own
                found.append(rows)
        return found

    def drawn_order(self) -> list[int]:
        """The rows as torch.randperm draws them in the worker, if nothing else is drawn before."""
        return torch.randperm(len(self.buffer["rewards"]), generator=self._generator()).tolist()

    def drawn_next(self) -> list[float]:
        """What the worker draws after an epoch that has drawn nothing."""
        return torch.rand(4, generator=self._generator()).tolist()

    def _generator(self) -> torch.Generator:
        generator = torch.Generator().manual_seed(self.seed)
        torch.rand(self.drawn, generator=generator)
        return generator

    def problem(self, told: dict, tensors: dict[str, Tensor], _reference, source: str) -> str:
        """What is wrong with an answer, in words; "" if nothing is."""
        if "error" in told:
            return error_in_words(told["error"], source)
        if told.get("kind") != "dict":
            return f"it must return a dict, not {numberless(told.get('kind'), 60)}"
        order = self.order(tensors)
        if not order:
            return (
                "the actor must be called with prompt_input_ids followed by response_input_ids, whole rows of the "
                "buffer"
            )
        responses = len(self.buffer["rewards"])
        if sorted(sum(order, [])) != list(range(responses)):
            return f"of {responses} responses each must be used once in an epoch"
        size = self.ppo["mini_batch_size"]
        if self.criterion == "minibatches" and (any(len(rows) != size for rows in order[:-1]) or len(order[-1]) > size):
            return "a mini-batch has mini_batch_size responses, only the last one may have fewer"
        replay = self._replay(order)
        if self.criterion == "forward":
            return self._forward(tensors, replay["seen"][-1], order[-1])
        if self.criterion == "metrics":
            return self._metrics(told, replay["metrics"])
        problem = self._given(told, tensors, order[-1]) if self.criterion == "losses" else ""
        return problem or self._moved(tensors, replay["parameters"])

    def _replay(self, order: list[list[int]]) -> dict:
        given = {
            name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in self.buffer.items()
        }
        actor = worker.Actor(  # type: ignore[call-arg]
            *(self.actor[name].double() for name in ("embedding", "logits", "actor_values")), self.actor["flat"]
        )
        replay = reference.epoch(actor, given, order, self.ppo, self.rates, worker.STAND_INS, self.kept)
        if self.one_step_more:
            actor.zero_grad()
            steps = -(-len(order) // self.ppo["gradient_accumulation_steps"])
            worker.one_step_more(actor, worker.descent(actor, self.rates[steps], self.kept))
        return replay | {"parameters": {name: p.detach() for name, p in actor.named_parameters()}}

    def _forward(self, tensors: dict[str, Tensor], seen: dict[str, Tensor], rows: list[int]) -> str:
        mask = self.buffer["response_attention_mask"][rows].bool()
        for loss, argument in PREDICTED:
            yours, wanted = tensors.get(f"{loss}.{argument}"), seen[argument]
            if yours is None or yours.shape != wanted.shape:
                return f"{argument} of {loss} must have the shape {tuple(wanted.shape)}: the R positions P−1 to P+R−2"
            if not close(yours[mask], wanted[mask], 1e-4):
                return (
                    f"{argument} of {loss} is not what the actor says at the positions P−1 to P+R−2, with the "
                    "prompt's padding masked"
                )
        return ""

    def _given(self, told: dict, tensors: dict[str, Tensor], rows: list[int]) -> str:
        mask = self.buffer["response_attention_mask"][rows].bool()
        masks = ((loss, "response_mask", "response_attention_mask") for loss in LOSSES)
        for loss, argument, name in (*OF_THE_BUFFER, *masks):
            yours, wanted = tensors.get(f"{loss}.{argument}"), self.buffer[name][rows]
            at = mask | (argument == "response_mask")  # the mask everywhere, the rest on it
            if yours is None or yours.shape != wanted.shape or not close(yours[at], wanted[at], 0):
                return f'{argument} of {loss} must be the buffer\'s "{name}" of this mini-batch'
        for loss, argument in (("compute_policy_loss", "clip_ratio"), ("compute_value_loss", "clip_range_value")):
            if told["given"][loss].get(argument, {}).get("value") != self.ppo[argument]:
                return f"{argument} of {loss} must be cfg.ppo.{argument}"
        return ""

    def _metrics(self, told: dict, metrics: list[float]) -> str:
        given = told.get("metrics", {})
        for name, wanted in zip(UPDATE_METRICS, metrics):
            metric = given.get(name, {"kind": "missing"})
            if metric.get("kind") != "float":
                return f"{name} must be a float, not {numberless(metric.get('kind'), 60)}"
            if not close(torch.tensor(metric["value"]), torch.tensor(wanted), 1e-3):
                return (
                    f"{name} must be the mean over the mini-batches, each counting once; for params/grad_norm "
                    "over the steps, before clipping"
                )
        return ""

    def _moved(self, tensors: dict[str, Tensor], parameters: dict[str, Tensor]) -> str:
        if all(name in tensors and close(tensors[name], wanted, 1e-4) for name, wanted in parameters.items()):
            return ""
        return f"the actor's parameters after the epoch are not the right ones. {ADVICE[self.criterion]}"


def _actor(draw: Draw, flat: bool = True) -> dict:
    """Parameters of the worker's actor: 40 tokens, 4 hidden numbers."""
    return {"embedding": draw.normal(40, 4), "logits": draw.normal(4, 40), "actor_values": draw.normal(4), "flat": flat}


def _of_values(criterion: str, actor: dict, buffer: dict[str, Tensor], changes: dict, **more) -> Epoch:
    """An epoch with advantages and returns of 0. With clip ranges of 0 too, the stand-in policy loss has no gradient,
    and that of the value loss says only how each response was weighed, in which mini-batch and step."""
    mask = buffer["response_attention_mask"]
    nothing = {name: buffer[name].where(mask == 0, 0) for name in ("advantages", "returns")}
    return Epoch(criterion, actor, buffer | nothing, changes | {"clip_ratio": 0.0, "clip_range_value": 0.0}, **more)


def _weighed(criterion: str, draw: Draw, responses: int, changes: dict) -> Epoch:
    """An epoch in which policy loss and entropy are weighed too."""
    buffer = _buffer(draw, mask_of(*([3] * responses)))
    return Epoch(criterion, _actor(draw), buffer, changes | {"entropy_coeff": 0.2}, draw.seed(), requires="losses")


def _buffer(draw: Draw, mask: Tensor, neutral: bool = True, prompt_width: int = 4) -> dict[str, Tensor]:
    """Responses with prompts of two tokens or more, of different lengths as far as there are so many, one of them of
    `prompt_width`. Row n's first prompt token is 20 + n, larger than all others.

    Token 0, which also stands on the padding, is a token like any other: it ends each prompt and begins a response.
    Off the mask stand numbers that would do harm. The old log-probs are close to what the actor says, as in PPO.
    """
    responses, width = mask.shape
    lengths = 2 + (torch.arange(responses) + draw.whole(0, prompt_width)) % (prompt_width - 2)
    lengths[draw.whole(0, responses - 1)] = prompt_width  # a buffer is as wide as its longest prompt
    prompt_mask = torch.arange(prompt_width) >= prompt_width - lengths.unsqueeze(1)
    prompts = draw.whole(6, 19, responses, prompt_width)
    prompts[torch.arange(responses), prompt_mask.long().argmax(1)] = 20 + torch.arange(responses)
    prompts[:, -1] = 0
    tokens = draw.whole(0, 19, responses, width)
    tokens[0, 0] = 0
    numbers = {
        name: draw.padded(draw.normal(responses, width), mask)
        for name in ("ref_logprobs", "values", "advantages", "returns")
    }
    numbers["logprobs"] = draw.padded(-draw.uniform(0.5, 3, responses, width), mask, -50, 0)
    if neutral:
        numbers |= {"ref_logprobs": numbers["logprobs"], "returns": numbers["advantages"]}
    return {
        "prompt_input_ids": prompts * prompt_mask,
        "prompt_attention_mask": prompt_mask.long(),
        "response_input_ids": tokens,
        "response_attention_mask": mask,
        "rewards": draw.whole(-1, 1, responses) * draw.uniform(0.1, 1, responses),
        **numbers,
    }
