from __future__ import annotations

import pytest

from moir_edge.bundle import COMPONENTS, ModelFacts
from moir_edge.bundle.profiles import AxisRange, component_profiles
from moir_edge.errors import BundleError, UnsupportedError


def _facts(context_length: int = 512, tokens_per_tile: int = 36) -> ModelFacts:
    return ModelFacts(
        model_type="smolvlm",
        hidden_size=192,
        num_layers=4,
        num_kv_heads=3,
        head_dim=32,
        vocab_size=512,
        context_length=context_length,
        image_token_id=3,
        eos_token_ids=(2,),
        pad_token_id=0,
        special_token_ids=(0, 1, 2, 3),
        image_size=96,
        tokens_per_tile=tokens_per_tile,
    )


@pytest.mark.parametrize("context", [1, 2, 64, 512, 8192])
@pytest.mark.parametrize("component", COMPONENTS)
def test_ranges_ascend_at_every_context_length(component: str, context: int) -> None:
    for profile in component_profiles(component, _facts(context)):
        for axis in profile.axes.values():
            assert 0 <= axis.min <= axis.opt <= axis.max


def test_decoder_has_prefill_and_decode() -> None:
    prefill, decode = component_profiles("decoder", _facts())
    assert (prefill.name, decode.name) == ("prefill", "decode")
    assert prefill.axes["past_sequence"].min == 0
    assert prefill.axes["sequence"] == AxisRange(1, 256, 512)
    assert decode.axes["sequence"] == AxisRange(1, 1, 1)
    # The whole context can be reached, one token at a time.
    assert decode.axes["total_sequence"].max == 512
    for size in ("min", "opt", "max"):
        past, total = (
            getattr(decode.axes[name], size) for name in ("past_sequence", "total_sequence")
        )
        assert total == past + 1


def test_long_prompts_go_in_pieces() -> None:
    prefill, _ = component_profiles("decoder", _facts(8192))
    assert prefill.axes["sequence"].max == 2048
    assert prefill.axes["past_sequence"].max == 8191


@pytest.mark.parametrize("context", [1, 64, 8192])
def test_the_shapes_of_a_decoder_profile_fit_together(context: int) -> None:
    for profile in component_profiles("decoder", _facts(context)):
        axes = profile.axes
        for size in ("min", "opt", "max"):
            past, new, total = (
                getattr(axes[name], size)
                for name in ("past_sequence", "sequence", "total_sequence")
            )
            assert past + new == total


def test_the_router_takes_as_many_image_tokens_as_the_vision_engine_gives() -> None:
    for context in (16, 512, 8192):
        (profile,) = component_profiles("router", _facts(context, 36))
        assert profile.axes["image_tokens"].max == 36 * profile.axes["images"].max


def test_tiles_fit_the_context() -> None:
    (vision,) = component_profiles("vision", _facts(512, 36))
    assert vision.axes["images"].max == 14
    (vision,) = component_profiles("vision", _facts(16, 36))
    assert vision.axes["images"].max == 1


def test_sizes_of_an_input() -> None:
    _, decode = component_profiles("decoder", _facts())
    assert decode.sizes("past", ("batch", 3, "past_sequence", 32)) == (
        (1, 3, 1, 32),
        (1, 3, 256, 32),
        (4, 3, 511, 32),
    )


def test_an_unknown_axis_is_named() -> None:
    (vision,) = component_profiles("vision", _facts())
    with pytest.raises(
        UnsupportedError, match="input 'pixels' has the axis 'frames'; engines know"
    ):
        vision.sizes("pixels", ("frames", 3))


def test_a_falling_range_is_refused() -> None:
    with pytest.raises(ValueError, match="no ascending sizes"):
        AxisRange(2, 1, 3)


def _patch_facts(context_length: int, **family: object) -> ModelFacts:
    known = {"image_size": None, "tokens_per_tile": None, "image_grid": None}
    return _facts(context_length).model_copy(update={**known, "family": family})


@pytest.mark.parametrize("context", [2, 64, 512, 32_768])
@pytest.mark.parametrize("window", [None, 1, 4, 64])
def test_patches_come_in_whole_blocks(context: int, window: int | None) -> None:
    (profile,) = component_profiles("vision", _patch_facts(context, merge_size=2, window=window))
    patches, windows = profile.axes["patches"], profile.axes["windows"]
    assert patches.min == 4
    assert patches.max == 4 * min(context - 1, 2048)
    assert patches.opt % 4 == 0
    assert windows.max == -(-min(context - 1, 2048) // (window or 1))


@pytest.mark.parametrize("merge", [0, 65, 1.5, "2", True])
def test_a_block_of_no_size_is_one_line(merge: object) -> None:
    with pytest.raises(BundleError) as caught:
        component_profiles("vision", _patch_facts(512, merge_size=merge))
    assert str(caught.value) == (
        f"the manifest's model.family.merge_size is {merge!r}, expected a whole number from 1 to 64; "
        "export the bundle again"
    )
