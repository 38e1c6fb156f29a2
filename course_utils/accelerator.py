"""Hugging Face Accelerate as a run needs it: the device, the processes, and the trackers that are told the metrics."""

from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs

from course_utils import fsdp
from course_utils.config import Config, ConfigError, check_shares, trackers

WRITING = timedelta(hours=2)  # so long processes wait for each other: the main one may be writing a checkpoint
OTHER_SHARDING = DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM


def make_accelerator(cfg: Config) -> Accelerator:
    """Accelerate on the device that the config names.

    Raises:
        ConfigError: a GPU is asked for where there is none; a tracker's package is missing; a mini-batch that the
            processes cannot share out; processes that would share the weights out in a way that is not known here.
    """
    wanted = cfg.training.device
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"training.device={wanted}, but PyTorch finds no CUDA GPU here. Use training.device=cpu or "
            "auto (and a small model, e.g. configs/config_debug.yaml)"
        )
    if ":" in wanted:
        torch.cuda.set_device(wanted)
    for name in trackers(cfg):
        if name not in map(str, get_available_trackers()):
            raise ConfigError(
                f"tracking={name} needs the package: pip install {name}; or set tracking=none and "
                "wandb.report_to_wandb=false: metrics.jsonl is always written"
            )
    on_cpu = wanted == "cpu" or not torch.cuda.is_available()  # or Accelerate would take a Mac's GPU, never tried here
    if torch.cuda.is_available() and on_cpu != (PartialState(cpu=on_cpu, timeout=WRITING).device.type == "cpu"):
        # Or Accelerate would stay on the device of an earlier run in this process, and say so only of a GPU.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no",  # whatever accelerate's own settings say: model.torch_dtype is what counts
        log_with=trackers(cfg) or None,
        project_dir=cfg.training.output_dir,
        # Or each process would hold all gradients twice, of which the estimate of memory knows nothing.
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=WRITING),
        ],
    )
    if accelerator.distributed_type in OTHER_SHARDING:
        raise ConfigError(
            f"accelerate is set to {accelerator.distributed_type.value}, which this trainer does not know. Use "
            "configs/accelerate/fsdp.yaml or several_gpus.yaml, or another engine: docs/engines.md"
        )
    if fsdp.shards(accelerator) > 1:
        fsdp.check(cfg)
    check_shares(cfg, accelerator.num_processes)
    return accelerator


def start_trackers(accelerator: Accelerator, cfg: Config, folder: Path) -> None:
    """TensorBoard and wandb write into the run's folder; trackio has a folder of its own, for its dashboard.

    Raises:
        ConfigError: one does not start.
    """
    accelerator.project_configuration.logging_dir = str(folder)
    try:
        accelerator.init_trackers(
            cfg.wandb.project,
            init_kwargs={"wandb": {"name": cfg.wandb.name, "dir": str(folder)}, "trackio": {"name": cfg.wandb.name}},
        )
    except Exception as error:  # wandb's where nobody has logged in, or without network; they share no class
        names = " or ".join(map(str, accelerator.log_with))
        login = "Run `wandb login` once, or set WANDB_MODE=offline in the environment. "
        login = login if "wandb" in trackers(cfg) else ""
        raise ConfigError(
            f"{names} does not start: {' '.join(str(error).split()).rstrip('.')}. {login}tracking=none and "
            "wandb.report_to_wandb=false do without: metrics.jsonl is always written"
        ) from error
