"""JupyterLab in a browser, for tests: a server of its own, and a page that does what a learner's hands do.

Needs Playwright for Python and a chromium of the system; nothing is downloaded.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import nbformat

from tests.process_tree import all_gone, tree

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {  # as overrides.json has them
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # every cell is in the page
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},  # a file changes when the test says so
}


class Server:
    """A `jupyter lab` of this Python on `root`, whose settings and kernels are nobody else's."""

    def __init__(self, root: Path, home: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.root, self.token = root, secrets.token_hex()
        self.url, self.log = f"http://127.0.0.1:{port}", home / "jupyter.log"
        (home / "settings").mkdir(parents=True)
        (home / "settings/overrides.json").write_text(json.dumps(SETTINGS))
        folders = {
            name: str(home / name.lower())
            for name in (
                "JUPYTER_CONFIG_DIR",
                "JUPYTER_DATA_DIR",
                "JUPYTER_RUNTIME_DIR",
                "JUPYTERLAB_WORKSPACES_DIR",
                "JUPYTERLAB_SETTINGS_DIR",
                "IPYTHONDIR",
            )
        }
        path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
        environment = {
            **os.environ,
            **folders,
            "HOME": str(home),
            "PATH": path,
            "OMP_NUM_THREADS": "1",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # a new list of fonts would take long
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "jupyterlab",
                    "--no-browser",
                    "--allow-root",
                    "--ip=127.0.0.1",
                    f"--port={port}",
                    "--ServerApp.port_retries=0",
                    f"--IdentityProvider.token={self.token}",
                    f"--LabApp.app_settings_dir={home / 'settings'}",
                    # Should the tests be killed, it ends by itself.
                    "--MappingKernelManager.cull_idle_timeout=600",
                    "--ServerApp.shutdown_no_activity_timeout=600",
                ],
                cwd=root,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float = 90) -> None:
        """Until it answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.ask("GET", "api/status")
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"JupyterLab does not start:\n{self.log.read_text()}") from None
            time.sleep(0.2)

    def ask(self, method: str, path: str):
        """The answer of its REST interface."""
        request = urllib.request.Request(
            f"{self.url}/{path}", method=method, headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def stop_kernels(self) -> None:
        for session in self.ask("GET", "api/sessions"):
            self.ask("DELETE", f"api/sessions/{session['id']}")

    def stop(self) -> None:
        """It and all of its kernels."""
        if self.process.poll() is not None:
            return
        below = tree(self.process.pid)[1:]
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if not all_gone(below, 10):
            for pid in below:
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def lab(root: Path, home: Path) -> Iterator[tuple]:
    """(server, browser) on the folder `root`; both end with the block."""
    from playwright.sync_api import sync_playwright

    server = Server(root, home)
    try:
        server.wait()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            try:
                yield server, browser
            finally:
                browser.close()
    finally:
        server.stop()


class Notebook:
    """A notebook that is open in JupyterLab; cells go by their index in the file."""

    def __init__(self, browser, server: Server, path: str):
        """`path` is relative to the server's root."""
        self.file, self.server = server.root / path, server
        self.source = nbformat.read(self.file, 4)
        self.code = [i for i, cell in enumerate(self.source.cells) if cell.cell_type == "code" and cell.source]
        self.page = browser.new_page(viewport={"width": 1280, "height": 1400})
        self.page.set_default_timeout(60_000)
        self.page.goto(f"{server.url}/lab/tree/{path}?reset&token={server.token}")
        self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").nth(len(self.source.cells) - 1).wait_for(
            state="attached"
        )
        self.page.get_by_text("| Idle").wait_for()  # in the bar below: there is a kernel, and it answers
        self.cell(0).click()  # the menus are those of the notebook from here on

    def close(self) -> None:
        self.page.close()
        self.server.stop_kernels()

    def cell(self, index: int):
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").nth(index)

    def menu(self, *items: str) -> None:
        """Chooses an entry of the menu bar, by its path."""
        self.page.locator(f'.lm-MenuBar-itemLabel:text-is("{items[0]}")').click()
        for item in items[1:]:
            self.page.locator(f'.lm-Menu-item:not(.lm-mod-disabled):has(.lm-Menu-itemLabel:text-is("{item}"))').click()

    def run_all(self, seconds: float = 120) -> None:
        """Run > Run All Cells, until the last cell or an error."""
        self._run("Run All Cells", seconds)

    def run_from(self, index: int, seconds: float = 120) -> None:
        """Run > Run Selected Cell and All Below, until the last cell or an error."""
        self.cell(index).locator(".jp-InputPrompt").click()
        self._run("Run Selected Cell and All Below", seconds)

    def _run(self, entry: str, seconds: float) -> None:
        before = self.prompts()
        self.menu("Run", entry)
        self._wait_for_end(before, seconds)

    def prompts(self) -> list[str]:
        """What stands left of the code cells: [ ]: is not run, [*]: in the queue."""
        return self.page.evaluate("""[...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) '
            + '.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent)""")

    def _wait_for_end(self, before: list[str], seconds: float) -> None:
        def through() -> bool:
            now = self.prompts()
            return now != before and not any("*" in prompt for prompt in now)

        self._wait_until(through, seconds, "the cells to end")

    def output(self, index: int) -> str:
        """The text that the cell shows."""
        area = self.cell(index).locator(".jp-Cell-outputArea")
        return area.inner_text() if area.count() else ""

    def red(self) -> dict[int, str]:
        """By cell, what it shows on red: an error, or a warning on stderr."""
        red = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
        return {i: self.output(i) for i in self.code if self.cell(i).locator(red).count()}

    def write(self, index: int, source: str) -> None:
        """Puts `source` in the place of what the cell holds, as pasting it does."""
        editor = self.cell(index).locator(".cm-content")
        editor.click()
        self.page.keyboard.press("Control+A")
        editor.evaluate(
            """(editor, source) => {
            const clipboardData = new DataTransfer();
            clipboardData.setData('text/plain', source);
            editor.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true}));
        }""",
            source,
        )

    def validate(self, screenshot: Path, seconds: float = 180) -> str:
        """What nbgrader's dialog says after its button Validate was pressed, which saves the notebook first."""
        self.page.locator(".validate-button").click()
        dialog = self.page.locator(".jp-Dialog-content")
        dialog.wait_for(timeout=seconds * 1000)
        text = dialog.inner_text()
        self.page.screenshot(path=screenshot)
        dialog.get_by_role("button", name="Ok").click()
        return text

    def theme(self, name: str) -> None:
        """'Light' or 'Dark'."""
        self.menu("Settings", "Theme", f"JupyterLab {name}")
        self.page.locator(f'body[data-jp-theme-name="JupyterLab {name}"]').wait_for(state="attached")

    def screenshot(self, path: Path, index: int) -> None:
        """Of a cell and what it shows."""
        self.cell(index).screenshot(path=path)

    def sliders(self, index: int):
        """The handles of the cell's sliders."""
        return self.cell(index).locator(".widget-slider .noUi-handle")

    def drag(self, index: int, number: int) -> None:
        """A slider's handle with the mouse: 40 pixels towards the middle of its bar."""
        handle = self.sliders(index).nth(number)
        handle.scroll_into_view_if_needed()
        bar = self.cell(index).locator(".widget-slider .noUi-base").nth(number).bounding_box()
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        right = x < bar["x"] + bar["width"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + (40 if right else -40), y, steps=4)
        self.page.mouse.up()

    def press_arrow(self, index: int, number: int) -> None:
        """Moves a slider by a step, with the keyboard: to the left, or if it is there already to the right."""
        handle = self.sliders(index).nth(number)
        at_low_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemin")
        handle.press("ArrowRight" if at_low_end else "ArrowLeft")

    def pictures(self, index: int):
        return self.cell(index).locator(".jp-Cell-outputArea img")

    def picture(self, index: int) -> tuple[str, str]:
        """Of the last picture that the cell shows: its description and what it is."""
        image = self.pictures(index).last
        return image.get_attribute("alt"), image.get_attribute("src")

    def wait_for_another(self, index: int, old: tuple[str, str], seconds: float = 30) -> None:
        """Until picture and description are others than `old`."""

        def changed() -> bool:
            alt, src = self.picture(index)
            return alt != old[0] and src != old[1]

        self._wait_until(changed, seconds, f"another picture in cell {index} than “{old[0]}”")

    def watch(self, selector: str) -> None:
        """From now on notes each new image of the page that `selector` finds: see `watched`."""
        self.page.evaluate(
            """selector => {
            window.seen = [];
            new MutationObserver(() => document.querySelectorAll(selector).forEach(image => {
                if (window.seen.at(-1)?.[1] != image.src) window.seen.push([image.alt, image.src]);
            })).observe(document.body, {childList: true, subtree: true, attributes: true});
        }""",
            selector,
        )

    def watched(self) -> list[tuple[str, str]]:
        """Descriptions and images, in the order in which they came."""
        return [tuple(pair) for pair in self.page.evaluate("window.seen")]

    def _wait_until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.file.name}: waited {seconds} s for {what}")
            self.page.wait_for_timeout(100)  # lets the browser go on, which time.sleep would not
