"""A V8 without a page, in which the playground's scripts read rules and run them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from py_mini_racer import MiniRacer

from steprule.play.scripts import reader


@cache
def engine() -> MiniRacer:
    """Return the one context of a test run, with all that reads and runs rules."""
    context = MiniRacer()
    for text in (*reader().values(), Path(__file__).with_name("engine.js").read_text(encoding="utf-8")):
        context.eval(text + "\n;0")
    return context


def ask(function: str, *arguments: Any) -> Any:
    """Call a function of engine.js, and return what JSON it gives."""
    given = ", ".join(json.dumps(argument, ensure_ascii=True) for argument in arguments)
    return json.loads(engine().eval(f"JSON.stringify(harness.{function}({given}))"))  # type: ignore[arg-type]
