"""What the language says of a formula it cannot read: what is wrong, and what to do, each a template.

The playground reads rules, too, and says the same: it fills in these templates, and has no words of its own.
"""

from __future__ import annotations

from typing import Any

FIX = (
    "what changes from step to step comes in as a hyperparameter (set it in param_groups before the step), "
    "as t, or is kept in a slot; normal(), uniform() and rademacher() of steprule draw anew at every step"
)
MESSAGES: dict[str, tuple[str, str]] = {
    # Symbols
    "endless": (
        "a rule has room for {most} operations, and this one goes on",
        "a Python loop is written out in full: make it shorter, or spread it over steps with a slot",
    ),
    "hashed": (
        "a symbol cannot be in a set or be a key of a dict: in which order it came out would be chance",
        "use a list or a tuple",
    ),
    "undecided": (
        "Python cannot decide `if`, `and`, `or`, `not`, min() or max() on a symbol: it has no value yet",
        "{fix}",
    ),
    "torch's": ("torch's `{name}` does not know symbols: a rule is a formula, not a computation on tensors", "{fix}"),
    "attribute": ("a symbol has no `.{name}`", "{fix}"),
    "no value": ("a symbol has no value or length yet, so this function or operator does not know it", "{fix}"),
    "no number": ("{shown} cannot stand in a formula", "{fix}"),
    "drawn outside": (
        "{op}() gives a number to every element of a parameter, and no rule is being read",
        "call it inside a @rule or @transform; other random numbers are NumPy's or torch's",
    ),
    "nothing to reduce": (
        "`{op}` reduces over elements, but its argument is {given}: there is nothing to reduce",
        "reduce an array of the rule (the parameter, the gradient, a slot), or drop the reduction",
    ),
    "reduced already": (
        "`{op}` is to give one number a {kept}, but its argument is already one number a {given}",
        "leave axis out, which gives one number of all {given}s; or drop the reduction",
    ),
    "size of a part": (
        "`{op}` is asked of what has one number a {given}, not of a tensor",
        "ask it of an array of the rule, the gradient for instance: {op}(g)",
    ),
    "late numbers": (
        "`{op}` takes numbers beside its matrix that are known before the step",
        "give numbers, hyperparameters or t there",
    ),
    "no product": ("`{op}` cannot be taken of {told}", "{fix}"),
    "shapes": ("`{op}` cannot be taken of {told}: it goes element by element of one shape", "{fix}"),
    "truth wanted first": (
        "`where` needs a comparison first",
        "write where(a < b, x, y): where(a < b, 1, 0) is a number",
    ),
    "truth wanted": (
        "`{sign}` takes comparisons, and this is a number",
        "give each its brackets, since & | ~ bind more tightly: where((a < b) & (c < d), x, y)",
    ),
    "number wanted": (
        "`{op}` cannot take a comparison as a number",
        "write where(a < b, x, y): where(a < b, 1, 0) is a number",
    ),
    # Functions of the language
    "of matrices": (
        "`{op}` is taken of matrices, not of {given}",
        "give arrays of the rule: the parameter, the gradient, a slot",
    ),
    "of symbols": ("`{op}` takes symbols and numbers, not {given}", "{fix}"),
    "axis": (
        "`{op}` is taken along axis={axis}, and a tensor is seen as a matrix: its leading index by all others",
        "{op}(x, axis=1) is one number a row, {op}(x, axis=0) one a column, {op}(x) one a tensor",
    ),
    # Reading a function
    "recursion": (
        "`{name}` calls itself without end",
        "let a number of Python's end it, e.g. for _ in range(3); no symbol can, since it has no value yet",
    ),
    "error": ("{kind} while reading `{name}`: {error}", "{fix}"),
    "unknown name": ("{error}", "{fix}"),
    "returns": ("`{name}` returns {given} value(s), but its signature needs {needed}: {told}", "return {wanted}"),
    "returns a matrix": (
        "the new {name} is a matrix of {sides}, which is not its shape",
        "multiply it by what has that shape, e.g. left @ g or g @ right",
    ),
    "returns a comparison": (
        "the new {name} is a comparison, which is no number",
        "write where(a < b, x, y): where(a < b, 1, 0) is a number",
    ),
    "slot of a matrix": (
        "slot `{name}` holds a matrix of {held}, but its new value is one of {given}",
        "{fix}",
    ),
    "slot too small": ("slot `{name}` holds {held}, but its new value varies over {given}s", "{fix}"),
    "slot of all": (
        (
            "slot `{slot}` holds one number for all tensors, but its new value is made of `{name}`, of which each "
            "tensor has its own: one that joins late, or has no gradient in a step, has another"
        ),
        (
            "count for all in another slot, steps=slot(rank='global'), which becomes steps + 1; or use `{name}` inside "
            "what is reduced over all tensors, e.g. global_sum(...)"
        ),
    ),
    "point asks gradient": (
        "evaluate_at asks for `{name}`, which is the gradient at the point that it gives",
        "ask for `{first}`, the gradient at `{parameter}` itself",
    ),
    "point asks": ("evaluate_at asks for `{name}`, which `{rule}` does not have", "ask for any of {known}"),
    "point of the end": (
        "the point of `{name}` depends on where the step ends, which depends on the gradient there",
        "give new_{parameter} itself, or ask for `{first}`, the gradient at `{parameter}`",
    ),
    "point drawn": (
        "the point of `{name}` is drawn or made of the loss: it could not be told again",
        "use that in the update, or keep it in a slot",
    ),
    "point of all": (
        (
            "the point of `{name}` is made of `{shared}`, which changes for all tensors, even where one "
            "has no gradient and stays where it is"
        ),
        "keep what the point is made of in a slot of the tensor: slot(rank='tensor')",
    ),
    "no point": (
        "`{first}` is `{gradient}` itself: nothing says that it is taken elsewhere",
        "use {gradient}, or give the point: @rule(evaluate_at=lambda {parameter}, ...: ...)",
    ),
    "implicit twice": (
        "`{name}` takes its gradient where its step ends, and the one at `{parameter}`, too",
        "leave `{first}` out, or give another point",
    ),
    "not the same": (
        "`{name}` is not the same when it is read again, but a formula is: Python would fix it as it is now",
        FIX,
    ),
    "changes": (
        "reading `{name}` changes `{label}`; it is read when its formula is needed, not at every step",
        FIX,
    ),
    # Signatures
    "reserved": ("`{name}` is reserved, so it cannot name an argument of a rule", "{fix}"),
    "among arrays": (
        "`{spelled}` stands among the arrays, but looks like a hyperparameter",
        "put it after a lone `*`: def {name}(theta, g, *, {spelled})",
    ),
    "default": ("the default {name}={default} is no number", "{fix}"),
    "no function": (
        "{given} is no Python function, so it cannot be read as a formula",
        "decorate a function: @rule above def name(theta, g, *, lr=1e-3)",
    ),
    "arguments": (
        "`{name}` needs positional arguments: the parameter, its gradient, {new}then the state slots{stars}",
        "def {name}(theta, g, {short}m, *, lr=1e-3): ...",
    ),
    # Declarations
    "no range": (
        "low={low}, above={above}, high={high}, below={below} is no range",
        "give at most one bound below (low or above) and one over it (high or below), e.g. low=0, below=1",
    ),
    "tune": ("tune={tune} is no range to search", "give two numbers of {interval}, the lower first{usual}"),
    "slot dtype": (
        "a slot cannot have dtype={dtype}",
        'give dtype="float32", which is the least; the option state= of an optimiser makes slots narrower',
    ),
    "slot rank": ("a slot cannot have rank {rank}", "use one of {ranks}"),
    "slot init": (
        "a slot cannot start from {init}{few}",
        'give a number; or leave out rank=, and init="theta" copies the parameter',
    ),
    "slot low": ("a slot cannot have low={low}, starting from {init}", "low=0 is for what is never negative"),
    "no options": ("a choice needs at least one option", 'e.g. choice("classic", "nesterov")'),
    # Rules, transforms, chains
    "moves": ("a transform cannot move {moves}", 'give moves="gradient", "parameter" or "update"'),
    "evaluate_at": (
        "evaluate_at is {given}, which is no Python function",
        "give the point as one: @rule(evaluate_at=lambda theta, m, *, lr: theta - lr * m)",
    ),
    "unknown hyper": ("`{owner}` has no hyperparameter `{name}`", "it has {known}"),
    "unknown variant": ("`{name}` of `{owner}` is {value}, but it has no such variant", "use one of {known}"),
    "other variant": (
        "`{name}` of `{owner}` belongs to its variant {only}",
        "leave it out, or choose that variant; here it has {known}",
    ),
    "inline without value": ("`{owner}` has no value for `{name}`", "pass {name}=..."),
    "inline unknown": ("`{owner}` has no `{name}`", "write {owner}({given}); you may leave out what has an ="),
    "inline takes": ("`{owner}` takes {needed}", "write {owner}({given}); you may leave out what has an ="),
    "by name": ("`{owner}` takes its values by name", "write {owner}({named})"),
    "on tensors": ("`{owner}` was called with arrays, but it is a formula, not a function on tensors", "{fix}"),
    "no link": ("{given} is neither a rule nor a transform", "{fix}"),
    "empty chain": ("an empty chain updates nothing", "chain(clip_global_norm, board.adam(lr=1e-3))"),
    "two points": ("`{name}` and `{other}` both say where the gradient is taken", "{fix}"),
    "rule not last": (
        "`{name}` is a rule, but only the last link of a chain may be one",
        "put transforms first and one rule last",
    ),
    "update first": (
        "`{name}` changes a rule's update, so it stands behind one",
        "chain(board.adam(lr=1e-3), {name})",
    ),
    "no rule": (
        "`{name}` is a transform, but the last link of a chain is a rule",
        "chain({name}, board.adam(lr=1e-3))",
    ),
    # Gauges
    "gauge name": ("a gauge cannot be called {name}", "give a short name first: {example}"),
    "gauge of all": ("every rule has a gauge called {name} without saying so", "give yours another name"),
    "gauge of nothing": (
        "{given} is no expression of a rule, so there is nothing to watch",
        "inside a @rule or @transform write {example}",
    ),
    "gauge of truth": (
        "the gauge {name} is a comparison, which is no number",
        "write where(a < b, 1, 0), or its mean",
    ),
    "gauge of many": (
        "the gauge {name} has a value for every {rank}, and is to be one number",
        "say how they become one: norm(x), mean(x), sum(x) or max(x)",
    ),
    "gauge twice": ("this rule has two gauges called {name}", "give one of them another name"),
    # What only the playground says, where Python is not at hand
    "syntax": ("this is not Python yet", "finish the line; close brackets, and indent what stands inside a def"),
    "unread": ("the playground reads no `{words}`", "write it as a formula; the library itself reads all of Python"),
    "elsewhere": (
        "`{name}` is not in this page",
        "write its value as a number; the library itself reads all of Python",
    ),
    "matrices here": (
        "`{name}` has a function of matrices, `{op}`, which the page can read and not run",
        "save it, and run it in the library; or leave {op} out",
    ),
    "one file": (
        "`{name}` cannot be one file here: it has matrices, rows, random numbers or a point where its step ends",
        "save it as Python; then steprule export writes it as a file of JavaScript or of torch",
    ),
    "no contraction": (
        "the point where the step of `{name}` ends was not found: the iteration does not contract",
        "lower lr or raise beta",
    ),
    "not found": (
        "the point where the step of `{name}` ends was not found in {most} evaluations",
        "raise max_eval or tolerance, or lower lr, so that fewer are needed",
    ),
    "no module": (
        "there is no module `{name}` in this page",
        "leave the import out; the page has steprule, math and functools",
    ),
}
"""What is wrong, and what to do, by a name for the case."""


def told(case: str, **values: Any) -> tuple[str, str]:
    """Return what is wrong and what to do, with values in their places."""
    what, fix = MESSAGES[case]
    return what.format(**values), fix.format(**values)


PHRASES: dict[str, str] = {
    # Instead of a function or method
    "needless": "leave .{name} out: a formula has no devices, types or copies",
    "spelled": "write {text}",
    "own": "write {usage}, the language's own (from steprule import {name})",
    "meant": "did you mean {name}? ",
    "listed": "{meant}the functions are {listed} (from steprule import ...)",
    "Python": "Python itself computes an expression without symbols; a rule is made of + - * / ** and {listed}",
    "assigned": "give `{name}` a value before this line: it is the function's own name, which assigns it",
    # Instead of a decision
    "least": "write {name}(a, b), which chooses for every element, as where(a {sign} b, a, b) does",
    "and": "write where((a < b) & (c < d), x, y)",
    "or": "write where((a < b) | (c < d), x, y)",
    "not": "write where(~(a < b), x, y)",
    "in": "compare with one after another: where(x == a, y, where(x == b, y, z))",
    "in a row": "write where((a < b) & (b < c), x, y)",
    "variant": "a variant that is fixed when the rule is read is declared as {name}=choice(False, True); "
    "a number that may change at every step is asked by where({name} > 0, a, b)",
    "chosen": "write where({words}, a, b), which chooses for every element",
    "any decision": "write where(condition, a, b), which chooses for every element; see also minimum, maximum, clamp",
    # Instead of a value, a length or an index
    "floordiv": "write floor(x / y), and x % y for what is left",
    "rmatmul": "a @ b is the product of two matrices of the rule; of a number and a matrix it is a * b",
    "xor": "write (a < b) & (c < d), (a < b) | (c < d) or ~(a < b); of a and b, one is (a | b) & ~(a & b)",
    "len": "the number of elements is numel(x), that of rows is rows(x)",
    "fixed": "Python runs a loop when it reads the rule, so its length is fixed then: declare steps=choice(5, 10), "
    "or write a number",
    "typeless": "leave {name}(...) out: a formula has no types",
    "builtin": "that is Python's own {name}; write sr.{name}(x), after import steprule as sr",
    "whole": "a formula says what happens to any one element, and takes no tensor apart; "
    "sum, mean, max and norm reduce a whole tensor, with axis=1 each row, with axis=0 each column",
    # How a function of the language is called
    "norms": "norm is Euclidean; sum(abs(x)) is the 1-norm, max(abs(x)) the largest element",
    "two values": "write {instead} for two values; {name}(x) reduces one tensor",
    "alone": "write {name}(x) alone, which is one number for a whole tensor{along}",
    "along": "; {name}(x, axis=1) is one a row, {name}(x, axis=0) one a column",
    "one array": "give one array: {op}(x)",
    "Python's own": "for Python's own {op}, import steprule as sr, which leaves it as it is, or builtins",
    "inside": "call it inside a @rule or @transform, on the rule's arguments",
    # Matrices
    "apart": "multiply it by other matrices, or reduce what has the parameter's shape, e.g. norm(g)",
    "fitting": "the columns of the first must be the rows of the second: a @ transpose(b), or transpose(a) @ b",
    "square": "give a square one, e.g. g @ transpose(g)",
    "array": "give an array of the rule, e.g. the gradient",
    "sides": "{rows} by {columns}",
    "a number": "a number",
    "a matrix": "a matrix of {sides}",
    "host scalar": "a host scalar",
    "one number": "already one number",
    # Instead of a value
    "quotes": 'a number has no quotes; a variant with a name is declared as mode=choice("fast", "slow")',
    "held": "a value that may change is a hyperparameter, read at every step; if it never changes, write float(x)",
    "finite": "write a finite number, such as 1e30",
    "call it": "call it, on symbols or numbers",
    "own arguments": "a formula holds the rule's own arguments and finite numbers",
    # Slots and their new values
    "new": "the new {name}",
    "its rank": "declare {name}=slot(rank={rank})",
    "transpose": "keep its transpose",
    "no rank": "declare {name} without rank=, or give what has its shape, e.g. g @ transpose(g)",
    "over all or": "reduce over all tensors, e.g. by global_sum(...), or ",
    "over all": "over all tensors, e.g. by global_sum(...)",
    "mean first": "first, e.g. by mean(...{axis})",
    "reduced": "reduce the value {how}, {joined} declare {name}=slot(rank={rank})",
    "matrix slot": ": a matrix",
    "small slot": ": rank {rank} is {each}",
    # Signatures and declarations
    "reserved": "choose another name; optimisers use {names} themselves",
    "asked": "{name} is {meaning}: ask for it as a keyword-only argument, `*, {name}`",
    "finite default": "give a finite number",
    "variant default": "a variant of the formula is declared as {name}={spelled}",
    "stars": " (no *args or **kwargs)",
    "new parameter": "the new parameter, ",
    "usual": ", e.g. tune=(1e-4, 0.1)",
    # Rules in the wrong place
    "run": "run it with {name}.optimizer(model.parameters(), ...)",
    "chained": "chain it with a rule: chain({name}, board.adam)",
    "decorate": "decorate the function with @rule or @transform",
    "links": "give transforms, then a rule: chain(clip_global_norm(max_norm=1.0), board.adam)",
    "leave one": "leave one of them out, e.g. {name}(board.adam)",
    "leave": "leave `{name}` out",
}
"""Parts of messages, and advice, by a name for the case."""


def phrase(case: str, **values: Any) -> str:
    """Return a part of a message, with values in their places."""
    return PHRASES[case].format(**values)
