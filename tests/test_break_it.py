"""Break it: the mistakes are what they are called, their runs are recorded, and one can be run live."""

import json
import math
import re
from html import escape
from types import SimpleNamespace

import nbformat
import pytest
import torch

from course_utils import stand_ins
from course_utils.break_it import break_it, gallery, short_run
from course_utils.break_it.mistakes import METRICS, MISTAKES, Proxy, metrics_of
from course_utils.break_it.pictures import RECORDED, RIGHT, draw_gallery, last_third, metrics_to_show, recorded
from course_utils.break_it.short_run import RUN, fingerprint, settings_of
from course_utils.check import check
from course_utils.exercises import EXERCISES, LOSSES, UPDATE_METRICS, ExerciseError
from course_utils.export import header
from course_utils.worked_example import worked_example
from tests.solutions import ROOT, run_cell, solution, solution_cells, solution_source, stub_source

KEYS = list(EXERCISES)
example = worked_example()


def wrong(key: str, name: str):
    return MISTAKES[key][name].wrong(solution(key))


# ------------------------------------------------------------------ the mistakes, by hand


def policy_loss(function) -> list[float]:
    e = example
    return [x.item() for x in function(e.log_probs_new, e.log_probs_old, e.advantages, e.response_mask, 0.2)]


def test_no_clipping():
    """The column r·Â of the worked example adds up to 0.25, over six tokens."""
    loss, clip_frac, _ = policy_loss(wrong("policy_loss", "no clipping"))
    assert loss == pytest.approx(-0.25 / 6, abs=1e-6) and clip_frac == 0


def test_no_mask_in_the_policy_loss():
    """The same sums over eight positions: padding has advantage 0 and ratio 1 in the example."""
    loss, clip_frac, _ = policy_loss(wrong("policy_loss", "no mask"))
    assert loss == pytest.approx(0.0875 / 8, abs=1e-6) and clip_frac == pytest.approx(4 / 8)


def test_the_sign_of_the_policy_loss():
    right, turned = policy_loss(solution("policy_loss")), policy_loss(wrong("policy_loss", "sign turned"))
    assert turned == [-right[0], *right[1:]] and right[0] == pytest.approx(0.0875 / 6, abs=1e-6)


def test_old_is_new():
    """Every ratio is 1: minus the mean advantage, which is 0 as they are whitened, and nothing is clipped."""
    assert policy_loss(wrong("policy_loss", "old is new")) == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("no clipping", (0.01 + 0.09 + 0.0025 + 0.01 + 0.0225 + 0) / 12),
        ("old values as targets", (0.3**2 + 0.1**2 + 0.25**2 + 0.1**2 + 0.3**2 + 0.25**2) / 12),
        ("no mask", (0.145 + 2 * 18**2) / 16),  # on padding the value is 9 and the return -9
    ],
)
def test_the_value_loss(name, loss):
    e = example
    found, _ = wrong("value_loss", name)(e.values_new, e.values_old, e.returns, e.response_mask, 0.2)
    assert found.item() == pytest.approx(loss, rel=1e-6, abs=1e-6)


def test_the_entropy():
    logits = example.logits_new.clone().requires_grad_()
    mistakes = {name: wrong("entropy", name)(logits, example.response_mask) for name in MISTAKES["entropy"]}
    assert mistakes["sign turned"].item() == pytest.approx(11 / 6 * math.log(2))
    # e^9 against e^-9, 1 and 1 on padding: nearly all on one token, an entropy of 0.00247
    assert mistakes["no mask"].item() == pytest.approx(-(11 * math.log(2) + 2 * 0.00247) / 8, abs=1e-5)
    assert mistakes["detached"].item() == pytest.approx(-11 / 6 * math.log(2))
    assert not mistakes["detached"].requires_grad


def gae(function, gamma: float, lam: float):
    """One response of two tokens in three places, values ½ and ¼, reward 1, KL penalty 0.1 on the first token."""
    return function(
        torch.tensor([1.0]),
        torch.tensor([[0.1, 0.0, 7.0]]),
        torch.tensor([[0.5, 0.25, 7.0]]),
        torch.tensor([[1, 1, 0]]),
        gamma,
        lam,
    )


@pytest.mark.parametrize(
    ("name", "returns"),
    [
        (RIGHT, [-0.1 + 0.5, 1]),
        ("γ forgotten", [-0.1 + 1, 1]),
        ("reward on the wrong token", [1 - 0.1, 0]),
        ("KL penalty added", [0.1 + 0.5, 1]),
        ("whitening over padding", [-0.1 + 0.5, 1]),
    ],
)
def test_gae(name, returns):
    """γ = ½ and λ = 1: the returns are the discounted rewards to come."""
    function = solution("gae") if name == RIGHT else wrong("gae", name)
    assert gae(function, 0.5, 1.0)[1][0, :2].tolist() == pytest.approx(returns)


def test_whitening_over_padding():
    """Raw advantages 0.4 − 0.5 and 1 − ¼, and 0 on padding: mean 0.65 / 3."""
    advantages, _ = gae(wrong("gae", "whitening over padding"), 0.5, 1.0)
    raw, mean = [-0.1, 0.75, 0.0], 0.65 / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in raw) / 2)
    assert advantages[0].tolist() == pytest.approx([(x - mean) / deviation for x in raw], abs=1e-5)


def update(name: str, called: list):
    """What the update of this mistake is given: it notes it in `called`."""

    def run_ppo_update_epoch(actor_model, optimizer, lr_scheduler, collated_buffer, cfg, device):
        called.append((actor_model(torch.zeros(1, 3)), optimizer, lr_scheduler, collated_buffer))

    return MISTAKES["minibatch_update"][name].wrong(run_ppo_update_epoch)


class Actor(torch.nn.Module):
    def forward(self, tokens):
        return torch.tensor([[[1.0], [2.0], [3.0]]]), torch.zeros(1, 3)


@pytest.mark.parametrize("name", MISTAKES["minibatch_update"])
def test_the_update(name):
    counts, called, actor = {"step": 0, "zero_grad": 0, "schedule": 0}, [], Actor()

    def count(what):
        return lambda *args, **kwargs: counts.update({what: counts[what] + 1})

    optimizer = SimpleNamespace(step=count("step"), zero_grad=count("zero_grad"))
    scheduler = SimpleNamespace(step=count("schedule"))
    update(name, called)(actor, optimizer, scheduler, {"advantages": torch.tensor([[1.0], [2.0]])}, None, "cpu")
    [((logits, _), given_optimizer, given_scheduler, buffer)] = called
    given_optimizer.step(), given_optimizer.zero_grad(), given_scheduler.step()
    expected = {"step": 1, "zero_grad": name != "zero_grad missing", "schedule": name != "scheduler forgotten"}
    assert counts == expected
    assert logits.flatten().tolist() == ([3, 1, 2] if name == "off by one" else [1, 2, 3])
    assert buffer["advantages"].flatten().tolist() == ([2, 1] if name == "rows mixed up" else [1, 2])
    assert actor(None)[0].flatten().tolist() == [1, 2, 3]  # it is left as it was


def test_a_proxy_has_everything_else_of_the_original():
    proxy = Proxy(SimpleNamespace(a=1, b=2), b=3)
    assert (proxy.a, proxy.b) == (1, 3)


# ------------------------------------------------------------------ the stand-ins


@pytest.mark.parametrize("name", ["compute_gae_advantages", "run_ppo_update_epoch"])
def test_a_stand_in_fails_most_criteria(name, capsys):
    with pytest.raises(AssertionError):
        check(getattr(stand_ins, name))
    marks = [line[0] for line in capsys.readouterr().out.splitlines() if line[:1] in "✓✗"]
    assert marks.count("✗") > marks.count("✓")


def test_the_stand_in_for_gae():
    """One response of two tokens, values 0, reward 1, KL penalty 0.2 in all, γ = ½: returns 0.4 and 0.8."""
    advantages, returns = stand_ins.compute_gae_advantages(
        torch.tensor([1.0]), torch.tensor([[0.2, 0.0, 7.0]]), torch.zeros(1, 3), torch.tensor([[1, 1, 0]]), 0.5, 0.9
    )
    assert returns[0, :2].tolist() == pytest.approx([0.4, 0.8])
    scale = math.sqrt((0.4**2 + 0.8**2) / 2)
    assert advantages[0].tolist() == pytest.approx([0.4 / scale, 0.8 / scale, 0], abs=1e-3)


def test_the_stand_in_for_gae_needs_no_discount():
    """γ = 0: 0 to the power of the tokens to come, which padding must not count as minus one."""
    advantages, returns = stand_ins.compute_gae_advantages(
        torch.tensor([1.0]), torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([[1, 1, 0]]), 0.0, 0.9
    )
    assert returns[0, :2].tolist() == [0, 1] and advantages.isfinite().all()


# ------------------------------------------------------------------ recorded


@pytest.mark.parametrize("key", KEYS)
def test_every_mistake_is_recorded_with_the_settings_of_now(key):
    assert json.loads(RECORDED.read_text(encoding="utf-8"))["settings"][key] == fingerprint(key)
    runs, steps = recorded(key), settings_of(key).training.total_ppo_steps
    assert list(runs) == [RIGHT, *MISTAKES[key]]
    for name, of_seeds in runs.items():
        assert "1" in of_seeds
        for curves in of_seeds.values():
            assert list(curves) == metrics_of(key)
            lengths = {len(curve) for curve in curves.values()}
            assert len(lengths) == 1 and lengths <= ({steps} if name == RIGHT else set(range(1, steps + 1)))


@pytest.mark.parametrize("key", KEYS)
def test_the_right_runs_learn(key):
    """The reward of the last third is above that of the first three steps, in every seed."""
    for curves in recorded(key)[RIGHT].values():
        rewards = curves["rollout/reward_mean"]
        assert sum(rewards[-4:]) / 4 > sum(rewards[:3]) / 3


@pytest.mark.parametrize("key", KEYS)
def test_the_gallery_draws_every_mistake(key, monkeypatch):
    figure, description = draw_gallery(key)
    assert [axes.get_title().replace("\n", " ") for axes in figure.axes] == list(MISTAKES[key])
    assert all(f"{name}: " in description for name in MISTAKES[key])
    shown = []
    monkeypatch.setattr("course_utils.break_it.pictures.display", shown.append)
    gallery(key)
    (words,) = shown
    assert all(f"<b>{name}</b>: {escape(mistake.words)}" in words.data for name, mistake in MISTAKES[key].items())


def test_the_axis_is_logarithmic_only_where_one_run_would_flatten_the_others():
    """The KL of a run without clipping ends at 300 nats, right ones below 10; the penalty added gives 12."""
    panels = [axes for key in ("policy_loss", "gae") for axes in draw_gallery(key)[0].axes]
    scales = {axes.get_title(): axes.get_yscale() for axes in panels}
    assert [title for title, scale in scales.items() if scale == "symlog"] == ["no clipping"]
    assert "KL penalty added" in scales


def test_what_a_wrong_function_logs_is_drawn_beside_what_was_measured():
    figure, description = draw_gallery("entropy")
    runs = recorded("entropy")["sign turned"]
    middle = [sorted(step)[1] for step in zip(*(run["rollout/entropy"] for run in runs.values()))]
    right, logged, measured = figure.axes[0].lines
    assert list(measured.get_ydata()) == middle and max(logged.get_ydata()) < 0 < min(middle)
    assert "-0.068, of the sampled text 0.071" in description and len(figure.axes[2].lines) == 2


def test_the_numbers_in_the_words_are_those_of_the_recorded_runs():
    def at_the_end(key, name):
        return sorted(run["rollout/kl"][-1] for run in recorded(key)[name].values())

    def in_the_last_third(key, name, metric):
        return last_third(recorded(key)[name], metric)

    first, second, lost = at_the_end("policy_loss", "no clipping")
    low, _, high = at_the_end("policy_loss", RIGHT)

    def rewards(key, name):  # of each seed in the last third, the lowest first
        return sorted(last_third({0: run}, "rollout/reward_mean") for run in recorded(key)[name].values())

    worst, worse, better = rewards("policy_loss", "no clipping")
    lowest, _, highest = rewards("policy_loss", RIGHT)
    right = in_the_last_third("gae", RIGHT, "rollout/reward_mean")
    text = {name: in_the_last_third("entropy", name, "rollout/entropy") for name in recorded("entropy")}
    logged = in_the_last_third("entropy", "no mask", "loss/entropy")
    expected = {
        ("policy_loss", "no clipping"): [
            f"end at {first:.0f} and {second:.0f} nats, with rewards of {better:.2f} and {worse:.2f} in the last third",
            f"to {lost:.0f} nats, with {worst:.2f}. With clipping they end at {low:.1f} to {high:.1f} nats, "
            f"with {lowest:.2f} to {highest:.2f}.",
        ],
        ("entropy", "sign turned"): [
            f"has {text['sign turned']:.3f} nats a token in the last third, that of right runs {text[RIGHT]:.3f}."
        ],
        ("entropy", "no mask"): [
            f"The log says {logged:.1f} nats where the sampled text (dotted) has {text['no mask']:.2f}.",
            f"the third ends with a KL to the reference of {at_the_end('entropy', 'no mask')[-1]:.1f} nats, "
            f"the right ones with {at_the_end('entropy', RIGHT)[-1]:.1f} at most.",
        ],
    } | {
        ("gae", name): [
            f"({in_the_last_third('gae', name, 'rollout/reward_mean'):.2f} in the last third, against {right:.2f})"
        ]
        for name in ("γ forgotten", "reward on the wrong token", "KL penalty added")
    }
    for (key, name), phrases in expected.items():
        for phrase in phrases:
            assert phrase in MISTAKES[key][name].words
    # what else has a point in it would have to be listed above
    with_numbers = {
        (key, name) for key, named in MISTAKES.items() for name in named if re.search(r"\d\.\d", named[name].words)
    }
    assert with_numbers == set(expected)


def test_what_no_curve_shows_is_said():
    """The middle one of the seeds, in the last third, lies among the right runs."""

    def per_seed(key, name, metric):
        return sorted(last_third({seed: run}, metric) for seed, run in recorded(key)[name].items())

    hidden = set()
    for key, named in MISTAKES.items():
        for name, mistake in named.items():
            low, *_, high = per_seed(key, RIGHT, mistake.metric)
            if low <= per_seed(key, name, mistake.metric)[1] <= high:
                hidden.add((key, name))
    assert hidden == {("entropy", "detached"), ("gae", "whitening over padding")}
    assert all(re.search(r"the curves do not show|no curve shows", MISTAKES[key][name].words) for key, name in hidden)


def test_recordings_with_another_model_are_stale(monkeypatch):
    now = fingerprint("gae")
    monkeypatch.setattr(short_run, "weights_sha256", lambda: "another")
    assert fingerprint("gae") != now


def test_the_settings_need_no_other_file():
    assert "defaults" not in RUN.read_text()


# ------------------------------------------------------------------ live


def test_the_metric_beside_the_reward_is_that_of_the_mistake():
    assert metrics_to_show("policy_loss", "no_clipping") == ["rollout/reward_mean", "rollout/kl"]
    assert metrics_to_show("minibatch_update", "zero_grad_missing") == ["rollout/reward_mean", "params/grad_norm"]
    assert metrics_to_show("gae", "my_own") == ["rollout/reward_mean", "rollout/kl"]


@pytest.fixture
def two_steps(monkeypatch):
    """Short runs of the smallest size."""
    settings = short_run.settings_of
    monkeypatch.setattr(
        short_run,
        "settings_of",
        lambda key, *more: settings(
            key,
            *more,
            "ppo.rollout_samples=4",
            "ppo.batch_size=4",
            "ppo.mini_batch_size=2",
            "dataset.max_gen_length=8",
            "training.num_samples=8",
        ),
    )


@pytest.fixture
def shown(monkeypatch):
    pages = []
    monkeypatch.setattr(
        "course_utils.break_it.pictures.display",
        lambda *args, **kwargs: SimpleNamespace(update=lambda html: pages.append(html.data)),
    )
    return pages


def live_cell(key: str) -> str:
    notebook = nbformat.read(ROOT / EXERCISES[key].notebook, as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.id == "break-it-live")
    assert "LIVE = False" in cell.source
    return cell.source.replace("LIVE = False", "LIVE = True")


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_the_cell_of_the_notebook_trains_live(key, two_steps, shown, capsys):
    """The cell as the notebook has it, in a namespace like that of __main__, for two steps."""
    namespace = {
        "__name__": "__main__",
        EXERCISES[key].function: solution(key),
        "torch": torch,
        "break_it": lambda *args, **_: break_it(*args, steps=2),
    }
    namespace |= {name: getattr(stand_ins, name) for name in LOSSES} if key == "minibatch_update" else {}
    losses = {name: namespace.get(name) for name in LOSSES}
    exec(live_cell(key), namespace)
    assert len(shown) == 2 and shown[0].startswith("step 1 of 2, about ") and shown[1].startswith("step 2 of 2<br>")
    assert 'alt="Step 2 with your mistake: reward ' in shown[1]
    assert capsys.readouterr().out == ""
    assert {name: namespace.get(name) for name in LOSSES} == losses, "the notebook's own losses were replaced"


def notebook_names(key: str, source: str) -> dict:
    """The names of a notebook after its solution cells, with `source` in them."""
    names = {"__name__": "course_utils.stand_ins.notebook", "__package__": "course_utils.stand_ins"}
    exec(header(key), names)
    run_cell(source, names)
    names.update(__name__="__main__", break_it=break_it)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_stub_is_told_and_not_the_notebook_of_exercise_5(key, two_steps, shown, capsys):
    names = notebook_names(key, "\n\n\n".join(map(stub_source, solution_cells(key).values())))
    run_cell(live_cell(key), names)
    said = f"{EXERCISES[key].function} is not written yet: run this cell again when check() is content with it\n"
    assert capsys.readouterr().out == said and shown == [""]  # "Loading the model" does not stay


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_mistake_that_raises_is_told_with_its_own_line(key, two_steps, shown, capsys):
    names = notebook_names(key, solution_source(key))
    run_cell(f"def my_own(*given):\n    return given[0].no_such_thing\n\n\nbreak_it({key!r}, my_own)", names)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("The run could not go on: my_own raised AttributeError: ") and "no_such_thing" in first
    assert second == "    line 2 of its cell: return given[0].no_such_thing"


@pytest.mark.slow
def test_a_mistake_that_makes_the_learners_function_raise_is_told_with_that_function_s_line(two_steps, shown, capsys):
    source = (
        "def turned(new, old, advantages, mask, clip_ratio):\n"
        "    return compute_policy_loss(new, old, advantages.T, mask, clip_ratio)\n\n\n"
        "break_it('policy_loss', turned)"
    )
    run_cell(source, notebook_names("policy_loss", solution_source("policy_loss")))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("The run could not go on: compute_policy_loss raised RuntimeError: The size of tensor a")
    assert second.endswith(" of its cell: surrogate = torch.min(ratio * advantages, clipped_ratio * advantages)")


@pytest.mark.slow
def test_what_no_line_of_the_learners_raised_is_raised(two_steps, shown):
    names = notebook_names("policy_loss", solution_source("policy_loss"))
    with pytest.raises(ExerciseError, match=r"compute_policy_loss must return \(loss, clip_frac, approx_kl\), not \("):
        run_cell("break_it('policy_loss', lambda *given: (given[0].sum(), 0))", names)


@pytest.mark.slow
def test_a_short_run_of_stand_ins_gives_all_metrics(two_steps):
    lines = list(short_run.short_run("gae", stand_ins.compute_gae_advantages, "training.total_ppo_steps=1"))
    assert set(METRICS) | set(UPDATE_METRICS) <= set(lines[0])
