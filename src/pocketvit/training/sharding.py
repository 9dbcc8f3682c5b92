"""Fully sharded data parallelism (Zhao et al. 2023, arXiv 2304.11277): each process keeps a part of every weight.

A layer's weights are put together where they are needed, and its gradients and optimiser state stay apart: PyTorch's
FSDP2. Checkpoints and whatever is evaluated or saved are whole.
"""

from __future__ import annotations

import warnings

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pocketvit.model.vit import Block


def shard(model: nn.Module, accelerator: Accelerator, *, trained: bool) -> None:
    """Make each parameter of `model` this process's part of it, in place; its optimiser has to be made afterwards.

    Where it is `trained`, what is outside of the layers stays whole from the forward pass to the backward pass.
    """
    # Said of the prediction, a slice that nothing here writes to.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=not trained)


def whole(tensor: Tensor) -> Tensor:
    """A tensor without its partition, in every process; all of them have to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, as `like` lies: this process's part of it where that is one."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def gather(sharded: nn.Module, into: nn.Module) -> None:
    """Copy the weights of a sharded network into a whole one of the same sizes; all processes have to call this."""
    into.load_state_dict({name: whole(tensor) for name, tensor in sharded.state_dict().items()})
