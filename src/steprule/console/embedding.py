"""What pages of one file have in common: data in a script that nothing can end, and what such a page may do."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup


def embedded(value: Any) -> Markup:
    r"""Return JSON that may stand in a script of a page, as data or as an expression: no text in it ends that.

    >>> print(embedded({"a": "</script>"}))
    {"a":"\u003c/script\u003e"}
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - made safe just above


def policy(scripts: Iterable[str], **allowed: str) -> str:
    """Return a page's permissions: it may run its own scripts, what is `allowed` besides, and load nothing."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    own = {
        "default-src": "'none'",
        "script-src": " ".join(f"'sha256-{digest}'" for digest in hashes),
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    own |= {name.replace("_", "-"): sources for name, sources in allowed.items()}
    return "; ".join(f"{name} {sources}" for name, sources in own.items())


__all__ = ["embedded", "policy"]
