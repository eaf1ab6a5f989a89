"""Parameters of a torch model as weights of graphs: float32 in the graph, whatever they are stored as."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import nn

from moir_edge.graphs.stored import StoredTensor
from moir_edge.weights.mapped import MappedFiles

__all__ = ["TorchWeight", "stored_tensor", "stored_weights", "widen_own_buffers"]


_STORAGE = {torch.bfloat16: ir.DataType.BFLOAT16, torch.float16: ir.DataType.FLOAT16}


class TorchWeight:
    """A torch tensor as the weight of a graph, see `moir_edge.graphs.stored.StoredWeight`.

    Args:
        tensor: Of any floating type, on the CPU; read when it is asked for.
        files: Where it may be mapped from.

    Attributes:
        shape: Its shape.
        key: Place, type and strides in memory.
        storage: Type in which it lies.
    """

    def __init__(self, tensor: torch.Tensor, files: MappedFiles) -> None:
        self._tensor = tensor.detach()
        self._files = files
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self.storage = _STORAGE.get(tensor.dtype, ir.DataType.FLOAT)
        self.key: Hashable = (tensor.data_ptr(), str(tensor.dtype), self.shape, tensor.stride())

    def read(self, *part: slice) -> npt.NDArray[np.float32]:
        """Return a part as float32; a float32 weight is not copied."""
        chosen = self._tensor[part] if part else self._tensor
        array: npt.NDArray[np.float32] = chosen.to(torch.float32).numpy()
        return array

    def give_back(self) -> None:
        """Let the system take back the pages of a mapped weight."""
        self._files.give_back(self._tensor)


def stored_tensor(
    tensor: torch.Tensor, files: MappedFiles, name: str | None = None
) -> StoredTensor:
    """Return a parameter as the tensor of a graph: float32, made when it is asked for."""
    return StoredTensor(TorchWeight(tensor, files), name=name)


def stored_weights(
    module: nn.Module, files: MappedFiles | None = None
) -> Callable[[str], ir.TensorProtocol]:
    """Return what gives each parameter of a module by its name as the tensor of a graph.

    Args:
        module: Its parameters stay as they are.
        files: Where they may be mapped from; None if they are not.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    where = files or MappedFiles()

    def tensor(name: str) -> ir.TensorProtocol:
        return stored_tensor(parameters[name], where, name)

    return tensor


def widen_own_buffers(module: nn.Module) -> None:
    """Make the buffers of a module float32, as the graph computes with them."""
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32)
