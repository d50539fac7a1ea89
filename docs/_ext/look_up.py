"""Look up: entries of public names, pages of optimisers and of commands, made from the code while the site is built.

`{names} steprule` lists entries, one name a line. `{optimisers}` is the table of all classes, whose pages this writes
beside it. `{commands}` is every command with its options.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optimisers
from commands import Commands
from conventions import Conventions
from docutils import nodes
from entries import Entry, entry_of, public
from made import KNOWN, code, docstring, folded, paragraph, table
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SHOWN = {"rule": "function", "transform": "function"}
"""What Python calls a kind of ours."""


class Names(SphinxDirective):
    """Entries of one module, one name a line."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return them."""
        module = self.arguments[0]
        names = [name for line in self.content for name in line.split()] or public()[module]
        return [node for name in names for node in self.entry(entry_of(f"{module}.{name}"))]

    def entry(self, entry: Entry) -> list[nodes.Node]:
        """Return one entry, known to the domain of Python and to the search."""
        kind = SHOWN.get(entry.kind, entry.kind)
        body = addnodes.desc_content("", *content(entry))
        return [addnodes.desc("", self.head(entry, kind), body, domain="py", objtype=kind, desctype=kind)]

    def head(self, entry: Entry, kind: str) -> addnodes.desc_signature:
        """Return the name with its arguments, as an anchor."""
        module, _, last = entry.name.rpartition(".")
        head = addnodes.desc_signature("", ids=[entry.name], module=module, fullname=last, classes=["sig-object"])
        if kind in {"class", "exception"}:
            head += addnodes.desc_annotation(kind, "", nodes.Text(kind), addnodes.desc_sig_space())
        head += [addnodes.desc_addname("", module + "."), addnodes.desc_name("", last)]
        if entry.signature is not None:
            head += arguments(entry.signature)
        head["_toc_name"], head["_toc_parts"] = last, (module, last)
        self.state.document.note_explicit_target(head)
        self.env.domains.python_domain.note_object(entry.name, kind, entry.name, location=head)
        return head


def arguments(signature: inspect.Signature) -> addnodes.desc_parameterlist:
    """Return a signature's arguments with their defaults; what they are, the words below say."""
    bare = [part.replace(annotation=part.empty) for part in signature.parameters.values()]
    told = str(inspect.Signature(bare))[1:-1]
    found = addnodes.desc_parameterlist()
    found["multi_line_parameter_list"] = len(told) > 76 and len(bare) <= 8
    found["multi_line_trailing_comma"] = False
    after = False
    for part in bare:
        if part.kind is part.KEYWORD_ONLY and not after:
            found += addnodes.desc_parameter("", "", nodes.Text("*"))
        after = after or part.kind in {part.KEYWORD_ONLY, part.VAR_POSITIONAL}
        found += addnodes.desc_parameter("", "", nodes.Text(str(part)))
    return found


def content(entry: Entry) -> Iterator[nodes.Node]:
    """Say all that is known of a name."""
    first, *rest = docstring(entry.words)
    yield first
    if entry.formula:
        yield nodes.math_block(entry.formula, entry.formula, nowrap=True, number=None)
    if optimisers.is_named(entry.value):
        yield from optimisers.what_runs(entry.value.__name__)
    yield from rest
    if entry.example:
        yield code(entry.example, "pycon")
    if entry.shapes:
        yield paragraph(entry.shapes)
    if entry.hypers or entry.slots:
        yield from _declared(entry)
    if entry.raises:
        yield paragraph(entry.raises)
    yield from members(entry.value)
    if entry.source:
        yield from folded(f"Source: `{entry.place}`", code(textwrap.dedent(entry.source)))


def _declared(entry: Entry) -> Iterator[nodes.Node]:
    """List a formula's hyperparameters and slots."""
    hypers = [(f"`{name}`", nodes.math(told, told), *rest) for name, told, *rest in entry.hypers]
    if hypers:
        yield table(("hyperparameter", "symbol", "default", "range"), hypers)
    if entry.slots:
        yield table(("slot", "is kept as", "starts at", "holds"), [(f"`{name}`", *rest) for name, *rest in entry.slots])


def members(value: Any) -> Iterator[nodes.Node]:
    """List what a class of ours has: its fields with what is written under them, and its methods."""
    if not inspect.isclass(value) or issubclass(value, BaseException):
        return
    if fields := list(_fields(value)):
        yield nodes.rubric("", "Fields")
        told = any(words for *_, words in fields)
        yield table(("name", "type", "what it is")[: 2 + told], [field[: 2 + told] for field in fields])
    if optimisers.is_named(value):
        yield paragraph("Its methods are those of `steprule.Optimizer`.")
        return
    for name, method in _methods(value):
        yield nodes.rubric("", "", nodes.literal("", f"{name}{_shape(method)}"))
        yield from docstring(inspect.getdoc(method) or "")


def _methods(value: type) -> Iterator[tuple[str, Any]]:
    ours = [kind for kind in value.__mro__ if kind.__module__.startswith("steprule.")]
    for name in sorted({name for kind in ours for name in vars(kind)}):
        method = inspect.getattr_static(value, name)
        own = getattr(value, name, None)
        if not name.startswith("_") and callable(own) and inspect.getdoc(own) and not inspect.isclass(method):
            yield name, own


def _shape(method: Any) -> str:
    try:
        parts = [part.replace(annotation=part.empty) for part in inspect.signature(method).parameters.values()]
    except (TypeError, ValueError):
        return "(…)"
    return str(inspect.Signature([part for part in parts if part.name != "self"]))


def _fields(value: type) -> Iterator[tuple[str, str, str]]:
    """Return the fields of a dataclass, with the sentence that stands under each."""
    if not hasattr(value, "__dataclass_fields__"):
        return
    body = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            default = "" if node.value is None else f" = {ast.unparse(node.value)}"
            told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            yield f"`{node.target.id}`", f"`{ast.unparse(node.annotation)}{default}`", str(told)


def _begin(app: Sphinx) -> None:
    for module, names in public().items():
        for name in names:
            KNOWN[f"{module}.{name}"] = f"{module}.{name}"
            KNOWN.setdefault(name, f"{module}.{name}")
            KNOWN[f"{module}.{name}".removeprefix("steprule.")] = f"{module}.{name}"
    optimisers.write(Path(app.srcdir) / "look-up/optimisers")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages of optimisers; teach the directives."""
    app.add_directive("names", Names)
    app.add_directive("optimisers", optimisers.Optimisers)
    app.add_directive("commands", Commands)
    app.add_directive("conventions", Conventions)
    app.connect("builder-inited", _begin)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
