"""Checkpoints that other programs can load and that a killed run can go on from.

A folder step_N/ holds the language model and tokenizer as save_pretrained writes them, so AutoModelForCausalLM
loads it, and beside them what only PPO needs: value head, optimizer, scheduler and step. It is written under another
name and renamed when it is complete and on the disk: a folder that is there is whole.
"""

import json
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from course_utils import fsdp
from course_utils.disk import could_not_write
from course_utils.plain_error import PlainError


class CheckpointError(PlainError):
    """A checkpoint that cannot be written or read, and what is still safe."""


def save(folder: Path, model: PreTrainedModel, tokenizer, tensors: dict[str, dict], lr_scheduler, state: dict) -> None:
    """Writes `folder` in one step.

    Args:
        tensors: the state_dicts of `model`, value_head and optimizer, by these names.
        state: plain data, with the step; it goes into trainer_state.json.

    Raises:
        CheckpointError: the disk is full or cannot be written; checkpoints written before are untouched.
    """
    partial, replaced = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "replaced"))
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.save_pretrained(partial, state_dict=tensors["model"])
        tokenizer.save_pretrained(partial)
        save_file(tensors["value_head"], partial / "value_head.safetensors")
        training = {"optimizer": tensors["optimizer"], "scheduler": lr_scheduler.state_dict()}
        torch.save(training, partial / "optimizer.pt")
        (partial / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")
        _to_disk(partial)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        partial.rename(folder)
        if replaced.exists():
            replaced.rename(partial)  # so that what is called .replaced is whole, whenever this ends
            shutil.rmtree(partial, ignore_errors=True)
    except Exception as error:  # of a full disk each library tells by a class of its own
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        kept = latest(folder.parent)
        safe = f"The last good checkpoint is {kept}. " if kept else "There is no earlier checkpoint. "
        message = could_not_write(folder, error, safe)
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(message) from error


def _to_disk(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder, and flushes when a file is closed
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def recover(run_dir: Path) -> None:
    """Puts an old checkpoint back that had been moved away by a process killed before the new one took its place."""
    for replaced in run_dir.glob(".*.replaced"):
        folder = run_dir / replaced.name.removeprefix(".").removesuffix(".replaced")
        if not folder.exists():
            replaced.rename(folder)


def latest(run_dir: Path) -> Path | None:
    """The step_N folder with the largest N."""
    found = [path for path in run_dir.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return max(found, key=lambda path: int(path.name.removeprefix("step_")), default=None)


def step_of(folder: Path) -> int:
    """How many PPO steps the model in a checkpoint's folder has behind it; 0 where there is none."""
    try:
        return int(json.loads((folder / "trainer_state.json").read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def restore(folder: Path, optimizer, lr_scheduler, sharded: bool) -> dict:
    """Puts optimizer and scheduler back; returns trainer_state.json. (The weights are loaded from the folder when the
    actor is made.) `sharded`: the optimizer holds this process's part of them."""
    try:
        # Mapped, where each of several processes would otherwise hold all of it in the CPU's memory.
        saved = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True, mmap=sharded)
        _require_the_same_adam(folder, saved["optimizer"]["state"], optimizer)
        optimizer.load_state_dict(fsdp.sharded_state(saved["optimizer"], optimizer))
        lr_scheduler.load_state_dict(saved["scheduler"])
        return json.loads((folder / "trainer_state.json").read_text())
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{folder} is not a checkpoint that can be resumed: {reason} "
            "Delete it to go on from the one before, or set training.resume=never."
        ) from error


def _require_the_same_adam(folder: Path, moments: dict[int, dict], optimizer) -> None:
    """8-bit Adam names its numbers otherwise, and neither can go on from the other's."""
    saved = {name for numbers in moments.values() for name in numbers}
    if saved and ("exp_avg" in saved) != isinstance(optimizer, torch.optim.AdamW):
        was, now = ("32", "8") if "exp_avg" in saved else ("8", "32")
        raise CheckpointError(
            f"{folder} was written with {was}-bit Adam, and here it is the {now}-bit one: ppo.use_8bit_adam gives the "
            "8-bit one on a GPU with bitsandbytes and without FSDP. Go on where the run was begun, or begin a new one "
            "with training.resume=never."
        )
