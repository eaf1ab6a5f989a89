"""`EdgeModel`: a bundle that answers questions about images, without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from moir_edge.arguments import given, instance, integer, switch
from moir_edge.bundle import Bundle, open_bundle
from moir_edge.bundle.manifest import Manifest
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.image_limit import checked_image_pixels
from moir_edge.runtime.generation import Generation, GenerationRun, prepare_prompt
from moir_edge.runtime.generation_config import read_generation_config
from moir_edge.runtime.image_cache import ImageCache
from moir_edge.runtime.opening import open_sessions
from moir_edge.runtime.processor import EncodedRow, ModelInputs, Processor
from moir_edge.runtime.prompt_cache import PromptCache
from moir_edge.runtime.prompts import Images, Prompt, conversations_of
from moir_edge.runtime.providers import Provider
from moir_edge.runtime.pruning import DENSITY, Pruning, chosen_pruning
from moir_edge.runtime.pruning.settings import check_selector, check_share
from moir_edge.runtime.routing import RoutingMap, routing_maps
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.runtime.text_stream import TextStream
from moir_edge.runtime.timing import Stopwatch
from moir_edge.threads import ThreadWait, check_thread_wait

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from moir_edge.runtime.settings import GenerationOptions

__all__ = ["EdgeModel", "load"]


def load(
    bundle: str | Path,
    *,
    threads: int | None = None,
    thread_wait: ThreadWait | None = None,
    provider: Provider | None = None,
    verify: bool = True,
    max_image_pixels: int | None = None,
    split_special_tokens: bool = False,
    image_cache_bytes: int = 0,
    prompt_cache_bytes: int = 0,
    prune_image_tokens: float = 0.0,
    prune_by: str = DENSITY,
    lazy_vision: bool = False,
) -> EdgeModel:
    """Open a bundle and load its graphs.

    Args:
        bundle: The bundle folder.
        threads: Threads of one operator on the CPU; None takes one per physical core.
        thread_wait: How idle threads wait: ``"sleep"``, or ``"spin"``, which is faster where nothing else runs; None follows
            `OMP_WAIT_POLICY`, else they sleep.
        provider: ``"cpu"``, ``"cuda"``, ``"ort-tensorrt"``, ``"openvino"``, ``"openvino-fast"`` (which rounds) or ``"tensorrt"``
            (the bundle's engines); None takes the engines where they fit this machine, else CUDA where onnxruntime-gpu offers
            it, else the CPU.
        verify: Prove every file by its hash first (about 1 GB/s).
        max_image_pixels: Width times height of an image at most, checked before it is decoded; None takes
            `MOIR_EDGE_MAX_IMAGE_PIXELS` where it is set, else 12,582,912 (4096 x 3072).
        split_special_tokens: Encode control tokens in a prompt's words, such as ``<image>`` or ``<|im_start|>``, as the ordinary
            text that they are; those of the chat template stay. As with transformers, they count as control tokens by default.
        image_cache_bytes: Bytes of image features that are kept, so that a second question about the same pictures runs no
            vision tower; 0 keeps none.
        prompt_cache_bytes: Bytes of keys and values of prompts that are kept, so that the next turn of a conversation runs
            what is new in it; 0 keeps none.
        prune_image_tokens: Share of a prompt's image tokens that the language model does not read, at least 0 and below 1; an
            answer's settings may name another.
        prune_by: Which ones are dropped: those of the least ``"density"`` by the router, ``"norm"``, ``"similarity"`` or
            ``"random"``, as in `GenerationSettings`.
        lazy_vision: Open the vision tower when the first picture comes, for prompts of text alone. It is for graphs that ONNX
            Runtime runs; the other providers open all components at once.

    Raises:
        BundleError: The folder is not a bundle, incomplete, changed, or of a newer schema.
        EnvironmentProblem: The provider is not available.
        UnsupportedError: The model type is not one that this version runs, or image tokens are to be dropped by a score that
            does not exist, or that this bundle does not have.
        DataError: `threads`, `thread_wait`, `verify`, `max_image_pixels`, `split_special_tokens`, `image_cache_bytes`,
            `prompt_cache_bytes`, `prune_image_tokens` or `lazy_vision` has a wrong type or is out of range.
    """
    opened = open_bundle(bundle, verify=switch("verify", verify))
    return EdgeModel(
        opened,
        threads=threads,
        thread_wait=thread_wait,
        provider=provider,
        max_image_pixels=max_image_pixels,
        split_special_tokens=split_special_tokens,
        image_cache_bytes=image_cache_bytes,
        prompt_cache_bytes=prompt_cache_bytes,
        prune_image_tokens=prune_image_tokens,
        prune_by=prune_by,
        lazy_vision=lazy_vision,
    )


class EdgeModel:
    """A loaded bundle.

    Prompts are strings, or conversations as lists of ``{"role": …, "content": …}`` turns. One prompt
    takes one image, a list of images or none; a list of prompts is a batch and takes a list with the
    images of each. In a string prompt all images come first, then the context, then the prompt.

    Args:
        bundle: An opened bundle.
        threads: Threads of one operator; None takes one per physical core.
        thread_wait: As in `load`.
        provider: As in `load`.
        max_image_pixels: As in `load`.
        split_special_tokens: As in `load`.
        image_cache_bytes: As in `load`.
        prompt_cache_bytes: As in `load`.
        prune_image_tokens: As in `load`.
        prune_by: As in `load`.
        lazy_vision: As in `load`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        thread_wait: ThreadWait | None = None,
        provider: Provider | None = None,
        max_image_pixels: int | None = None,
        split_special_tokens: bool = False,
        image_cache_bytes: int = 0,
        prompt_cache_bytes: int = 0,
        prune_image_tokens: float = 0.0,
        prune_by: str = DENSITY,
        lazy_vision: bool = False,
    ) -> None:
        threads = integer("threads", threads)
        if threads is not None and threads < 1:
            raise DataError(f"threads is {threads}; it must be at least 1")
        check_thread_wait(thread_wait)
        pixels = integer("max_image_pixels", max_image_pixels)
        if pixels is not None:
            checked_image_pixels(pixels)
        self._prune_share = given(
            "prune_image_tokens", check_share("prune_image_tokens", prune_image_tokens)
        )
        self._prune_by = given("prune_by", check_selector("prune_by", prune_by))
        self.image_cache = ImageCache(_kept("image_cache_bytes", image_cache_bytes))
        self.prompt_cache = PromptCache(_kept("prompt_cache_bytes", prompt_cache_bytes))
        self.bundle = bundle
        self._pruning(GenerationSettings())
        self.processor = Processor(
            bundle.files,
            bundle.manifest.model,
            max_image_pixels=pixels,
            split_special_tokens=switch("split_special_tokens", split_special_tokens),
        )
        self.generation_config = read_generation_config(bundle.files)
        self.sessions = open_sessions(
            bundle,
            threads=threads,
            thread_wait=thread_wait,
            provider=provider,
            lazy_vision=lazy_vision,
        )

    def _pruning(self, settings: GenerationSettings) -> Pruning | None:
        """Return which image tokens an answer leaves out."""
        share = settings.prune_image_tokens
        return chosen_pruning(
            self._prune_share if share is None else share,
            settings.prune_by or self._prune_by,
            seed=settings.seed,
            router=settings.router,
            manifest=self.manifest,
            source=str(self.bundle.path),
        )

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
        conversations, pictures = conversations_of(prompts, images, context)
        return self.processor(conversations, pictures)

    def encode_row(
        self, prompt: Prompt, images: Images = None, *, context: str | None = None
    ) -> EncodedRow:
        """Encode one prompt ahead of its turn, for `begin_rows`; another thread may do so while this one computes.

        Raises:
            DataError: The prompt is empty or too long, or an image cannot be used.
        """
        conversations, pictures = conversations_of([prompt], [images], context)
        return self.processor.row(conversations[0], pictures[0])

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        images: Images | Sequence[Images] = None,
        *,
        context: str | Sequence[str | None] | None = None,
        settings: GenerationSettings | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """Answer one prompt or a batch.

        Each row gets the tokens that `transformers` gives it alone, under the checkpoint's `generation_config.json` (docs/runtime.md).

        Args:
            prompts: See the class.
            images: See the class; paths, bytes, Pillow images or uint8 arrays.
            context: A sentence put before the prompt, one for all rows or one per row.
            settings: How the answers are generated; None takes what the checkpoint's generation config says.
            options: Fields of `GenerationSettings`, such as `max_new_tokens`, in place of those of `settings`.

        Raises:
            DataError: A prompt, an image or a setting cannot be used, or the decoder's logits are not finite.
            UnsupportedError: The generation config asks for beam search.
        """
        run = self.begin(prompts, images, context=context, settings=_joined(settings, options))
        for _ in run:
            pass
        return run.result

    def stream(
        self,
        prompt: Prompt,
        images: Images = None,
        *,
        context: str | None = None,
        settings: GenerationSettings | None = None,
        **options: Unpack[GenerationOptions],
    ) -> TextStream:
        """Answer one prompt piece by piece; joined, the pieces equal `generate`'s text.

        The prompt and the images are read before this returns, so that their errors come at once.

        Args:
            prompt: See the class.
            images: See the class.
            context: A sentence put before the prompt.
            settings: As in `generate`.
            options: As in `generate`.

        Raises:
            DataError: The prompt, an image or a setting cannot be used.
            UnsupportedError: The generation config asks for beam search.
        """
        chosen = _joined(settings, options)
        return TextStream(self.begin([prompt], [images], context=context, settings=chosen))

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
                f"{self.bundle.path} holds no router, so a routing map cannot be made; "
                "export a retrofitted checkpoint"
            )
        inputs = self.encode([prompt], [images], context=context)
        family = self.processor.family
        prepared = prepare_prompt(
            self.sessions,
            family,
            inputs,
            Stopwatch(),
            router=True,
            pruning=self._pruning(GenerationSettings()),
        )
        if prepared.routing is None:
            raise DataError("a routing map needs an image and a prompt; give at least one image")
        return routing_maps(family.facts, inputs, prepared.routing, prepared.dropped)[0]

    def begin(
        self,
        prompts: Prompt | Sequence[Prompt],
        images: Images | Sequence[Images] = None,
        *,
        context: str | Sequence[str | None] | None = None,
        settings: GenerationSettings | None = None,
        logprobs: int | None = None,
    ) -> GenerationRun:
        """Encode one prompt or a batch and return its run, which computes one step for each item that is taken of it.

        Whoever stops taking items stops the computation.

        Args:
            prompts: See the class.
            images: See the class.
            context: As in `generate`.
            settings: As in `generate`.
            logprobs: Likely tokens whose log-probabilities are kept with each token's own; None keeps none.

        Raises:
            DataError: A prompt, an image or a setting cannot be used.
            UnsupportedError: The generation config asks for beam search.
        """
        return self._begun(
            lambda: self.encode(prompts, images, context=context), settings, logprobs
        )

    def begin_rows(
        self,
        rows: Iterable[EncodedRow],
        *,
        settings: GenerationSettings | None = None,
        logprobs: int | None = None,
    ) -> GenerationRun:
        """Return the run of prompts that were encoded before; else as `begin`.

        Args:
            rows: From `encode_row`. What an iterator takes to give them counts as preprocessing.
            settings: As in `generate`.
            logprobs: As in `begin`.

        Raises:
            DataError: A setting cannot be used.
            UnsupportedError: The generation config asks for beam search.
        """
        return self._begun(lambda: self.processor.batch(list(rows)), settings, logprobs)

    def _begun(
        self,
        encoded: Callable[[], ModelInputs],
        settings: GenerationSettings | None,
        logprobs: int | None,
    ) -> GenerationRun:
        watch = Stopwatch()
        facts = self.manifest.model
        settings = instance("settings", settings, GenerationSettings) or GenerationSettings()
        count = integer("logprobs", logprobs)
        if count is not None and not 0 <= count <= facts.vocab_size:
            raise DataError(f"logprobs is {count}; it must be 0 to {facts.vocab_size}")
        pruning = self._pruning(settings)
        rules = settings.rules(self.generation_config, vocab_size=facts.vocab_size)
        with watch.part("preprocess"):
            inputs = encoded()
        return GenerationRun(
            sessions=self.sessions,
            family=self.processor.family,
            tokenizer=self.processor.tokenizer,
            inputs=inputs,
            settings=settings,
            rules=rules,
            watch=watch,
            logprobs=count,
            image_cache=self.image_cache,
            prompt_cache=self.prompt_cache,
            pruning=pruning,
        )


def _kept(name: str, given: int) -> int:
    """Return the size of a cache."""
    size = integer(name, given) or 0
    if size < 0:
        raise DataError(f"{name} is {size}; it must be at least 0")
    return size


def _joined(settings: GenerationSettings | None, options: GenerationOptions) -> GenerationSettings:
    chosen = instance("settings", settings, GenerationSettings)
    return replace(chosen or GenerationSettings(), **options)
