"""The runs of a study as trials of an Optuna study: results and owners, for any number of processes.

A trial carries the key of a run and, when it is done, its record: plain JSON, nothing that is executed. To claim a
run is to create its trial, running and with its owner in it, in one write; of several trials with one key that are
running or complete the lowest number counts, so two processes that claim the same run find out at once which of them
has it. A trial ends once: the storage refuses a second end. To agree on something, a process proposes it
in the same way, by a trial that has failed, so that no sampler learns from it: the first proposal counts.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState

import steprule as sr
from steprule.console.files import Unrecorded
from steprule.console.text import one_line
from steprule.lab.report.shape import ANY, Each, Misshapen, Sometimes, check
from steprule.lab.store.journal import Journal, closed, display, opened, reason, unopened
from steprule.lab.store.owner import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

LEASE = 60.0
"""Seconds without a sign of life after which an owner counts as dead if it cannot be asked."""

BEAT = 5.0
"""Seconds between two signs of life."""

DEATHS = 3
"""How often a run's worker may die before that is the run's result."""

PLAN = "plan"
"""The key under which the processes of a study agree on its plan."""

ATTRIBUTES = {"key": Sometimes(str), "owner": Sometimes(str), "record": Sometimes(Each(ANY))}
"""The attributes of a trial."""

AGREED = {"asked": Each(str), "fitted": Each(ANY), "study": Sometimes(str)}
"""The agreement of the processes under `PLAN`."""

LIVE = (TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE)


def _study(storage: BaseStorage, name: str) -> int:
    """Return the number of the study of this name, and begin it if there is none yet."""
    try:
        return storage.create_new_study([StudyDirection.MINIMIZE], name)
    except DuplicatedStudyError:
        return storage.get_study_id_from_name(name)


@dataclass
class TrialStore:
    """A study's records, as this process sees and extends them."""

    place: str
    storage: BaseStorage
    study: int
    owner: str = field(default_factory=lambda: f"{Owner.here()}/{uuid4().hex[:8]}")
    held: dict[str, int] = field(default_factory=dict[str, int])
    """The runs that this process has claimed, and the trial of each."""
    first: Callable[[Self], None] | None = None
    """Called when the first run of a new study is done."""
    name: str = ""
    """A name unlike any other study's, once the processes have agreed on the plan."""
    _beats: int = 0
    _beaten: float = 0.0
    _signs: dict[str, tuple[Any, float]] = field(default_factory=dict[str, tuple[Any, float]])
    _trials: dict[str, list[FrozenTrial]] = field(default_factory=lambda: defaultdict[str, list["FrozenTrial"]](list))

    @classmethod
    def at(cls, place: str, name: str, first: Callable[[Self], None] | None = None) -> Self:
        """Open a study in a storage, or begin it there; `first` is called when its first run is done."""
        storage = opened(place)
        try:
            return cls(place, storage, _study(storage, name), first=first)
        except StorageInternalError as error:
            closed(storage)
            raise unopened(place, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with suppress(OSError, StorageInternalError):  # other processes will find the owner dead
            self.close()
        if isinstance(error, StorageInternalError):
            raise Unrecorded(
                f"results can no longer be recorded: {reason(error)}",
                where=display(self.place),
                fix="make room there, or make it reachable again; --resume goes on with the study",
            ) from error

    def close(self) -> None:
        """Give back the unfinished runs, and close the storage."""
        try:
            for key in list(self.held):
                self.give_back(key)
        finally:
            closed(self.storage)

    def refresh(self) -> None:
        """Read the results of other processes, give a sign of life, and take runs from dead owners."""
        found: dict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in self.storage.get_all_trials(self.study, deepcopy=False):
            with self.reading(f"trial {trial.number}"):
                check(trial.user_attrs, ATTRIBUTES)
            found[trial.user_attrs.get("key", "")].append(trial)
        self._trials = found
        self._beat()
        self._bury()

    def _beat(self) -> None:
        if self.held and time.monotonic() - self._beaten > BEAT:
            self._beats += 1
            self.storage.set_study_user_attr(self.study, f"beat {self.owner}", self._beats)
            self._beaten = time.monotonic()

    def _bury(self) -> None:
        """End the trials of dead owners: their runs are free again."""
        signs = self.storage.get_study_user_attrs(self.study) if self._others() else {}
        for trial in self._others():
            owner = trial.user_attrs.get("owner", "")
            sign = (owner, signs.get(f"beat {owner}"))
            seen, since = self._signs.get(str(trial.number), (None, 0.0))
            if seen != sign:
                self._signs[str(trial.number)] = (sign, since := time.monotonic())
            if Owner.of(owner.rpartition("/")[0]).dead() or time.monotonic() - since > LEASE:
                identity = self.storage.get_trial_id_from_study_id_trial_number(self.study, trial.number)
                self.release(identity)

    def _others(self) -> list[FrozenTrial]:
        running = (trial for trials in self._trials.values() for trial in trials if trial.state == TrialState.RUNNING)
        return [trial for trial in running if trial.user_attrs.get("owner") != self.owner]

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the record of every finished run."""
        found: dict[str, dict[str, Any]] = {}
        for key, trials in self._trials.items():
            done = next((trial for trial in trials if trial.state == TrialState.COMPLETE), None)
            if done is not None:
                found[key] = done.user_attrs.get("record", {})
        return found

    def lost(self) -> list[str]:
        """Return the runs whose worker died `DEATHS` times, and that no process is trying again."""
        return [
            key
            for key, trials in self._trials.items()
            if sum(trial.state == TrialState.FAIL for trial in trials) >= DEATHS
            and not any(trial.state in LIVE for trial in trials)
        ]

    def claim(self, keys: Iterable[str], most: int) -> list[str]:
        """Claim at most `most` of these runs, in this order, leaving out those that others have claimed."""
        claimed: list[str] = []
        for key in keys:
            if len(claimed) == most:
                break
            if not any(trial.state in LIVE for trial in self._trials.get(key, ())) and self._take(key):
                claimed.append(key)
        return claimed

    def _take(self, key: str) -> bool:
        """Create the run's trial; say whether it is the one that counts."""
        trial = self._create(TrialState.RUNNING, {"key": key, "owner": self.owner})
        live = self.storage.get_all_trials(self.study, deepcopy=False, states=LIVE)
        first = next((other for other in live if other.user_attrs.get("key") == key), None)
        if first is None or first.number != self.storage.get_trial_number_from_id(trial):
            self.end(trial, TrialState.PRUNED)
            return False
        self.held[key] = trial
        return True

    def _create(self, state: TrialState, attributes: Mapping[str, Any]) -> int:
        template = optuna.trial.create_trial(state=state, user_attrs=dict(attributes))
        return self.storage.create_new_trial(self.study, template)

    def finish(self, key: str, record: Mapping[str, Any], value: float) -> bool:
        """Record a run's result, and return whether it counts: another process may have taken the run over."""
        trial = self.held.pop(key)
        try:
            self.storage.set_trial_user_attr(trial, "record", dict(record))
        except UpdateFinishedTrialError:
            return False
        counts = self.end(trial, TrialState.COMPLETE, math.inf if math.isnan(value) else value)
        if counts and self.first is not None:
            self.first(self)
            self.first = None
        return counts

    def move(self, path: Path) -> None:
        """Give a journal its lasting name."""
        backend = getattr(self.storage, "_backend", None)
        if isinstance(backend, Journal):
            backend.move(path)
        self.place = str(path)

    def died(self, key: str) -> None:
        """Write down that a run's worker died; it may be tried again."""
        self.end(self.held.pop(key), TrialState.FAIL)

    def give_back(self, key: str) -> None:
        """Let another process do a run that this one had claimed."""
        self.release(self.held.pop(key))

    def release(self, trial: int) -> None:
        """End a trial that no process is doing any more, so that its run is free again."""
        self.end(trial, TrialState.PRUNED)

    def end(self, trial: int, state: TrialState, value: float | None = None) -> bool:
        """End a trial; say whether it had not been ended before."""
        try:
            return self.storage.set_trial_state_values(trial, state, None if value is None else [value])
        except UpdateFinishedTrialError:
            return False

    @contextmanager
    def reading(self, key: str) -> Generator[None]:
        """Read a record within. A wrong field raises an error of one clear line."""
        try:
            yield
        except Misshapen as error:
            raise sr.errors.StateError(
                f"what is recorded of {one_line(key)} is malformed: {error}",
                where=display(self.place),
                fix="begin a study anew with another --out or --storage, or restore the record as it was written",
            ) from error

    def agreed(self, key: str) -> dict[str, Any] | None:
        """Return the agreement of the study's processes under a key, or None so far."""
        proposed = (trial for trial in self._trials.get(key, ()) if trial.state == TrialState.FAIL)
        return next((trial.user_attrs["record"] for trial in proposed if "record" in trial.user_attrs), None)

    def agree(self, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the agreement of the study's processes under a key: the first proposal, perhaps this one."""
        self.refresh()
        while (found := self.agreed(key)) is None:
            self._create(TrialState.FAIL, {"key": key, "record": dict(record)})
            self.refresh()
        return found

    def join(self, asked: Mapping[str, str], fitted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plan that began the study. Refuse another one, and name the differences."""
        plan = self.agree(PLAN, {"asked": dict(asked), "fitted": dict(fitted), "study": uuid4().hex[:12]})
        with self.reading(PLAN):
            check(plan, AGREED)
        there, self.name = plan["asked"], plan.get("study", "")
        differing = [name for name in {**there, **asked} if there.get(name) != asked.get(name)]
        if differing:
            told = "; ".join(
                f"{name}: {there.get(name, 'none')} there, {asked.get(name, 'none')} here" for name in differing
            )
            raise sr.errors.StateError(
                f"the study there is of another plan ({told})",
                where=display(self.place),
                fix="give the options that began it, or another --out or --storage",
            )
        return plan["fitted"]
