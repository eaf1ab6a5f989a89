"""Runs the fused kernels in Triton's interpreter, request after request: a process of its own, since triton reads its
switch only while it is imported. Requests and answers are pickles on standard input and output."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import torch

from moir_edge.router import RouterConfig, TokenRouter
from moir_edge.router.fused import fused_obstacle, route_fused
from moir_edge.router.fused.launch import Tiles


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Route the request's inputs; `through` names the way: the kernels, or the router, which chooses by itself."""
    config = RouterConfig.from_record(request["config"])
    router = TokenRouter(config, request["inputs"][0].shape[-1]).eval()
    router.load_state_dict(
        {name: torch.from_numpy(item) for name, item in request["state"].items()}
    )
    embeds, *rest = (torch.from_numpy(item) for item in request["inputs"])
    embeds = embeds.to(getattr(torch, request["dtype"]))
    with torch.no_grad():
        if request["through"] == "kernels":
            found = route_fused(router, embeds, *rest, tiles=Tiles(**request["tiles"]))
        else:
            router.fused = request["fused"]
            found = router(embeds, *rest)
        obstacle = fused_obstacle(router, embeds)
    result = {name: getattr(found, name) for name in found.__dataclass_fields__}
    assert result["inputs_embeds"].dtype == embeds.dtype
    result["inputs_embeds"] = result["inputs_embeds"].float()
    return {name: item.numpy() for name, item in result.items()} | {"obstacle": obstacle}


if __name__ == "__main__":
    torch.set_num_threads(1)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while header := source.peek(1):
        del header
        try:
            reply: Any = answer(pickle.load(source))
        except Exception as error:
            reply = error
        sink.write(pickle.dumps(reply))
        sink.flush()
