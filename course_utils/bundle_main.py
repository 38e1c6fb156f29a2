"""What the bundle does when Colab runs it: it unpacks itself into the current folder and installs the course.

bundle.py puts this file into the bundle as __main__.py. The course is not installed yet, so it needs Python alone.
"""

import importlib
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile


def install(bundle: Path) -> None:
    """Unpacks `bundle` here, over an earlier one, and installs its wheel. RuntimeError: pip could not.

    pip leaves alone what the machine has in a version that suits the course: in Colab, torch and transformers.
    """
    with ZipFile(bundle) as archive:
        names = [name for name in archive.namelist() if name != "__main__.py"]
        archive.extractall(members=names)
    (wheel,) = (name for name in names if name.endswith(".whl"))
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", wheel],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if pip.returncode:
        raise RuntimeError(f"pip could not install {wheel}:\n{pip.stdout}")
    importlib.invalidate_caches()  # this Python has looked into site-packages before
    own = sum(name.startswith("exercises/") for name in names)
    print(f"{pip.stdout}The course is installed, and {own} of your 5 functions are in exercises/.")


if __name__ == "__main__":
    install(Path(__file__).parent)  # of tinier_zero_colab.zip/__main__.py
