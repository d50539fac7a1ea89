"""Functions that exported files contain where they need them, each as it stands here."""

# pyright: basic, reportUndefinedVariable=false
# ruff: noqa: F821

from __future__ import annotations

import math

import torch


def working(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the type that is computed in: float32 for 16 bits."""
    return x.float() if x.element_size() < 4 else x


def matrix(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor as a matrix, its leading index by all others; a vector is one column."""
    return working(x).flatten(1) if x.dim() > 1 else working(x).reshape(-1, 1)


def typed(x: float | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a number in the type of a tensor, where that is."""
    return torch.as_tensor(x, dtype=like.dtype, device=like.device)


def scalar(x: float | torch.Tensor) -> torch.Tensor:
    """Return a number whose arithmetic knows infinity and NaN, as IEEE 754 has it."""
    return torch.tensor(float(x), dtype=torch.float64)


def sign(x: torch.Tensor) -> torch.Tensor:
    """Return −1, 0 or 1; NaN stays NaN."""
    return torch.where(x != x, x, torch.sgn(x))


def modulo(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the remainder; one of 0 has no sign."""
    return torch.remainder(a, b) + 0.0


def squares(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares, added up in float64."""
    wide = x.double()
    return (wide * wide).sum()


def squares_along(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the sum of squares of each row (1) or column (0) of a matrix, added up in float64."""
    wide = x.double()
    return (wide * wide).sum(axis, keepdim=True)


def largest(x: torch.Tensor) -> torch.Tensor:
    """Return the largest element; −∞ of none."""
    return x.double().amax() if x.numel() else torch.full((), -torch.inf, dtype=torch.float64, device=x.device)


def largest_along(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the largest element of each row (1) or column (0) of a matrix; −∞ of none."""
    least = torch.full_like(x.narrow(axis, 0, 0).double(), -torch.inf) if x.shape[axis] == 0 else x.double()
    return least.amax(axis, keepdim=True)


def send(update, answer):
    """Give an update what it asked for; return what it asks for next, or None at its end."""
    try:
        return update.send(answer)
    except StopIteration:
        return None


def together(updates, *answers):
    """Run the updates of all tensors side by side; what they ask for is answered together, totals when all ask."""
    asked = [update and send(update, None) for update in updates]
    while any(asked):
        now = [place for place, one in enumerate(asked) if one and callable(one[0])]
        own = answers[0 if now else -1]
        now = now or [place for place, one in enumerate(asked) if one]
        for place, answer in zip(now, own([asked[place] for place in now]), strict=True):
            asked[place] = send(updates[place], answer)


def totals(asked):
    """Add up what each tensor has of a total, by the name of the total; the answer for each is the whole."""
    sums = {}
    for name, part in asked:
        sums[name] = sums[name] + part.to(sums[name].device) if name in sums else part
    return [sums[name].to(part.device) for name, part in asked]


def called(asked):
    """Answer what tensors ask for together: functions of matrices, of one shape in a stack."""
    answers, alike = list(asked), {}
    for place, (name, *rest) in enumerate(asked):
        shapes = [x[0].shape if isinstance(x, list) else x.shape if torch.is_tensor(x) else x for x in rest]
        alike.setdefault((name, *shapes), []).append(place)
    for (name, *_), places in alike.items():
        rows = [asked[place][1:] for place in places]
        if len(places) == 1 or large(*rows[0]):
            found = [name(*(x[0] if isinstance(x, list) else x for x in row)) for row in rows]
        else:
            whole = name(*map(stacked, zip(*rows, strict=True)))
            found = whole.unbind()
            for index, one in enumerate(found):
                one.stack = (whole, index)
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
    return answers


def stacked(column):
    """Return matrices in a stack: new ones, which lie in a list, each aligned, and those of one stack as they are."""
    first = column[0]
    if isinstance(first, list):
        rows, columns = first[0].shape
        apart = max(-(-rows * columns // 16) * 16, 1)
        memory = first[0].new_zeros(len(column) * apart).as_strided((len(column), rows, columns), (apart, columns, 1))
        return torch.stack([x[0] for x in column], out=memory)
    if not torch.is_tensor(first):
        return first
    stacks = [getattr(x, "stack", (x, -1)) for x in column]
    known = all(index == place and stack is stacks[0][0] for place, (stack, index) in enumerate(stacks))
    return stacks[0][0] if known and len(stacks[0][0]) == len(column) else torch.stack(column)


def large(first, *_):
    """Whether matrices in main memory are quicker one by one than in a stack."""
    x = first[0] if isinstance(first, list) else first
    return x.device.type == "cpu" and x.shape[0] * x.shape[1] * min(x.shape) > 10_000_000


def check(name, value, low=-torch.inf, high=torch.inf, above=-torch.inf, below=torch.inf):
    """Refuse what is no finite number, or out of the range that the rule declares."""
    try:
        number = torch.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = torch.nan
    if not (low <= number <= high and above < number < below and abs(number) < torch.inf):
        ends = {"at least": low, "at most": high, "above": above, "below": below}
        told = " and ".join(f"{word} {end}" for word, end in ends.items() if abs(end) < torch.inf)
        raise ValueError(f"{name} is {value!r}; it must be a finite number {told}".rstrip())


def refuse(p):
    """Refuse tensors for which the formula has no meaning."""
    if p.grad.is_sparse or p.is_sparse:
        raise RuntimeError("sparse gradients are not supported: make them dense, e.g. Embedding(..., sparse=False)")
    if p.is_complex():
        raise RuntimeError("complex parameters are not supported: optimise torch.view_as_real(parameter)")


def short(p, longest):
    """Refuse a tensor with a side that is too long for a matrix of that size."""
    if (side := max(matrix(p).shape)) > longest:
        told = "this file has no rule for that: raise it, or leave the tensor to another optimiser"
        raise ValueError(f"a tensor has a side of {side}, above max_precond_dim={longest}; {told}")


def moved(points, iterates, tolerances):
    """Return how far points have moved, and how far they may when they are found, all tensors together."""
    by = near = rounding = 0.0
    for (p, then), (_, iterate), tolerance in zip(points, iterates, tolerances, strict=True):
        unit = torch.finfo(p.dtype).eps
        by += length(p, then)
        near += max(tolerance, 32 * unit) ** 2 * length(p, iterate)
        rounding += (4 * unit) ** 2 * length(p, torch.zeros_like(p))
    return math.sqrt(by), math.sqrt(near) + math.sqrt(rounding)


def length(a, b):
    """Return the sum of squares of a difference, ∞ − ∞ being 0."""
    return float((a.double() - b.double()).where(a != b, 0).square().sum())


def drawn(like, place, t, site):
    """Return 32 random bits of every element, by the seed, the parameter's place, the step and what draws."""
    key = mixed(mixed(mixed(SEED + GOLDEN) + (place + 1) * GOLDEN) + ((int(t) << 16) + site) * GOLDEN)
    return draw(0, torch.arange(like.numel(), device=like.device).reshape(like.shape), key)


def mixed(x):
    """Mix 64 bits (SplitMix64; Steele, Lea & Flood, 2014)."""
    x &= 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


def normal(like, place, t, site):
    """Return a standard normal number for every element."""
    found = drawn(like, place, t, site)
    return normal_float64(found) if like.dtype is torch.float64 else normal_float32(found)


def uniform(like, place, t, site):
    """Return a number from 0, below 1, for every element."""
    return uniform_float32(drawn(like, place, t, site)).to(like.dtype)


def rademacher(like, place, t, site):
    """Return −1 or 1 for every element."""
    return rademacher_float32(drawn(like, place, t, site)).to(like.dtype)


def random_bits(like, place, t, number):
    """Return 16 random bits of every element, for the array of this number."""
    found = drawn(like, place, t, number // 2)
    return found >> 16 if number % 2 else found & 0xFFFF


def stochastic(x, target, random):
    """Return numbers as one of their two neighbours in a narrow type, the nearer one more often."""
    if target.dtype is torch.bfloat16:
        return stochastic_bfloat16(x.float(), random).view(torch.bfloat16)
    return stochastic_float16(x.float(), random).view(torch.float16) if target.dtype is torch.float16 else x


def word(n):
    """Return the lower 32 bits."""
    return n & 0xFFFFFFFF


def wide(n):
    """Return a whole number of 64 bits."""
    return n


def real(n):
    """Return whole numbers as float32."""
    return n.to(torch.float32)


def bits(x):
    """Return the bits of float32 numbers."""
    return x.view(torch.int32).to(torch.int64) & 0xFFFFFFFF


def narrow(u):
    """Return 16 bits as they are stored."""
    return u.to(torch.int16)


def copies(tensors):
    """Return parameters with their values."""
    return [(p, p.clone()) for p, *_ in tensors]


def put_back(values):
    """Write former values into parameters."""
    for p, value in values:
        p.copy_(value)


def where(condition, yes, no):
    """Choose element by element."""
    return torch.where(condition, yes, no)


def root(x):
    """Return square roots."""
    return torch.sqrt(x)


def logarithm(x):
    """Return natural logarithms."""
    return torch.log(x)


def ratio(a, b):
    """Return a / b."""
    return torch.divide(a, b)


def double(x):
    """Return numbers as float64."""
    return x.double()


def number(u):
    """Return the float32 numbers of some bits."""
    return u.to(torch.int32).view(torch.float32)
