"""What the notebooks and docs say: spelling, links, formulas, the order of a notebook's sections."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from matplotlib.mathtext import MathTextParser

from course_utils.exercises import EXERCISES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*/*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTIONS = [
    "Setup",
    "Why",
    "The idea",
    "The formula",
    "A worked example by hand",
    "Predict first",
    "Play with it",
    "Exercise",
    "Graded cells",
    "Break it",
    "Explain",
    "Common mistakes",
    "Elsewhere",
    "Recap",
]
COLAB = "\n\nThe next cell is only for Colab, and does nothing anywhere else."
ELSEWHERE = yaml.safe_load((ROOT / "tests/elsewhere.yaml").read_text())  # what was looked up in other repositories
AMERICAN = ("color", "behavior", "optimizing", "center of", "gray")  # we write British, but for code
# What MathJax knows and matplotlib's parser does not; replaced by what both know.
ONLY_MATHJAX = {
    r"\\text\{([^}]*)\}": r"\\mathrm{a}",
    r"\\operatorname\{([^}]*)\}": r"\\mathrm{a}",
    r"\\(big|Big|bigg|Bigg)[lr]?\b": "",
    r"\\(left|right)([.|()\[\]])": r"\2",
    r"\\[dt]?frac(\d)(\d)": r"\\frac{\1}{\2}",
    r"\\ge\b": r"\\geq",
    r"\\mid\b": "|",
    r"\\(begin|end)\{[a-z]+\*?\}": "",
    r"&": "",
    r"\\\\": "",
    r"\\[;,]": " ",
}


def markdown(path: Path) -> list[str]:
    """The markdown cells of a notebook, or a page as one."""
    if path.suffix == ".md":
        return [path.read_text()]
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`|<details>|</?summary>", " ", text, flags=re.DOTALL)


def without_formulas(text: str) -> str:
    return re.sub(r"\$\$.+?\$\$|\$[^$\n]+\$", " ", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", NOTEBOOKS + PAGES, ids=lambda path: path.name)
def test_spelling(path, tmp_path):
    text = "\n\n".join(markdown(path))
    (tmp_path / "text.md").write_text(text)
    found = subprocess.run(
        [sys.executable, "-m", "codespell_lib", str(tmp_path / "text.md")], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout
    prose = re.sub(r"\]\([^)]*\)|https?://\S+", " ", without_code(text)).lower()
    assert not [word for word in AMERICAN if word in prose]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_formulas_are_whole(path):
    parser = MathTextParser("path")
    for text in map(without_code, markdown(path)):
        assert text.count("$$") % 2 == 0
        for formula in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", text.replace("\n", " ")):
            formula = max(formula, key=len)
            for pattern, known in ONLY_MATHJAX.items():
                formula = re.sub(pattern, known, formula)
            parser.parse(f"${formula.strip()}$")  # raises, and says where


@pytest.mark.parametrize("path", NOTEBOOKS + PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for text in map(without_formulas, markdown(path)):
        assert text.count("](") == len(re.findall(r"\[[^\]]+\]\([^)\s]+\)", text)), "a link that is not whole"
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("http"):
                assert re.fullmatch(r"https?://[a-z0-9.-]+\.[a-z]{2,}(/[\w./~#%-]*)?", target), target
                if "arxiv.org" in target:
                    assert re.fullmatch(r"https://arxiv.org/abs/\d{4}\.\d{4,5}", target), target
            else:
                assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_is_named_of_other_repositories_was_looked_up(path):
    text = "\n".join(markdown(path))
    known = {
        name
        for repository in ELSEWHERE.values()
        for file in repository["files"].items()
        for name in (file[0], *file[1])
    }
    named = set(re.findall(r"`((?:verl|trl)/[\w/]+\.py)`", text))
    assert named <= known, "look it up, and add it to tests/elsewhere.yaml"
    if path.parent.name[:2] in ("01", "02", "03", "04", "05"):
        section = text.partition("## Elsewhere")[2].partition("\n## ")[0]
        assert "verl" in section and named
        functions = set(re.findall(r"`(\w+)\(?\)?`", section)) & {word for word in known if "/" not in word}
        assert functions, "name the function, as tests/elsewhere.yaml has it"


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda exercise: exercise.key)
def test_the_sections_of_an_exercise_notebook(exercise):
    text = "\n".join(markdown(ROOT / exercise.notebook))
    found = [title for title in re.findall(r"^## (.+)$", text, flags=re.MULTILINE) if title in SECTIONS]
    assert found == SECTIONS
    first = markdown(ROOT / exercise.notebook)[0]
    assert re.search(
        rf"<kbd>Exercise {exercise.number} of 5</kbd> <kbd>10 points</kbd> <kbd>about \d+ minutes</kbd> "
        r"<kbd>level: (first steps|steady|demanding)</kbd>",
        first,
    )
    assert "After this notebook you can" in first


def test_the_readme_gives_the_minutes_of_the_cards():
    minutes = [int(re.search(r"<kbd>about (\d+) minutes</kbd>", markdown(path)[0])[1]) for path in NOTEBOOKS]
    assert f"Each notebook takes {min(minutes)} to {max(minutes)} minutes" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_card_says_what_the_cell_for_colab_is(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[1].id == "colab" and cells[0].source.endswith(COLAB)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_answers_to_a_prediction_are_folded(path):
    """Whoever is still thinking must not read them on the same screen."""
    after = "\n".join(markdown(path)).partition("## Predict first")[2]
    (answers,) = re.findall(
        r"<details><summary>The answers to your predictions</summary>\n\n(.+?)\n</details>", after, flags=re.DOTALL
    )
    assert len(answers) > 200


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda exercise: exercise.key)
def test_each_question_to_explain_has_a_folded_answer_of_two_sentences(exercise):
    section = "\n".join(markdown(ROOT / exercise.notebook)).partition("\n## Explain\n")[2].partition("\n*Write")[0]
    questions = re.split(r"^(?=\d\. )", section, flags=re.MULTILINE)[1:]
    assert len(questions) >= 2
    for question in questions:
        (answer,) = re.findall(
            r"\?\n\n<details><summary>One good answer</summary>\n\n(.+?)\n</details>", question, flags=re.DOTALL
        )
        assert len(re.findall(r"[.?!](?=\s|$)", answer)) == 2 and answer.endswith("."), answer


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_cells_fit_the_page(path):
    for cell in nbformat.read(path, as_version=4).cells:
        lines = [line for line in cell.source.splitlines() if not line.startswith("|") and "](http" not in line]
        width = 88 if cell.cell_type == "code" else 130
        assert max(map(len, lines), default=0) <= width, cell.source[:80]
