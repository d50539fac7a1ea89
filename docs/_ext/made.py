"""Nodes of a page, made of plain data: words with code in them, tables, blocks of code, what folds away."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from docutils import nodes
from sphinx import addnodes

KNOWN: dict[str, str] = {}
"""The full names of what is documented, by what docstrings call it."""


def inline(words: str) -> list[nodes.Node]:
    """Return words; what stands between backticks is code, and a link where it is a public name."""
    found: list[nodes.Node] = []
    for place, part in enumerate(re.split(r"`+([^`]+)`+", words)):
        if place % 2 == 0:
            found += [nodes.Text(part)] if part else []
            continue
        target = KNOWN.get(part.removesuffix("()").removeprefix("sr."))
        if target is None:
            found.append(nodes.literal("", part))
        else:
            found.append(link(target, part))
    return found


def link(target: str, shown: str) -> addnodes.pending_xref:
    """Return a link to a public name, by its full name, under the words that are shown."""
    literal = nodes.literal("", shown)
    return addnodes.pending_xref("", literal, refdomain="py", reftype="obj", reftarget=target, refwarn=True)


def paragraph(words: str, *classes: str) -> nodes.paragraph:
    """Return a paragraph of words."""
    return nodes.paragraph("", "", *inline(" ".join(words.split())), classes=list(classes))


def code(text: str, language: str = "python") -> nodes.literal_block:
    """Return a block of code."""
    block = nodes.literal_block(text, text.rstrip("\n"))
    block["language"] = language
    return block


def folded(title: str, *inside: nodes.Node) -> list[nodes.Node]:
    """Return what is shown once its title is opened."""
    summary = re.sub(r"`([^`]+)`", r"<code>\1</code>", title)
    return [
        nodes.raw("", f'<details class="more"><summary>{summary}</summary>', format="html"),
        *inside,
        nodes.raw("", "</details>", format="html"),
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str | nodes.Node]], *classes: str) -> nodes.table:
    """Return a table; its cells are words, or nodes of a line."""
    group = nodes.tgroup("", cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    for part, lines in ((nodes.thead(), [head]), (nodes.tbody(), rows)):
        for line in lines:
            part.append(nodes.row("", *(_cell(cell) for cell in line)))
        group += part
    return nodes.table("", group, classes=["colwidths-auto", *classes])


def _cell(cell: str | nodes.Node) -> nodes.entry:
    return nodes.entry("", paragraph(cell) if isinstance(cell, str) else nodes.paragraph("", "", cell))


def docstring(words: str) -> list[nodes.Node]:
    """Return a docstring: paragraphs, examples, and lists of arguments under a title that ends in a colon."""
    found: list[nodes.Node] = []
    for block in re.split(r"\n\s*\n", words.strip("\n")):
        lines = block.splitlines()
        if lines[0].lstrip().startswith(">>>"):
            found.append(code("\n".join(lines), "pycon"))
        elif lines[0].endswith(":") and len(lines) > 1 and all(line.startswith("    ") for line in lines[1:]):
            found += [nodes.rubric("", lines[0].removesuffix(":")), _arguments(lines[1:])]
        elif all(line.startswith("    ") for line in lines):
            found.append(code("\n".join(line[4:] for line in lines), "text"))
        else:
            found.append(paragraph(block))
    return found


def _arguments(lines: Sequence[str]) -> nodes.definition_list:
    """Return `name=default: words`, of which what goes on is indented further."""
    whole: list[str] = []
    for line in lines:
        if line.startswith("     "):
            whole[-1] += " " + line.strip()
        else:
            whole.append(line.strip())
    found = nodes.definition_list(classes=["arguments"])
    for one in whole:
        name, _, words = one.partition(": ")
        term = nodes.term("", "", nodes.literal("", name))
        found += nodes.definition_list_item("", term, nodes.definition("", paragraph(words)))
    return found
