"""The command line's front door: `steprule` and `python -m steprule`."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPORTED_AS = {"scikit-learn": "sklearn", "pillow": "PIL"}
"""The packages whose modules have another name."""


def needed(extra: str) -> list[str]:
    """List the modules that an extra brings, by the installed package's metadata; an uninstalled package has none."""
    try:
        lines = requires("steprule") or []
    except PackageNotFoundError:
        return []
    names = [line for line in lines if re.search(rf"extra == .{extra}\W", line)]
    return [IMPORTED_AS.get(name, name) for name in (re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in names)]


EXTRA = needed("lab")

LIGHT = {"explain", "optimizers", "completion", "bench", "-h", "--help", "--version"}
"""Commands that need only `SPEAKING`: no data, and charts only where they can be drawn."""

SPEAKING = {"click", "rich"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    missing = [name for name in EXTRA if find_spec(name) is None]
    light = not words or words[0] in LIGHT or "--help" in words or "-h" in words
    if missing and (not light or SPEAKING & set(missing)):
        return _told(missing)
    from steprule.lab.cli import run

    try:
        return run(words)
    except ModuleNotFoundError as error:
        absent = (error.name or "steprule").partition(".")[0]
        if absent not in missing and (EXTRA or absent == "steprule"):
            raise
        return _told(missing or [absent])


def _told(missing: Sequence[str]) -> int:
    told = f'the lab needs {", ".join(missing)}: pip install "steprule[lab]"'
    print(f"steprule: error: {told}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
