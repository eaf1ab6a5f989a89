"""`EdgeModel`: a bundle that answers questions about images, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from moir_edge.bundle import Bundle, open_bundle
from moir_edge.bundle.manifest import Manifest
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.chat import Messages, user_message
from moir_edge.runtime.generation import Generation, GenerationRun, prompt_embeddings
from moir_edge.runtime.images import ImageInput
from moir_edge.runtime.processor import ModelInputs, Processor
from moir_edge.runtime.providers import Provider, open_sessions
from moir_edge.runtime.routing import RoutingMap, routing_maps
from moir_edge.runtime.sampling import GenerationSettings
from moir_edge.runtime.timing import Stopwatch

__all__ = ["EdgeModel", "TextStream", "load"]

Prompt: TypeAlias = "str | Messages"
Images: TypeAlias = "ImageInput | Sequence[ImageInput] | None"


def load(
    bundle: str | Path,
    *,
    threads: int | None = None,
    provider: Provider | None = None,
    verify: bool = True,
) -> EdgeModel:
    """Open a bundle and load its graphs.

    Args:
        bundle: The bundle folder.
        threads: Threads of one operator on the CPU; None takes one per physical core.
        provider: ``"cpu"``, ``"cuda"``, ``"ort-tensorrt"`` or ``"tensorrt"`` (the bundle's engines); None takes the engines
            where they fit this machine, else CUDA where onnxruntime-gpu offers it, else the CPU.
        verify: Prove every file by its hash first (about 1 GB/s).

    Raises:
        BundleError: The folder is no bundle, incomplete, changed, or of a newer schema.
        EnvironmentProblem: The provider is not available.
        UnsupportedError: The model type is not one that this version runs.
    """
    return EdgeModel(open_bundle(bundle, verify=verify), threads=threads, provider=provider)


class EdgeModel:
    """A loaded bundle.

    Prompts are strings, or conversations as lists of ``{"role": …, "content": …}`` turns. One prompt
    takes one image, a list of images or none; a list of prompts is a batch and takes a list with the
    images of each. In a string prompt all images come first, then the context, then the prompt.

    Args:
        bundle: An opened bundle.
        threads: Threads of one operator; None takes one per physical core.
        provider: As in `load`.
    """

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, provider: Provider | None = None
    ) -> None:
        self.bundle = bundle
        self.processor = Processor(bundle.path, bundle.manifest.model)
        self.sessions = open_sessions(bundle, threads=threads, provider=provider)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        images: Images | Sequence[Images] = None,
        *,
        context: str | Sequence[str | None] | None = None,
    ) -> ModelInputs:
        """Return the arrays that the graphs take for one prompt or a batch.

        Raises:
            DataError: A prompt is empty or too long, or an image cannot be used.
        """
        conversations, pictures = _batch(prompts, images, context)
        return self.processor(conversations, pictures)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        images: Images | Sequence[Images] = None,
        *,
        context: str | Sequence[str | None] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        router: bool = True,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Answer one prompt or a batch.

        Args:
            prompts: See the class.
            images: See the class; paths, bytes, Pillow images or uint8 arrays.
            context: A sentence put before the prompt, one for all rows or one per row.
            max_new_tokens: Tokens per answer at most.
            temperature: 0 is greedy.
            top_p: Draw from the smallest set of tokens whose probabilities reach this sum.
            top_k: Draw from this many most likely tokens; 0 takes all.
            seed: Makes drawing repeatable; a row's answer does not depend on the other rows.
            router: Switch the router off with False.
            stop: Answers end before the first of these strings.

        Raises:
            DataError: A prompt, an image or a setting cannot be used.
        """
        settings = GenerationSettings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            router=router,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        run = self._run(prompts, images, context, settings)
        for _ in run:
            pass
        return run.result

    def stream(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        context: str | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        router: bool = True,
        stop: Sequence[str] = (),
    ) -> TextStream:
        """Answer one prompt piece by piece; joined, the pieces equal `generate`'s text.

        The prompt and the images are read before this returns, so that their errors come at once.
        The arguments are those of `generate`.

        Raises:
            DataError: The prompt, an image or a setting cannot be used.
        """
        settings = GenerationSettings(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            router=router,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        return TextStream(self._run([prompt], [images], context, settings))

    def routing_map(
        self, prompt: Prompt, images: Images = None, *, context: str | None = None
    ) -> RoutingMap:
        """Return what the router does to a prompt, without generating an answer.

        Raises:
            UnsupportedError: The bundle holds no router.
            DataError: The prompt or an image cannot be used, or one of the two sides is missing.
        """
        if not self.sessions.has_router:
            raise UnsupportedError(
                f"{self.bundle.path} holds no router, so there is no routing map; "
                "export a retrofitted checkpoint"
            )
        inputs = self.encode([prompt], [images], context=context)
        facts = self.manifest.model
        _, arrays = prompt_embeddings(self.sessions, facts, inputs, Stopwatch(), router=True)
        if arrays is None:
            raise DataError("a routing map needs an image and a prompt; give at least one image")
        return routing_maps(facts, inputs, arrays)[0]

    def _run(
        self,
        prompts: Prompt | Sequence[Prompt],
        images: Images | Sequence[Images],
        context: str | Sequence[str | None] | None,
        settings: GenerationSettings,
    ) -> GenerationRun:
        watch = Stopwatch()
        with watch.part("preprocess"):
            inputs = self.encode(prompts, images, context=context)
        return GenerationRun(
            sessions=self.sessions,
            facts=self.manifest.model,
            tokenizer=self.processor.tokenizer,
            inputs=inputs,
            settings=settings,
            watch=watch,
        )


class TextStream(Iterator[str]):
    """The pieces of one answer; `result` holds the whole once they are read.

    Args:
        run: The run of one prompt.
    """

    def __init__(self, run: GenerationRun) -> None:
        self._run = run
        self._pieces = (step[0] for step in run)

    def __next__(self) -> str:
        """Return the next piece of text that is not empty."""
        for piece in self._pieces:
            if piece:
                return piece
        raise StopIteration

    @property
    def result(self) -> Generation:
        """The answer so far, with timings and routing."""
        return self._run.result


def _batch(
    prompts: Any, images: Any, context: Any
) -> tuple[list[Messages], list[list[ImageInput]]]:
    """Return one conversation and one list of images per row, whatever form they came in."""
    if _is_single(prompts):
        prompts, images = [prompts], [images]
    if images is None:
        images = [None] * len(prompts)
    contexts = [context] * len(prompts) if context is None or isinstance(context, str) else context
    for name, rows in (("images", images), ("context", contexts)):
        if isinstance(rows, str) or not isinstance(rows, Sequence) or len(rows) != len(prompts):
            raise DataError(
                f"{len(prompts)} prompt(s) need as many entries in {name}, one per prompt"
            )
    pictures = [_as_list(entry) for entry in images]
    conversations = [
        _conversation(prompt, len(own), text)
        for prompt, own, text in zip(prompts, pictures, contexts, strict=True)
    ]
    if not conversations:
        raise DataError("there is no prompt; give at least one")
    return conversations, pictures


def _is_single(prompts: Any) -> bool:
    return isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], Mapping))


def _as_list(images: Any) -> list[ImageInput]:
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def _conversation(prompt: Prompt, images: int, context: str | None) -> Messages:
    if isinstance(prompt, str):
        return user_message(prompt, images=images, context=context)
    if context:
        raise DataError("context goes with a string prompt; write it into the conversation instead")
    return prompt
