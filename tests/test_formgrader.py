"""nbgrader's formgrader on this course, in a real browser: one press of Autograde, then the page for grading by hand.

Leaves screenshots in the folder that it prints: $SCREENSHOTS, or one of pytest's temporary folders.
"""

import os
import shutil
from pathlib import Path

import pytest

from autograder.master import master
from autograder.misconceptions import named, wrong_source
from tests.course import cell, hand_in, notebook
from tests.jupyter_lab import CHROMIUM, lab

KEY, ASSIGNMENT = "policy_loss", "01_policy_loss"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed"),
]


@pytest.fixture
def formgrader(course, tmp_path):
    """The formgrader's page of an assignment for which Ada has handed in a known mistake."""
    if not CHROMIUM:
        pytest.skip("there is no chromium: apt install chromium")
    pytest.importorskip("playwright", reason="there is no Playwright: pip install playwright")
    data = notebook(KEY)
    cell(data, KEY)["source"] = wrong_source(KEY, named(KEY, "sign"))
    hand_in(course / "autograder/submitted", "ada", KEY, data)
    with lab(course, tmp_path / "home") as (server, browser):
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(f"{server.url}/lab?token={server.token}")  # logs in
        page.goto(f"{server.url}/formgrader/manage_submissions/{ASSIGNMENT}")
        yield page


@pytest.fixture
def screenshots(tmp_path, capsys) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    yield folder
    with capsys.disabled():
        print(f"\nscreenshots: {folder}")


def test_autograde_and_the_page_for_grading_by_hand(formgrader, screenshots):
    page, row = formgrader, formgrader.locator("#main-table tr", has_text="ada")
    assert row.locator(".status").inner_text() == "needs autograding"
    row.locator(".autograde a").click()
    dialog = page.locator(".modal-dialog")
    dialog.wait_for(timeout=600_000)  # on a busy machine
    assert "Successfully autograded" in dialog.inner_text(), dialog.inner_text()
    dialog.locator(".modal-footer button").click()
    page.locator(".modal-backdrop").wait_for(state="detached")
    page.screenshot(path=screenshots / "formgrader submissions.png")
    assert (row.locator(".status").inner_text(), row.locator(".score").inner_text()) == ("graded", "2 / 10")

    row.locator(".student-name a").click()
    page.get_by_role("link", name=KEY, exact=True).click()
    page.locator('input.score[placeholder="2"]').wait_for()  # the grades come after the page
    page.screenshot(path=screenshots / "formgrader submission.png", full_page=True)
    assert {box.get_attribute("id"): box.get_attribute("placeholder") for box in page.locator("input.score").all()} == {
        one.grade_id: "2" if one.criterion == "metrics" else "0" for one in master(KEY).graded
    }
    shown = page.get_by_role("main").inner_text()
    assert shown.count("Passed: 2 of 2 points") == 1 and shown.count("Not passed: 0 of") == 4
    assert "The likely mistake: sign" in shown and "Advice: The sign of the loss is turned round" in shown
