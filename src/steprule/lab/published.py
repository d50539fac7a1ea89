"""MNIST and CIFAR-10 from the files that their authors published, each checked before it is believed."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import steprule as sr
from steprule.lab.data import Data, Split

LARGEST = 1 << 28
"""Longer files are refused: all published ones are shorter."""

MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""As published, and unpacked."""

CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_ENTRIES = 100
"""Entries of an archive that are read at most: the published one has nine."""

CIFAR_MD5 = {
    CIFAR_ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530",
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
"""The published archive (the binary version, since the one for Python needs unpickling), and its files."""

MNIST_HELD, CIFAR_HELD = 12, 25
"""The last of this many parts of the published training set is for validation."""


def mnist(folder: Path) -> Data:
    """Read MNIST, as published or unpacked: pictures as (28, 28) bytes."""
    return _held_out(_mnist_set(folder, "train"), _mnist_set(folder, "t10k"), MNIST_HELD, folder)


def cifar10(folder: Path) -> Data:
    """Read CIFAR-10 from the archive or its unpacked files: pictures as (3, 32, 32) bytes."""
    names = [name for name in CIFAR_MD5 if name.endswith(".bin")]
    archive = folder / CIFAR_ARCHIVE
    if archive.exists():
        content = _unpacked(_read(archive, CIFAR_MD5), archive, names)
    else:
        home = folder / CIFAR_FOLDER if (folder / CIFAR_FOLDER).is_dir() else folder
        content = {name: _read(_find(folder, (home / name,)), CIFAR_MD5) for name in names}
    batches = {name: _records(whole, name) for name, whole in content.items()}
    learnt = [batches[name] for name in names if name != "test_batch.bin"]
    train = Split(*(torch.cat([getattr(part, kind) for part in learnt]) for kind in ("inputs", "labels")))
    return _held_out(train, batches["test_batch.bin"], CIFAR_HELD, folder)


def _wrong(what: str, where: Path | str, fix: str = "put the published file in its place") -> sr.errors.DataError:
    return sr.errors.DataError(what, where=str(where), fix=fix)


def _find(folder: Path, paths: tuple[Path, ...]) -> Path:
    """Return the first of the paths that exists."""
    if not folder.is_dir():
        raise _wrong("--data-dir is no folder", folder, "give the folder that holds the files")
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise _wrong(f"{paths[0].name} is missing", folder, "put the published file there, or give another --data-dir")
    return found


def _read(path: Path, checksums: dict[str, str]) -> bytes:
    """Return a file's bytes once they are known to be the published ones."""
    try:
        if not path.is_file():
            raise _wrong(f"{path.name} is no plain file", path)
        if path.stat().st_size > LARGEST:
            raise _wrong(f"{path.name} is longer than {LARGEST:,} bytes", path)
        whole = path.read_bytes()
    except OSError as error:
        told = f"{path.name} cannot be read: {error.strerror or error}"
        raise _wrong(told, path, "make it readable") from error
    found = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    if found != checksums[path.name]:
        raise _wrong(f"{path.name} is not the published file: its MD5 is {found}, not {checksums[path.name]}", path)
    return whole


def _mnist_set(folder: Path, name: str) -> Split:
    """Return one of the two published sets."""
    parts: list[Any] = []
    for kind, shape in (("images-idx3", (28, 28)), ("labels-idx1", ())):
        unpacked = folder / f"{name}-{kind}-ubyte"
        path = _find(folder, (unpacked.with_name(f"{unpacked.name}.gz"), unpacked))
        parts.append(_idx(_read(path, MNIST_MD5), path, shape))
    images, labels = parts
    if len(images) != len(labels):
        raise _wrong(f"{name} has {len(images)} images and {len(labels)} labels", folder)
    return _split(images, labels, folder)


def _idx(whole: bytes, path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return the array of an IDX file of bytes, packed or not; `shape` is that of one example."""
    length = 4 * (len(shape) + 2)
    try:
        stream = gzip.GzipFile(fileobj=io.BytesIO(whole)) if path.suffix == ".gz" else io.BytesIO(whole)
        header = stream.read(length)
        if len(header) < length or header[:4] != bytes((0, 0, 8, len(shape) + 1)):
            raise _wrong(f"{path.name} is no IDX file of bytes in {len(shape) + 1} dimensions", path)
        count, *found = np.frombuffer(header[4:], ">u4").tolist()
        size = count * int(np.prod(shape))
        if tuple(found) != shape or size > LARGEST:
            raise _wrong(f"{path.name} says that it holds {'×'.join(map(str, (count, *found)))} bytes", path)
        content = stream.read(size + 1)  # no more than that: a few packed bytes can stand for very many
    except (OSError, EOFError, zlib.error) as error:
        raise _wrong(f"{path.name} cannot be unpacked: {error}", path) from error
    if len(content) != size:
        told = "ends too early" if len(content) < size else "goes on after its last example"
        raise _wrong(f"{path.name} {told}", path)
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


def _unpacked(whole: bytes, path: Path, names: list[str]) -> dict[str, bytes]:
    """Return the files of the archive, unpacked in memory."""
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:gz") as archive:
            for entry in islice(archive, CIFAR_ENTRIES):  # never the whole list: its end is unknown
                file = archive.extractfile(entry) if entry.isreg() and entry.size <= LARGEST else None
                if file is None and not entry.isdir():  # skipping it would unpack it too
                    raise _wrong(f"{entry.name!r} in {path.name} is no plain file, or too long", path)
                folder, _, name = entry.name.rpartition("/")
                if file is not None and folder == CIFAR_FOLDER and name in names:
                    content[name] = file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise _wrong(f"{path.name} cannot be unpacked: {error}", path) from error
    missing = [name for name in names if name not in content]
    if missing:
        raise _wrong(f"{path.name} lacks a file: {missing[0]}", path)
    return content


def _records(whole: bytes, name: str) -> Split:
    """Return the pictures of a batch: each has a byte for its class, then red, green and blue."""
    size = 1 + 3 * 32 * 32
    if not whole or len(whole) % size:
        raise _wrong(f"{name} is {len(whole):,} bytes long, no multiple of the {size:,} of a picture", name)
    rows = np.frombuffer(whole, np.uint8).reshape(-1, size)
    return _split(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], name)


def _split(images: Any, labels: Any, where: Path | str) -> Split:
    if len(labels) and labels.max() > 9:
        raise _wrong(f"a label is {labels.max()}, and there are ten classes", where)
    return Split(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


def _held_out(whole: Split, test: Split, parts: int, folder: Path) -> Data:
    """Return the three sets: the last part of the published training set is for validation."""
    kept = len(whole) - len(whole) // parts
    if kept == len(whole) or not len(test):
        raise _wrong(f"{len(whole)} training and {len(test)} test pictures are too few", folder)
    train, validation = (Split(whole.inputs[part], whole.labels[part]) for part in (slice(kept), slice(kept, None)))
    return Data(train, validation, test)
