"""A study's storage: Optuna's journal in a file, made safe against kills and full disks, or a database."""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import steprule as sr
from steprule.console.text import one_line
from steprule.lab.report.shape import Misshapen
from steprule.lab.store.lines import check_line
from steprule.lab.store.owner import Owner

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

if TYPE_CHECKING:
    from collections.abc import Generator

    from optuna.storages import BaseStorage

GRACE = 30.0
"""Seconds after which a lock is broken if its holder cannot be asked."""

BUSY = 60.0
"""Seconds to wait for another process that writes to the same SQLite database."""


class Lock:
    """The journal's lock: a symbolic link that names its holder, so that a killed holder is known at once.

    Where there are no symbolic links, a file with that name in it. A holder on another machine is taken for dead when
    its link has stood still for `GRACE` seconds; no writing takes as long.
    """

    def __init__(self, path: Path) -> None:
        self._journal, self._path = path, path.with_name(path.name + ".lock")
        self._me = str(Owner.here())

    def acquire(self) -> None:
        """Wait for the lock and take it."""
        pause, seen, since = 0.001, None, time.monotonic()
        while not self._take():
            holder = self._holder()
            if holder != seen:
                seen, since = holder, time.monotonic()
            if holder and (Owner.of(holder).dead() or time.monotonic() - since > GRACE):
                self._break(holder)
            else:
                time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def release(self) -> None:
        """Give the lock back; one that was taken away is no longer there."""
        if self._holder() == self._me:
            self._path.unlink(missing_ok=True)

    def _take(self) -> bool:
        try:
            self._path.symlink_to(self._me)
        except FileExistsError:
            return False
        except (OSError, NotImplementedError):
            return self._take_file()
        return True

    def _take_file(self) -> bool:
        try:
            with self._path.open("x", encoding="ascii") as file:
                file.write(self._me)
        except FileExistsError:
            return False
        return True

    def _holder(self) -> str:
        with suppress(OSError):
            return str(self._path.readlink())
        with suppress(OSError, UnicodeDecodeError):
            return self._path.read_text(encoding="ascii") or "unknown"
        return ""

    def _break(self, holder: str) -> None:
        """Remove a dead holder's lock; processes of one machine take turns, lest the second remove a living one's."""
        with self._journal.open("rb") as turn:
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.flock(turn, fcntl.LOCK_EX)
            if self._holder() == holder:
                self._path.unlink(missing_ok=True)


class Journal(JournalFileBackend):
    """Optuna's journal file, in which every line is whole.

    A process killed in the middle of a line leaves a torn one, after which Optuna could neither read nor write; a
    disk that fills up does the same. The next writer, under the lock, cuts it off first. A journal that another one
    has taken the place of is no longer read or written: the same numbers mean other trials there.
    """

    def __init__(self, path: Path) -> None:
        self._lock_of_ours = Lock(path)
        self._journal = path
        super().__init__(str(path))
        self._file = _identity(path.stat())

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any]]:
        """Read the lines since the last reading."""
        try:
            found = self._journal.stat()
        except OSError as error:
            raise StorageInternalError(error.strerror) from error
        self._same(found)
        return self._checked(log_number_from)

    def _checked(self, start: int) -> Generator[dict[str, Any]]:
        """Yield the lines, each of which has the shape that Optuna gives it."""
        number = start
        try:
            for line in super().read_logs(start):
                check_line(line)
                number += 1
                yield line
        except (Misshapen, ValueError, RecursionError) as error:
            told = error if isinstance(error, Misshapen) else "it is not a line of JSON"
            raise sr.errors.StateError(
                f"line {number + 1} of the journal is malformed: {told}",
                where=str(self._journal),
                fix="begin a study anew with another --out or --storage, or restore the line as it was written",
            ) from error

    def _same(self, found: os.stat_result) -> None:
        if _identity(found) != self._file:
            raise StorageInternalError("another study has been begun in its place")

    def move(self, path: Path) -> None:
        """Give the file another name, under which it is read and written from now on."""
        self._lock_of_ours.acquire()
        try:
            self._journal.rename(path)
        finally:
            self._lock_of_ours.release()
        self._lock_of_ours, self._journal, self._file_path = Lock(path), path, str(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write whole lines at the end, or leave the file as it was."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            self._lock_of_ours.acquire()
            with self._journal.open("r+b", buffering=0) as file:
                self._same(os.fstat(file.fileno()))
                end = whole_length(file)
                file.truncate(end)
                file.seek(end)
                _write(file, text.encode())
                os.fsync(file.fileno())
        except OSError as error:  # as Optuna reports a database
            raise StorageInternalError(error.strerror) from error
        finally:
            self._lock_of_ours.release()


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _write(file: Any, content: bytes) -> None:
    """Write all of it: a nearly full disk takes a part first, and refuses the rest."""
    while content:
        content = content[file.write(content) :]


def any_done(journal: Path) -> bool:
    """Whether a trial of the study in a journal is complete."""
    complete = f'"state":{TrialState.COMPLETE.value}'.encode()
    with journal.open("rb") as file:
        return any(complete in line for line in file)


def whole_length(file: Any) -> int:
    """Return how many bytes of a file are whole lines."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def is_url(text: str) -> bool:
    """Whether a storage is a database and no file."""
    return "://" in text


def opened(place: str) -> BaseStorage:
    """Return the storage at a path or a database's URL, and make it if it does not exist."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return _database(place) if is_url(place) else _file(Path(place))
    except sr.errors.StepruleError:
        raise
    except Exception as error:
        raise unopened(place, error) from error


def unopened(place: str, error: BaseException) -> sr.errors.StateError:
    """Return an error with the reason why a storage cannot be used at all."""
    return sr.errors.StateError(
        f"the storage cannot be opened: {reason(error)}",
        where=display(place),
        fix="give --storage a file that can be written to, or a database's URL such as sqlite:///study.db",
    )


def reason(error: BaseException) -> str:
    """Return in one line why a storage failed: the message of its driver or of the system, if Optuna hands it on."""
    cause = error.__cause__ or error
    said = getattr(cause, "orig", None) or getattr(cause, "strerror", None) or cause
    kind = f"{type(said).__name__}: " if isinstance(said, LookupError | TypeError | AssertionError) else ""
    return one_line(f"{kind}{' '.join(str(said).split())}"[:200])


def _file(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if not file.read(1024).startswith(b'{"op_code":'):
                raise ValueError("the file is something else than a study's journal")
    return JournalStorage(Journal(path))


def _database(url: str) -> BaseStorage:
    lite = url.startswith("sqlite")
    arguments = {"connect_args": {"timeout": BUSY}} if lite else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = _patiently(url, arguments)
    if lite:
        _serialise(storage.engine)
    # As create_study does: the trials that are done are read once.
    return get_storage(storage)


def _patiently(url: str, arguments: dict[str, Any]) -> RDBStorage:
    """Open a database; two processes that make its tables at the same moment get in each other's way once."""
    for pause in (0.1, 0.5, 2.0):
        try:
            return RDBStorage(url, engine_kwargs=arguments)
        except (ImportError, ValueError):
            raise
        except Exception:  # noqa: BLE001 - each driver has errors of its own; the last attempt raises
            time.sleep(pause)
    return RDBStorage(url, engine_kwargs=arguments)


def _serialise(engine: Any) -> None:
    """Let every transaction on SQLite lock the database as it begins: it reads before it writes.

    Python's driver begins one at the first write only, and then two processes can both read "running" and both write.
    """
    from sqlalchemy import event

    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    engine.dispose()


def closed(storage: BaseStorage) -> None:
    """Let go of a database's connections."""
    database = getattr(storage, "_backend", None)
    if isinstance(database, RDBStorage):
        database.remove_session()
        database.engine.dispose()


def display(place: str) -> str:
    """Return a storage as it may be shown: a URL without its password."""
    if not is_url(place):
        return place
    hidden = re.sub(r"(://[^:/@]*:)[^/]*@", r"\1***@", place)
    return re.sub(r"([?&](?:password|passwd|pwd)=)[^&]*", r"\1***", hidden, flags=re.IGNORECASE)
