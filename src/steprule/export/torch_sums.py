"""How exported torch files spell reductions: sums and largest elements of tensors, of their rows or columns."""

from __future__ import annotations

from ..graph.node import Node, Rank
from .torch_words import ATOM, Text, infix


def joined(node: Node, inner: Text, *, number: bool) -> str:
    """Spell what the elements of an input are joined to, before it is finished; of a number, as of one element."""
    own = node.reducer
    text = f"scalar({inner.text})" if number else inner.text
    along = "" if node.axis is None else f", {node.axis}"
    suffix = "_along" if along else ""
    if (own.combine, own.each) == ("add", "mul"):
        return f"squares{suffix}({text}{along})"
    if (own.combine, own.each) == ("add", ""):
        keep = f"{node.axis}, keepdim=True" if along else ""
        return f"{text if number else inner.within(ATOM)}.double().sum({keep})"
    assert (own.combine, own.each) == ("maximum", ""), own
    return f"largest{suffix}({text}{along})"


def finished(node: Node, total: str, like: str) -> Text:
    """Spell what is made of it in the end; `like` names a tensor, whose elements a mean counts."""
    if node.reducer.finish == "sqrt":
        return Text(f"{total}.sqrt()")
    if node.reducer.finish == "div":
        found = infix("div", Text(total), Text(_count(node, like)))
        assert found is not None
        return found
    return Text(total)


def _count(node: Node, like: str) -> str:
    inner = node.inputs[0]
    if node.axis is None and inner.rank is Rank.ELEMENT:
        return f"{like}.numel()"
    counted = [f"{like}.shape[{place}]" for place, rank in enumerate((Rank.ROW, Rank.COLUMN))
               if rank <= inner.rank and not rank <= node.rank]  # fmt: skip
    return " * ".join(counted) if len(counted) < 2 else f"({' * '.join(counted)})"


__all__ = ["finished", "joined"]
