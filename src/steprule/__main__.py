"""The command line's front door: `steprule` and `python -m steprule`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRA = ("click", "rich", "jinja2", "matplotlib", "sklearn", "scipy")
"""What the lab imports and the library does not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        told = f'the lab needs {", ".join(missing)}: pip install "steprule[lab]"'
        print(f"steprule: error: {told}", file=sys.stderr)
        return 1
    from steprule.lab.cli import run

    return run(sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    sys.exit(main())
