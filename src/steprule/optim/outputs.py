"""The layers that give a model's output: as it says itself, or as the order and the sizes of its layers show.

A layer inside a block is followed by others; one at the end, whose numbers no other layer takes, gives the output. What
may be either is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .uses import NORMS, Layer, own_parameters, width

_ASKED = ("get_output_embeddings", "get_classifier")
"""Methods by which models of transformers and of timm tell their output layer, and any other may."""
_LISTS = (nn.ModuleList, nn.ModuleDict)


@dataclass
class Outputs:
    """The layers that give the output, by path, with what shows it; and those of which that is unclear, with why."""

    heads: dict[str, str] = field(default_factory=dict[str, str])
    unclear: dict[str, str] = field(default_factory=dict[str, str])


def outputs(model: nn.Module, found: Sequence[Layer], embeddings: Mapping[int, int], tied: bool) -> Outputs:
    """Find the layers that give the output, of a model with these layers.

    `embeddings` are the widths of embeddings, by their number of rows; `tied` says whether one of them is the output.
    """
    answer = Outputs(dict(_told(model, found)))
    known, root = tied or bool(answer.heads), _unwrapped(model)
    last = found[-1].path if found else ""
    for layer in found:
        if layer.path in answer.heads or _inside(model, layer.path, root):
            continue
        open_to = _taken(model, found, layer) is None
        if embeddings.get(layer.gives) == layer.takes and not known:
            answer.heads[layer.path] = f"it gives a number for each of the {layer.gives} rows of an embedding"
        elif layer.path == last and not known and _ends(model, layer.path, root):
            answer.heads[layer.path] = "it is the last of a Sequential"
        elif layer.path == last and not known and open_to:
            answer.heads[layer.path] = f"it is the last layer, and no other takes its {layer.gives} numbers"
        elif layer.path == last and not known:
            answer.unclear[layer.path] = (
                f"it is the last layer, but `{_taken(model, found, layer)}` takes {layer.gives} numbers as well"
            )
        elif open_to and width(layer.weight) > 1:
            answer.unclear[layer.path] = f"no layer takes its {layer.gives} numbers, but it is not the last"
    return answer


def _told(model: nn.Module, found: Sequence[Layer]) -> Iterator[tuple[str, str]]:
    """Give the layers that the model names by a method, or a model that it wraps."""
    paths = {id(layer.module): layer.path for layer in found}
    for _, module in _wrapped(model):
        for name in _ASKED:
            for named in _modules(module, name):
                inner = [paths[id(one)] for one in named.modules() if id(one) in paths]
                if inner:
                    yield inner[-1], f"{name}() gives it"


def _modules(module: nn.Module, name: str) -> list[nn.Module]:
    """Return the modules that a method gives; none if there is no such method, or it fails."""
    try:
        answer: Any = getattr(module, name)()
    except Exception:  # noqa: BLE001 - it is somebody's code, which may have other ideas of its name
        return []
    every = answer if isinstance(answer, list | tuple) else [answer]
    return [one for one in every if isinstance(one, nn.Module)]  # pyright: ignore[reportUnknownVariableType]


def _wrapped(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Give a model, and while it only wraps one (DDP, a compiled module), that with its path."""
    path = ""
    yield path, model
    while not own_parameters(model) and not isinstance(model, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        children = list(model.named_children())
        if len(children) != 1:
            return
        path, model = f"{path}.{children[0][0]}".lstrip("."), children[0][1]
        yield path, model


def _unwrapped(model: nn.Module) -> str:
    """Return the path of the innermost model that is wrapped."""
    *_, (path, _) = _wrapped(model)
    return path


def _ancestors(model: nn.Module, path: str, root: str) -> list[tuple[nn.Module, str, nn.Module]]:
    """List the modules above a path, up to the root: each with the name and the module of its child on the way."""
    names = path.removeprefix(root).lstrip(".").split(".")
    module, found = model.get_submodule(root), list[tuple[nn.Module, str, nn.Module]]()
    for name in names if path != root else ():
        child = module.get_submodule(name)
        found.append((module, name, child))
        module = child
    return found


def _later(parent: nn.Module, name: str) -> list[nn.Module]:
    """List the children of a module behind one of a name that have parameters."""
    names = [other for other, _ in parent.named_children()]
    own = [parent.get_submodule(other) for other in names[names.index(name) + 1 :]]
    return [child for child in own if any(one.ndim > 1 for one in child.parameters())]


def _inside(model: nn.Module, path: str, root: str) -> bool:
    """Whether a layer is in one of a row of blocks, or in a module that goes on behind it."""
    above = _ancestors(model, path, root)
    for depth, (parent, name, child) in enumerate(above):
        alike = sum(type(other) is type(child) for other in parent.children())
        row = isinstance(parent, nn.ModuleList) or (isinstance(parent, nn.Sequential | nn.ModuleDict) and alike > 1)
        if depth + 1 < len(above) and row:
            return True
        goes_on = not isinstance(parent, _LISTS) and (depth > 0 or isinstance(parent, nn.Sequential))
        if goes_on and _later(parent, name):
            return True
    return False


def _ends(model: nn.Module, path: str, root: str) -> bool:
    """Whether nothing but Sequentials is above a layer."""
    above = _ancestors(model, path, root)
    return bool(above) and all(isinstance(parent, nn.Sequential) for parent, _, _ in above)


def _taken(model: nn.Module, found: Sequence[Layer], layer: Layer) -> str | None:
    """Return the path of a module that takes as many numbers as a layer gives, or several times as many."""
    flattens = not isinstance(layer.module, nn.Linear)
    for other in found:
        times = flattens and isinstance(other.module, nn.Linear) and other.takes % layer.gives == 0
        if other is not layer and (other.takes == layer.gives or times):
            return other.path
    return next((path for path, module in model.named_modules() if layer.gives in _sizes(module)), None)


def _sizes(module: nn.Module) -> list[int]:
    """List the numbers of features that a module takes, if it is none of the layers."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return [module.input_size]
    if isinstance(module, nn.MultiheadAttention):
        return [module.embed_dim, module.kdim, module.vdim]
    return [own.shape[-1] for own in own_parameters(module).values()] if isinstance(module, NORMS) else []
