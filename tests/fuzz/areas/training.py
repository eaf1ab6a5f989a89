"""Folders of unfinished runs: altered behind the hashes, and with hashes written anew."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, Unnoticed, register
from tests.fuzz.folders import link_copy, rewrite
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes, replace_file
from tests.fuzz.training_seed import SETTINGS, checkpoint_settings

_NEWEST = "checkpoint-2"
_SEAL = "complete.json"


@register
class TrainingFolders(Area):
    """The folder of an interrupted run, opened as `tune --resume` does up to the first step."""

    name = "training"
    share = 800
    sliced = 0
    needs = ("training",)

    def warm(self) -> None:
        # The Trainer's imports bring Arrow, whose own allocator starts a thread.
        os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
        import torch

        torch.set_num_threads(1)
        self.trainer = _trainer()
        self.seed = self.seeds / "training"
        self.settings = checkpoint_settings()
        self.identity = json.loads((self.seed / "run.json").read_text())
        self.trainer.create_optimizer_and_scheduler(SETTINGS["steps"])

    def strategies(self) -> Sequence[Strategy]:
        return (
            self._bytes,
            self._seal,
            self._record,
            self._run,
            self._odd_file,
            self._hashed_anew,
            self._added,
        )

    def attempt(self, payload: Any) -> None:
        from moir_edge.tuning.unfinished import check_unfinished, claim

        folder, sealed = payload
        check_unfinished(folder, resume=True, force=False)
        claim(folder, self.identity, self.settings, resume=True).release()
        self.trainer.args.output_dir = str(folder)
        found = self.trainer.newest_whole()
        if not sealed and found is not None and not _same(found, self.seed / found.name):
            raise Unnoticed(f"{found.name} is not what was written")
        if found is not None:
            self.trainer._load_from_checkpoint(str(found))
            self.trainer._load_optimizer_and_scheduler(str(found))
            self.trainer._load_rng_state(str(found))

    def _copy(self, folder: Path) -> Path:
        return link_copy(self.seed, folder / "tuned.training")

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy(folder)
        path = rng.choice(_files(copy))
        content, how = alter_bytes(rng, path.read_bytes())
        rewrite(path, content)
        return Case(f"{path.parent.name}/{path.name}: {how}", (copy, False))

    def _json(self, rng: random.Random, folder: Path, name: str, *, sealed: bool) -> Case:
        copy = self._copy(folder)
        text, how = alter_json(rng, (copy / name).read_text())
        rewrite(copy / name, text)
        if sealed:
            _hash_again(copy / _NEWEST)
        return Case(f"{name}: {how}", (copy, sealed))

    def _seal(self, rng: random.Random, folder: Path) -> Case:
        return self._json(rng, folder, f"{_NEWEST}/{_SEAL}", sealed=False)

    def _record(self, rng: random.Random, folder: Path) -> Case:
        name = rng.choice(("trainer_state.json", "trainer_state.json", "balance.json"))
        return self._json(rng, folder, f"{_NEWEST}/{name}", sealed=True)

    def _run(self, rng: random.Random, folder: Path) -> Case:
        return self._json(rng, folder, "run.json", sealed=False)

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy(folder)
        path = rng.choice(_files(copy))
        how = replace_file(rng, path)
        return Case(f"{path.parent.name}/{path.name}: {how}", (copy, False))

    def _hashed_anew(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy(folder)
        path = rng.choice([path for path in _files(copy / _NEWEST) if path.name != _SEAL])
        content, how = alter_bytes(rng, path.read_bytes())
        rewrite(path, content)
        _hash_again(copy / _NEWEST)
        return Case(f"{path.name}: {how}, hashed anew", (copy, True))

    def _added(self, rng: random.Random, folder: Path) -> Case:
        copy = self._copy(folder)
        name = rng.choice(
            (
                "scaler.pt",
                "optimizer.bin",
                "training_args.bin",
                "pytorch_model.bin",
                "rng_state_0.pth",
            )
        )
        target = copy / _NEWEST / name
        shutil.copyfile(copy / _NEWEST / "optimizer.pt", target)
        return Case(f"added {name}", (copy, False))


def _trainer() -> Any:
    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.demo import checkpoint_path
    from moir_edge.progress import silent
    from moir_edge.tuning.adapters import train_only
    from moir_edge.tuning.balancing.mwam import Mwam
    from moir_edge.tuning.data import AnswerBatches, RowSet
    from moir_edge.tuning.trainer import build_trainer

    loaded = load_checkpoint(checkpoint_path(), exported=False)
    train_only(loaded.model, "router")
    return build_trainer(
        loaded.model, checkpoint_settings(), batches=AnswerBatches(loaded.processor, frozenset(loaded.end_ids)),
        train=RowSet([]), evaluation=RowSet([]), training=Path("unused"),
        balance=Mwam(loaded.model, "loss"), progress=silent,
    )  # fmt: skip


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")


def _same(folder: Path, seed: Path) -> bool:
    names = json.loads((seed / _SEAL).read_text())["files"]
    return all((folder / name).read_bytes() == (seed / name).read_bytes() for name in names)


def _hash_again(folder: Path) -> None:
    """Write the seal for the files as they are now, as someone who controls the whole folder would."""
    files = {}
    for path in folder.iterdir():
        if path.name != _SEAL:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            files[path.name] = {"bytes": len(content), "sha256": digest}
    rewrite(folder / _SEAL, json.dumps({"version": 1, "files": files}))
