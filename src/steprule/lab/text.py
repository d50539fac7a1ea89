"""Text that somebody else may have written, as it may be shown: nothing in it commands a terminal or a page."""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_BREAKS = re.compile(r"[\r\n\t\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
"""What may end a line, or look as if it did."""
_LIKE = {"−": "-", "–": "-", "—": "-", "‖": "||", "√": "sqrt", "∞": "inf", "×": "x", "·": "*", "←": "<-", "→": "->",
         "≤": "<=", "≥": ">=", "≠": "!=", "±": "+-", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*"}  # fmt: skip


def shown(text: str) -> str:
    r"""Return a text with its lines and tabs; whatever else does not print is spelt out, such as `\x1b`.

    That is every control character, an escape sequence's first one with them, and whatever turns the direction of
    writing or is not seen.
    """
    return _each_line(text, lambda letter: letter if letter.isprintable() or letter == "\t" else _spelt(letter))


def _each_line(text: str, told: Callable[[str], str]) -> str:
    """Change the letters of the lines in which not all print; long texts have few of those."""
    return "\n".join(line if line.isprintable() else "".join(map(told, line)) for line in text.split("\n"))


def one_line(text: str) -> str:
    """Return a text that belongs into one line: what would end the line is a space."""
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
    r"""Return JSON that says the same, and is shown as it is: what does not print is written as `\u001b`."""
    return _each_line(json, lambda letter: letter if letter.isprintable() else _as_json(letter))


def _as_json(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def encodable(text: str, encoding: str) -> str:
    """Return a text that an encoding has letters for: `theta` for θ where it has no θ, `?` where nothing is like it."""
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
    """Ask whether one of the known words was meant, whatever the case of its letters; nothing where none is near."""
    folded = {one.casefold(): one for one in known}
    found = get_close_matches(word.casefold(), folded, n=2)
    if word.casefold() in folded:
        found = [word.casefold()]
    return f"did you mean {' or '.join(folded[one] for one in found)}?" if found else ""
