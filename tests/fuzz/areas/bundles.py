"""Bundles: files altered behind the manifest's back, the manifest, and files whose hashes were written anew."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, Unnoticed, register
from tests.fuzz.folders import link_copy, prove_again, rewrite, seal_again
from tests.fuzz.mutate.json_text import alter_json
from tests.fuzz.mutate.raw import alter_bytes, replace_file

_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "generation_config.json",
)
# What transformers and earlier versions of the hub's tools write: a reader may look for each.
_UNLISTED = (
    "preprocessor_config.json", "chat_template.json", "chat_template.jinja", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json", "tokenizer_config.json", "config.json", "vocab.json", "merges.txt", "tokenizer.model",
    "processor_config.json", "reports/parity.json", "video_preprocessor_config.json", "onnxruntime.json", "vision.onnx.data",
)  # fmt: skip
PROMPT = "What is left of the red digit?"


def answer(folder: Path, *, verify: bool = True) -> str:
    """Return a bundle's answer to one prompt with an image, and what the router did, as text."""
    from PIL import Image

    from moir_edge import load

    model = load(folder, threads=1, provider="cpu", verify=verify)
    picture = Image.linear_gradient("L").convert("RGB").resize((120, 80))
    given = model.generate(PROMPT, picture, max_new_tokens=6)
    scores = given.routing[0].scores.tolist() if given.routing else None
    return json.dumps(
        [given.texts, given.token_ids, given.finish_reasons, given.prompt_tokens, scores]
    )


class _Bundles(Area):
    """Common parts: copies of two bundles, and their answers."""

    needs = ("int4", "fp32")

    def warm(self) -> None:
        self.expected = {name: answer(self.seeds / name) for name in self.present()}

    def copy(self, rng: random.Random, folder: Path) -> tuple[str, Path]:
        name = rng.choice(self.present())
        return name, link_copy(self.seeds / name, folder / "bundle")


@register
class AlteredBundles(_Bundles):
    """Files altered, hidden, exchanged or added while the manifest says what it said: refused, or the same answer."""

    name = "altered-bundles"
    share = 1500
    sliced = 20

    def strategies(self) -> Sequence[Strategy]:
        return (
            self._bytes,
            self._json,
            self._odd_file,
            self._added,
            self._exchanged,
            self._manifest,
        )

    def attempt(self, payload: Any) -> None:
        name, folder = payload
        now = answer(folder)
        if now != self.expected[name]:
            raise Unnoticed(f"another answer under verify=True: {now[:200]}")

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = rng.choice(_files(copy))
        content, how = alter_bytes(rng, path.read_bytes())
        rewrite(path, content)
        return Case(f"{name}/{path.name}: {how}", (name, copy))

    def _json(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = copy / rng.choice(_JSON)
        content, how = alter_json(rng, path.read_text())
        rewrite(path, content)
        return Case(f"{name}/{path.name}: {how}", (name, copy))

    def _manifest(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = copy / "manifest.json"
        seal = json.loads(path.read_text())["manifest_sha256"]
        content = ""
        while (
            seal not in content
        ):  # a manifest without the hash of itself is one of an earlier version
            content, how = alter_json(rng, path.read_text())
        rewrite(path, content)
        return Case(f"{name}/manifest.json: {how}", (name, copy))

    def _odd_file(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = rng.choice([*_files(copy), copy / "manifest.json"])
        return Case(f"{name}/{path.name}: {replace_file(rng, path)}", (name, copy))

    def _added(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = copy / rng.choice(_UNLISTED)
        sources = [copy / one for one in _JSON]
        content, how = alter_json(rng, rng.choice(sources).read_text())
        if path.suffix == ".jinja" or "template" in path.name:
            words = (
                "{{ bos_token }}{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
            )
            content, how = json.dumps({"chat_template": words}), "another template"
        rewrite(path, content)
        return Case(f"{name}: {path.name} added: {how}", (name, copy))

    def _exchanged(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        one, two = rng.sample(_files(copy), 2)
        first, second = one.read_bytes(), two.read_bytes()
        rewrite(one, second)
        rewrite(two, first)
        return Case(f"{name}: {one.name} and {two.name} exchanged", (name, copy))


@register
class ForgedBundles(_Bundles):
    """A whole folder from someone else: hashes fit what was altered; any answer will do, but nothing may break."""

    name = "forged-bundles"
    share = 2000
    sliced = 20

    def strategies(self) -> Sequence[Strategy]:
        return (self._manifest, self._json, self._manifest, self._paths, self._json, self._bytes)

    def attempt(self, payload: Any) -> None:
        answer(payload)

    def _manifest(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = copy / "manifest.json"
        content, how = alter_json(rng, path.read_text())
        rewrite(path, content)
        seal_again(path)
        return Case(f"{name}/manifest.json: {how}, hashed", copy)

    def _json(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = copy / rng.choice(_JSON)
        content, how = alter_json(rng, path.read_text())
        rewrite(path, content)
        prove_again(copy)
        return Case(f"{name}/{path.name}: {how}, hashed", copy)

    def _bytes(self, rng: random.Random, folder: Path) -> Case:
        name, copy = self.copy(rng, folder)
        path = rng.choice([one for one in _files(copy) if one.suffix != ".onnx"])
        content, how = alter_bytes(rng, path.read_bytes())
        rewrite(path, content)
        prove_again(copy)
        return Case(f"{name}/{path.name}: {how}, hashed", copy)

    def _paths(self, rng: random.Random, folder: Path) -> Case:
        """Name a place outside the bundle, or an odd one, wherever the manifest names a file."""
        name, copy = self.copy(rng, folder)
        path = copy / "manifest.json"
        manifest = json.loads(path.read_text())
        part = rng.choice(sorted(manifest["components"]))
        component = manifest["components"][part]
        outside = folder / "outside.bin"
        outside.write_bytes((copy / component["graph"]).read_bytes())
        odd = (
            "../outside.bin", str(outside), "", ".", "..", "./" + component["graph"], "\0", "a" * 300, "CON", "manifest.json",
            "reports/../" + component["graph"], component["graph"] + "/", "\\..\\outside.bin", "/dev/zero", "é\u0301",
        )  # fmt: skip
        wanted = rng.choice(odd)
        if rng.random() < 0.5:
            component["graph"] = wanted
        else:
            component["data"] = [wanted, *component["data"]]
        if rng.random() < 0.5:
            manifest["files"][rng.randrange(len(manifest["files"]))]["path"] = wanted
        rewrite(path, json.dumps(manifest))
        seal_again(path)
        return Case(f"{name}: {part} named {wanted!a:.40}", copy)


def _files(copy: Path) -> list[Path]:
    """Return the listed files of a bundle, in order."""
    manifest = json.loads((copy / "manifest.json").read_text())
    return [copy / entry["path"] for entry in manifest["files"]]
