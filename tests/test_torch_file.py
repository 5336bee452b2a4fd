"""Packed torch files; see also tests/nn/test_weights.py."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from protoseg.engine.resumable import DamagedError, load_state, save_state
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
