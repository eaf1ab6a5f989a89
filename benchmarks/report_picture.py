"""Take the picture of a report's first page; README shows that of the demo.

``python -m benchmarks.report_picture demo-out/report/report.html docs/report.png`` takes it again. Needs the extra `dev` and
Chromium (`make browser`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Result, new_parser, run
from moir_edge.environment import require
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.progress import Progress, single_step
from moir_edge.whole_files import write_whole

__all__ = ["main", "picture_of"]

_WIDTH, _HEIGHT = 1185, 1400  # CSS pixels; wide enough for a table of three candidates


def picture_of(report: Path) -> bytes:
    """Return the top of a report in the light theme, as a PNG.

    Args:
        report: Of `moir-edge compare`, an HTML file.

    Raises:
        DataError: There is no such file.
        EnvironmentProblem: Playwright or Chromium is missing.
    """
    if not report.is_file():
        raise DataError(f"{report} does not exist; give a report.html, as `make demo` writes it")
    require("playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise EnvironmentProblem("Chromium is not installed; install it with `make browser`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        try:
            page = browser.new_page(
                viewport={"width": _WIDTH, "height": _HEIGHT}, color_scheme="light"
            )
            page.goto(report.resolve().as_uri())
            return page.screenshot()
        finally:
            browser.close()


def take(options: argparse.Namespace, progress: Progress) -> Result:
    """Take the picture that the command line names.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    with single_step(progress, "picture"):
        write_whole(options.picture, picture_of(options.report))
    return Result(text=str(options.picture))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("report_picture", __doc__, writes_json=False)
    parser.add_argument("report", type=Path, help="report.html of `compare`")
    parser.add_argument("picture", type=Path, help="PNG to write")
    return run(parser, take, arguments)


if __name__ == "__main__":
    sys.exit(main())
