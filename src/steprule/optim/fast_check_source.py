"""The compiled loop of `fast_check`, as the text that is compiled; like a kernel's, it can be read.

It is called with the list of gradients, a list of all states, and the address of a directory. With no gradients it only
fetches what it will ask next time from far memory.
"""

from ..backends.base import ABSENT, EMPTY
from .checks import CHANGED, OTHERS, SAME

FUNCTIONS = ("item_of_list", "item_of_dict", "address_of", "size_of")
"""C functions that it calls, in the order of the directory."""
PLACES = ("keys", "dtype", "storage", "offset", "shape")
"""What it reads in C++ tensors themselves."""
WITHIN = 5
"""Dimensions up to which a C++ tensor holds sizes and strides itself, after their number: room for so many sizes, then
the strides. If there are more, it holds where the sizes are, and strides follow them."""
TABLES = {"held": 4, "tensors": 8, "gradients": 12, "written": 1, "cells": 6, "numbers": 3, "far": 1}
"""What it is told, in the order of the directory: how many rows, and where they begin; here, how many columns. What
these are is said where they are read."""
DIRECTORY = ("told", *FUNCTIONS, *PLACES, "header", "answer", "none", "shapes",
             *(f"{name}_{what}" for name in TABLES for what in ("count", "at")))  # fmt: skip

_PLACES = "\n".join(f"{name.upper()} = {place}" for place, name in enumerate(DIRECTORY))

SOURCE = f'''"""Has anything changed that raw pointers rely on? `told` in the directory becomes {CHANGED} if so,
{OTHERS} if no more than which gradients are absent, and {SAME} if nothing."""

from steprule.backends.memory import failure_of, fetch, inner, int32_at, int64_at, object_of

{_PLACES}


@inner
def changed(tensor, row, of):
    """Whether an object differs from what was there: type, keys, dtype and device, dimensions, shape."""
    if int64_at(tensor + of[HEADER] - 8)[0] != row[0]:
        return True
    within = int64_at(tensor + of[HEADER])[0]
    if int64_at(within + of[KEYS])[0] != row[1] or int32_at(within + of[DTYPE])[0] != row[2]:
        return True
    if row[3] < 0:  # a slot, which is held to its address and storage
        return False
    held = within + of[SHAPE]
    if int64_at(held)[0] != row[3]:
        return True
    shape = int64_at(of[SHAPES] + 8 * row[4])
    sizes = int64_at(held + 8 if row[3] <= {WITHIN} else int64_at(held)[1])
    behind = {WITHIN} if row[3] <= {WITHIN} else row[3]
    for axis in range(row[3]):
        if sizes[axis] != shape[2 * axis] or sizes[behind + axis] != shape[2 * axis + 1]:
            return True
    return False


@inner
def touches(start, row, of):
    """Whether a gradient that has moved lies where something is written; if not, remember the gap that it is in."""
    bounds = int64_at(of[WRITTEN_AT])  # the least number, where each stretch begins and ends, the greatest
    below, above = 0, of[WRITTEN_COUNT] - 1
    while above - below > 1:
        middle = (below + above) // 2
        if bounds[middle] <= start:
            below = middle
        else:
            above = middle
    if below % 2 == 1 or start + row[9] > bounds[above]:
        return row[9] > 0
    row[10], row[11] = bounds[below], bounds[above]
    return False


@inner
def same_containers(states, of):
    """Whether lists and dicts hold the very objects that they held."""
    rows = int64_at(of[HELD_AT])  # a function, a list or dict (0: the list of states), a place or key, what is there
    for i in range(of[HELD_COUNT]):
        container = rows[4 * i + 1] if rows[4 * i + 1] != 0 else states
        if object_of(of[rows[4 * i]], (container, rows[4 * i + 2])) != rows[4 * i + 3]:
            return False
    return True


@inner
def same_numbers(of):
    """Whether numbers of the state are where they were written, and as they were."""
    # A tensor of one number: its dispatch keys, dtype and device, storage, place in it, and where that is, which is
    # asked for one tensor of a storage alone.
    rows = int64_at(of[CELLS_AT])
    for i in range(of[CELLS_COUNT]):
        handle = rows[6 * i] + of[HEADER]
        within = int64_at(handle)[0]
        if int64_at(within + of[KEYS])[0] != rows[6 * i + 1] or int32_at(within + of[DTYPE])[0] != rows[6 * i + 2]:
            return False
        if int64_at(within + of[STORAGE])[0] != rows[6 * i + 3] or int64_at(within + of[OFFSET])[0] != rows[6 * i + 4]:
            return False
        if rows[6 * i + 5] != 0:
            answer = of[ANSWER]
            if failure_of(of[ADDRESS_OF], (handle, answer)) != 0 or int64_at(answer)[0] != rows[6 * i + 5]:
                return False
    rows = int64_at(of[NUMBERS_AT])  # where they are, where they are kept as they were, how many words of 32 bits
    for i in range(of[NUMBERS_COUNT]):
        now, written = int32_at(rows[3 * i]), int32_at(rows[3 * i + 1])
        for j in range(rows[3 * i + 2]):
            if now[j] != written[j]:
                return False
    return True


def kernel(gradients, states, directory):
    of = int64_at(directory)
    of[TOLD] = {CHANGED}
    if gradients == 0:
        rows = int64_at(of[FAR_AT])
        for i in range(of[FAR_COUNT]):
            fetch(rows[i])
        return
    if not (same_containers(states, of) and same_numbers(of)):
        return
    told, answer = {SAME}, of[ANSWER]
    found = int64_at(answer)
    for i in range(of[TENSORS_COUNT]):
        row = int64_at(of[TENSORS_AT] + 64 * i)  # besides: a parameter or slot, where it begins, its storage's size
        handle = row[5] + of[HEADER]
        if changed(row[5], row, of):
            return
        if failure_of(of[ADDRESS_OF], (handle, answer)) != 0 or found[0] != row[6]:
            return
        if failure_of(of[SIZE_OF], (handle, answer)) != 0 or found[0] != row[7]:
            return
    for i in range(of[GRADIENTS_COUNT]):
        row = int64_at(of[GRADIENTS_AT] + 96 * i)  # besides: where its address is wanted, bytes needed, its offset, and
        # an address that is known to be good, its length, and between which bounds of what is written it was last
        tensor = object_of(of[ITEM_OF_LIST], (gradients, i))
        cell = int64_at(row[5])
        if (tensor == of[NONE]) != (cell[0] == {ABSENT}):
            told = {OTHERS}
        if tensor == of[NONE]:
            cell[0] = {ABSENT}
            continue
        if changed(tensor, row, of):
            return
        handle = tensor + of[HEADER]
        if failure_of(of[SIZE_OF], (handle, answer)) != 0 or found[0] < row[6]:
            return
        if int64_at(int64_at(handle)[0] + of[OFFSET])[0] != row[7]:
            return
        if failure_of(of[ADDRESS_OF], (handle, answer)) != 0:
            return
        if found[0] != row[8] and (found[0] < row[10] or found[0] + row[9] > row[11]) and touches(found[0], row, of):
            return
        cell[0] = found[0] if found[0] != 0 else {EMPTY}
    of[TOLD] = told
'''
