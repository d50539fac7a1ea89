"""The class of an exported torch file: arguments, checks, state, and the step that updates every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..graph.graph import Hyper, Slot
from ..graph.node import Rank
from ..optim.compiled import Kernels
from ..plan.storage import asked
from .expressions import bound
from .torch_methods import BOUND, SINGLE, UNIT, FileRule
from .torch_points import pointed
from .torch_text import ADD, ADD_BRIEF, BRIEF, CLOSURE, INIT, LOAD, LOOK, SHARED, STATE, STEP
from .torch_update import Function

NEEDED = object()
"""The default of an argument that must be given."""
LONG = 110
"""How long a line of the class may be."""


def class_text(
    name: str, methods: Sequence[FileRule], functions: Mapping[str, Function], *, brief: bool = False
) -> str:
    """Return the class: its constructor, checks, step, checkpoints and state; a brief one looks at no checkpoint."""
    given = arguments(methods)
    several, asks = len(methods) > 1, any(function.asks and not function.moves for function in functions.values())
    shared = [slot.name for method in methods for slot in method.slots if slot.rank is Rank.GLOBAL]
    parts = [
        _init(name, methods, given),
        *([added] if (added := _add(methods, several=several, brief=brief)) else []),
        *_steps(methods, functions, asks=asks),
        _load(methods, shared, brief=brief),
        _state(methods),
        *([SHARED] if shared else []),
    ]
    text = "\n".join(parts)
    return text.replace(LOOK, "") if brief else text


def _init(name: str, methods: Sequence[FileRule], given: dict[str, object]) -> str:
    rules = [method.name for method in methods] if len(methods) > 1 else ["params"]
    told = [*rules, *(own if value is NEEDED else f"{own}={spelled(value)}" for own, value in given.items())]
    line = f"self, {', '.join(told)}"
    if len(line) > 90:
        line = "\n" + "".join(f"        {one},\n" for one in ("self", *told)) + "    "
    if len(methods) == 1:
        body = _dict("defaults", defaults(methods[0], given)) + "\n        super().__init__(params, defaults)"
        taken = "parameters or groups, as torch's optimisers do"
    else:
        body = "        self.rules = {\n"
        for method in methods:
            entries = defaults(method, given)
            row = f'            "{method.rule}": {{{", ".join(entries)}}},\n'
            inner = "".join(f"                {one},\n" for one in entries)
            body += row if len(row) < LONG else f'            "{method.rule}": {{\n{inner}            }},\n'
        groups = ", ".join(f'("{method.rule}", {method.name})' for method in methods)
        body += "        }\n"
        body += f'        groups = [{{"params": list(own), "rule": rule}} for rule, own in ({groups})]\n'
        body += '        super().__init__([group for group in groups if group["params"]], {})'
        taken = "the parameters of each rule"
    one = "; ".join(dict.fromkeys(method.kernels.formula.name for method in methods))
    if "super" in given:
        body = body.replace("super().__init__(", "torch.optim.Optimizer.__init__(self, ")
    return INIT.format(
        name=name, told=f"Run {one}, whose formula stands above.", arguments=line, taken=taken, body=body
    )


def _dict(name: str, entries: Sequence[str]) -> str:
    """Spell a dict, in one line if it fits."""
    line = f"        {name} = {{{', '.join(entries)}}}"
    if len(line) <= LONG:
        return line
    return f"        {name} = {{\n" + "".join(f"            {one},\n" for one in entries) + "        }"


def _add(methods: Sequence[FileRule], *, several: bool, brief: bool) -> str:
    if not several:
        if not (own := checks(methods[0])):
            return ""
        filled = "{**self.defaults, **param_group}"
        start = f"        group = {filled}" if brief else f"        self._look({filled})"
        return (ADD_BRIEF if brief else ADD).format(defaults=start, checks="\n".join(f"        {line}" for line in own))
    common = [line for line in checks(methods[0]) if all(line in checks(method) for method in methods)]
    lines = [f"        {line}" for line in common]
    for method in methods:
        own = [f"            {line}" for line in checks(method) if line not in common]
        lines += [f'        if group["rule"] == "{method.rule}":', *own] if own else []
    if brief:
        return ADD_BRIEF.format(defaults=_OF_RULES.format("param_group = group"), checks="\n".join(lines))
    start = _OF_RULES.format("param_group") + "\n        self._look(param_group)"
    return ADD.format(defaults=start, checks="\n".join(lines) or "        pass")


_OF_RULES = """\
        if param_group.get("rule") not in self.rules:
            raise ValueError(f'a group must say its "rule": one of {{", ".join(self.rules)}}')
        {} = {{**self.rules[param_group["rule"]], **param_group}}"""


def _called(method: FileRule) -> str:
    """Name the update of a tensor of a rule."""
    flat = method.names.get("flat", f"{method.name}_flat")
    return f"{flat} if p.dim() < 2 else {method.name}" if method.flat is not None else method.name


def _steps(methods: Sequence[FileRule], functions: Mapping[str, Function], *, asks: bool) -> list[str]:
    """Return the step; of a rule whose gradient is taken elsewhere, also the update with gradients that are there."""
    own = next((text for method in methods if (text := pointed(method))), "")
    if not own:
        return [_step(methods, functions, asks=asks)]
    (method,) = methods
    plain = _step(methods, functions, asks=asks).partition('"""\n')[2].replace(f"{method.name}(p,", "update(p,")
    body = plain.replace("        loss = None\n" + CLOSURE + "\n", "").replace("        return loss\n", "")
    return [own, f'    def _update(self, update):\n        """Update every parameter that has a gradient."""\n{body}']


def _step(methods: Sequence[FileRule], functions: Mapping[str, Function], *, asks: bool) -> str:
    loss = any(method.graph.uses_loss for method in methods)
    placed = any(", place" in function.text.partition("\n")[0] for function in functions.values())
    extra = ["place"] * placed + ["float(loss)"] * loss
    names = [_called(method) for method in methods]
    looks = any(map(checks, methods)) or len(methods) > 1
    update, lines = names[0], ["for group in self.param_groups:", "    self._look(group)"] * looks
    lines += ["updates = []"] * asks + ["place = -1"] * placed + ["for group in self.param_groups:"]
    lines += ['    for p in group["params"]:', *["        place += 1"] * placed, "        if p.grad is not None:"]
    lines += ["            refuse(p)"]
    if len(methods) > 1 or methods[0].flat is not None:
        rules = ", ".join(f'"{method.rule}": {name}' for method, name in zip(methods, names, strict=True))
        chosen = update if len(methods) == 1 else "{" + rules + '}[group["rule"]]'
        lines.append(f"            update = {chosen}")
        update = "update"
    call = f"{update}({', '.join(['p', 'p.grad', 'self._state(p, group)', 'group', *extra])})"
    lines += [f"            {'updates.append(' + call + ')' if asks else call}"]
    lines += [f"together(updates, {', '.join(_answers(methods))})"] * asks
    return STEP.format(loss=", loss=None" if loss else "", closure=("" if loss else "        loss = None\n") + CLOSURE,
                       update="\n".join(f"        {line}" for line in lines))  # fmt: skip


def _answers(methods: Sequence[FileRule]) -> list[str]:
    """Name the functions that answer what updates ask for."""
    kinds = {node.kind for method in methods for kernels in (method.kernels, method.flat) if kernels is not None
             for node in kernels.plan.graph.nodes}  # fmt: skip
    totals = "global" in kinds or any(method.graph.global_slots for method in methods)
    return ["called"] * ("matrix" in kinds) + ["totals"] * (totals or "matrix" not in kinds)


def _load(methods: Sequence[FileRule], shared: Sequence[str], *, brief: bool) -> str:
    hosts = dict.fromkeys(["step", *(s.name for method in methods for s in method.slots if s.rank is Rank.HOST)])
    fill = ["for group in self.param_groups:", "    group.update({**self.defaults, **group})"]
    more, filled = list[str](), fill * (len(methods) < 2)
    for name in shared:
        more += ["for own in self.state.values():", f'    if "{name}" in own:',
                 f'        own["{name}"] = self._shared("{name}", 0.0)']  # fmt: skip
    told = "".join(f"        {line}\n" for line in more)
    given = "".join(f"        {line}\n" for line in filled)
    text = f"{LOAD.partition('        keys =')[0]}{BRIEF}" if brief else LOAD
    return text.format(host="{" + ", ".join(f'"{name}"' for name in hosts) + "}", fill=given, more=told)


def _state(methods: Sequence[FileRule]) -> str:
    rows = _rows(methods)
    common = [own[0] for own in zip(*(entries for *_, entries in rows), strict=False) if len(set(own)) == 1]
    while any(entries[: len(common)] != common for *_, entries in rows):
        common.pop()
    bounded = [(tests, first) for tests, first, _ in rows if first]
    everywhere = len(methods) == 1 and len(bounded) == len(rows)
    lines = bounded[0][1] if everywhere else _chosen(bounded)
    lines += _begin(common)
    lines += _chosen([(tests, _begin(entries[len(common) :])) for tests, _, entries in rows])
    return STATE.format(begun="\n".join(f"            {line}" for line in lines or ["pass"]))


def _rows(methods: Sequence[FileRule]) -> list[tuple[list[str], list[str], list[str]]]:
    """List the kinds of parameters: the tests that tell them, what refuses some, and what their state begins as."""
    rows: list[tuple[list[str], list[str], list[str]]] = []
    for method in methods:
        of_rule = [f'group["rule"] == "{method.rule}"'] if len(methods) > 1 else []
        for kernels, test in ((method.flat, "p.dim() < 2"), (method.kernels, "p.dim() >= 2")):
            if kernels is not None:
                tests = [*of_rule, *([test] if method.flat is not None else [])]
                bounded = method.bounded == "all" or (method.bounded == "matrices" and kernels is method.kernels)
                first = [f'short(p, group["{BOUND}"])'] * bounded
                inits = {slot: f'float(group["{key}"])' for slot, key in method.inits.items()}
                rows.append((tests, first, beginnings(kernels, inits)))
    return rows


def _chosen(rows: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[str]:
    """Do one of several things, that whose tests hold."""
    lines: list[str] = []
    for tests, own in rows:
        head = [f"{'elif' if lines else 'if'} {' and '.join(tests)}:"] if tests else []
        lines += [*head, *(f"{'    ' * bool(head)}{line}" for line in own)] if own else []
    return lines


def _begin(entries: Sequence[str]) -> list[str]:
    """Begin slots."""
    return ["self.state[p] |= {", *(f"    {one}," for one in entries), "}"] if entries else []


def arguments(methods: Sequence[FileRule]) -> dict[str, object]:
    """Return the arguments of the constructor, with their defaults; equal ones of several rules are one."""
    found: dict[str, object] = {}
    for method in methods:
        for key in method.keys:
            value = method.group.get(key, _declared(method, key))
            name = key if key not in found or found[key] == value else f"{method.rule}_{key}"
            found[name] = value
    needed = {key for method in methods for key in method.keys if key not in method.group and found[key] is None}
    return dict(sorted(((name, NEEDED if name in needed else value) for name, value in found.items()),
                       key=lambda item: item[1] is not NEEDED))  # fmt: skip


def _declared(method: FileRule, key: str) -> object:
    own = next((hyper for hyper in method.hypers if hyper.name == key), None)
    return None if own is None else own.value


def defaults(method: FileRule, given: dict[str, object]) -> list[str]:
    """List the entries of a rule's groups, from the constructor's arguments."""
    found: list[str] = []
    for key in method.keys:
        value = method.group.get(key, _declared(method, key))
        name = key if given[key] in (value, NEEDED) else f"{method.rule}_{key}"
        found.append(f'"{key}": {name}')
    return found


def spelled(value: object) -> str:
    """Spell a default."""
    if isinstance(value, tuple):
        return f"({', '.join(map(spelled, value))})"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return repr(value)


def checks(method: FileRule) -> list[str]:
    """List the lines that refuse numbers out of their declared ranges."""
    read = {name: text.replace(UNIT, repr(SINGLE)) for name, text in method.reading.items()}  # parameters come later
    told = [[f'"{own.name}"', read[own.name], *_interval(own)] for own in method.hypers]
    return [f"check({', '.join(words)})" for words in told]


def _interval(hyper: Hyper) -> list[str]:
    ends = {"low": hyper.low, "high": hyper.high, "above": hyper.above, "below": hyper.below}
    return [f"{name}={bound(end)}" for name, end in ends.items() if end is not None]


def beginnings(kernels: Kernels, inits: dict[str, str]) -> list[str]:
    """List the entries of the state of a new parameter, as text."""
    graph, host = kernels.plan.graph, str(kernels.host_dtype)
    found = [f'"step": torch.zeros((), dtype={host})'] if graph.uses_step else []
    return found + [f'"{slot.name}": {_begun(kernels, slot, inits.get(slot.name, ""), host)}' for slot in graph.slots]


def _begun(kernels: Kernels, slot: Slot, init: str, host: str) -> str:
    """Spell what a slot begins as."""
    wish = asked(kernels.options.state, slot)
    dtype = "working(p).dtype" if slot.single or wish == "float32" else f"torch.{wish}" if wish else ""
    if slot.rank is Rank.GLOBAL:
        return f'self._shared("{slot.name}", {init or spelled(slot.init)})'
    if slot.init == "theta":
        return f"p.detach().clone().to({dtype})" if dtype else "p.detach().clone()"
    if slot.init == "identity":
        side = "max(p.shape[:1], default=1)" if slot.rank is Rank.LEFT else "p[:1].numel()"
        return f"torch.eye({side}, dtype={dtype}, device=p.device)"
    value = init or spelled(slot.init)
    if slot.rank is Rank.HOST:
        return f"torch.full((), {value}, dtype={host})" if value != "0.0" else f"torch.zeros((), dtype={host})"
    own = f", dtype={dtype}" if dtype else ""
    if slot.rank is Rank.ELEMENT:
        return f"torch.zeros_like(p{own})" if value == "0.0" else f"torch.full_like(p, {value}{own})"
    shape = _SHAPES[slot.rank]
    return f"p.new_zeros({shape}{own})" if value == "0.0" else f"p.new_full({shape}, {value}{own})"


_SHAPES = {
    Rank.TENSOR: "()",
    Rank.ROW: "p.shape[:1] + (1,) * (p.dim() - 1)",
    Rank.COLUMN: "(1,) * min(p.dim(), 1) + p.shape[1:]",
    Rank.LEFT: "2 * p.shape[:1]",
    Rank.RIGHT: "2 * (p[:1].numel(),)",
    Rank.TRANSPOSED: "(p[:1].numel(), *p.shape[:1])",
}
"""The shapes of slots smaller than the parameter, or of other sides."""


__all__ = ["class_text"]
