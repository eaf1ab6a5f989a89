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
    for entry in _entries(memoryview(content), "Model", 0):
        fields = dict(_fields(entry))
        if bytes(fields.get(_KEY, b"")) == b"location":
            found.add(bytes(fields.get(_VALUE, b"")).decode("utf-8"))
    return frozenset(found)


def _entries(message: memoryview, kind: str, depth: int) -> Iterator[memoryview]:
    if depth > _DEEPEST:
        raise ValueError(f"graphs are nested deeper than {_DEEPEST}")
    inner = _FIELDS[kind]
    for number, value in _fields(message):
        child = inner.get(number)
        if child == "Entry":
            yield value
        elif child is not None:
            yield from _entries(value, child, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of the fields that hold bytes."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire == _BYTES:
            size, at = _varint(message, at)
            if size > end - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, message[at : at + size]
            at += size
        elif wire in _WIDTHS:
            at += _WIDTHS[wire]
        else:
            raise ValueError(f"unknown wire type {wire}")
    if at > end:
        raise ValueError("a field is longer than its message")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
