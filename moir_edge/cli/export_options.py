"""The flags of `export` that say what a bundle is to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.calibration_options import CalibrationFlags
from moir_edge.cli.completions import complete_precision, complete_target
from moir_edge.cli.groups import Flags, values_of
from moir_edge.cli.mix_options import MixFlags
from moir_edge.precisions import FP32, HEAD, PRECISIONS

if TYPE_CHECKING:
    from moir_edge.export import ExportSettings

__all__ = ["ExportFlags"]


@dataclass(frozen=True, kw_only=True)
class ExportFlags(Flags):
    """Flags of an export, named as the fields of `ExportSettings`."""

    argument: str = "settings"
    target: Annotated[
        str,
        typer.Option(
            help="Target device; `moir-edge targets` lists all targets.",
            autocompletion=complete_target,
        ),
    ] = "cpu"
    precision: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(PRECISIONS)}; which of them depends on the target.",
            autocompletion=complete_precision,
        ),
    ] = FP32
    component_precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Precision of one component, such as vision=fp32, or of the decoder's head, head=int4; repeatable."
        ),
    ] = None
    int4_method: Annotated[
        str | None,
        typer.Option(
            help="Method of INT4 weights: rtn, hqq, awq or gptq; awq and gptq need --calib-data. By "
            "default gptq with --calib-data, rtn without."
        ),
    ] = None
    int4_block_size: Annotated[
        int | None,
        typer.Option(
            help="Rows of an INT4 weight that share a scale: 16, 32, 64, 128 or 256; 32 by default. Larger blocks take fewer bytes."
        ),
    ] = None
    calibration: CalibrationFlags
    mix: MixFlags
    engines: Annotated[
        bool,
        typer.Option(
            help="Compile the target's engines too; `moir-edge build` can compile them later."
        ),
    ] = True
    parity_rtol: Annotated[
        float | None,
        typer.Option(
            help="For fp32: largest accepted error against torch, as a share of each output's largest "
            "value; 1e-4 by default. fp16 and bf16 on a processor have a wider bound, that of their rounding."
        ),
    ] = None

    def settings(self) -> ExportSettings:
        """Return the settings.

        Raises:
            UnsupportedError: They cannot be met, see `ExportSettings`.
            DataError: The calibration data do not exist, or a number is out of range.
        """
        from moir_edge.export import ExportSettings

        return ExportSettings(
            **values_of(self)
            | {
                "component_precision": self.precisions(),
                "calibration": self.calibration.settings(),
                "mix": self.mix.settings(),
            }
        )

    def precisions(self) -> dict[str, str]:
        """Return ``{"vision": "fp32"}`` from ``["vision=fp32"]``.

        Raises:
            UnsupportedError: An option without ``=``, or an unknown component.
        """
        from moir_edge.bundle import COMPONENTS
        from moir_edge.errors import UnsupportedError, closest

        known = (*COMPONENTS, HEAD)
        parsed = {}
        for option in self.component_precision or ():
            component, separator, precision = option.partition("=")
            if not separator:
                raise UnsupportedError(
                    f"--component-precision {option!r}: expected COMPONENT=PRECISION, such as vision=fp32"
                )
            if component not in known:
                raise UnsupportedError(
                    f"unknown component {component!r}: {closest(component, known)}"
                )
            parsed[component] = precision
        return parsed
