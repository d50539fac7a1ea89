"""What launches the kernels of a file: tables in which they find tensors and numbers, behind torch's optimiser.

The text is made of templates; what a formula has no use for is left out of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph.graph import LOSS, Hyper
from ..plan.storage import REMAINDER
from ..plan.tables import host_columns
from .expressions import bound
from .host_scalars import host_function
from .triton_kernels import WIDTH
from .triton_parts import Parts, slots_of

_CHECK = '''\
def check(what, tensor, dtype, shape, device):
    """Refuse a tensor that kernels, which are given its address alone, cannot take; nothing has been written yet."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.dtype is not dtype or tensor.shape != shape or tensor.device != device:
        found = f"{type(tensor).__name__}, {tensor.dtype}, {tuple(tensor.shape)}, {tensor.device}"
        raise ValueError(f"{what} is a {found}; this file takes a plain {dtype}, {tuple(shape)}, {device}")
    end = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    if not tensor.is_contiguous() or tensor.is_neg() or tensor.untyped_storage().nbytes() < end:
        raise ValueError(f"{what} does not lie in memory element by element: give a .contiguous() one")'''

_SEND = '''\
def send(table, device):
    """Copy a table to the device when its turn comes; the host does not wait."""
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table'''

_NUMBERS = '''\
def numbers(group):
    """Return a group's hyperparameters; refuse one that is not finite or out of its range."""
{values}
    for value, (name, interval, legal) in zip(map(float, found), LEGAL):
        if not (legal(value) and abs(value) < float("inf")):
            raise ValueError(f"{{name}} is {{value}}; give a finite number in {{interval}}")
    return list(map(float, found))'''

_GROUPS = '''\
    def add_param_group(self, param_group):
        """Add a group, if its numbers are legal."""
        numbers({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict):
        """Load a checkpoint of this class, or of steprule's optimiser for this rule; slots keep their own types."""
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        places = [(p, group) for group in self.param_groups for p in group["params"]]
        for (p, group), key in zip(places, saved):
            group.update({name: value for name, value in self.defaults.items() if name not in group})
            if held := state_dict["state"].get(key):
                fresh = self.fresh(p, group)
                if missing := fresh.keys() - held.keys():
                    raise ValueError(f"the saved state of parameter {key} has no {', '.join(sorted(missing))}")
                self.state[p] = {name: torch.as_tensor(held[name]).to(own, copy=True) for name, own in fresh.items()}'''

_BIND = '''\
    def bind(self, params):
        """Return the tables that stay while tensors do: addresses, and chunks (tensor, first element, elements)."""
        lies = [(p.shape, p.data_ptr(), *(self.state[p][name].data_ptr() for name in SLOTS)) for p in params]
        stream = torch.cuda.current_stream(params[0].device) if params[0].is_cuda else None
        if self.bound is None or self.bound[0] != (stream, lies):
            device, size = params[0].device, torch.tensor([p.numel() for p in params])
            pieces = ((size + CHUNK.value - 1) // CHUNK.value).clamp(min=1)
            tensor = torch.arange(len(params)).repeat_interleave(pieces)
            begin = pieces.cumsum(0) - pieces
            start = (torch.arange(len(tensor)) - begin[tensor]) * CHUNK.value
            chunks = torch.stack([tensor, start, (size[tensor] - start).clamp(max=CHUNK.value)], 1)'''

_STEP = """\
        entries = [(p, group) for group in self.param_groups for p in group["params"]]
        entries = [(p, group) for p, group in entries if p.grad is not None or self.state.get(p)]
        params = [p for p, _ in entries]
        if all(p.grad is None for p in params):
            return
        device = params[0].device
        if device.type != ("cpu" if triton.knobs.runtime.interpret else "cuda"):
            raise ValueError(f"these kernels run on a GPU, and parameters are on {device}")"""


def constants(parts: Parts) -> list[str]:
    """Return the lines of what does not change: sizes, how Triton compiles, ranges of numbers, types of slots."""
    build, real = parts.kernels.build, parts.program.layout.real
    options = ", ".join(f'"{name}": {value}' for name, value in build.options(real).items())
    lines = [
        f"CHUNK = tl.constexpr({build.chunk})  # elements that one program walks over",
        f"BLOCK = tl.constexpr({build.block})  # elements at a time",
        f"OPTIONS = {{{options}}}",
        "LEGAL = [",
        *(
            f'    ("{one.hyper.name}", "{one.hyper.interval()}", lambda x: {_legal(one.hyper)}),'
            for one in parts.numbers
        ),
        "]",
    ]
    forms = {name: form.dtype for name, form in parts.program.layout.slots}
    forms[REMAINDER] = parts.program.layout.parameter.beside
    slots = [f'"{name}": (torch.{forms[name]}, {word == "element"})' for name, word, _ in slots_of(parts)
             if word != "host"]  # fmt: skip
    told = "# Slots in memory: their types, and whether they are as large as a parameter"
    held = [name for name, word, _ in slots_of(parts) if word == "host"]
    lines += fitted("COUNTS = [", [f'"{name}"' for name in held], "]", each=True) if held not in ([], ["step"]) else []
    return [*lines, told, *fitted("SLOTS = {", slots, "}", each=True)]


def _legal(hyper: Hyper) -> str:
    low = f"{bound(hyper.low)} <= " if hyper.low is not None else ""
    low = f"{bound(hyper.above)} < " if hyper.above is not None else low
    high = f" <= {bound(hyper.high)}" if hyper.high is not None else ""
    high = f" < {bound(hyper.below)}" if hyper.below is not None else high
    return f"{low}x{high}" if low or high else "True"


def optimizer_class(parts: Parts) -> list[str]:
    """Return the functions of the host, and the class."""
    plan, hosted = parts.program.plan, parts.kernels.hosted
    new, found = plan.host_writes, list[str]()
    if hosted or new:
        found = ["\n".join(host_function(hosted, new, parts.kernels.hypers, host_columns(plan)))]
    values = "\n".join(fitted("    found = [", [one.read for one in parts.numbers], "]", each=True))
    return [*found, _CHECK, _SEND, _NUMBERS.format(values=values), _class(parts)]


def _class(parts: Parts) -> str:
    """Return the class."""
    given = ["self", "params", *(f"{name}={value!r}" for name, value in parts.defaults.items())]
    defaults = [f'"{name}": {name}' for name in parts.defaults]
    methods = [
        "    bound = None",
        "\n".join([
            *fitted("    def __init__(", given, "):"),
            *_passed(defaults),
        ]),
        _GROUPS,
        "\n".join(_fresh(parts)),
        "\n".join([_BIND, *_bound(parts)]),
        "\n".join(_step(parts)),
        "\n".join(_update(parts)),
    ]  # fmt: skip
    head = f"class {parts.subject.name}(torch.optim.Optimizer):"
    title = '    """Launch the kernels; groups, closures, schedulers and checkpoints are torch\'s."""'
    return f"{head}\n{title}\n\n" + "\n\n".join(methods)


def _passed(defaults: Sequence[str]) -> list[str]:
    """Return the lines that give torch the defaults."""
    line = f"        super().__init__(params, {{{', '.join(defaults)}}})"
    several = [*fitted("        defaults = {", defaults, "}", each=True), "        super().__init__(params, defaults)"]
    return [line] if len(line) <= WIDTH else several


def fitted(head: str, items: Sequence[str], tail: str, *, each: bool = False) -> list[str]:
    """Return items between brackets in one line if they fit, else in a line of their own, or each in one."""
    line, indent = f"{head}{', '.join(items)}{tail}", " " * (len(head) - len(head.lstrip()))
    if len(line) <= WIDTH:
        return [line]
    if each or len(indent) + 4 + len(", ".join(items)) > WIDTH:
        return [head, *(f"{indent}    {item}," for item in items), indent + tail]
    return [head, f"{indent}    {', '.join(items)}", indent + tail]


def _fresh(parts: Parts) -> list[str]:
    """Write what a state is made of."""
    slots = slots_of(parts)
    lines = ["    def fresh(self, p, group):", '        """Return the state of a parameter before its first step."""']
    if not slots:
        return [*lines, "        return {}"]
    return [*lines, "        return {", *(f'            "{name}": {made},' for name, _, made in slots), "        }"]


_STAY = {
    "addresses": "torch.tensor([own[1:] for own in lies]).to(device)",
    "chunks": "chunks.to(device)",
    "partial": "torch.empty(len(chunks), {width}, dtype=torch.float64, device=device)",
    "reduced": "torch.empty(len(params), {width}, dtype=torch.float64, device=device)",
    "total": "torch.empty({width}, dtype=torch.float64, device=device)",
}
"""The tables that stay, and how they are made."""
_OF_TENSORS = {"chunk": "begin", "chunks": "pieces", "position": "place"}
"""The columns of the table of tensors whose names in `bind` are others."""


def _staying(parts: Parts) -> list[str]:
    return [name for name in (*_STAY, "tensors") if name in parts.kernels.given]


def _bound(parts: Parts) -> list[str]:
    """Write how the tables that stay are made and kept."""
    columns, width, indent = parts.kernels.columns, len(parts.program.plan.reductions), " " * 12
    lines: list[str] = []
    if "position" in columns:
        lines.append(f'{indent}everything = [id(p) for group in self.param_groups for p in group["params"]]')
        lines.append(f"{indent}place = torch.tensor([everything.index(id(p)) for p in params])")
    if {"rows", "columns"} & set(columns):
        lines.append(f"{indent}rows = torch.tensor([p.shape[:1].numel() for p in params])")
        lines.append(f"{indent}columns = torch.tensor([p.shape[1:].numel() for p in params])")
    lines += [f"{indent}made = {{"]
    lines += [f'{indent}    "{name}": {_STAY[name].format(width=width)},' for name in _staying(parts) if name in _STAY]
    if columns:
        lines += fitted(
            f'{indent}    "tensors": torch.stack([',
            [_OF_TENSORS.get(name, name) for name in columns],
            "], 1).to(device),",
        )
    counts = {"chunk_count": "len(chunks)", "tensor_count": "len(params)"}
    lines += [f'{indent}    "{name}": {made},' for name, made in counts.items() if name in parts.kernels.given]
    return [*lines, f"{indent}}}", f"{indent}self.bound = (stream, lies), made", "        return self.bound[1]"]


def _step(parts: Parts) -> list[str]:
    """Write `step`."""
    uses = parts.graph.uses_loss
    told = "    def step(self, closure=None, *, loss=None):" if uses else "    def step(self, closure=None):"
    lines = [
        "    @torch.no_grad()",
        told,
        '        """Step every parameter that has a gradient; return the closure\'s value."""',
        "        with torch.enable_grad():",
        "            value = None if closure is None else closure()",
    ]
    if uses:
        lines += [
            "        loss = value if loss is None else loss",
            "        if loss is None:",
            '            raise ValueError("the rule needs the loss: give a closure that returns it, or loss=...")',
        ]
    given = "float(loss)" if uses else ""
    return [*lines, '        with torch.device("cpu"):', f"            self.update({given})", "        return value"]


def _update(parts: Parts) -> list[str]:
    """Write what a step does."""
    graph, kernels = parts.graph, parts.kernels
    dtype = f"torch.{parts.program.layout.parameter.dtype}"
    held = ["step" if name == "t" else name for name in host_columns(parts.program.plan)]
    shared, rows = [slot.name for slot in graph.global_slots], "[numbers(group) for _, group in entries]"
    lines = [
        f"    def update(self{', loss' * graph.uses_loss}):",
        '        """Check all tensors, tell the kernels where they are, launch them, and count."""',
        *_STEP.split("\n"),
        "        for p in params:",
        f'            check("a parameter", p, {dtype}, p.shape, device)',
        "            if p.grad is not None:",
        f'                check("a gradient", p.grad, {dtype}, p.shape, device)',
    ]
    if graph.uses_loss:
        at = kernels.hypers.index(LOSS.name)
        rows = f"[[*row[:{at}], loss, *row[{at}:]] for row in rows]"
        lines += ["        rows = [numbers(group) for _, group in entries]"]
    lines.append(f"        hyper = torch.tensor({rows}, dtype=torch.float64)")
    if shared:
        lines.append("        old = next((self.state[p] for p in params if self.state.get(p)), None)")
    lines += ["        for p, group in entries:",
              "            self.state[p] = self.state.get(p) or self.fresh(p, group)"]  # fmt: skip
    lines += [f'            self.state[p]["{name}"] = (old or self.state[params[0]])["{name}"]  # one for all tensors'
              for name in shared]  # fmt: skip
    if _staying(parts) and slots_of(parts):
        given = "self.state[p][name], dtype, p.shape if whole else (), device"
        lines += ["            for name, (dtype, whole) in SLOTS.items():",
                  f'                check(f"the slot {{name}}", {given})']  # fmt: skip
    return [*lines, *_launch(parts, held)]


def _launch(parts: Parts, held: Sequence[str]) -> list[str]:
    """Write how this step's tables are made, the launches, and what is counted after them."""
    kernels, new = parts.kernels, bool(parts.program.plan.host_writes)
    pointers = "[0 if p.grad is None else p.grad.data_ptr() or 1 for p in params]"
    lines = [f"        gradients = send(torch.tensor({pointers}), device)"]
    asked = bool(kernels.hosted or new)
    if held == ["step"] and asked:
        counted = '[float(self.state[p]["step"]) + 1 for p in params]'
        lines.append(f"        t = torch.tensor({counted}, dtype=torch.float64)")
    elif held and asked:
        lines += ["        counts = [[float(self.state[p][name]) for name in COUNTS] for p in params]",
                  "        counts = torch.tensor(counts, dtype=torch.float64)"]  # fmt: skip
        lines += ["        counts[:, 0] += 1"] if held[0] == "step" else []
    if asked:
        told = ", ".join(["hyper", *(["t"] if held == ["step"] else ["counts"] * bool(held))])
        found = ", ".join(["host"] * bool(kernels.hosted) + ["new"] * new)
        lines.append(f"        {found} = host_scalars({told})")
    sent = [f'"{name}": send({name}, device)' for name in ("hyper", "host") if name in kernels.given]
    sizes = {"chunks": '(len(tables["chunks"]),)', "tensors": "(len(params),)", "": "(1,)"}
    given = ["**self.bind(params)", '"gradients": gradients', *sent]
    lines += fitted("        tables = {", given, "}", each=True)
    lines += ["        with torch.cuda.device_of(params[0]):"]
    lines += [f"            {name}[{sizes[each]}](**tables, **OPTIONS)" for name, each in kernels.launches]
    if new:
        lines += ["        for p, row in zip(params, new.tolist()):", "            if p.grad is not None:",
                  "                for name, value in zip(COUNTS, row):",
                  "                    self.state[p][name].fill_(value)"]  # fmt: skip
    elif "step" in held:
        lines += ["        for p in params:", "            if p.grad is not None:",
                  '                self.state[p]["step"] += 1']  # fmt: skip
    return lines
