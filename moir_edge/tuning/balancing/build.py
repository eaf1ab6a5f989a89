"""Make a balance method from its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from transformers import PreTrainedModel

from moir_edge.tuning.balancing.branches import require_two_sides
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.balancing.mwam import Mwam
from moir_edge.tuning.balancing.names import check_method
from moir_edge.tuning.balancing.ogm_ge import OgmGe

__all__ = ["METHODS", "balance_method"]


def _mwam_gradient(model: PreTrainedModel) -> Mwam:
    require_two_sides(model, "mwam-gradient")
    return Mwam(model, "gradient")


METHODS: dict[str, Callable[[PreTrainedModel], BalanceMethod]] = {
    "mwam-gradient": _mwam_gradient,
    "mwam-loss": partial(Mwam, mode="loss"),
    "mwam-hybrid": partial(Mwam, mode="hybrid"),
    "ogm-ge": OgmGe,
}


def balance_method(name: str, model: PreTrainedModel) -> BalanceMethod:
    """Put a balance method on a model.

    Args:
        name: One of `BALANCE_METHODS`.
        model: A model with a router, whose `requires_grad` says what is trained.

    Raises:
        UnsupportedError: The method is unknown, the model has no router, or no weight of a branch that it needs is
            trained.
    """
    check_method(name)
    return METHODS[name](model)
