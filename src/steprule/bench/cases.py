"""The table of suites: which rules, on which shapes, behind which clipping, in how many threads, beside which peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from steprule.bench.arms import (
    ARMS,
    COMPILERS,
    COPY,
    FOREACH,
    FUSED,
    LOOP,
    ON_GPU,
    ON_HALF,
    OPTAX,
    OURS,
    ROOFLINE,
    SCALED,
)
from steprule.bench.models import MODELS
from steprule.bench.precision import BFLOAT16, FLOAT16, FLOAT32, Precision
from steprule.bench.rules import GLOBAL_NORM, NO_CLIP, RULES, TENSOR_NORM, VALUE
from steprule.bench.workloads import Workload, gpt2, many, millions, perceptron, resnet18

ONE, ALL, GPU = "one", "all", "gpu"
SAME, FRESH, SWAPPED, BACKWARD = "same", "fresh", "swapped", "backward"
GRADIENTS = {
    SAME: "gradients stay the same tensors; before a round, new values are copied into them",
    FRESH: "before each step p.grad becomes another tensor, the next of eight sets made beforehand",
    SWAPPED: "two sets of gradients, of which each round has the other; nothing is copied",
    BACKWARD: "a backward pass makes them, within the time that is measured, after zero_grad(set_to_none=True)",
}
"""Where gradients come from. All but the last is done outside the time that is measured, for all arms alike."""


@dataclass(frozen=True)
class Case:
    """One measurement: its workload, threads, gradients, seconds and arms."""

    suite: str
    rule: str
    clip: str
    workload: Workload
    threads: str
    gradients: str
    arms: tuple[str, ...]
    seconds: float
    model: str = ""
    precision: Precision = FLOAT32

    @property
    def name(self) -> str:
        """The case in one line."""
        clip = "" if self.clip == NO_CLIP else f" + clip {self.clip}"
        threads = {ONE: "one thread", ALL: "all threads", GPU: "on the GPU"}[self.threads]
        gradients = f", {self.gradients} gradients" if self.gradients in {SAME, FRESH} else ""
        precision = "" if self.precision == FLOAT32 else f"{self.precision.name} "
        return f"{precision}{self.rule}{clip}, {self.workload.name}, {threads}{gradients}"

    @property
    def device(self) -> str:
        """Where the tensors are, as torch calls it."""
        return DEVICES[self.threads]


DEVICES = {ONE: "cpu", ALL: "cpu", GPU: "cuda"}


@dataclass(frozen=True)
class Scale:
    """How large the cases are and how long each may take; `seconds` is for small cases and large ones.

    A `brief` run leaves out what differs least: one thread, gradients that stay, most rules behind most clippings.
    """

    language_model: Workload
    flat: Workload
    list: Workload
    network: Workload
    many: tuple[int, ...]
    most: int
    seconds: tuple[float, float]
    child_parameters: int
    repeats: int
    brief: bool = False
    launched: tuple[tuple[int, int], ...] = ((60, 16_667), (1000, 4096))
    """On a GPU, how many tensors of which size show what launching costs."""
    ranked: bool = False
    """Whether a run has a budget of time: its cases are those of `ranked`, the most important first."""


def _gpt2(layers: int, width: int, vocabulary: int) -> Workload:
    shapes = gpt2(layers, width, vocabulary)
    return Workload(f"GPT-2 {millions(Workload('', shapes).parameters)}", shapes, memory_bound=True)


def _flat(size: int) -> Workload:
    return Workload(f"flat {millions(size)}", ((size,),), memory_bound=True)


LIST = Workload("list 71M", ((2048, 2048),) * 17, memory_bound=True)
LORA = Workload("LoRA 64 x 8 x 512", ((8, 512),) * 64)

FULL = Scale(
    language_model=_gpt2(12, 768, 50_257),
    flat=_flat(100_000_000),
    list=LIST,
    network=Workload("ResNet-18", resnet18(), memory_bound=True),
    many=(6, 60, 1000),
    most=4096,
    seconds=(1.0, 4.0),
    child_parameters=50_000_000,
    repeats=5,
)
QUICK = Scale(
    language_model=_gpt2(2, 768, 5_000),
    flat=_flat(10_000_000),
    list=Workload("list 7.1M", ((648, 648),) * 17, memory_bound=True),
    network=Workload("ResNet-18", resnet18(10), memory_bound=True),
    many=(6, 60, 1000),
    most=4096,
    seconds=(0.15, 0.5),
    child_parameters=5_000_000,
    repeats=2,
    brief=True,
)

RANKED = replace(
    FULL, many=(6, 60, 1000), seconds=(0.4, 0.8), launched=((1000, 4096), (60, 4096)), brief=True, ranked=True
)
"""The scale `gpu`: one rented GPU for a few minutes."""


def tiny(scale: Scale) -> Scale:
    """Return a scale with its cases, on shapes that take milliseconds."""
    return replace(
        scale,
        language_model=Workload(f"{scale.language_model.name} tiny", gpt2(1, 8, 40, 16), memory_bound=True),
        flat=Workload(f"{scale.flat.name} tiny", ((100_000,),), memory_bound=True),
        list=Workload(f"{scale.list.name} tiny", ((100, 250),) * 4, memory_bound=True),
        network=Workload(f"{scale.network.name} tiny", tuple(shape[:1] for shape in resnet18(10)), memory_bound=True),
        many=(2, 3, 5),
        most=128,
        launched=((4, 80), (3, 70)),
        seconds=(0.01, 0.01),
        child_parameters=800_000,
        repeats=1,
    )


EVERY = ARMS
OF_TORCH = (OURS, LOOP, FOREACH, FUSED, SCALED, ROOFLINE)
WITH_OPTAX = (OURS, LOOP, FOREACH, FUSED, SCALED, OPTAX, ROOFLINE)


def _threads(scale: Scale) -> tuple[str, ...]:
    return (ALL,) if scale.brief else (ONE, ALL)


def small(scale: Scale) -> Iterator[Case]:
    """Clipped AdamW on few numbers: the cost of a step besides its arithmetic."""
    counted = [many(count, 64) for count in scale.many]
    network = Workload("MLP 784-256-256-10", perceptron(784, 256, 256, 10))
    variants = [(ALL, FRESH)] if scale.brief else [(ONE, SAME), (ONE, FRESH), (ALL, SAME), (ALL, FRESH)]
    for workload in (network, *counted, many(60, scale.most)):
        for threads, gradients in variants:
            arms = (EVERY if workload in counted else WITH_OPTAX) if (threads, gradients) == variants[-1] else OF_TORCH
            yield Case("small", "AdamW", GLOBAL_NORM, workload, threads, gradients, arms, scale.seconds[0])
        for rule, clip in (("AdamW", NO_CLIP), ("SGD", GLOBAL_NORM), ("momentum", NO_CLIP)):
            yield Case("small", rule, clip, workload, ALL, FRESH, OF_TORCH, scale.seconds[0])


def large(scale: Scale) -> Iterator[Case]:
    """AdamW on a language model, clipped and not, and on one flat tensor: the limit of memory."""
    for workload, clip, threads in (
        (scale.language_model, GLOBAL_NORM, ALL),
        (scale.language_model, NO_CLIP, ALL),
        (scale.language_model, GLOBAL_NORM, ONE),
        (scale.flat, GLOBAL_NORM, ALL),
    ):
        yield Case("large", "AdamW", clip, workload, threads, SWAPPED, WITH_OPTAX, scale.seconds[1])


def resnet(scale: Scale) -> Iterator[Case]:
    """The usual optimisers of an image network, at its size."""
    for rule, clip in (("AdamW", GLOBAL_NORM), ("momentum", NO_CLIP), ("momentum", GLOBAL_NORM)):
        for threads in _threads(scale):
            yield Case("resnet", rule, clip, scale.network, threads, SWAPPED, WITH_OPTAX, scale.seconds[0])


def rules(scale: Scale) -> Iterator[Case]:
    """Every rule on the language model, without clipping and behind a global norm."""
    for rule in RULES:
        for clip in (NO_CLIP, GLOBAL_NORM):
            if rule != "AdamW":  # that is the suite `large`
                arms = OF_TORCH if RULES[rule].torch else (OURS, OPTAX, ROOFLINE)
                yield Case("rules", rule, clip, scale.language_model, ALL, SWAPPED, arms, scale.seconds[1])


def clipping(scale: Scale) -> Iterator[Case]:
    """Every rule behind every clipping, on an image network."""
    for rule in ("SGD", "AdamW", "Lion") if scale.brief else RULES:
        for clip in (GLOBAL_NORM, TENSOR_NORM, VALUE):
            arms = OF_TORCH if RULES[rule].torch else (OURS, OPTAX, ROOFLINE)
            yield Case("clipping", rule, clip, scale.network, ALL, SWAPPED, arms, scale.seconds[0])


def half(scale: Scale) -> Iterator[Case]:
    """AdamW on bfloat16 and float16 parameters: each way that we keep them, and torch's, which is also float32."""
    shapes = (scale.list, scale.network, many(6, 64), many(60, scale.most), LORA)
    for precision, workload in product((BFLOAT16, FLOAT16), shapes):
        gradients, seconds = (SWAPPED, scale.seconds[1]) if workload.memory_bound else (FRESH, scale.seconds[0])
        for clip, threads in product((GLOBAL_NORM,) if scale.brief else (GLOBAL_NORM, NO_CLIP), _threads(scale)):
            yield Case("half", "AdamW", clip, workload, threads, gradients, ON_HALF, seconds, precision=precision)


def training(scale: Scale) -> Iterator[Case]:
    """Whole training steps: forward, backward, clipping, update."""
    arms = (OURS, LOOP, FOREACH, FUSED, SCALED)
    for name, model in MODELS.items():
        workload = Workload(name, model.shapes())
        for threads in _threads(scale):
            yield Case("training", model.rule, GLOBAL_NORM, workload, threads, BACKWARD, arms, scale.seconds[0], name)


SUITES: dict[str, Callable[[Scale], Iterator[Case]]] = {
    "large": large,
    "rules": rules,
    "resnet": resnet,
    "clipping": clipping,
    "small": small,
    "training": training,
    "half": half,
}
"""In the order in which they are run: the largest first, while compilers have not yet left anything in memory."""

START = "start"
NAMES = (*SUITES, START)
"""The suites by name; `start` times fresh processes and has no arms: see start.py."""


# On a GPU ---------------------------------------------------------------------------------------------

GPU_NAMES = ("large", "rules", "resnet", "clipping", "small", "half")
"""The suites that can be run on a GPU."""
RANKED_NAMES = ("large", "small", "half", "resnet", "rules")
"""Those of the scale `gpu`."""

HALF_ON_GPU = (*(name for name in ON_HALF if name not in {LOOP, ROOFLINE}), COPY)
BRIEFLY = tuple(name for name in ON_GPU if name not in COMPILERS)
ONCE = (OURS, FOREACH, FUSED, COPY)
IN_CACHE = 2**21
"""Parameters from which tensors are meant to come from memory, though each is small."""


def cases(names: tuple[str, ...], scale: Scale, device: str = "cpu") -> list[Case]:
    """Return the cases of some suites; neighbours share their parameters where those are large."""
    if scale.ranked:
        return [case for case in ranked(scale) if case.suite in names]
    found = [case for name in names if name in SUITES for case in SUITES[name](scale)]
    if device == "cpu":
        return found
    launched = [
        _launched(scale, count, size, clip, ON_GPU) for count, size in scale.launched for clip in (GLOBAL_NORM, NO_CLIP)
    ]
    found = [_on_gpu(case) for case in found] + (launched if "small" in names else [])
    return list(dict.fromkeys(found))  # cases that differed in threads are the same there


def _on_gpu(case: Case) -> Case:
    arms = HALF_ON_GPU if case.suite == "half" else ON_GPU if RULES[case.rule].torch else (OURS, COPY)
    return replace(case, threads=GPU, arms=arms)


def _launched(scale: Scale, count: int, size: int, clip: str, arms: tuple[str, ...]) -> Case:
    workload, gradients = many(count, size), FRESH
    if workload.parameters >= IN_CACHE:
        workload, gradients = replace(workload, memory_bound=True), SWAPPED
    return Case("small", "AdamW", clip, workload, GPU, gradients, arms, scale.seconds[0])


def ranked(scale: Scale) -> Iterator[Case]:
    """List the cases of a run that may end at any time: the most important first, those that compile for long last."""

    def big(suite: str, clip: str, workload: Workload, arms: tuple[str, ...], rule: str = "AdamW") -> Case:
        return Case(suite, rule, clip, workload, GPU, SWAPPED, arms, scale.seconds[workload is not scale.network])

    few, some, several = scale.many
    text, image = scale.language_model, scale.network
    yield big("large", GLOBAL_NORM, text, BRIEFLY)
    yield big("large", NO_CLIP, text, BRIEFLY)
    for count, size in (*scale.launched, (several, 64)):
        yield _launched(scale, count, size, GLOBAL_NORM, BRIEFLY)
    yield replace(big("half", GLOBAL_NORM, text, HALF_ON_GPU), precision=BFLOAT16)
    yield big("resnet", GLOBAL_NORM, image, BRIEFLY)
    yield big("large", GLOBAL_NORM, scale.flat, ON_GPU)
    for rule in RULES:
        if rule != "AdamW":
            yield big("rules", GLOBAL_NORM, text, ONCE if RULES[rule].torch else (OURS, COPY), rule)
    yield _launched(scale, few, 64, GLOBAL_NORM, ON_GPU)
    yield big("resnet", NO_CLIP, image, BRIEFLY, "momentum")
    yield big("large", NO_CLIP, scale.flat, BRIEFLY)
    yield _launched(scale, some, 64, GLOBAL_NORM, ON_GPU)
