"""The folder that records a study: its lock, and the place of an earlier study."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import steprule as sr
from steprule.console.kept import keep, tell
from steprule.console.screen import say
from steprule.lab.earlier import unmoved
from steprule.lab.store.folder_lock import locked
from steprule.lab.store.journal import any_done, is_url

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from steprule.lab.store.trials import TrialStore


@dataclass
class Home:
    """Where a study is recorded; one that begins beside an earlier one has a name of its own until a run is done."""

    folder: Path
    journal: str
    names: tuple[str, ...]
    """The files that belong to a study, besides its journal."""
    place: str = ""
    share: Callable[[], None] = lambda: None
    """Lets others into the folder."""

    @property
    def lasting(self) -> Path:
        """The journal of the folder's study."""
        return self.folder / self.journal

    @property
    def young(self) -> Path:
        """That of a study of which no run is done, beside an earlier one."""
        return self.folder / f"{self.journal}.new"

    def recover(self) -> None:
        """Forget a study that ended before its first run was done; one that was killed just then takes its place."""
        for path in (self.lasting, self.young):
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        if self.young.exists() and any_done(self.young):
            self._make_room()
            self.young.rename(self.lasting)
        self.young.unlink(missing_ok=True)

    def begin(self, share: Callable[[], None]) -> None:
        """Begin a study; an earlier one of which a run is done stays as it is for now."""
        if self.lasting.exists() and any_done(self.lasting):
            self.place, self.share = str(self.young), share
            return
        self.lasting.unlink(missing_ok=True)
        share()

    def settle(self, store: TrialStore) -> None:
        """Give the files of the earlier study the next number, and its place to this one."""
        if store.place == str(self.young):
            self._make_room()
            store.move(self.lasting)
            self.share()

    def _make_room(self) -> None:
        try:
            kept = keep(self.folder, (self.journal, *self.names))
        except OSError as error:
            raise unmoved(self.folder, error) from error
        tell(kept)
        if kept and kept[0].name.startswith(self.journal):
            say(f"With the options of that study, --storage {kept[0]} goes on with it.", err=True)


@contextmanager
def at_home(values: dict[str, Any], journal: str, names: tuple[str, ...]) -> Generator[Home]:
    """Hold the folder of a study, and that of a shared journal. Without --resume and --storage the study is new.

    A new study has the folder for itself until its first run is done, if an earlier study is there.
    """
    out: Path = values["out"]
    storage: str | None = values["storage"]
    home = Home(out, journal, names, storage or str(out / journal))
    with ExitStack() as held:
        if storage is None:
            with suppress(sr.errors.StateError), locked(out):  # another process in the folder has done it
                home.recover()
        anew = storage is None and not values["resume"]
        share = held.enter_context(locked(out, shared=not anew))
        if anew:
            home.begin(share)
        place = None if storage is None or is_url(storage) else Path(storage).parent
        if place is not None and place.is_dir() and not place.samefile(out):
            held.enter_context(locked(place, shared=True))
        yield home
