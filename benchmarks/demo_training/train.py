"""Train the demo VLM from nothing to the shipped checkpoint (about an hour on two cores).

With ``--router-of CHECKPOINT`` the VLM of that checkpoint stays, and gets a new router.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.common import Result, add_count, new_parser, run, write_json
from benchmarks.demo_training.build import (
    build_model,
    build_processor,
    build_tokenizer,
    save_folder,
)
from benchmarks.demo_training.evaluate import CIDER, answer_rows, degraded, task_accuracy
from benchmarks.demo_training.segments import language_samples
from benchmarks.demo_training.sequences import Wording
from benchmarks.study.settings import StudySettings
from moir_edge.demo.data import TASKS, DemoRow, demo_rows
from moir_edge.json_files import read_object
from moir_edge.progress import Progress, silent

if TYPE_CHECKING:
    from benchmarks.demo_training.language import Stage

__all__ = [
    "DEMO",
    "Plan",
    "Recipe",
    "main",
    "measure_test",
    "replace_router",
    "train",
    "train_backbone",
    "tune_router",
]


_LOG_FILE = "training_log.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps, batch sizes and peak learning rates of every stage; the defaults made the shipped checkpoint."""

    seed: int = 0
    vision_steps: int = 900
    vision_batch: int = 96
    vision_rate: float = 1e-3
    vision_matrix_rate: float = 3e-3
    language_steps: int = 600
    joint_steps: int = 2000
    singles: int = 20
    pairs: int = 16
    language_rate: float = 2e-3
    language_matrix_rate: float = 3e-3
    joint_rate: float = 1.5e-3
    joint_matrix_rate: float = 2.5e-3
    joint_vision_scale: float = 0.25
    val_rows: int = 600
    test_rows: int = 3000

    def shortened(self, scale: float) -> Plan:
        """Return the plan with every stage's steps multiplied by `scale`, at least one step for each that has any."""
        names = ("vision_steps", "language_steps", "joint_steps")
        return replace(
            self,
            **{n: max(min(1, getattr(self, n)), round(getattr(self, n) * scale)) for n in names},
        )

    def language_stages(self) -> tuple[Stage, ...]:
        """Return the stage with the tower frozen, where it has a step, and the joint one."""
        from benchmarks.demo_training.language import Stage

        first = Stage(
            number=1, steps=self.language_steps, seed=self.seed + 2, rate=self.language_rate,
            matrix_rate=self.language_matrix_rate, singles=self.singles, pairs=self.pairs,
        )  # fmt: skip
        joint = replace(
            first, number=2, steps=self.joint_steps, seed=self.seed + 3, rate=self.joint_rate,
            matrix_rate=self.joint_matrix_rate, vision_scale=self.joint_vision_scale,
        )  # fmt: skip
        return (first, joint) if self.language_steps else (joint,)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Model to train: its class, and the language of its rows.

    Attributes:
        wording: How rows become text.
        build_model: From a tokenizer to a model with random weights.
        build_processor: From a tokenizer to its processor.
    """

    wording: Wording
    build_model: Callable[[Any], Any]
    build_processor: Callable[[Any], Any]


DEMO = Recipe(wording=Wording(), build_model=build_model, build_processor=build_processor)
"""The demo's VLM: a SmolVLM on digits."""


def train_backbone(
    recipe: Recipe,
    plan: Plan,
    *,
    device: str,
    log: list[dict[str, float]],
    snapshots: Path | None = None,
    start: Path | None = None,
) -> tuple[Any, Any]:
    """Train a VLM from nothing, or go on with one.

    Args:
        recipe: What is trained.
        plan: Steps and rates.
        device: Where to train.
        log: Curves are appended here.
        snapshots: File from which a stopped training goes on; None keeps nothing.
        start: Finished checkpoint of the same recipe, whose stages on language run once more; None starts at random weights.

    Returns:
        Model, on the CPU, and processor.
    """
    import torch

    from benchmarks.demo_training.language import train_language
    from benchmarks.demo_training.snapshots import Snapshots
    from benchmarks.demo_training.stages import CellHeads, train_vision

    theme, kept = recipe.wording.theme, Snapshots(snapshots)
    torch.manual_seed(plan.seed)
    tokenizer = build_tokenizer(language_samples(400, theme))
    processor = recipe.build_processor(tokenizer)
    model = recipe.build_model(tokenizer) if start is None else _trained_model(start)
    model.to(device)
    # On a CPU the fused attention's backward pass is slower than plain matrix products.
    model.set_attn_implementation("eager")
    heads = CellHeads(model.config.text_config.hidden_size).to(device)
    if start is None:
        train_vision(
            model, heads, steps=plan.vision_steps, batch=plan.vision_batch, seed=plan.seed + 1,
            rate=plan.vision_rate, matrix_rate=plan.vision_matrix_rate, log=log, theme=theme,
            snapshots=kept,
        )  # fmt: skip
    rows = demo_rows("val", count=plan.val_rows, theme=theme)
    for stage in plan.language_stages():
        train_language(
            model, heads, stage, tokenizer.backend_tokenizer.to_str(), val_rows=rows, log=log,
            wording=recipe.wording, snapshots=kept,
        )  # fmt: skip
    model.set_attn_implementation("sdpa")
    return model.cpu(), processor


def _trained_model(folder: Path) -> Any:
    from moir_edge.checkpoint import load_checkpoint

    return load_checkpoint(folder, exported=False).model.train()


def tune_router(model: Any, processor: Any, study: StudySettings, seed: int) -> Any:
    """Give the trained VLM the router that won the study, tuned as there, its backbone frozen; return the new model."""
    from benchmarks.study.arms import WINNER
    from benchmarks.study.data import TRAIN, prepare_data
    from benchmarks.study.training import train_arm
    from moir_edge.router import load_retrofitted

    with TemporaryDirectory(prefix="moir-edge-train-") as scratch:
        folder = Path(scratch)
        save_folder(model, processor, folder / "base")
        prepare_data(study, folder)
        trained = train_arm(
            WINNER,
            seed,
            study,
            base=folder / "base",
            data=folder / TRAIN / "data.jsonl",
            folder=folder / "run",
            progress=silent,
        )
        return load_retrofitted(trained.folder)


def replace_router(
    source: Path,
    output: Path,
    study: StudySettings,
    *,
    seed: int = 0,
    test_rows: int | None = None,
) -> dict[str, Any]:
    """Write a demo checkpoint again with a fresh router that is tuned as in the study; its VLM stays as it is to the bit.

    Args:
        source: A checkpoint that `train` wrote.
        output: Folder to write; may be the same. The card's figures of density go: `benchmarks.density --card` brings new ones.
        study: Steps and rows of the router.
        seed: Of the router, as in the study.
        test_rows: Rows to measure on; as many as before by default.

    Returns:
        The training log, as written to `training_log.json`.
    """
    from benchmarks.demo_training.card import write_card
    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.router import remove_router

    record = read_object(source / _LOG_FILE, remedy="give a folder that demo_training.train wrote")
    loaded = load_checkpoint(source, exported=False)
    remove_router(loaded.model)
    model = tune_router(loaded.model, loaded.processor, study, seed)
    record["plan"] |= {"router_steps": study.steps, "router_seed": seed}
    record["router_parameters"] = sum(p.numel() for p in model.moir_router.parameters())
    record["test"] = measure_test(
        model, loaded.processor, test_rows or sum(record["test"]["rows"].values())
    )
    record.pop("density", None)
    if output.resolve() != source.resolve():
        shutil.copytree(source, output, dirs_exist_ok=True)
    model.save_pretrained(
        output
    )  # the other files stay: a tokenizer that was used keeps its padding
    write_json(output / _LOG_FILE, record)
    write_card(record, output)
    return record


def measure_test(model: Any, processor: Any, count: int) -> dict[str, Any]:
    """Accuracy on test rows with greedy decoding in float32, clean and degraded, router on and off."""
    from moir_edge.router import router_disabled

    rows = demo_rows("test", count=count)
    views = {
        "clean": rows,
        **{name: degraded(rows, name) for name in dict.fromkeys(StudySettings().degrade)},
    }
    result: dict[str, Any] = {"rows": {t: sum(row.task == t for row in rows) for t in TASKS}}
    for name, view in views.items():
        result[name] = _scores(model, processor, view)
        with router_disabled(model):
            result[f"{name}, router off"] = _scores(model, processor, view)
    return result


def _scores(model: Any, processor: Any, rows: Sequence[DemoRow]) -> dict[str, float]:
    """Accuracy per task, and CIDEr-D of the captions."""
    from moir_edge.metrics.cider import cider_d

    texts = answer_rows(model, processor, rows)
    pairs = [(t, row.answers) for t, row in zip(texts, rows, strict=True) if row.task == "caption"]
    each = cider_d([text for text, _ in pairs], [answers for _, answers in pairs])
    return {**task_accuracy(rows, texts), CIDER: round(sum(each) / len(each), 3)}


def train(
    output: Path,
    plan: Plan,
    study: StudySettings,
    *,
    device: str = "cpu",
    machine: str | None = None,
) -> dict[str, Any]:
    """Run every stage and write the checkpoint folder.

    Args:
        output: Folder to write; created.
        plan: Steps and rates of the VLM.
        study: Steps and rows of the router.
        device: Where to train.
        machine: Name of the machine for the model card.

    Returns:
        The training log, as written to `training_log.json`.
    """
    from benchmarks.demo_training.card import write_card

    start, log = time.monotonic(), []  # type: tuple[float, list[dict[str, float]]]
    model, processor = train_backbone(DEMO, plan, device=device, log=log)
    model = tune_router(model, processor, study, plan.seed)
    record = {
        "plan": asdict(plan) | {"router_steps": study.steps},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "machine": machine or f"{os.cpu_count()}-core {platform.machine()} {device.upper()}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "router_parameters": sum(p.numel() for p in model.moir_router.parameters()),
        "curves": log,
        "test": measure_test(model, processor, plan.test_rows),
    }
    save_folder(model, processor, output)
    write_json(output / _LOG_FILE, record)
    write_card(record, output)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and return the exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("demo_training.train", __doc__, writes_json=False)
    parser.add_argument(
        "-o", "--output", dest="folder", type=Path, required=True, help="checkpoint folder to write"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of weights and data; of the router with --router-of",
    )
    parser.add_argument(
        "--steps-scale", type=float, default=1.0, help="factor on the steps of every stage"
    )
    parser.add_argument(
        "--router-of", type=Path, metavar="CHECKPOINT",
        help="train nothing but a new router for the VLM of this checkpoint, a demo's",
    )  # fmt: skip
    add_count(parser, "--test-rows", Plan.test_rows, "rows to measure on")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda")
    parser.add_argument("--machine", help="name of this machine for the model card")
    return run(parser, _run, arguments)


def _run(options: argparse.Namespace, progress: Progress) -> Result:
    del progress  # the curves are logged instead
    level = logging.WARNING if options.quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    # Set before torch starts its thread pool: spinning threads would starve the worker that renders batches.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    plan = replace(Plan(), seed=options.seed, test_rows=options.test_rows)
    study = StudySettings()
    study = replace(study, steps=max(1, round(study.steps * options.steps_scale)))
    if options.router_of is not None:
        replace_router(
            options.router_of, options.folder, study, seed=options.seed, test_rows=options.test_rows
        )
        return Result(text="")
    train(
        options.folder,
        plan.shortened(options.steps_scale),
        study,
        device=options.device,
        machine=options.machine,
    )
    return Result(text="")


if __name__ == "__main__":
    sys.exit(main())
