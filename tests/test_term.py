"""A term with two students on one exchange folder, by the commands and the configuration of docs/instructor.md."""

import csv
import json
import re
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from autograder.master import ASSIGNMENTS, master
from tests.conftest import ROOT
from tests.course import cell, in_turn, python
from tests.solutions import solution_cells
from tests.test_master import Tags

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed"),
]
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", (ROOT / "docs/instructor.md").read_text(), re.M | re.S))
EVERYBODYS, INSTRUCTORS = re.findall(r"```python\n(.*?)```", SECTIONS["On JupyterHub"], re.S)
DOCUMENTED = {
    line.partition("   #")[0].rstrip()
    for block in re.findall(r"```bash\n(.*?)```", SECTIONS["Through a term"], re.S)
    for line in block.splitlines()
}


class Term:
    """The instructor's course, the students' folders and the exchange between them."""

    def __init__(self, course: Path, folder: Path):
        self.course, self.folder, self.exchange, self.used = course, folder, folder / "exchange", set()
        self.exchange.mkdir()
        self.exchange.chmod(0o1777)
        everybodys = EVERYBODYS.replace("/srv/nbgrader/exchange", str(self.exchange))
        with (course / "nbgrader_config.py").open("a") as config:
            config.write(everybodys + INSTRUCTORS)
        for student in ("ada", "bob"):  # on a hub they have machines and names of their own
            home = folder / student
            home.mkdir()
            (home / "nbgrader_config.py").write_text(
                f"{everybodys}c.Exchange.cache = '{home}/cache'\nc.CourseDirectory.student_id = '{student}'\n"
            )

    def run(self, *steps: tuple[Path, str]) -> str:
        """Documented commands of nbgrader, each in its folder. What they say."""
        for _folder, command in steps:
            name = re.search(r"0\d_\w+|$", command)[0]
            self.used.add(
                re.sub(
                    r'"20.*"', '"2027-03-01 12:00 UTC"', command.replace(name, "01_policy_loss") if name else command
                )
            )
        return said(in_turn(self.course, *steps))

    def grade(self) -> str:
        self.used.add("python -m autograder grade")
        return said(python(self.course, "-m", "autograder", "grade"))

    def solve(self, student: str, assignment: str) -> None:
        """Writes the solution, signed, into the notebook that was fetched."""
        key = ASSIGNMENTS[assignment]
        path = self.folder / student / assignment / master(key).file
        data = json.loads(path.read_text())
        for grade_id, source in solution_cells(key).items():
            cell(data, grade_id)["source"] = f"{source}\n# written by {student}\n"
        path.write_text(json.dumps(data))

    def scores(self) -> dict[tuple[str, str], tuple[float, float]]:
        """(student, assignment) -> score and late penalty, as exported."""
        self.run((self.course, "nbgrader export"))
        return {
            (row["student_id"], row["assignment"]): (float(row["score"]), float(row["late_submission_penalty"]))
            for row in csv.DictReader((self.course / "grades.csv").open())
            if row["assignment"] in ASSIGNMENTS
        }

    def feedback(self, student: str) -> dict[str, list[str]]:
        """Assignment -> the pages that this student fetched, as text."""
        return {
            name: [Tags(page.read_text()).text for page in (self.folder / student / name).glob("feedback/*/*.html")]
            for name in ASSIGNMENTS
        }


@pytest.fixture
def term(course, tmp_path):
    return Term(course, tmp_path)


def test_a_term_from_release_to_export(term):
    ada, bob, course = term.folder / "ada", term.folder / "bob", term.course
    late, missing = "04_gae", "05_minibatch_update"
    term.run(
        *((course, f"nbgrader release_assignment {name}") for name in ASSIGNMENTS),
        *((student, f"nbgrader fetch_assignment {name}") for student in (ada, bob) for name in ASSIGNMENTS),
        (ada, "nbgrader submit 01_policy_loss"),  # as it was fetched
    )
    assert modes(term.exchange / "tinier_zero") == {"inbound": 0o2733, "outbound": 0o755}

    for name in ASSIGNMENTS:
        term.solve("ada", name)
        if name not in ("02_value_loss", missing):
            term.solve("bob", name)
    term.run(
        *((ada, f"nbgrader submit {name}") for name in ASSIGNMENTS),
        *((bob, f"nbgrader submit {name}") for name in ASSIGNMENTS if name not in (late, missing)),
    )
    now = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S.%f} UTC"  # what is handed in from here on is late
    term.run(
        (course, f'nbgrader db assignment add {late} --duedate "{now}"'),
        (bob, f"nbgrader submit {late}"),
        *((course, f"nbgrader collect {name}") for name in ASSIGNMENTS),
    )
    term.grade()
    expected = (
        {("ada", name): (10, 0) for name in ASSIGNMENTS}
        | {("bob", name): (10, 0) for name in ASSIGNMENTS}
        | {("bob", "02_value_loss"): (0, 0), ("bob", late): (0, 10), ("bob", missing): (0, 0)}
    )
    assert term.scores() == expected

    give_feedback(term, *ASSIGNMENTS)
    assert modes(term.exchange / "tinier_zero")["feedback"] == 0o711
    for student, other in (("ada", "bob"), ("bob", "ada")):
        pages = term.feedback(student)
        handed_in = [name for name in ASSIGNMENTS if (student, name) != ("bob", missing)]
        assert {name: len(pages[name]) for name in ASSIGNMENTS} == {name: name in handed_in for name in ASSIGNMENTS}
        assert f"written by {other}" not in str(pages)
        assert all(
            (f"written by {student}" in pages[name][0]) == ((student, name) != ("bob", "02_value_loss"))
            for name in handed_in
        )

    term.solve("bob", "02_value_loss")
    term.run((bob, "nbgrader submit 02_value_loss"), (course, "nbgrader collect 02_value_loss --update"))
    term.grade()
    assert term.scores() == expected | {("bob", "02_value_loss"): (10, 0)}
    give_feedback(term, "02_value_loss")
    before, after = sorted(term.feedback("bob")["02_value_loss"], key=lambda page: "written by bob" in page)
    assert "written by bob" in after and "written by bob" not in before
    assert term.used == DOCUMENTED


def said(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def give_feedback(term: Term, *assignments: str) -> None:
    term.run(
        *(
            (term.course, f"nbgrader {verb}_feedback {name}")
            for verb in ("generate", "release")
            for name in assignments
        ),
        *(
            (term.folder / student, f"nbgrader fetch_feedback {name}")
            for student in ("ada", "bob")
            for name in assignments
            if (term.folder / student / name).is_dir()
        ),
    )


def modes(folder: Path) -> dict[str, int]:
    """The permissions of what lies in it, by name."""
    return {path.name: path.stat().st_mode & 0o7777 for path in folder.iterdir()}
