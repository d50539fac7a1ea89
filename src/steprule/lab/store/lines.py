"""The shape of every line that Optuna writes to a journal: a line of another one is refused before Optuna meets it."""

from __future__ import annotations

from typing import Any

from steprule.lab.report.shape import ANY, Each, Maybe, Misshapen, One, Sometimes, check

_STUDY, _TRIAL = {"study_id": int}, {"trial_id": int}
_VALUES = Sometimes(Maybe([ANY]))
_MOMENTS = {"datetime_start": Sometimes(Maybe(str)), "datetime_complete": Sometimes(Maybe(str))}

LINES: dict[int, dict[str, Any]] = {
    0: {"study_name": str, "directions": [int]},
    1: _STUDY,
    2: {**_STUDY, "user_attr": Each(ANY)},
    3: {**_STUDY, "system_attr": Each(ANY)},
    4: {
        **_STUDY,
        **_MOMENTS,
        "state": Sometimes(One((0, 1, 2, 3, 4))),
        "values": _VALUES,
        "distributions": Sometimes(Each(str)),
        "params": Sometimes(Each(ANY)),
        "user_attrs": Sometimes(Each(ANY)),
        "system_attrs": Sometimes(Each(ANY)),
    },
    5: {**_TRIAL, "param_name": str, "param_value_internal": float, "distribution": str},
    6: {**_TRIAL, **_MOMENTS, "state": One((0, 1, 2, 3, 4)), "values": _VALUES},
    7: {**_TRIAL, "step": int, "intermediate_value": ANY},
    8: {**_TRIAL, "user_attr": Each(ANY)},
    9: {**_TRIAL, "system_attr": Each(ANY)},
}
"""The keys of a line by its code: beginnings, attributes and ends of studies and trials."""


def check_line(line: Any) -> None:
    """Pass a line of a journal, or raise `Misshapen`."""
    check(line, {"op_code": One(tuple(LINES)), "worker_id": str})
    check(line, LINES[line["op_code"]])
    for name in ("user_attr", "system_attr"):
        if len(line.get(name, "1")) != 1:
            raise Misshapen(name, "is not one attribute")
