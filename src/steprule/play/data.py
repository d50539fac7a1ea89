"""The bundled digits as the page holds them: the lab's three sets, scaled and split by the lab, in letters."""

from __future__ import annotations

import re
from typing import Any

from steprule.lab.data import digits

GREYS = 16
"""The greatest brightness: the lab divides by it."""
_LONGEST_RUN = 26


def packed() -> dict[str, Any]:
    """Return the digits of the lab as JSON: how many there are in each set, their labels, and their pixels.

    Pixels stand set by set, digit by digit, row by row. A to P is a brightness from 1 to 16, a to z are 1 to 26 pixels
    of 0; so half of a picture takes a tenth of the text, and a script reads it letter by letter.

    >>> made = packed()
    >>> made["sizes"], len(made["labels"])
    ({'train': 1077, 'validation': 360, 'test': 360}, 1797)
    """
    sets = {name: getattr(digits(), name) for name in ("train", "validation", "test")}
    brightness = [grey for one in sets.values() for grey in (one.inputs * GREYS).int().ravel().tolist()]
    letters = "".join(chr(ord("@") + grey) for grey in brightness)
    return {
        "sizes": {name: len(one) for name, one in sets.items()},
        "greys": GREYS,
        "labels": "".join(str(label) for one in sets.values() for label in one.labels.tolist()),
        "pixels": re.sub(f"@{{1,{_LONGEST_RUN}}}", lambda run: chr(ord("`") + len(run[0])), letters),
    }
