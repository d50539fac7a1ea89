"""`python -m steprule.bench`: the command `steprule bench`, with no more installed than it needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        from steprule.bench.command import ALONE, bench
        from steprule.console.ending import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        print(f"steprule: error: the bench needs {error.name}: pip install click rich", file=sys.stderr)
        return 1
    return run(bench, sys.argv[1:] if arguments is None else list(arguments), ALONE)


if __name__ == "__main__":
    sys.exit(main())
