"""A run's state on disk: written whole or not at all, read only when every byte is as it was written."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

import steprule as sr
from steprule.console.files import write_atomically
from steprule.lab.report.shape import ANY, Each, Misshapen, check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAGIC = b"steprule checkpoint 1\n"
"""The first line of a file; the SHA-256 of the rest of it is the second."""

SHAPE = {"made_by": Each(str), "state": Each(ANY)}
"""The shape of a file. The run checks its own state."""

MOST = 1 << 34
"""Bytes above which a file is not read: no run of the lab writes as much."""


class Damaged(Exception):  # noqa: N818 - it is caught where it is raised, and answered by the previous checkpoint
    """A file differs from the one that was written."""


FILES = ("checkpoint.pt", "checkpoint.previous.pt")


@dataclass
class Checkpoint:
    """Where a run keeps its state: the newest one, and the one before it.

    `made_by` is everything that decides the run, in words. The state of another run is refused.
    """

    folder: Path
    made_by: dict[str, str]
    anew: Callable[[], None] | None = None
    """Sets aside the files of an earlier run, before the first writing of a run that does not resume it."""

    @property
    def newest(self) -> Path:
        """The file that a resumed run reads."""
        return self.folder / FILES[0]

    @property
    def previous(self) -> Path:
        """The file to read if the newest one is damaged."""
        return self.folder / FILES[1]

    @property
    def study(self) -> str:
        """A name of the run, the same on every machine."""
        return hashlib.sha256(repr(sorted(self.made_by.items())).encode()).hexdigest()[:12]

    @property
    def is_there(self) -> bool:
        """Whether there is a state to go on from, be it damaged."""
        return self.newest.exists() or self.previous.exists()

    def save(self, state: dict[str, Any]) -> None:
        """Write the state as the newest one, which becomes the previous one. A full disk changes nothing."""
        buffer = io.BytesIO()
        torch.save({"made_by": self.made_by, "state": state}, buffer)
        payload = buffer.getvalue()
        digest = hashlib.sha256(payload).hexdigest().encode()
        whole = MAGIC + digest + b"\n" + payload
        write_atomically(self.newest, whole, keep=self.previous, first=self.anew)
        self.anew = None

    def load(self) -> dict[str, Any] | None:
        """Return the newest whole state, or None without a file. Warn of a damaged file."""
        found = False
        for path in (self.newest, self.previous) if self.anew is None else ():
            if not path.exists():
                continue
            found = True
            try:
                content = _read(path)
            except Damaged as error:
                warnings.warn(f"{path} is damaged ({error}) and passed over", stacklevel=2)
                continue
            self._compare(path, content["made_by"])
            return content["state"]
        if found:
            raise sr.errors.StateError(
                "no checkpoint of this run is whole",
                where=str(self.folder),
                fix="start the run anew, without --resume",
            )
        return None

    def _compare(self, path: Path, made_by: dict[str, str]) -> None:
        """Refuse the state of another run, and name the differences."""
        keys = sorted({*made_by, *self.made_by})
        differing = [key for key in keys if made_by.get(key) != self.made_by.get(key)]
        if differing:
            told = "; ".join(f"{key}: {made_by.get(key)} there, {self.made_by.get(key)} here" for key in differing)
            raise sr.errors.StateError(
                f"the checkpoint is of another run ({told})",
                where=str(path),
                fix="resume with the options that began the run, or give another --out",
            )


def _read(path: Path) -> dict[str, Any]:
    """Return a file's content after comparing its digest. Loading executes nothing."""
    if not path.is_file() or path.is_symlink() or path.stat().st_size > MOST:
        raise Damaged("no plain file, or too large")
    whole = path.read_bytes()
    magic, digest, payload = whole[: len(MAGIC)], whole[len(MAGIC) : len(MAGIC) + 64], whole[len(MAGIC) + 65 :]
    if magic != MAGIC:
        raise Damaged("it is no checkpoint of this format")
    if hashlib.sha256(payload).hexdigest().encode() != digest or whole[len(MAGIC) + 64 : len(MAGIC) + 65] != b"\n":
        raise Damaged("its checksum differs")
    try:
        content = torch.load(io.BytesIO(payload), weights_only=True)
        check(content, SHAPE, "it")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise Damaged("it holds more than tensors and numbers") from error
    except Misshapen as error:
        raise Damaged(str(error)) from error
    return content
