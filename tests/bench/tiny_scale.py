"""A scale on which a whole run takes seconds."""

from steprule.bench.cases import Scale
from steprule.bench.workloads import Workload, gpt2, resnet18

TINY = Scale(
    language_model=Workload("GPT-2 tiny", gpt2(1, 8, 40, 16), memory_bound=True),
    flat=Workload("flat 0.1M", ((100_000,),), memory_bound=True),
    list=Workload("list 0.1M", ((100, 250),) * 4, memory_bound=True),
    network=Workload("ResNet-18 thinned", tuple(shape[:1] for shape in resnet18(10)), memory_bound=True),
    many=(2, 5),
    most=128,
    seconds=(0.01, 0.01),
    child_parameters=800_000,
    repeats=1,
    brief=True,
    launched=((3, 70),),
)
