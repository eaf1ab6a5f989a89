"""The files that an ONNX graph reads its weights from, found without the package `onnx`, which devices do not have.

ONNX Runtime 1.20 opens whatever path a graph names; 1.31 refuses one outside the graph's folder. The walk follows every message of
the ONNX schema that can hold a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["weight_locations"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}

# Message -> field number -> the message in that field, by onnx.proto.
_FIELDS = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2
_DEEPEST = 64


def weight_locations(content: bytes) -> frozenset[str]:
    """Return the paths of all files that the graph's tensors name, as they are written in it.

    Args:
        content: A serialized ONNX model.

    Raises:
        ValueError: The bytes are not a protobuf message, or a path is not UTF-8 text.
    """
    found = set()
    waiting = [("Model", 0, len(content), 0)]
    while waiting:
        kind, start, end, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"graphs are nested deeper than {_DEEPEST}")
        inner = _FIELDS[kind]
        for number, at, stop in _fields(content, start, end):
            child = inner.get(number)
            if child == "Entry":
                fields = {key: content[a:b] for key, a, b in _fields(content, at, stop)}
                if fields.get(_KEY) == b"location":
                    found.add(fields.get(_VALUE, b"").decode("utf-8"))
            elif child is not None:
                waiting.append((child, at, stop, depth + 1))
    return frozenset(found)


def _fields(content: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the fields that hold bytes, in the message from `at` to `end`."""
    while at < end:
        tag, at = _varint(content, at, end)
        wire = tag & 7
        if wire == _BYTES:
            size, at = _varint(content, at, end)
            if size > end - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, at, at + size
            at += size
        elif wire == _VARINT:
            _, at = _varint(content, at, end)
        elif wire in _WIDTHS:
            at += _WIDTHS[wire]
        else:
            raise ValueError(f"unknown wire type {wire}")
    if at > end:
        raise ValueError("a field is longer than its message")


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift <= 63:
        byte = content[at]
        at += 1
        if byte < 0x80:
            return value | byte << shift, at
        value |= (byte & 0x7F) << shift
        shift += 7
    raise ValueError("a number is cut off")
