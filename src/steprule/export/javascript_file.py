"""A rule as JavaScript in one file: an ES module for Node and browsers, in float64, which imports nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any, NoReturn

from ..backends.javascript import key_of, number
from ..backends.javascript_dialect import JavaScript
from ..backends.javascript_words import called
from ..errors import BackendError
from ..graph.graph import Graph, Hyper, Slot
from ..graph.look_ahead import to_end
from ..graph.node import Rank
from ..graph.twice import twice
from ..optim.compiled import Kernels
from ..optim.implicit import PATIENCE, ROUNDINGS, STEP_ROUNDINGS
from ..plan.program import lowered
from ..plan.schedule import schedule
from .header import LONGEST, WIDTH, header
from .subject import Subject

_FIX = 'export it to torch: sr.export(..., to="torch")'
_SIZES = {Rank.ROW: "matrix(shapes[k])[0]", Rank.COLUMN: "matrix(shapes[k])[1]"}
_USE = (
    "An ES module in float64: `arrays` holds the parameter, the gradient and what `start` returns, each a list of one "
    "Float64Array a tensor; `step(arrays, { ...defaults, lr: 0.1 }, t)` updates them in place, t from 1."
)
_SOLVE = """\
/** Return the Euclidean length of a list of arrays, or of the difference of two. */
function distance(a, b) {{
  const total = new Sum();
  a.forEach((x, k) => x.forEach((y, i) => total.add((b ? y - b[k][i] : y) ** 2)));
  return Math.sqrt(total.value);
}}

/**
 * Find the gradient at the point where step t ends, by fixed-point iteration, and leave it in `arrays.{gradient}`: then
 * `step` takes it there. `gradient(points)` returns the gradient at points, one Float64Array a tensor.
 */
function solve(arrays, hyper, t, gradient) {{
  arrays.{gradient} = arrays.{parameter}.map((x) => new Float64Array(x.length));
  let points = point(arrays, hyper, t);
  for (let seen = 1, since = 0, best = Infinity; ; seen++) {{
    arrays.{gradient} = gradient(points);
    const next = point(arrays, hyper, t);
    const moved = distance(next, points);
    const near = Math.max(hyper.tolerance, {step} * Number.EPSILON) * distance(next, arrays.{parameter});
    points = next;
    if (moved <= near + {rounding} * Number.EPSILON * distance(next)) {{
      return;
    }}
    since = moved < best ? 0 : since + 1;
    best = Math.min(best, moved);
    if (!(moved < Infinity) || since >= {patience} || seen >= hyper.max_eval) {{
      throw new Error("the point where the step ends was not found: lower lr, or raise beta or max_eval");
    }}
  }}
}}
"""


def javascript_file(subject: Subject) -> str:
    """Return the file of a subject in JavaScript: one formula, in float64, computed as the interpreter does."""
    kernels = _kernels(subject)
    graph = replace(kernels.formula.graph, gauges=())
    own = _dialect(replace(graph, evaluate_at=None), subject)
    functions = [_told(own, graph), own.function("step"), *_points(graph, subject)]
    start = _start(graph, _inits(kernels, subject))
    texts = [_names(graph), _hypers(_values(kernels, subject))]
    bodies = [start, *functions]
    public = ["defaults", "hypers", "names", *(["point"] if graph.evaluate_at is not None else []), "start", "step"]
    public[-2:-2] = ["solve"] if graph.implicit else []
    texts += [*called("\n".join(bodies)), start, functions[0] + functions[1], *functions[2:]]
    return _headed("\n".join([*texts, f"export {{ {', '.join(public)} }};\n"]), subject, _notes(graph))


def _headed(text: str, subject: Subject, notes: list[str]) -> str:
    """Return a file with its header, whose formulas have unbroken lines where the file is too long otherwise."""
    files = [f"{_quoted(header(subject, notes=notes, whole=whole))}\n{text}" for whole in (False, True)]
    lines = [file.count("\n") for file in files]
    if min(lines) > LONGEST:
        _refuse(f"the file has {min(lines)} lines, and {LONGEST} are allowed", subject, "export a part of the chain")
    return files[lines[0] > LONGEST]


def _refuse(why: str, subject: Subject, fix: str = _FIX) -> NoReturn:
    raise BackendError(f"{subject.name} cannot be written in JavaScript: {why}", where=f"  {subject.command}", fix=fix)


def _kernels(subject: Subject) -> Kernels:
    """Return what runs in all groups, which must be one formula with the same numbers."""
    groups, options = subject.optimizer.param_groups, subject.options
    found: list[Kernels] = [subject.optimizer._choose(group) for group in groups]  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if len(subject.formulas) > 1 or found[0].others:
        _refuse("it has several rules", subject, "export each rule alone")
    if any([read(group) for read in found[0].readers] != [read(groups[0]) for read in found[0].readers]
           for group in groups[1:]):  # fmt: skip
        _refuse("its groups have numbers of their own", subject, "export its rule")
    if options.state is not None or options.rounding != "nearest":
        _refuse("all is float64 there, and nothing has few bits", subject, "leave out state and rounding")
    return found[0]


def _dialect(graph: Graph, subject: Subject) -> JavaScript:
    """Return the dialect of a graph as it is written."""
    program = lowered(schedule(graph, literal=True), "float64")
    if lacks := JavaScript.lacks(program):
        _refuse(lacks, subject)
    return JavaScript(program, subject.options.seed)


def _points(graph: Graph, subject: Subject) -> Iterator[str]:
    """Write the functions that say where the gradient is to be taken, if not at the parameter."""
    if graph.evaluate_at is None:
        return
    ways = twice(graph)
    moved = ways.to_point if ways else to_end(replace(graph, new_parameter=graph.evaluate_at, first=""))
    told = "Return the point where `step` wants its gradient, one Float64Array a tensor; nothing else changes."
    told += f" It is made of the gradient at the parameter itself, `arrays.{graph.first}`." if ways else ""
    told += f" It is where the step of `arrays.{graph.gradient}` ends." if graph.implicit else ""
    yield _comment(told) + _dialect(moved, subject).function("point", moves=True)
    if graph.implicit:
        limits = {"step": STEP_ROUNDINGS, "rounding": ROUNDINGS, "patience": PATIENCE}
        yield _SOLVE.format(gradient=key_of(graph.gradient), parameter=key_of(graph.parameter), **limits)


def _notes(graph: Graph) -> list[str]:
    notes = [_USE]
    if graph.implicit:
        notes.append("The gradient is taken where the step ends: call `solve` before `step`.")
    elif graph.evaluate_at is not None:
        notes.append("The gradient is taken at `point(arrays, hyper, t)`, not at the parameter.")
    return notes


def _comment(text: str) -> str:
    """Write what stands above a function: in one line, or in lines that are not too long."""
    lines = [wrapped for line in text.replace("*/", "* /").splitlines() for wrapped in wrap(line, WIDTH) or [""]]
    one = f"/** {text} */\n"
    return one if len(one) <= WIDTH + 8 else "\n".join(["/**", *(f" * {line}".rstrip() for line in lines), " */", ""])


def _quoted(text: str) -> str:
    lines = text.replace("*/", "* /").splitlines()
    return "\n".join(["/**", *(f" * {line}".rstrip() for line in lines), " */", ""])


def _told(own: JavaScript, graph: Graph) -> str:
    slots = [f"`{slot.name}`" for slot in graph.slots if slot.name != graph.first]
    told = " and the slots " * bool(slots) + ", ".join(slots)
    more = "; `shapes` are those of the tensors, vectors if left out" if own.shaped else ""
    return (
        f"/** Take step t: of the gradients `{graph.gradient}`, update `{graph.parameter}`{told} in place{more}. */\n"
    )


def _names(graph: Graph) -> str:
    own: dict[str, Any] = {"parameter": graph.parameter, "gradient": graph.gradient}
    own |= {"first": graph.first} if graph.first else {}
    own["slots"] = [slot.name for slot in graph.slots if slot.name != graph.first]
    lines = [f"  {key}: {json.dumps(value, ensure_ascii=False)}," for key, value in own.items()]
    return "\n".join(["/** The names of a step's arrays. */", "const names = {", *lines, "};", ""])


def _values(kernels: Kernels, subject: Subject) -> list[Hyper]:
    """List the hyperparameters, with the values that the subject has."""
    group, declared = subject.optimizer.param_groups[0], {item.name: item for item in kernels.formula.graph.hypers}
    read = {item.name: reader for item, reader in zip(kernels.plan.graph.hypers, kernels.readers, strict=True)}
    return [item if item.told else replace(item, value=float(read[name](group))) for name, item in declared.items()]


def _hypers(hypers: Sequence[Hyper]) -> str:
    lines = list[str]()
    for item in hypers:
        ends = {"value": item.value, "low": item.low, "above": item.above, "high": item.high, "below": item.below}
        inner = ", ".join(f"{name}: {number(value)}" for name, value in ends.items() if value is not None)
        lines.append(f"  {key_of(item.name)}: {{ {inner or 'told: true'} }},")
    told = "The hyperparameters: what they are unless said otherwise, from where (or above what) to where (or below)"
    told += "; a step must be told the loss" if any(item.told for item in hypers) else ""
    default = "Object.fromEntries(Object.entries(hypers).map(([name, own]) => [name, own.value]))"
    return _comment(f"{told}.") + "\n".join(["const hypers = {", *lines, "};", f"const defaults = {default};", ""])


def _inits(kernels: Kernels, subject: Subject) -> Mapping[str, float]:
    """Return what slots start from that start from a hyperparameter."""
    group = subject.optimizer.param_groups[0]
    return {name: float(reader(group)) for name, reader in kernels.inits.items()}


def _start(graph: Graph, inits: Mapping[str, float]) -> str:
    slots = [slot for slot in graph.slots if slot.name != graph.first]
    shaped = any(slot.rank in _SIZES for slot in slots)
    shapes = ", { shapes = theta.map((x) => [x.length]) } = {}" if shaped else ""
    lines = [f"    {key_of(slot.name)}: {_begun(slot, inits)}," for slot in slots]
    told = "/** Return the state before the first step: of each slot a list, mostly of one Float64Array a tensor. */"
    body = ["  return {", *lines, "  };"] if lines else ["  return {};"]
    return "\n".join([told, f"function start(theta{shapes}) {{", *body, "}", ""])


def _begun(slot: Slot, inits: Mapping[str, float]) -> str:
    init: Any = inits.get(slot.name, slot.init)
    if init == "theta":
        return "theta.map((x) => Float64Array.from(x))"
    if slot.rank is Rank.GLOBAL:
        return f"[Float64Array.of({number(init)})]"
    if slot.rank <= Rank.TENSOR:
        return f"theta.map(() => Float64Array.of({number(init)}))"
    size = _SIZES.get(slot.rank, "x.length")
    fill = f".fill({number(init)})" if init else ""
    return f"theta.map((x{', k' if slot.rank in _SIZES else ''}) => new Float64Array({size}){fill})"


__all__ = ["javascript_file"]
