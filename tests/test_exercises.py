"""Loading a set of the five functions: they belong together, keep out of the others' way, fail clearly."""

import dataclasses
import functools
import sys

import pytest
import torch

from course_utils.blame import naming_the_exercise
from course_utils.exercises import EXERCISES, STAND_INS, ExerciseError, load_exercises
from course_utils.stubs import unless_stub

LOSSES = ("compute_policy_loss", "compute_value_loss", "compute_entropy_loss")


def write_set(folder, label):
    """Five modules whose functions tell of which set they are; the fifth returns what the losses return."""
    folder.mkdir(parents=True)
    for e in EXERCISES.values():
        result = f"[{', '.join(f'{loss}(*[0] * {n})' for loss, n in zip(LOSSES, (5, 5, 2), strict=True))}]"
        imports = "".join(
            f"from .{key} import {EXERCISES[key].function}\n" for key in ("policy_loss", "value_loss", "entropy")
        )
        fifth = e.key == "minibatch_update"
        (folder / e.module_file).write_text(
            f"{imports if fifth else ''}def {e.function}({', '.join(e.arguments)}):\n"
            f"    return {result if fifth else repr(f'{label} {e.key}')}\n"
        )
    return folder


def update(exercises):
    return exercises.run_ppo_update_epoch(*[None] * 6)


def refusal(folder):
    before = set(sys.modules)
    with pytest.raises(ExerciseError) as error:
        load_exercises(folder)
    assert set(sys.modules) == before  # nothing half-loaded stays
    return str(error.value)


def test_the_registry_has_the_seeds_names_and_arguments():
    assert [(e.number, e.key, e.function, *e.arguments) for e in EXERCISES.values()] == [
        (
            1,
            "policy_loss",
            "compute_policy_loss",
            "log_probs_new",
            "log_probs_old",
            "advantages",
            "response_mask",
            "clip_ratio",
        ),
        (
            2,
            "value_loss",
            "compute_value_loss",
            "values_new",
            "values_old",
            "returns",
            "response_mask",
            "clip_range_value",
        ),
        (3, "entropy", "compute_entropy_loss", "logits_new", "response_mask"),
        (
            4,
            "gae",
            "compute_gae_advantages",
            "final_rewards",
            "kl_penalties",
            "values",
            "response_mask",
            "gamma",
            "lam",
        ),
        (
            5,
            "minibatch_update",
            "run_ppo_update_epoch",
            "actor_model",
            "optimizer",
            "lr_scheduler",
            "collated_buffer",
            "cfg",
            "device",
        ),
    ]
    assert all(key == e.key for key, e in EXERCISES.items())


def test_two_sets_live_in_one_process(tmp_path):
    before_path = list(sys.path)
    mine = load_exercises(write_set(tmp_path / "mine", "mine"))
    theirs = load_exercises(str(write_set(tmp_path / "theirs", "theirs")))
    for exercises, label in ((mine, "mine"), (theirs, "theirs"), (mine, "mine")):
        assert update(exercises) == [f"{label} policy_loss", f"{label} value_loss", f"{label} entropy"]
        assert exercises.compute_gae_advantages(*[0] * 6) == f"{label} gae"
    assert sys.path == before_path
    assert not {"policy_loss", "value_loss", "entropy", "gae", "minibatch_update"} & set(sys.modules)


def test_a_folder_is_read_anew_even_within_the_same_second(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = write_set(tmp_path / "set", "old")
    assert update(load_exercises(folder))[2] == "old entropy"
    module = folder / "entropy.py"
    module.write_text(module.read_text().replace("old", "new"))  # as many bytes
    assert update(load_exercises(folder))[2] == "new entropy"


def test_connect_makes_the_fifth_call_the_losses_of_its_own_set(tmp_path):
    right = load_exercises(write_set(tmp_path / "set", "right"))
    wrong = dataclasses.replace(right, compute_value_loss=lambda *arguments: "wrong value_loss")
    wrong.connect()
    assert update(wrong) == ["right policy_loss", "wrong value_loss", "right entropy"]
    right.connect()
    assert update(right) == ["right policy_loss", "right value_loss", "right entropy"]


def test_connect_looks_through_a_wrapper_and_leaves_what_has_no_globals(tmp_path):
    plain = load_exercises(write_set(tmp_path / "set", "plain"))

    @functools.wraps(plain.run_ppo_update_epoch)
    def watched(*arguments):
        return plain.run_ppo_update_epoch(*arguments)

    wrapped = dataclasses.replace(plain, run_ppo_update_epoch=watched)
    wrapped.compute_entropy_loss = lambda *arguments: "other"
    wrapped.connect()
    assert update(wrapped)[2] == "other"
    assert "compute_entropy_loss" not in globals()
    dataclasses.replace(plain, run_ppo_update_epoch=functools.partial(print)).connect()


def test_missing_modules_are_all_named_with_notebook_and_command(tmp_path):
    folder = write_set(tmp_path / "set", "x")
    (folder / "gae.py").unlink()
    (folder / "entropy.py").unlink()
    message = refusal(folder)
    assert "has no entropy.py, gae.py" in message
    assert "exercise 4: notebooks/04_gae/gae.ipynb" in message
    command = f'"{sys.executable}" -m course_utils.export notebooks/03_entropy/entropy.ipynb notebooks/04_gae/gae.ipynb'
    assert f'{command} --to "{folder}"' in message
    assert "policy_loss" not in message
    assert "policy_loss.py" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("source", "line", "problem"),
    [
        ("x = 1\ny = undefined\n", 2, "NameError: name 'undefined' is not defined"),
        ("x = 1\n\nif x\n    y = 2\n", 3, "SyntaxError: expected ':'"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError"),
        ("import math\nmath.sqrt('x')\n", 2, "TypeError"),
        ("raise SystemExit(3)\n", 1, "SystemExit: 3"),
        ("import no_such_package\n", 1, "No module named 'no_such_package'"),
    ],
)
def test_a_module_that_fails_at_import_is_shown_by_file_line_and_error(tmp_path, source, line, problem):
    folder = write_set(tmp_path / "set", "x")
    (folder / "value_loss.py").write_text(source)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'value_loss.py'}, line {line}: ")
    assert problem in message
    assert "notebooks/02_value_loss/value_loss.ipynb" in message


@pytest.mark.parametrize(
    "arguments",
    [
        "logits_new, mask",
        "response_mask, logits_new",
        "logits_new",
        "logits_new, response_mask, extra",
        "logits_new, *, response_mask",
        "*arguments",
        "logits_new, response_mask, **more",
    ],
)
def test_wrong_arguments_are_shown_beside_the_expected_ones(tmp_path, arguments):
    folder = write_set(tmp_path / "set", "x")
    (folder / "entropy.py").write_text(f"def compute_entropy_loss({arguments}):\n    return 0\n")
    message = refusal(folder)
    assert f"{folder / 'entropy.py'}: wrong arguments" in message
    assert "expected: compute_entropy_loss(logits_new, response_mask)\n" in message
    assert f"found:    compute_entropy_loss({arguments})\n" in message
    assert "notebooks/03_entropy/entropy.ipynb" in message


def test_annotations_and_defaults_are_the_learners_affair(tmp_path):
    folder = write_set(tmp_path / "set", "x")
    (folder / "entropy.py").write_text(
        "def compute_entropy_loss(logits_new: float, response_mask: int = 1) -> float:\n    return 7\n"
    )
    assert load_exercises(folder).compute_entropy_loss(0) == 7


@pytest.mark.parametrize("source", ["x = 1\n", "compute_entropy_loss = 3\n"])
def test_a_module_without_its_function_is_refused(tmp_path, source):
    folder = write_set(tmp_path / "set", "x")
    (folder / "entropy.py").write_text(source)
    # The fifth is not to blame for what it cannot import.
    assert "entropy.py has no function compute_entropy_loss(logits_new, response_mask)" in refusal(folder)


def test_a_stub_is_refused_before_a_model_is_loaded(tmp_path):
    """That of a part too, if the function uses it; a part that is not used may stay as it was."""
    folder = write_set(tmp_path / "set", "x")
    stub = "def response_outputs(actor_model, batch):\n    raise NotImplementedError()\n\n\n"
    module = folder / "minibatch_update.py"
    module.write_text(stub + module.read_text())
    load_exercises(folder)
    module.write_text(module.read_text().replace("return [", "return [response_outputs, "))
    assert f"{module}, line 2: run_ppo_update_epoch is not written yet" in refusal(folder)
    (folder / "gae.py").write_text(
        f"def compute_gae_advantages({', '.join(EXERCISES['gae'].arguments)}):\n    raise NotImplementedError()\n"
    )
    message = refusal(folder)
    assert f"{folder / 'gae.py'}, line 2: compute_gae_advantages is not written yet" in message
    assert "notebooks/04_gae/gae.ipynb" in message


# ------------------------------------------------------------------ an error while a run goes on


def test_what_a_stand_in_raises_is_laid_at_the_line_that_called_it(tmp_path):
    folder = write_set(tmp_path / "set", "x")
    for key in ("policy_loss", "value_loss", "entropy"):
        (folder / f"{key}.py").unlink()
    exercises = load_exercises(folder, stand_ins=True)
    with pytest.raises(ExerciseError) as error, naming_the_exercise():
        update(exercises)  # with numbers for tensors
    assert str(error.value).startswith(f"exercise 5, {folder / 'minibatch_update.py'}, line 5: ")
    assert "stand_ins" not in str(error.value)


def test_an_error_is_laid_at_the_exercise_that_it_came_up_in(tmp_path):
    """Not at the fifth, which called it."""
    folder = write_set(tmp_path / "set", "x")
    (folder / "entropy.py").write_text("def compute_entropy_loss(logits_new, response_mask):\n    return 1 / 0\n")
    with pytest.raises(ExerciseError) as error, naming_the_exercise():
        update(load_exercises(folder))
    assert str(error.value).startswith(f"exercise 3, {folder / 'entropy.py'}, line 2: return 1 / 0\n")
    assert EXERCISES["entropy"].notebook in str(error.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too much"), ExerciseError("said already")])
def test_what_is_nobody_s_slip_passes_as_it_is(tmp_path, error):
    folder = write_set(tmp_path / "set", "x")
    (folder / "entropy.py").write_text("def compute_entropy_loss(logits_new, response_mask):\n    raise logits_new\n")
    with pytest.raises(type(error)) as passed, naming_the_exercise():
        load_exercises(folder).compute_entropy_loss(error, None)
    assert passed.value is error


def test_a_stand_in_is_nobody_s_to_correct():
    exercises = load_exercises(STAND_INS)
    with pytest.raises(AttributeError, match="NoneType"), naming_the_exercise():
        update(exercises)


# ------------------------------------------------------------------ what is not written yet


def test_a_stub_is_said_and_fails_no_cell(capsys):
    with unless_stub("compute_policy_loss"):
        raise NotImplementedError()
    assert "compute_policy_loss is not written yet" in capsys.readouterr().out


def test_an_operation_that_torch_lacks_is_no_stub():
    with pytest.raises(NotImplementedError, match="Cannot copy"), unless_stub("compute_policy_loss"):
        torch.ones(2, device="meta").cpu()
