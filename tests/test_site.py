"""The site that `make site` builds, in a real browser: pages, figures, formulas, links, and no solution."""

import importlib.util
import re
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from course_utils.exercises import EXERCISES
from tests.conftest import ROOT
from tests.jupyter_lab import CHROMIUM, FLAGS
from tests.solutions import solution_cells

PAGES = ("01_policy_loss", "02_value_loss", "03_entropy", "04_gae", "05_minibatch_update", "06_train_gsm8k")
SMALL = [
    "ppo.rollout_samples=16",
    "ppo.batch_size=16",
    "ppo.mini_batch_size=8",
    "training.total_ppo_steps=2",
    "training.eval_interval=2",
    "dataset.eval_samples=8",
    "dataset.max_gen_length=24",
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs/site/build.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return builder


@pytest.fixture(scope="module")
def site(builder, released_course, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    builder.build(released_course / "autograder/release", out, SMALL)
    return out


def test_no_folder_of_somebody_is_deleted_for_the_site(builder, released_course, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(builder.SiteError, match="holds something else than an earlier site"):
        builder.build(released_course / "autograder/release", tmp_path, [])
    with pytest.raises(builder.SiteError, match="does not hold the 5 exercise notebooks: run `make release`"):
        builder.build(tmp_path, tmp_path / "site", [])
    assert [*tmp_path.iterdir()] == [tmp_path / "thesis.txt"]


@pytest.fixture(scope="module")
def browser():
    """It sees no network: what a page does not bring along is missing."""
    if not CHROMIUM:
        pytest.skip("there is no chromium: apt install chromium")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(offline=True)
        yield context
        browser.close()


def opened(browser, path: Path):
    """The page, when its formulas are set, and what it asked for in vain."""
    page, missed = browser.new_page(), []
    page.on("requestfailed", lambda request: missed.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    page.wait_for_function(
        "document.querySelectorAll('.math').length <= document.querySelectorAll('mjx-container').length"
    )
    return page, missed


def test_the_index_opens_and_leads_to_every_page(site, browser):
    page, missed = opened(browser, site / "index.html")
    assert page.title() == "Tinier Zero" and missed == []
    links = page.eval_on_selector_all("main a, article a", "links => links.map(link => link.getAttribute('href'))")
    docs = {f"docs/{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert {f"{name}.html" for name in PAGES} | docs <= {link.partition("#")[0] for link in links}


@pytest.mark.parametrize("name", ["index", *PAGES])
def test_figures_and_formulas_are_there(name, site, browser):
    page, missed = opened(browser, site / f"{name}.html")
    assert missed == []
    widths = page.eval_on_selector_all("article img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) >= (2 if name in PAGES else 1) and all(width > 100 for width in widths)
    assert page.locator("mjx-merror").count() == 0
    if name in PAGES[:5]:
        assert page.locator("mjx-container").count() >= 5
    assert "Traceback" not in page.locator("article").inner_text()


def test_links_inside_the_site_lead_somewhere(site):
    ids = {path: set(re.findall(r'\bid="([^"]+)"', path.read_text())) for path in site.rglob("*.html")}
    for path in ids:
        for link in re.findall(r'(?:href|src)="([^"]+)"', path.read_text()):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.relative_to(site)} -> {link}"
            if parts.fragment and target in ids:
                assert unquote(parts.fragment) in ids[target] | {""}, f"{path.relative_to(site)} -> {link}"


@pytest.mark.parametrize(("key", "name"), list(zip(EXERCISES, PAGES)))
def test_no_line_of_a_solution_is_on_the_site(key, name, site):
    text = re.sub(r"<[^>]+>", "", (site / f"{name}.html").read_text())
    written = "".join(
        re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", "\n".join(solution_cells(key).values()), re.DOTALL)
    )
    lines = [line.split("  #")[0].strip() for line in written.splitlines()]
    lines = [line.replace("<", "&lt;").replace(">", "&gt;") for line in lines if len(line) > 25]
    assert "NotImplementedError" in text and lines and not [line for line in lines if line in text]


def test_no_path_of_the_machine_that_built_it(site):
    here = [str(place) + "/" for place in (ROOT, Path.home(), tempfile.gettempdir(), sys.prefix)]
    for path in site.rglob("*.html"):
        text = re.sub(r"data:[^\"]+", "", path.read_text())  # of a picture's letters, any may stand in a row
        assert not [place for place in here if place in text], path
