"""The command line's front door: `steprule` and `python -m steprule`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRA = ("click", "rich", "jinja2", "matplotlib", "sklearn", "scipy", "PIL", "optuna")
"""What the lab imports and the library does not."""


LIGHT = {"explain", "optimizers", "completion", "-h", "--help", "--version"}
"""What needs nothing but `SPEAKING`: neither charts nor data."""

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
        if error.name is None or error.name.partition(".")[0] not in missing:
            raise
        return _told(missing)


def _told(missing: Sequence[str]) -> int:
    told = f'the lab needs {", ".join(missing)}: pip install "steprule[lab]"'
    print(f"steprule: error: {told}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
