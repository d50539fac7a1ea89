"""The order in which a plan's hyperparameters and arrays stand in tables, the same on every backend."""

from __future__ import annotations

from ..graph.node import Rank
from .schedule import Plan


def hyper_columns(plan: Plan) -> list[str]:
    """List the columns of the hyperparameter table: hyperparameters, t if used, host slots."""
    graph = plan.graph
    step = ["t"] if graph.uses_step else []
    return [item.name for item in graph.hypers] + step + [s.name for s in graph.slots if s.rank is Rank.HOST]


def array_rows(plan: Plan) -> list[str]:
    """List the rows of the address table: parameter, gradient, then every slot that lives in memory."""
    graph = plan.graph
    return [graph.parameter, graph.gradient] + [s.name for s in graph.slots if s.rank is not Rank.HOST]


def host_columns(plan: Plan) -> list[str]:
    """List the columns of a device's table of counts: t, if steps are counted, then host slots."""
    graph = plan.graph
    return (["t"] if graph.uses_step else []) + [slot.name for slot in graph.slots if slot.rank is Rank.HOST]
