"""Which of the five functions a run is made of, as notebook 6 shows it before it trains."""

from pathlib import Path

from course_utils.exercises import EXERCISES, Exercise, missing_exercises
from course_utils.export import ExportError, read_exercise
from course_utils.figures.table import html_table

WHAT_STANDS_IN = {
    "policy_loss": "REINFORCE with a baseline: no ratio, no clipping",
    "value_loss": "the squared error, without clipping",
    "entropy": "a rough measure of doubt",
    "gae": "Monte Carlo returns: no λ, the KL penalty on the whole response",
    "minibatch_update": "mini-batches in order, nothing accumulated",
}


def exercise_table(folder: str | Path, stand_ins: bool = False) -> str:
    """HTML with a row a function: is it the learner's own, a stand-in, or missing, and what to do then."""
    missing = missing_exercises(folder)
    rows = [
        (str(e.number), f"<code>{e.function}</code>", *_state(e, Path(folder), e in missing, stand_ins))
        for e in EXERCISES.values()
    ]
    return html_table(("Exercise", "Function", "In this run", "To do"), rows)


def _state(exercise: Exercise, folder: Path, missing: bool, stand_ins: bool) -> tuple[str, str]:
    notebook = f"<code>{exercise.notebook}</code>"
    if not missing:
        stale = _changed_since(exercise, folder)
        return "✓ yours", f"{notebook} has changed since its export: export it again" if stale else ""
    if stand_ins:
        return f"stand-in: {WHAT_STANDS_IN[exercise.key]}", f"{notebook} when you like"
    return "✗ missing", f"open {notebook}, finish it, save it, export it; or <code>STAND_INS = True</code> for now"


def _changed_since(exercise: Exercise, folder: Path) -> bool:
    """Does the saved notebook, where there is one, say something else than the module that was exported?"""
    try:
        _, text = read_exercise(exercise.notebook)
    except ExportError:  # not here, or in the middle of a change
        return False
    return text != (folder / exercise.module_file).read_text(encoding="utf-8")
