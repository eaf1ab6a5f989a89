"""The floating type of a checkpoint's weights, and what a model loses that is built in a narrow one."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from moir_edge.weights.files import stored_types

__all__ = ["stored_dtype", "widen_buffers"]

_NARROW = {"BF16": torch.bfloat16, "F16": torch.float16}
_ROUTER = "moir_router."  # float32 beside weights of any type


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the type in which a checkpoint's weights can stay: the one that all of them have, else float32.

    Args:
        folder: The checkpoint's folder, whose files were checked.
    """
    found = stored_types(folder, beside=_ROUTER)
    (only,) = found if len(found) == 1 else (None,)
    return _NARROW.get(only or "", torch.float32)


def widen_buffers(cls: Any, model: Any) -> None:
    """Make the buffers of a model float32; those that it computed in a narrow type, as a factor, are computed anew.

    Args:
        cls: The model's class.
        model: A Hugging Face model, changed in place.
    """
    stored = model.state_dict()
    narrow = [
        name
        for name, buffer in model.named_buffers()
        if name not in stored and buffer.is_floating_point() and buffer.dtype != torch.float32
    ]
    if narrow:
        wide = dict(_unfilled(cls, model.config).named_buffers())
        for name in narrow:
            model.get_buffer(name).data = wide[name].data
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.float32)


def _unfilled(cls: Any, config: Any) -> Any:
    """Return a float32 model whose weights are memory that nothing has touched, so that it costs none."""
    from transformers.initialization import no_init_weights

    config = deepcopy(config)
    # A sub-model is built in the type that its own config names.
    for one in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if one is not None:
            one.dtype = torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with no_init_weights():
            return cls(config)
    finally:
        torch.set_default_dtype(before)
