"""Load a model whose every weight comes out of the checkpoint and is finite, or refuse it by the tensors' names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moir_edge.checked import a_module, checked
from moir_edge.errors import DataError
from moir_edge.weights.libraries import naming_files
from moir_edge.weights.mapped import MappedFiles
from moir_edge.weights.own_code import refuse_trust

__all__ = ["check_finite", "load_whole", "quiet_transformers"]

_NAMED = 3  # tensors that a message names before it counts the rest
_ROUTER = "moir_router"
_PART = 1 << 22  # numbers of a weight that are looked at together
_NUMBER = re.compile(r"\d+")


def load_whole(cls: Any, source: str | Path, **kwargs: Any) -> Any:
    """Return `cls.from_pretrained(source, …)`, in evaluation mode, if the checkpoint holds the whole model.

    Args:
        cls: A transformers model class.
        source: Folder, or hub id.
        **kwargs: Passed on to `from_pretrained`.

    Raises:
        DataError: Weights are missing, have another shape or another name, are not finite numbers, or cannot be read.
        UnsupportedError: An argument allows code that comes with the checkpoint.
    """
    refuse_trust(kwargs)
    checked = {
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
        "trust_remote_code": False,
        "use_safetensors": True,  # the other format runs code when it is read
    }
    with naming_files(f"{source} cannot be loaded"), quiet_transformers():
        model, info = cls.from_pretrained(source, **{**kwargs, **checked})
    _check_names(source, info, frozenset(model.state_dict()))
    _check_shapes(source, info["mismatched_keys"])
    _require_finite(
        source, model, MappedFiles(sorted(Path(source).glob("*.safetensors")), model.parameters())
    )
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and remarks off the terminal, where the command draws a bar of its own."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@checked(model=a_module)
def check_finite(source: str | Path, model: Any) -> None:
    """Refuse weights that are not finite numbers.

    Args:
        source: How the message calls the model.
        model: A torch module; weights on the meta device are left out.

    Raises:
        DataError: A weight holds NaN or infinity.
    """
    _require_finite(source, model, MappedFiles())


def _require_finite(source: str | Path, model: Any, files: MappedFiles) -> None:
    """Refuse weights that are not finite numbers; little of a weight is looked at at once."""
    broken = []
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.is_meta:
            if not all(bool(part.isfinite().all()) for part in tensor.flatten().split(_PART)):
                broken.append(name)
            files.give_back(tensor)
    if broken:
        raise DataError(
            f"{source}: {len(broken)} weight tensor(s) hold NaN or infinity: {_listed(broken)}; "
            "the training diverged or the file is damaged: give an earlier checkpoint"
        )


def _check_names(source: str | Path, info: Mapping[str, Any], names: Collection[str]) -> None:
    missing, left = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    adapters = [name for name in left if "lora_" in name or ".base_layer." in name]
    if adapters:
        raise DataError(
            f"{source} holds adapter weights that were not merged: {_listed(adapters)}; "
            "merge them with merge_and_unload and save the model again"
        )
    if missing and (prefix := _prefix(missing, left)):
        raise DataError(
            f"{source}: the names of its tensors begin with {prefix!r}, which the model's do not "
            f"({prefix}{missing[-1]} for {missing[-1]}), so none of them would be loaded; save the model itself "
            "and not what a trainer wraps around it (model.module, merge_and_unload, _orig_mod)"
        )
    if missing:
        raise DataError(
            f"{source}: {_count(missing, 'weight')} missing and would be random numbers: "
            f"{_listed(missing)}; save the whole model with save_pretrained"
        )
    if routed := [name for name in left if name.startswith(f"{_ROUTER}.")]:
        raise DataError(
            f"{source} holds the weights of a router ({_listed(routed)}) and its config.json has no {_ROUTER!r} "
            "entry, so the router would be left out; save the model again with save_pretrained"
        )
    if more := _of_more_layers(left, names):
        raise DataError(
            f"{source}: {_count(more, 'weight')} left over, as config.json describes fewer layers than the "
            f"file holds: {_listed(more)}; give the config.json that belongs to these weights"
        )


def _prefix(missing: Collection[str], left: Collection[str]) -> str | None:
    """Return what stands in front of the model's names in the file, if something does."""
    wanted = set(missing)
    found: Counter[str] = Counter()
    for name in left:
        parts = name.split(".")
        for at in range(1, len(parts)):
            if ".".join(parts[at:]) in wanted:
                found[".".join(parts[:at]) + "."] += 1
                break
    return found.most_common(1)[0][0] if found else None


def _of_more_layers(left: Collection[str], names: Collection[str]) -> list[str]:
    """Return the leftover names that are those of the model but for a number in them."""
    known = {_NUMBER.sub("#", name) for name in names}
    return [name for name in left if _NUMBER.sub("#", name) in known]


def _check_shapes(source: str | Path, mismatched: Collection[Any]) -> None:
    if not mismatched:
        return
    name, stored, wanted = sorted(mismatched, key=lambda entry: str(entry[0]))[0]
    rest = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
    raise DataError(
        f"{source}: {name} has the shape {tuple(stored)} in the file and {tuple(wanted)} by config.json{rest}; "
        "give the config.json that belongs to these weights"
    )


def _count(names: Collection[str], noun: str) -> str:
    return f"1 {noun} is" if len(names) == 1 else f"{len(names)} {noun}s are"


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_NAMED]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
