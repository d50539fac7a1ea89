"""The look of an optimiser in every chart: a colour, a dash and a marker, by its place in the list."""

from __future__ import annotations

from dataclasses import dataclass

INK, MUTED, GRID, PAPER = "#1d2430", "#5d6675", "#dfe3e8", "#fefefe"

COLOURS = (
    ("#5c6370", "#aab2bf"),
    ("#1f7fbd", "#5cb3ee"),
    ("#b4509e", "#e08fcf"),
    ("#0a7d5b", "#35c79c"),
    ("#a06a00", "#e3b04b"),
    ("#123f9c", "#8aa8ff"),
    ("#d2470d", "#ff8552"),
    ("#6b4a2b", "#c9a27c"),
)
"""On light and on dark; after Okabe and Ito, moved until each can be read on its ground."""

DASHES = ((), (7, 3), (1.6, 2.2), (8, 2.5, 1.8, 2.5), (4, 2))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")


@dataclass(frozen=True)
class Look:
    """How one optimiser is drawn."""

    place: int

    @property
    def light(self) -> str:
        """Its colour on white; no other optimiser below the eighth has it."""
        return COLOURS[self.place % len(COLOURS)][0]

    @property
    def variable(self) -> str:
        """The page's name for the colour of the scheme in use."""
        return f"--c{self.place % len(COLOURS)}"

    @property
    def dash(self) -> tuple[float, ...]:
        """Line and gap in points; with the colour it is unique among forty."""
        return DASHES[(self.place + self.place // len(COLOURS)) % len(DASHES)]

    @property
    def marker(self) -> str:
        """The shape of a point, in matplotlib's letters; unique among twelve."""
        return MARKERS[self.place % len(MARKERS)]
