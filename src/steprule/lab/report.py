"""One self-contained page: it loads nothing, and shows what a lecture would want to point at."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import DictLoader, Environment, StrictUndefined

from steprule.lab import charts, notes, svg
from steprule.lab.protocol import SELECTION
from steprule.lab.results import by_name, hardware, versions
from steprule.lab.runs import DIVERGENCE
from steprule.lab.statistics import INTERVAL, verdict, winner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steprule.lab.methods import Method
    from steprule.lab.protocol import Study
    from steprule.lab.results import Row, Setting

NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven")


@dataclass(frozen=True)
class Card:
    """A method on the page: its formula, its numbers as words, its curves."""

    name: str
    title: str
    settings: str
    cells: dict[str, str]
    leads: bool
    formula: str | None
    text: str
    latex: str
    source: str
    cost: str
    curve: str | None
    rates: str | None


def page(study: Study, rows: Sequence[Row], setting: Setting) -> str:
    """Return the report as HTML."""
    metric = study.plan.task.build().metric
    best = winner(by_name(rows), higher=metric.higher)
    cards = [_card(study, row, place, leads=row.method.name == best) for place, row in enumerate(rows)]
    tried = any(study.sensitivity(row.method) for row in rows)
    scored = any(row.summary.test_accuracy for row in rows)
    intervals = {row.method: row.summary.test_accuracy for row in rows}
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            heading=_heading(study),
            task=study.plan.task.build(),
            digits=_picture(study),
            clips=" → ".join(clip.label for clip in rows[0].method.clips),
            verdict=verdict(by_name(rows), higher=metric.higher) if len(rows) > 1 else "",
            cards=cards,
            views=_views(study) if scored else [],
            sensitivity=charts.sensitivity(study, "rates") if tried else None,
            scores=charts.scores(study, intervals, "scores") if scored else None,
            footnotes=notes.footnotes(study, rows),
            rules=[SELECTION, DIVERGENCE, INTERVAL] if tried else [DIVERGENCE, INTERVAL],
            facts=_facts(study, setting),
            interrupted=study.interrupted,
            target=notes.target(study),
            metric=metric,
        )
    )


def _environment() -> Environment:
    here = resources.files("steprule.lab")
    names = ("report.html.j2", "report.css")
    loader = DictLoader({name: (here / name).read_text(encoding="utf-8") for name in names})
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _heading(study: Study) -> str:
    methods = list(study.plan.methods)
    many = NUMBERS[len(methods)] + " update rules" if len(methods) > 1 else methods[0].title
    return f"{many} on {study.plan.task.build().title}"


def _card(study: Study, row: Row, place: int, *, leads: bool) -> Card:
    method, account = row.method, row.account
    return Card(
        name=method.name,
        title=method.title,
        settings=method.settings,
        cells=_cells(study, row),
        leads=leads,
        formula=_formula(method, account, f"formula{place}") if account else None,
        text=account.formula if account else method.name,
        latex=account.latex if account else "",
        source=account.source if account else "",
        cost=_cost(account) if account else "not a rule of steprule",
        curve=charts.own_curve(study, method, f"curve{place}") if row.summary.report_runs else None,
        rates=charts.own_sensitivity(study, method, f"rates{place}") if study.sensitivity(method) else None,
    )


def _formula(method: Method, account: Any, name: str) -> str | None:
    """Return the typeset formula; none where it holds what the typesetter cannot read."""
    try:
        return svg.formula(_equations(method, account), name, account.formula)
    except ValueError:
        return None


def _equations(method: Method, account: Any) -> tuple[str, ...]:
    """Return the rule's lines, preceded by what g is where the rule leaves that to the training loop."""
    if any(line.startswith("g =") for line in account.equations):
        return account.equations
    batch = r"\{(x_i, y_i)\}_n" if method.full_batch else "B_{t-1}"
    return (rf"g = \nabla L\left({batch},\, \theta_{{t-1}}\right)", *account.equations)


def _cost(account: Any) -> str:
    """Word what a step costs in memory traffic."""
    count = len(account.passes)
    passes = "1 pass" if count == 1 else f"{count} passes"
    return f"{passes} over memory, {account.bytes_per_parameter:g} bytes a parameter ({account.backend})"


def _cells(study: Study, row: Row) -> dict[str, str]:
    summary = row.summary
    return {
        "lr": notes.rate(summary.lr),
        "validation loss": notes.loss(summary.validation_loss),
        "test score": notes.score(summary.test_accuracy, study.plan.task.build().metric),
        "to target": notes.to_target(summary),
        "µs a step": notes.microseconds(summary.optimizer_us_per_step),
        "state bytes": f"{row.account.state_bytes_per_parameter:g}" if row.account else "unknown",
        "diverged": notes.diverged(summary),
        "iterations": f"{summary.iterations:,}",
        "epochs": notes.epochs(summary.epochs),
    }


def _views(study: Study) -> list[tuple[str, str]]:
    """Return the loss charts, each with the words on its tab."""
    shown = enumerate(charts.views(study))
    return [(f"{view.y_label} / {view.x_label}", charts.losses(study, view, f"view{place}")) for place, view in shown]


def _picture(study: Study) -> tuple[str, str] | None:
    """Return the first picture of the data as a data address, with its caption; none where there is none."""
    for exhibit in study.plan.task.build().reference:
        if exhibit.png is not None:
            return "data:image/png;base64," + base64.b64encode(exhibit.png).decode(), exhibit.caption
    return None


def _facts(study: Study, setting: Setting) -> list[tuple[str, str]]:
    """Return what is needed to repeat the study."""
    plan, machine = study.plan, hardware(setting.workers)
    data = study.plan.task.build().data
    return [
        ("Command", setting.command),
        (
            "Data",
            f"{len(data.train):,} to train on, {len(data.validation)} to validate, {len(data.test)} to test",
        ),
        ("Learning rates", ", ".join(map(notes.rate, study.grid)) if study.fixed_lr is None else "given"),
        ("Tuning seeds", ", ".join(map(str, plan.tuning_seeds)) or "none"),
        ("Report seeds", ", ".join(map(str, plan.report_seeds))),
        ("Versions", ", ".join(f"{name} {number}" for name, number in versions().items())),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"),
        (
            "Workers",
            f"{setting.workers} processes, one compute thread each; a step is timed while all are busy",
        ),
        ("Started", f"{setting.started}, took {setting.seconds:.0f} s"),
    ]
