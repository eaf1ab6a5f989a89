"""A process with Triton's interpreter, routers with no zero weights, and inputs for them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from moir_edge.ops.reference_router import RoutedArrays, route
from moir_edge.router import RouterConfig, TokenRouter
from moir_edge.router.fused import SWITCH

ROOT = Path(__file__).parents[4]


class Interpreter:
    """Asks the process for one routing at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("interpreted.py"))],
            env={**os.environ, "TRITON_INTERPRET": "1", SWITCH: "auto", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(
        self,
        router: TokenRouter,
        inputs: tuple[Any, ...],
        *,
        dtype: str = "float32",
        tiles: dict[str, int] | None = None,
        through: str = "kernels",
        fused: str = "auto",
    ) -> SimpleNamespace:
        """Return the arrays of `RouterOutput`, embeddings in float32, and `obstacle`."""
        request = {
            "config": router.config.to_record(),
            "state": {name: item.detach().numpy() for name, item in router.state_dict().items()},
            "inputs": inputs,
            "dtype": dtype,
            "tiles": tiles or {},
            "through": through,
            "fused": fused,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(pickle.dumps(request))
        self.process.stdin.flush()
        reply = pickle.load(self.process.stdout)
        if isinstance(reply, Exception):
            raise reply
        return SimpleNamespace(**reply)

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    pytest.importorskip("triton", reason="triton is not installed")
    process = Interpreter()
    yield process
    process.close()


class Cases:
    """Makes routers, inputs and what the numpy reference gives for them."""

    @staticmethod
    def router(hidden: int = 24, seed: int = 0, **settings: Any) -> TokenRouter:
        """A router as training would leave it: no weight is zero."""
        torch.manual_seed(seed)
        router = TokenRouter(RouterConfig(**{"rank": 8, **settings}), hidden).eval()
        for name, parameter in router.named_parameters():
            if name.endswith(("up.weight", "blend")):
                torch.nn.init.normal_(parameter, std=0.3)
            if name.endswith(("gate_edge", "gate_slope")):
                # An edge of 0.6 and a slope of 1.8: tokens lie above, on and under the ramp.
                torch.nn.init.constant_(parameter, -0.04 if "edge" in name else 0.06)
            if "norm" in name:
                torch.nn.init.normal_(parameter, mean=float("weight" in name), std=0.1)
        return router

    @staticmethod
    def inputs(
        batch: int, images: int, texts: int, length: int, hidden: int = 24, seed: int = 0
    ) -> tuple[Any, ...]:
        """Embeddings, image positions, text positions, text mask."""
        generator = np.random.default_rng(seed)
        order = np.stack([generator.permutation(length) for _ in range(batch)])
        return (
            generator.normal(size=(batch, length, hidden)).astype(np.float32),
            np.sort(order[:, :images]),
            np.sort(order[:, images : images + texts]),
            np.ones((batch, texts), bool),
        )

    @staticmethod
    def expected(router: TokenRouter, inputs: tuple[Any, ...]) -> RoutedArrays:
        weights = {name: item.detach().numpy() for name, item in router.state_dict().items()}
        return route(weights, router.config, *inputs)


@pytest.fixture(scope="session")
def cases() -> type[Cases]:
    return Cases
