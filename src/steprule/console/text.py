"""Foreign text, made safe to show: nothing in it commands a terminal or a page."""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_BREAKS = re.compile(r"[\r\n\t\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
"""Characters that end a line, or look as if they did."""
_LIKE = {"−": "-", "–": "-", "—": "-", "‖": "||", "√": "sqrt", "∞": "inf", "×": "x", "·": "*", "←": "<-", "→": "->",
         "≤": "<=", "≥": ">=", "≠": "!=", "±": "+-", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*"}  # fmt: skip


def shown(text: str) -> str:
    r"""Return a text with its lines and tabs. Other characters that do not print are spelt out, such as `\x1b`.

    These are control characters, an escape sequence's first one among them, and those that turn the direction of
    writing or is not seen.
    """
    return _each_line(text, lambda letter: letter if letter.isprintable() or letter == "\t" else _spelt(letter))


def _each_line(text: str, told: Callable[[str], str]) -> str:
    """Change the characters of lines in which some do not print; long texts have few such lines."""
    return "\n".join(line if line.isprintable() else "".join(map(told, line)) for line in text.split("\n"))


def one_line(text: str) -> str:
    """Return a text as one line, with a space for each line break."""
    return text if text.isprintable() else shown(_BREAKS.sub(" ", text))


def _spelt(letter: str) -> str:
    return " " if letter.isspace() and letter > "\x9f" else letter.encode("unicode_escape", "surrogatepass").decode()


def clean(value: Any, told: Callable[[str], str] = shown) -> Any:
    """Return a JSON value with every text in it as it may be shown, names of fields too."""
    if isinstance(value, str):
        return told(value)
    if isinstance(value, dict):
        return {told(str(key)): clean(inner, told) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner, told) for inner in value]
    return value


def escaped(json: str) -> str:
    r"""Return the same JSON with characters that do not print written as `\u001b`."""
    return _each_line(json, lambda letter: letter if letter.isprintable() else _as_json(letter))


def _as_json(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def encodable(text: str, encoding: str) -> str:
    """Return a text that an encoding can hold: `theta` for θ if it has no θ, `?` for letters without a like."""
    return "".join(letter if _has(encoding, letter) else _like(encoding, letter) for letter in text)


def _has(encoding: str, letter: str) -> bool:
    try:
        return bool(letter.encode(encoding))
    except UnicodeEncodeError:
        return False


def _like(encoding: str, letter: str) -> str:
    name = unicodedata.name(letter, "")
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name)
    told = greek[2].lower() if greek else _LIKE.get(letter) or unicodedata.normalize("NFKD", letter)
    if name.startswith("BOX DRAWINGS"):
        told = "-" if "HORIZONTAL" in name and "VERTICAL" not in name else "|"
    told = "".join(_LIKE.get(part, part) for part in told)
    return told.capitalize() if greek and greek[1] == "CAPITAL" else told.encode(encoding, "replace").decode(encoding)


def near(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest of the known words in any case of letters; return "" if none is near."""
    folded = {one.casefold(): one for one in known}
    found = get_close_matches(word.casefold(), folded, n=2)
    if word.casefold() in folded:
        found = [word.casefold()]
    return f"did you mean {' or '.join(folded[one] for one in found)}?" if found else ""
