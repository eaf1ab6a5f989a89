"""The custom op domain `moir_edge`, version 1: what each op takes and gives, for kernels, plugins and checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx.defs import OpSchema

__all__ = ["DOMAIN", "OPS", "OPSET", "VERSION", "Op", "onnx_schemas"]

DOMAIN = "moir_edge"
VERSION = 1
OPSET = 21
"""Version of the standard operators that the function bodies and graphs are written in."""


@dataclass(frozen=True)
class Op:
    """One op of the domain.

    Attributes:
        name: Operator type.
        summary: What it computes, in a sentence.
        inputs: Name -> (element type, shape, optional).
        outputs: Name -> (element type, shape).
        attributes: Name -> (`INT`, `FLOAT` or `STRING`, meaning).
    """

    name: str
    summary: str
    inputs: dict[str, tuple[str, str, bool]]
    outputs: dict[str, tuple[str, str]]
    attributes: dict[str, tuple[str, str]]


def _needed(kind: str, shape: str) -> tuple[str, str, bool]:
    return kind, shape, False


def _optional(kind: str, shape: str) -> tuple[str, str, bool]:
    return kind, shape, True


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            "TokenInformation",
            "Scores the information density of one modality's tokens and opens the gate, 1 − density, on the weak.",
            inputs={
                "tokens": _needed("float", "batch, tokens, hidden"),
                "valid": _needed("bool", "batch, tokens"),
                "scale": _needed("float", "hidden"),
                "shift": _needed("float", "hidden"),
                "weight": _optional("float", "hidden, 1"),
                "bias": _optional("float", "1"),
            },
            outputs={
                "density": ("float", "batch, tokens"),
                "gate": ("float", "batch, tokens"),
                "normalized": ("float", "batch, tokens, hidden"),
            },
            attributes={
                "density_kind": ("STRING", "'confidence' (a head on the LayerNorm) or 'entropy'"),
                "ratio": (
                    "FLOAT",
                    "lowest share of valid tokens that is weak; absent: not applied, and without threshold too all are",
                ),
                "threshold": ("FLOAT", "density under which a token is weak; absent: not applied"),
            },
        ),
        Op(
            "SimilarityTopK",
            "Finds, for each token, the k most similar tokens of the other modality and their softmax weights.",
            inputs={
                "queries": _needed("float", "batch, tokens, hidden"),
                "keys": _needed("float", "batch, sources, hidden"),
                "density": _needed("float", "batch, sources"),
                "valid": _needed("bool", "batch, sources"),
                "query_weight": _needed("float", "hidden, rank"),
                "key_weight": _needed("float", "hidden, rank"),
            },
            outputs={
                "weights": ("float", "batch, tokens, k"),
                "indices": ("int64", "batch, tokens, k"),
                "margin": ("float", "batch, tokens"),
            },
            attributes={"k": ("INT", "how many sources enrich one token")},
        ),
        Op(
            "RouteTokens",
            "Adds the weighted sources to each token through a low-rank projection, scaled by the gate.",
            inputs={
                "tokens": _needed("float", "batch, tokens, hidden"),
                "sources": _needed("float", "batch, sources, hidden"),
                "weights": _needed("float", "batch, tokens, k"),
                "indices": _needed("int64", "batch, tokens, k"),
                "gate": _needed("float", "batch, tokens"),
                "down": _needed("float", "hidden, rank"),
                "up": _needed("float", "rank, hidden"),
                "merge_weight": _optional("float", "hidden, rank or hidden"),
                "normalized": _optional("float", "batch, tokens, hidden"),
            },
            outputs={"routed": ("float", "batch, tokens, hidden")},
            attributes={
                "merge": (
                    "STRING",
                    "'add', 'concat' (needs merge_weight (hidden, rank), normalized) or 'interpolate' (needs merge_weight (hidden))",
                )
            },
        ),
    )
}


def onnx_schemas() -> list[OpSchema]:
    """Return the ops as ONNX schemas, which `onnx.defs.register_schema` takes."""
    from onnx.defs import OpSchema

    def parameter(
        name: str, kind: str, shape: str, optional: bool = False
    ) -> OpSchema.FormalParameter:
        option = OpSchema.FormalParameterOption
        return OpSchema.FormalParameter(
            name,
            f"tensor({kind})",
            f"({shape})",
            param_option=option.Optional if optional else option.Single,
        )

    return [
        OpSchema(
            op.name,
            DOMAIN,
            VERSION,
            op.summary,
            inputs=[parameter(name, *spec) for name, spec in op.inputs.items()],
            outputs=[parameter(name, *spec) for name, spec in op.outputs.items()],
            attributes=[
                OpSchema.Attribute(
                    name, getattr(OpSchema.AttrType, kind), meaning, required=name in ("k", "merge")
                )
                for name, (kind, meaning) in op.attributes.items()
            ],
        )
        for op in OPS.values()
    ]
