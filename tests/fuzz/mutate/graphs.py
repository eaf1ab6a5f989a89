"""ONNX graphs with altered fields: shapes, types, names, operators, attributes and the places of weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["alter_graph"]

_SIZES = (0, 1, -1, 2, 7, 96, 512, 2**16, 10**6, 2**31 - 1, 2**31, 2**40, 2**62, -(2**62))
_PLACES = ("../outside.bin", "/etc/hostname", "", ".", "decoder.onnx", "manifest.json", "no such file", "\0", "a" * 5000, "*/_ORT_MEM_ADDR_/*")  # fmt: skip
_OPERATORS = ("Add", "MatMul", "Identity", "Softmax", "Gather", "Reshape", "Relu", "NoSuchOperator", "")  # fmt: skip


def alter_graph(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Return a graph with one to three fields altered, and how."""
    import onnx

    model = onnx.load_from_string(content)
    notes = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        with suppress(IndexError):  # an alteration before it left nothing of the kind
            notes.append(rng.choice(_WAYS)(rng, model))
    return model.SerializeToString(), "; ".join(notes)


def _tensor_shape(rng: random.Random, model: Any) -> str:
    tensor = rng.choice(model.graph.initializer)
    sizes = list(tensor.dims) or [1]
    sizes[rng.randrange(len(sizes))] = rng.choice(_SIZES)
    if rng.random() < 0.2:
        sizes *= 3
    del tensor.dims[:]
    tensor.dims.extend(sizes)
    return f"shape of {tensor.name} {sizes}"


def _tensor_type(rng: random.Random, model: Any) -> str:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_type = rng.choice((0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 17, 21, 23, 999))
    return f"type of {tensor.name} {tensor.data_type}"


def _tensor_place(rng: random.Random, model: Any) -> str:
    stored = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if not stored:
        return _tensor_shape(rng, model)
    tensor = rng.choice(stored)
    entry = rng.choice(tensor.external_data)
    values = (
        _PLACES
        if entry.key == "location"
        else (*map(str, _SIZES), "x", "", "1e3", "0x10", "9" * 400)
    )
    entry.value = rng.choice(values)
    if rng.random() < 0.1:
        entry.key = rng.choice(("location", "offset", "length", "checksum", "basepath", ""))
    return f"{entry.key} of {tensor.name} {entry.value[:30]!a}"


def _tensor_data(rng: random.Random, model: Any) -> str:
    tensor = rng.choice(model.graph.initializer)
    way = rng.choice(("none", "short", "long", "name", "inline"))
    if way == "none":
        tensor.ClearField("raw_data")
    elif way == "short":
        tensor.raw_data = tensor.raw_data[:-1]
    elif way == "long":
        tensor.raw_data = bytes(rng.choice((1, 64, 10**6)))
    elif way == "name":
        tensor.name = rng.choice(("", "x", rng.choice(model.graph.initializer).name, "\ufffd"))
    else:
        tensor.ClearField("external_data")
        tensor.data_location = 0
    return f"data of {tensor.name}: {way}"


def _interface(rng: random.Random, model: Any) -> str:
    value = rng.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    way = rng.choice(("type", "size", "axis", "rank", "name", "drop", "twice"))
    name = value.name
    if way == "type":
        kind.elem_type = rng.choice((0, 1, 7, 8, 9, 10, 11, 99))
    elif way in ("size", "axis") and kind.shape.dim:
        size = rng.choice(kind.shape.dim)
        if way == "size":
            size.dim_value = rng.choice(_SIZES)
        else:
            size.dim_param = rng.choice(("", "x", "batch", "sequence"))
    elif way == "rank" and kind.shape.dim:
        del kind.shape.dim[-1]
    elif way == "name":
        value.name = rng.choice(("", "x", name.upper()))
    elif way == "drop":
        side = model.graph.input if value in model.graph.input else model.graph.output
        side.remove(value)
    else:
        rng.choice((model.graph.input, model.graph.output)).append(value)
    return f"{way} of {name}"


def _operator(rng: random.Random, model: Any) -> str:
    node = rng.choice(model.graph.node)
    before = node.op_type
    way = rng.choice(("type", "domain", "drop", "twice", "inputs", "outputs", "order"))
    if way == "type":
        node.op_type = rng.choice((*_OPERATORS, rng.choice(model.graph.node).op_type))
    elif way == "domain":
        node.domain = rng.choice(("com.microsoft", "x", "ai.onnx.ml", "moir_edge"))
    elif way == "drop":
        model.graph.node.remove(node)
    elif way == "twice":
        model.graph.node.append(node)
    elif way in ("inputs", "outputs"):
        names = node.input if way == "inputs" else node.output
        others = [name for one in model.graph.node for name in one.input]
        if names:
            names[rng.randrange(len(names))] = rng.choice(("", "no such value", rng.choice(others)))
    else:
        nodes = list(model.graph.node)
        rng.shuffle(nodes)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return f"{before}: {way}"


def _attribute(rng: random.Random, model: Any) -> str:
    owners = [node for node in model.graph.node if node.attribute]
    if not owners:
        return _operator(rng, model)
    node = rng.choice(owners)
    attribute = rng.choice(node.attribute)
    way = rng.choice(("i", "f", "s", "ints", "name", "type", "drop"))
    if way == "i":
        attribute.i = rng.choice(_SIZES)
    elif way == "f":
        attribute.f = rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    elif way == "s":
        attribute.s = rng.choice((b"", b"\xff", b"x" * 1000))
    elif way == "ints":
        attribute.ints.extend([rng.choice(_SIZES)] * rng.choice((1, 9)))
    elif way == "name":
        attribute.name = rng.choice(("", "x", "axis", "perm"))
    elif way == "type":
        attribute.type = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8))
    else:
        node.attribute.remove(attribute)
    return f"attribute of {node.op_type}: {way}"


def _model(rng: random.Random, model: Any) -> str:
    way = rng.choice(("ir", "opset", "no opset", "metadata", "graph", "function", "domain"))
    if way == "ir":
        model.ir_version = rng.choice((0, 1, 3, 12, 13, 999, -1))
    elif way == "opset":
        model.opset_import[0].version = rng.choice((0, 1, 7, 30, 999, -1, 2**40))
    elif way == "no opset":
        del model.opset_import[:]
    elif way == "metadata":
        for at in range(rng.choice((1, 5000))):
            model.metadata_props.add(key=f"key{at}", value="x" * 100)
    elif way == "graph":
        model.ClearField("graph")
        model.graph.name = "empty"
        model.graph.node.add(op_type="Identity", input=["x"], output=["y"])
        model.graph.initializer.add(name="x", dims=[1], data_type=1, raw_data=bytes(4))
        model.graph.input.add(name="x")
        model.graph.output.add(name="y")
    elif way == "function":
        model.functions.add(name=rng.choice(("Add", "f")), domain=rng.choice(("", "x")))
    else:
        model.opset_import.add(domain=rng.choice(("x", "com.microsoft", "")), version=1)
    return f"model: {way}"


_WAYS: tuple[Callable[[random.Random, Any], str], ...] = (
    _tensor_shape, _tensor_type, _tensor_place, _tensor_place, _tensor_data, _interface, _interface, _operator, _attribute, _model,
)  # fmt: skip
