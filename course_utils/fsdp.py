"""FSDP: the actor's weights, their gradients, Adam's moments and the reference sharded over a run's processes.

Each process keeps its part of every tensor, and has a layer's whole weights only while the layer computes (PyTorch's
fully_shard; Zhao et al. 2023, "PyTorch FSDP"). All processes have to gather them at the same time; but sampling takes
each as many passes as its longest response has tokens. So a process samples with a whole copy of its own, which is made
anew after each update.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import is_torch_version, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from course_utils.config import Config, ConfigError
from course_utils.policy import ActorCritic, compute_dtype


def shards(accelerator: Accelerator) -> int:
    """Over how many processes the weights are sharded: all, where accelerate's config says FSDP, and else 1."""
    return accelerator.num_processes if parse_flag_from_env("ACCELERATE_USE_FSDP") else 1


def check(cfg: Config) -> None:
    """Refuses settings that a run with FSDP does not know.

    Raises:
        ConfigError: LoRA; float16; weights that only one process would load; an old PyTorch.
    """
    if is_torch_version("<", "2.9"):  # where weights of one layer must be of one type
        raise ConfigError(f"FSDP needs PyTorch 2.9 or newer, and this is {torch.__version__}: pip install -U torch")
    if parse_flag_from_env("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise ConfigError(
            "accelerate's fsdp_cpu_ram_efficient_loading would leave all processes but one without weights; set it to "
            "false, as in configs/accelerate/fsdp.yaml"
        )
    if cfg.model.lora:
        raise ConfigError(
            "model.lora trains so few weights that FSDP would have little to share out; use "
            "configs/accelerate/several_gpus.yaml"
        )
    if compute_dtype(cfg) == torch.float16:
        raise ConfigError(
            "model.torch_dtype=float16 scales the loss in a way that FSDP passes by; use bfloat16 or float32"
        )


def shard(actor: ActorCritic, device: torch.device) -> int:
    """Leaves each process its part of the weights of actor or reference, on its device. All processes call it, with
    equal weights; an optimizer is to be made afterwards.

    Returns:
        how many layers are gathered one by one; 0 where transformers does not name any, and all is gathered at once.
    """
    mesh = init_device_mesh(device.type, (get_world_size(),))
    names = set(actor.model._no_split_modules or ())  # transformers': what belongs on one device, the layers
    layers = [module for module in actor.model.modules() if type(module).__name__ in names]
    for module in (*layers, actor):  # the actor last: it takes what is left
        # A root would otherwise keep its weights whole after a forward pass.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    actor.sharded = True
    return len(layers)


@torch.no_grad()
def copy_weights(actor: ActorCritic, copy: nn.Module) -> None:
    """The actor's weights into a whole copy, in the copy's precision. All processes call it."""
    for shared, whole in zip(actor.parameters(), copy.parameters(), strict=True):
        whole.copy_(shared.to(whole.dtype).full_tensor())


@torch.no_grad()
def gathered(of: nn.Module | torch.optim.Optimizer, keep: bool) -> dict:
    """Its state_dict with whole tensors, in the CPU's memory, for what is sharded. All processes call it; where
    `keep` is false they get None in place of those."""
    found: dict[int, Tensor | None] = {}  # a weight that has two names is written once

    def whole(part: DTensor) -> Tensor | None:
        if id(part) not in found:
            tensor = part.full_tensor()
            found[id(part)] = tensor.cpu() if keep else None
        return found[id(part)]

    state = of.state_dict(keep_vars=True) if isinstance(of, nn.Module) else of.state_dict()
    return tree_map_only(DTensor, whole, state)


def sharded_state(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """An optimizer's state_dict of whole tensors as this optimizer can load it: of a weight that is sharded, this
    process's part."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def part(moment, weight: Tensor):
        if isinstance(weight, DTensor) and isinstance(moment, Tensor) and moment.shape == weight.shape:
            return distribute_tensor(moment, weight.device_mesh, weight.placements, src_data_rank=None)
        return moment

    return state | {
        "state": {
            index: {name: part(moment, weights[index]) for name, moment in moments.items()}
            for index, moments in state["state"].items()
        }
    }
