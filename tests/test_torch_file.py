"""Files of torch that would make more of themselves than they hold; see also tests/nn/test_weights.py."""

from __future__ import annotations

import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoseg.engine.resumable import load_state, save_state
from protoseg.nn.weights import read_state
from protoseg.stored import DamagedError
from protoseg.torch_file import load_torch_file


def test_a_checkpoint_with_its_checksum_is_read_and_a_packed_one_is_not(tmp_path: Path) -> None:
    path, packed = tmp_path / "last.ckpt", tmp_path / "packed.ckpt"
    save_state({"state_dict": {"a": torch.zeros(1000)}}, path)
    assert load_state(path)["state_dict"]["a"].shape == (1000,)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as again:
        for member in whole.namelist():
            again.writestr(member, whole.read(member))
    assert torch.load(packed, weights_only=True)["state_dict"]["a"].shape == (1000,)
    with pytest.raises(DamagedError, match="it is packed"):
        load_state(packed)


def test_an_archive_that_is_cut_off(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])
    with pytest.raises(RuntimeError, match="its list of contents is damaged"):
        load_torch_file(tmp_path / "w.pth")


def write_archive(path: Path, content: bytes, records: dict[str, bytes]) -> None:
    """A file as torch writes it, with any pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        for key, numbers in records.items():
            archive.writestr(f"archive/data/{key}", numbers)


def call(name: str, arguments: bytes) -> bytes:
    """A pickle that calls something."""
    return b"\x80\x02c" + name.encode() + b"\n" + arguments + b"R."


HUGE = b"\x8a\x06" + struct.pack("<q", 10**11)[:6]  # as pickles write it
STORAGE = b"((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1tQ"
"""The begin of a tensor's arguments: one number, in the record 0."""


@pytest.mark.parametrize("old", [False, True], ids=["archive", "before archives"])
def test_a_number_repeated_until_it_fills_the_memory(tmp_path: Path, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path, repeated = tmp_path / "w.pth", torch.zeros(1).expand(10**11)
    torch.save({"state_dict": {"a": repeated}}, path, _use_new_zipfile_serialization=not old)
    save_state({"state_dict": {"a": repeated}}, tmp_path / "last.ckpt")
    assert path.stat().st_size < 2000
    monkeypatch.delattr(torch, "load")
    with pytest.raises(ValueError, match=r"w\.pth cannot be read .* larger than the file"):
        read_state(path)
    with pytest.raises(DamagedError, match=r"last\.ckpt is damaged .* larger than the file"):
        load_state(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (call("__builtin__\nbytearray", HUGE + b"\x85"), "holds more than"),
        (call("torch\nFloatTensor", HUGE + b"\x85"), "holds more than"),
        (call("torch.storage\nUntypedStorage", HUGE + b"\x85"), "holds more than"),
        (call("torch._tensor\n_rebuild_from_type_v2", b"(ctorch\nFloatTensor\nN" + HUGE + b"\x85Nt"), "holds more than"),
        (call("torch._utils\n_rebuild_tensor", STORAGE + b"K\0" + HUGE + b"\x85K\0\x85t"), "larger than the file"),
        (call("torch._utils\n_rebuild_tensor", STORAGE + b"K\0K\2\x85K\1\x85t"), "larger than the file"),
        (call("torch._utils\n_rebuild_tensor", STORAGE + b"K\1K\1\x85K\1\x85t"), "larger than the file"),
        (call("torch._utils\n_rebuild_tensor", STORAGE.replace(b"K\1tQ", HUGE + b"tQ") + b"K\0))t"), "larger than the file"),
        (
            call("torch._utils\n_rebuild_tensor", STORAGE + b"K\0))t")[:-1] + STORAGE + b"K\0" + HUGE + b"\x85K\0\x85tb.",
            "holds more than",
        ),
        (b"\x80\x02}" + b")" + 10**5 * b"\x85" + b"K\1s.", "holds more than"),
    ],
    ids=[
        *("bytes", "old tensors", "storages", "tensors of a class", "a repeated number", "numbers behind the end"),
        *("a number behind the end", "more than its record", "a tensor that is changed", "a deep key"),
    ],
)
def test_what_makes_memory_is_not_called(tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "w.pth", content, {"0": bytes(4)})
    monkeypatch.delattr(torch, "load")
    with pytest.raises(ValueError, match=message):
        read_state(tmp_path / "w.pth")


def test_an_archive_written_by_hand_is_one(tmp_path: Path) -> None:
    """Without it the test before would prove nothing."""
    write_archive(tmp_path / "w.pth", call("torch._utils\n_rebuild_tensor", STORAGE + b"K\0K\1\x85K\1\x85t"), {"0": bytes(4)})
    assert torch.equal(load_torch_file(tmp_path / "w.pth"), torch.zeros(1))


def test_an_old_file_that_asks_for_more_than_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"K\4N") == 1
    path.write_bytes(content.replace(b"K\4N", HUGE + b"N"))
    monkeypatch.delattr(torch, "load")
    with pytest.raises(ValueError, match="larger than the file"):
        read_state(path)


@pytest.mark.parametrize("old", [False, True], ids=["archive", "before archives"])
def test_whatever_weights_are_made_of(tmp_path: Path, old: bool) -> None:
    named = torch.ones(2)
    named.tag = "of a layer"  # type: ignore[attr-defined]
    base = torch.arange(24.0)
    content: dict[str, Any] = {
        "module": nn.BatchNorm2d(3).state_dict(),  # ordered, with attributes of its own
        "parameter": nn.Parameter(torch.ones(2, 3)),
        "shared": [base, base.view(4, 6).t(), base[5:7], base.expand(3, 24)],
        "empty": [torch.zeros(0), torch.zeros(3, 0), torch.tensor(1.0)],
        "kinds": [torch.zeros(2, dtype=kind) for kind in (torch.bool, torch.bfloat16, torch.half, torch.complex64, torch.int8)],
        "named": named,
        "values": [None, True, -1, 1 << 40, 0.5, "text", b"bytes", (1, (2, 3)), OrderedDict(a=1), torch.float32, named.size()],
        "keys": {1: 2, "a": 3, (1, "b"): 4},
    }
    if not old:
        content["later kinds"] = [torch.zeros(2, dtype=kind) for kind in (torch.float8_e4m3fn, torch.uint16)]
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    again, plain = load_torch_file(tmp_path / "w.pth"), torch.load(tmp_path / "w.pth", weights_only=True)
    assert again.keys() == content.keys()
    assert again["values"] == content["values"]
    for name in ("shared", "empty", "kinds"):
        for mine, theirs in zip(again[name], plain[name], strict=True):
            assert isinstance(mine, Tensor)
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
