"""Make a balance method from its name: hooks of the training step, or an objective."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from transformers import PreTrainedModel

from moir_edge.tuning.balancing.branches import require_two_sides
from moir_edge.tuning.balancing.functional_entropy import FunctionalEntropy
from moir_edge.tuning.balancing.method import BalanceMethod
from moir_edge.tuning.balancing.mmpareto import MmPareto
from moir_edge.tuning.balancing.mwam import Mwam
from moir_edge.tuning.balancing.names import check_method
from moir_edge.tuning.balancing.ogm_ge import OgmGe
from moir_edge.tuning.balancing.opm import Opm
from moir_edge.tuning.balancing.shapley import ShapleyAlternation
from moir_edge.tuning.objectives import Objective

__all__ = ["METHODS", "OBJECTIVES", "balance_method", "balance_objectives"]


def _mwam_gradient(model: PreTrainedModel) -> Mwam:
    require_two_sides(model, "mwam-gradient")
    return Mwam(model, "gradient")


METHODS: dict[str, Callable[[PreTrainedModel], BalanceMethod]] = {
    "mwam-gradient": _mwam_gradient,
    "mwam-loss": partial(Mwam, mode="loss"),
    "mwam-hybrid": partial(Mwam, mode="hybrid"),
    "ogm-ge": OgmGe,
    "opm": Opm,
    "mmpareto": MmPareto,
    "shapley-alternation": ShapleyAlternation,
}


OBJECTIVES: dict[str, Callable[[], Objective]] = {"functional-entropy": FunctionalEntropy}
"""The methods that are a loss besides the answers'."""


def balance_method(name: str | None, model: PreTrainedModel) -> BalanceMethod | None:
    """Put a balance method on a model; None where none is asked for, or the one that is is an objective.

    Args:
        name: One of `BALANCE_METHODS`, or None.
        model: A model with a router, whose `requires_grad` says what is trained.

    Raises:
        UnsupportedError: The method is unknown, the model has no router, or no weight of a branch that it needs is
            trained.
    """
    if name is None or name in OBJECTIVES:
        return None
    check_method(name)
    return METHODS[name](model)


def balance_objectives(name: str | None) -> list[Objective]:
    """Return the objective that a balance method is, if it is one.

    Args:
        name: One of `BALANCE_METHODS`, or None.
    """
    return [OBJECTIVES[name]()] if name in OBJECTIVES else []
