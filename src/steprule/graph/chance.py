"""Random numbers as a pure function of where and when: each formula once, for every language that kernels are in.

A draw is 32 random bits of an element: a function of the seed, the step, the parameter's place in the optimiser, what
draws (an array that is rounded stochastically, or a call in a rule, each by its number) and the element's place in the
whole tensor. So it is the same on every backend, whatever threads, chunks, layouts and shards there are, and a run that
goes on draws as if it had never stopped. A `key`, of all but the last, is an output of SplitMix64 (Steele, Lea & Flood,
2014): of keys that are alike, draws would be. `draw` hashes a place with it by two multiplications (lowbias32, of
Wellons, 2018).

What a rule draws is made of the upper 24 of those bits, so that float32 and float64 begin with the same number:

    uniform     k / 2²⁴ for k = 0 … 2²⁴ − 1
    rademacher  −1 or 1, by the uppermost bit
    normal      the inverse of the normal distribution at (2k + 1) / 2²⁵, from −5.42 to 5.42; by Wichura's algorithm
                AS 241 (1988), to a relative 10⁻¹⁵ in float64, and to 5 units in the last place in float32
"""

# pyright: reportMissingParameterType=false

from __future__ import annotations

from .words import double, logarithm, ratio, real, root, where, wide, word

SITES = 1 << 15
"""The number of the first call in a rule, as `key` counts pairs; those of arrays are below."""
_GOLDEN = 0x9E3779B97F4A7C15
_STEP_24, _STEP_25 = 2.0**-24, 2.0**-25
_CENTRE = 1 << 24


def _mixed(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


def parameter_seed(seed, parameter):
    """Return a parameter's own seed, which stays what it is from step to step."""
    return _mixed(_mixed(wide(seed) + _GOLDEN) + (wide(parameter) + 1) * _GOLDEN)


def key(seed, t, pair):
    """Return a step's key for arrays 2 pair and 2 pair + 1 of a parameter with this seed, or for a call in a rule."""
    return _mixed(wide(seed) + ((wide(t) << 16) + wide(pair)) * _GOLDEN)


def draw(first, index, key):
    """Return the 32 random bits of elements: of those `index` after the `first`, which has a place in a whole tensor.

    Places count modulo 2³². They are added and not combined otherwise, which LLVM would do in 64 bits.
    """
    x = word(word(index) + (word(first) + word(wide(key) >> 32)))
    x = word((x ^ (x >> 16)) * 0x7FEB352D) ^ word(key)
    x = word((x ^ (x >> 15)) * 0x846CA68B)
    return x ^ (x >> 16)


def uniform_float32(draw):
    """Return a number from 0, below 1."""
    return real(draw >> 8) * _STEP_24


def uniform_float64(draw):
    """Return a number from 0, below 1."""
    return double(uniform_float32(draw))


def rademacher_float32(draw):
    """Return −1 or 1."""
    return real(draw >> 31) * 2.0 - 1.0


def rademacher_float64(draw):
    """Return −1 or 1."""
    return double(rademacher_float32(draw))


def normal_float32(draw):
    """Return a standard normal number."""
    return _quantile(_centred(draw))


def normal_float64(draw):
    """Return a standard normal number."""
    return _quantile(double(_centred(draw)))


def _centred(draw):
    return real(((draw >> 8) << 1) + 1 - _CENTRE) * _STEP_25  # less than half on either side of 0, and exact


def _quantile(q):
    size = where(q < 0.0, q * -1.0, q)
    tail = _tail(root(logarithm(size * -1.0 + 0.5) * -1.0) - 1.6)
    return where(size > 0.425, where(q < 0.0, tail * -1.0, tail), q * _middle(q * q * -1.0 + 0.180625))


def _middle(r):
    upper = r * 2509.0809287301226727 + 33430.575583588128105
    upper = (upper * r + 67265.770927008700853) * r + 45921.953931549871457
    upper = (upper * r + 13731.693765509461125) * r + 1971.5909503065514427
    upper = (upper * r + 133.14166789178437745) * r + 3.387132872796366608
    lower = r * 5226.495278852854561 + 28729.085735721942674
    lower = (lower * r + 39307.89580009271061) * r + 21213.794301586595867
    lower = (lower * r + 5394.1960214247511077) * r + 687.1870074920579083
    return ratio(upper, (lower * r + 42.313330701600911252) * r + 1.0)


def _tail(r):
    upper = r * 7.7454501427834140764e-4 + 0.0227238449892691845833
    upper = (upper * r + 0.24178072517745061177) * r + 1.27045825245236838258
    upper = (upper * r + 3.64784832476320460504) * r + 5.7694972214606914055
    upper = (upper * r + 4.6303378461565452959) * r + 1.42343711074968357734
    lower = r * 1.05075007164441684324e-9 + 5.475938084995344946e-4
    lower = (lower * r + 0.0151986665636164571966) * r + 0.14810397642748007459
    lower = (lower * r + 0.68976733498510000455) * r + 1.6763848301838038494
    return ratio(upper, (lower * r + 2.05319162663775882187) * r + 1.0)
