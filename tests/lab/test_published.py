"""MNIST and CIFAR-10, on small files made here in the published formats."""

import gzip
import hashlib
import io
import json
import shutil
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch

from steprule import errors
from steprule.__main__ import main
from steprule.lab import published
from steprule.lab.tasks import TaskSpec

COUNTS = {"train": 60, "t10k": 20}
BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def drawn(*shape, high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint8)


def mnist_files():
    found = {}
    for seed, (name, count) in enumerate(COUNTS.items()):
        found[f"{name}-images-idx3-ubyte"] = idx(drawn(count, 28, 28, seed=seed))
        found[f"{name}-labels-idx1-ubyte"] = idx(drawn(count, high=10, seed=seed))
    return found


def cifar_files():
    found = {}
    for seed, name in enumerate(BATCHES):
        rows = np.hstack([drawn(10, 1, high=10, seed=seed), drawn(10, 3072, seed=seed)])
        found[name] = rows.tobytes()
    return found


def archive(files, *before):
    """Pack files, and entries of any kind before them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for entry in before:
            tar.addfile(entry, io.BytesIO(bytes(min(entry.size, 1000))))
        for name, content in files.items():
            tar.addfile(entry_of(name, len(content)), io.BytesIO(content))
    return buffer.getvalue()


def entry_of(name, size=0, **more):
    entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
    entry.size = size
    for key, value in more.items():
        setattr(entry, key, value)
    return entry


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes files, and takes their checksums for the published ones."""

    def write(files, *, known=True, under=""):
        folder = tmp_path / under
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
            table = published.MNIST_MD5 if name in published.MNIST_MD5 else published.CIFAR_MD5
            if known:
                monkeypatch.setitem(table, name, hashlib.md5(content, usedforsecurity=False).hexdigest())
        return tmp_path

    return write


def packed(files):
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


@pytest.mark.parametrize("form", [packed, dict], ids=["packed", "plain"])
def test_mnist_is_read_packed_and_plain(form, write):
    data = TaskSpec("mnist", data_dir=str(write(form(mnist_files())))).build().data
    assert [len(part) for part in (data.train, data.validation, data.test)] == [55, 5, 20]
    images = np.concatenate([data.train.inputs, data.validation.inputs])
    assert np.array_equal(images, drawn(60, 28, 28, seed=0))
    assert np.array_equal(data.test.inputs, drawn(20, 28, 28, seed=1))
    assert np.array_equal(data.test.labels, drawn(20, high=10, seed=1))
    assert data.train.labels.dtype == torch.int64


@pytest.mark.parametrize("form", ["archive", "folder", "files"])
def test_cifar10_is_read_from_the_archive_and_unpacked(form, write):
    files = cifar_files()
    if form == "archive":
        folder = write({published.CIFAR_ARCHIVE: archive(files)})
    else:
        folder = write(files, under="cifar-10-batches-bin" if form == "folder" else "")
    data = TaskSpec("cifar10", data_dir=str(folder)).build().data
    assert [len(part) for part in (data.train, data.validation, data.test)] == [48, 2, 10]
    row = np.frombuffer(files["data_batch_2.bin"], np.uint8).reshape(10, 3073)[3]
    assert data.train.labels[13] == row[0]
    assert np.array_equal(data.train.inputs[13].flatten(), row[1:])
    last = np.frombuffer(files["test_batch.bin"], np.uint8).reshape(10, 3073)[-1]
    assert np.array_equal(data.test.inputs[-1].flatten(), last[1:])


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_run_is_trained_on_them_and_reported(name, write, tmp_path, capsys):
    folder = write(packed(mnist_files()) if name == "mnist" else {published.CIFAR_ARCHIVE: archive(cifar_files())})
    out = tmp_path / "out"
    command = (
        f"train --task {name} --data-dir {folder} --optimizer adam --lr 0.01 --epochs 2 --batch-size 16 --no-progress"
    )
    assert main([*command.split(), "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)
    assert "real" in (out / "report.html").read_text(encoding="utf-8")
    task = TaskSpec(name, data_dir=str(folder)).build()
    assert task.reference[0].png.startswith(b"\x89PNG")
    assert task.data.train.inputs.dtype == torch.uint8


def test_tasks_lists_them_without_and_with_their_files(write, capsys):
    folder = write({**packed(mnist_files()), published.CIFAR_ARCHIVE: archive(cifar_files())})
    for arguments, known in ([], False), (["--data-dir", str(folder)], True):
        assert main(["tasks", "--json", *arguments]) == 0
        listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert [("network" in listed[name]) for name in ("mnist", "cifar10")] == [known] * 2
        assert listed["mnist"]["needs"] == ["data_dir"]
        assert "MNIST" in listed["mnist"]["about"]


def change(files, name, content):
    return {**files, name: content}


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"

WRONG_MNIST = {
    "an empty file": (LABELS, b"", "no IDX file"),
    "a short header": (IMAGES, b"\0\0\x08\x03\0\0", "no IDX file"),
    "another magic number": (LABELS, b"\0\0\x0d\x01" + struct.pack(">I", 60) + bytes(60), "no IDX file"),
    "labels for images": (IMAGES, idx(drawn(60, high=10)), "no IDX file"),
    "a truncated file": (IMAGES, idx(drawn(60, 28, 28))[:-1], "ends too early"),
    "an oversized file": (IMAGES, idx(drawn(60, 28, 28)) + b"\0", "goes on after its last example"),
    "other pictures": (IMAGES, idx(drawn(60, 27, 28)), "60×27×28"),
    "a count without end": (IMAGES, struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 28, 28), "4294967295×28×28"),
    "fewer labels": (LABELS, idx(drawn(59, high=10)), "60 images and 59 labels"),
    "an eleventh class": (LABELS, idx(np.full(60, 10, np.uint8)), "a label is 10"),
    "no pictures": (IMAGES, idx(drawn(0, 28, 28)), "0 images"),
}


def refused(name, folder, said):
    with pytest.raises(errors.DataError) as caught:
        TaskSpec(name, data_dir=str(folder)).build()
    assert said in str(caught.value)
    assert caught.value.where
    assert caught.value.fix


@pytest.mark.parametrize("form", [packed, dict], ids=["packed", "plain"])
@pytest.mark.parametrize("case", WRONG_MNIST)
def test_a_wrong_file_of_mnist_is_refused(case, form, write):
    name, content, said = WRONG_MNIST[case]
    refused("mnist", write(form(change(mnist_files(), name, content))), said)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda whole: whole[:-9], "cannot be unpacked"),
        (lambda whole: whole[:40], "cannot be unpacked"),
        (lambda whole: b"nothing packed" + whole, "cannot be unpacked"),
        (lambda whole: whole[:200] + bytes(50) + whole[250:], "cannot be unpacked"),
    ],
)
def test_a_spoilt_packing_is_refused(spoil, said, write):
    files = packed(mnist_files())
    refused("mnist", write(change(files, f"{IMAGES}.gz", spoil(files[f"{IMAGES}.gz"]))), said)


WRONG_CIFAR = {
    "a truncated batch": ("data_batch_3.bin", bytes(3072), "no multiple"),
    "an empty batch": ("test_batch.bin", b"", "no multiple"),
    "an eleventh class": ("data_batch_1.bin", bytes([10]) + bytes(3072), "a label is 10"),
}


@pytest.mark.parametrize("packing", ["archive", "files"])
@pytest.mark.parametrize("case", WRONG_CIFAR)
def test_a_wrong_file_of_cifar10_is_refused(case, packing, write):
    name, content, said = WRONG_CIFAR[case]
    files = change(cifar_files(), name, content)
    refused("cifar10", write({published.CIFAR_ARCHIVE: archive(files)} if packing == "archive" else files), said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive({name: content for name, content in cifar_files().items() if name != BATCHES[2]}), "lacks a file"),
        (archive(cifar_files())[:3000], "cannot be unpacked"),
        (b"no archive at all", "cannot be unpacked"),
    ],
    ids=["a file less", "truncated", "no archive"],
)
def test_a_wrong_archive_is_refused(content, said, write):
    refused("cifar10", write({published.CIFAR_ARCHIVE: content}), said)


# Files that swell, or reach outside: their checksums are forged here, as if nothing else protected ---------


@pytest.mark.hostile("S5")
def test_a_file_that_swells_is_unpacked_no_further_than_it_says(write):
    content = idx(drawn(60, 28, 28)) + bytes(64_000_000)
    folder = write(packed(change(mnist_files(), IMAGES, content)))
    tracemalloc.start()
    refused("mnist", folder, "goes on after its last example")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def declared(size):
    """Pack an entry that says it is so long, and has nothing in it."""
    return gzip.compress(entry_of(BATCHES[0], size).tobuf())


@pytest.mark.hostile("S5")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            declared(1 << 40),
            "'cifar-10-batches-bin/data_batch_1.bin' in cifar-10-binary.tar.gz is no plain file, or too",
        ),
        (archive(cifar_files(), entry_of("x", linkname="/etc/passwd", type=tarfile.SYMTYPE)), "/x' in"),
        (archive({}, entry_of(BATCHES[0], linkname="../../x", type=tarfile.LNKTYPE)), "is no plain file"),
        (archive({}, entry_of(BATCHES[0], type=tarfile.CHRTYPE)), "is no plain file"),
        (archive(cifar_files(), *(entry_of(str(number)) for number in range(2000))), "lacks a file"),
    ],
    ids=["a length without end", "a symbolic link", "a hard link", "a device", "thousands of entries"],
)
def test_an_archive_that_swells_or_reaches_outside_is_refused(content, said, write):
    refused("cifar10", write({published.CIFAR_ARCHIVE: content}), said)


@pytest.mark.hostile("S5")
def test_names_that_reach_outside_are_passed_over(write, tmp_path):
    names = ("../../x", "/x", "../cifar-10-batches-bin/../x", "a/data_batch_1.bin")
    folder = write(
        {published.CIFAR_ARCHIVE: archive(cifar_files(), *(entry_of(name, 5) for name in names))}, under="in"
    )
    before = sorted(tmp_path.rglob("*"))
    assert len(TaskSpec("cifar10", data_dir=str(folder / "in")).build().data.train) == 48
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_files_that_are_not_the_published_ones_are_refused_unread(name, write):
    files = packed(mnist_files()) if name == "mnist" else {published.CIFAR_ARCHIVE: archive(cifar_files())}
    refused(name, write(files, known=False), "is not the published file: its MD5 is")


@pytest.mark.parametrize(("name", "said"), [("mnist", "train-images-idx3-ubyte.gz"), ("cifar10", "data_batch_1.bin")])
def test_a_missing_file_or_folder_is_named(name, said, tmp_path):
    refused(name, tmp_path, f"{said} is missing")
    refused(name, tmp_path / "nowhere", "no folder")
    (tmp_path / "file").write_text("")
    refused(name, tmp_path / "file", "no folder")


def test_what_is_no_plain_file_or_too_long_is_refused(write, tmp_path, monkeypatch):
    folder = write(packed(mnist_files()))
    monkeypatch.setattr(published, "LARGEST", 100)
    refused("mnist", folder, "longer than 100 bytes")
    (folder / f"{IMAGES}.gz").unlink()
    (folder / f"{IMAGES}.gz").mkdir()
    refused("mnist", folder, "no plain file")


def test_the_command_line_tells_in_three_parts_and_writes_nothing(tmp_path, capsys):
    command = f"train --task mnist --data-dir {tmp_path} --optimizer sgd --lr 1 --out {tmp_path / 'out'}"
    assert main(command.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "steprule: error: train-images-idx3-ubyte.gz is missing"
    assert lines[1] == str(tmp_path)
    assert lines[2].startswith("help: ")
    assert not (tmp_path / "out").exists()


def test_the_same_files_elsewhere_are_the_same_task(write, tmp_path):
    folder = write(packed(mnist_files()))
    shutil.copytree(folder, tmp_path / "elsewhere")
    here, there = (TaskSpec("mnist", data_dir=str(place)) for place in (folder, tmp_path / "elsewhere"))
    assert here != there
    assert here.told() == there.told()
