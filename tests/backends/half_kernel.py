"""A Triton kernel that calls every formula of 16 bits."""

from __future__ import annotations

import triton
import triton.language as tl

from steprule.backends.triton_helpers import (
    compensated_bfloat16,
    compensated_float16,
    draw,
    high_bits,
    joined_bfloat16,
    joined_float16,
    key,
    low_bits,
    nearest_bfloat16,
    nearest_float16,
    parameter_seed,
    remainder_bfloat16,
    remainder_float16,
    stochastic_bfloat16,
    stochastic_float16,
    widen_bfloat16,
    widen_float16,
)  # fmt: skip


@triton.jit
def every(x_at, random_at, words_at, rest_at, widen_at, nearest_at, stochastic_at, compensated_at, remainder_at,
          joined_at, draw_at, count, words, drawn, seed, t, HALF: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lanes = tl.arange(0, BLOCK)
    here = start + lanes
    x = tl.load(x_at + here, mask=here < count, other=0.0)
    random = tl.load(random_at + here, mask=here < count, other=0)
    word = tl.load(words_at + here, mask=here < words, other=0)
    rest = tl.load(rest_at + here, mask=here < words, other=0)
    if HALF:
        widened, joined = widen_float16(word), joined_float16(word, rest)
        nearest, stochastic = nearest_float16(x), stochastic_float16(x, random)
        compensated, remainder = compensated_float16(x), remainder_float16(x)
    else:
        widened, joined = widen_bfloat16(word), joined_bfloat16(word, rest)
        nearest, stochastic = nearest_bfloat16(x), stochastic_bfloat16(x, random)
        compensated, remainder = compensated_bfloat16(x), remainder_bfloat16(x)
    tl.store(widen_at + here, widened, mask=here < words)
    tl.store(joined_at + here, joined, mask=here < words)
    tl.store(nearest_at + here, nearest, mask=here < count)
    tl.store(stochastic_at + here, stochastic, mask=here < count)
    tl.store(compensated_at + here, compensated, mask=here < count)
    tl.store(remainder_at + here, remainder, mask=here < count)
    found = draw((1 << 31) + start, lanes, key(parameter_seed(seed, 1), t, 0))
    tl.store(draw_at + here, low_bits(found) | (high_bits(found) << 16), mask=here < drawn)
