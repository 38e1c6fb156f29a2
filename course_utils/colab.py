"""Notebook 6 in Google Colab, where bundle_main.py has installed the course: which settings fit the GPU.

Its first cell runs this module.
"""

import importlib.util
import subprocess
import sys

import torch

from course_utils.config import load_config

DEFAULT = "configs/config_debug.yaml"
NEEDED = ((40e9, "configs/config.yaml"), (14e9, "configs/config_colab.yaml"))  # bytes of GPU memory, the most first


def fitting_config() -> str:
    """In Colab the largest config that fits its GPU; the default where there is none, and anywhere else."""
    if "google.colab" not in sys.modules or not torch.cuda.is_available():
        return DEFAULT
    memory = torch.cuda.get_device_properties(0).total_memory
    return next((config for needed, config in NEEDED if memory >= needed), DEFAULT)


def prepare_training() -> None:
    """Says which config notebook 6 will take, and installs bitsandbytes if that one wants its 8-bit Adam."""
    config = fitting_config()
    if not torch.cuda.is_available():
        print(f"No GPU, so CONFIG will be {config}. To get one: Runtime > Change runtime type > T4 GPU.")
        return
    gpu = torch.cuda.get_device_properties(0)
    print(f"{gpu.name} with {gpu.total_memory / 1e9:.0f} GB, so CONFIG will be {config}.")
    if load_config(config).ppo.use_8bit_adam and importlib.util.find_spec("bitsandbytes") is None:
        pip = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "bitsandbytes"],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # Should it fail, pip says why; the optimizer then goes on without it.
        print(pip.stdout or "bitsandbytes is installed, for 8-bit Adam.")


if __name__ == "__main__":
    prepare_training()
