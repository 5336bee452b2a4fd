"""Weights from a file land where they belong, or the message says what is wrong."""

from __future__ import annotations

import copy
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from protoseg.nn.weights import adapt_first_layer, load_encoder, read_state


def encoder(in_channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv1=nn.Conv2d(in_channels, 4, 3), bn1=nn.BatchNorm2d(4), conv2=nn.Conv2d(4, 5, 1, bias=False))
    )


def random_state(in_channels: int = 3) -> dict[str, Tensor]:
    gen = torch.Generator().manual_seed(1)
    state = encoder(in_channels).state_dict()
    return {k: torch.rand(v.shape, generator=gen) if v.is_floating_point() else v + 9 for k, v in state.items()}


def assert_loaded(module: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_read_torch_files(tmp_path: Path, wrap) -> None:
    state = random_state()
    torch.save(wrap(state), tmp_path / "w.pth")
    read = read_state(tmp_path / "w.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_read_safetensors(tmp_path: Path) -> None:
    state = random_state()
    save_file(state, tmp_path / "w.safetensors")
    read = read_state(tmp_path / "w.safetensors")
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / name))):
        read_state(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello world\n" * 20, bytes(range(256)), b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>"],
    ids=["empty", "text", "bytes", "git-lfs", "html"],
)
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_state(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}, torch.ones(3)])
def test_torch_files_of_something_else(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not a state dict"):
        read_state(tmp_path / "w.pth")


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save(encoder(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"cannot be read .*holds more than tensors and plain values") as caught:
        read_state(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "torch's own advice is to run it"


@pytest.mark.parametrize("how", ["packed", "overlapping"])
def test_packed_files_are_not_unpacked(tmp_path: Path, how: str) -> None:
    """torch reads them both, and the first is a thousand times larger in memory."""
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "whole.pth")
    packing = zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / "w.pth", "w", packing) as packed:
        for member in whole.namelist():
            packed.writestr(member, whole.read(member))
        if how == "overlapping":  # the same bytes by another name
            again = copy.copy(next(member for member in packed.infolist() if member.filename.endswith("data/0")))
            again.filename = again.orig_filename = again.filename.replace("data/0", "data/1")
            packed.filelist.append(again)
    assert torch.load(tmp_path / "w.pth", weights_only=True)["a"].shape == (1_000_000,)
    with pytest.raises(ValueError, match=r"it is packed, which torch\.save does not do"):
        read_state(tmp_path / "w.pth")


def test_files_of_before_zip_archives(tmp_path: Path) -> None:
    state = random_state()
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert read_state(tmp_path / "w.pth").keys() == state.keys()


@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "backbone.", "model."])
def test_prefixes_and_extra_tensors(prefix: str) -> None:
    state, module = random_state(), encoder()
    given = {prefix + name: value for name, value in state.items()} | {"fc.weight": torch.ones(2, 2)}
    load_encoder(module, given, source="w.pth")
    assert_loaded(module, state)


def test_missing_step_counters_do_not_matter() -> None:
    state, module = random_state(), encoder()
    module.bn1.num_batches_tracked.fill_(4)
    load_encoder(module, {k: v for k, v in state.items() if "num_batches" not in k}, source="w.pth")
    assert_loaded(module, state | {"bn1.num_batches_tracked": torch.tensor(4)})


def test_missing_tensors_are_counted_and_nothing_is_loaded() -> None:
    module, state = encoder(), random_state()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    del state["conv2.weight"], state["bn1.running_var"]
    with pytest.raises(ValueError, match=r"w\.pth does not fit Sequential: 2 of 8 .*bn1\.running_var, conv2\.weight"):
        load_encoder(module, state, source="w.pth")
    assert_loaded(module, before)


def test_other_shapes_are_counted() -> None:
    state = random_state()
    state["conv2.weight"] = torch.ones(6, 4, 1, 1)
    with pytest.raises(ValueError, match=r"0 of 8 .* 1 have another shape \(conv2\.weight"):
        load_encoder(encoder(), state, source="w.pth")


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_rgb_filters_for_other_channels(channels: int) -> None:
    state = random_state()
    adapted = adapt_first_layer(state, encoder(channels))
    rgb, new = state["conv1.weight"], adapted["conv1.weight"]
    assert new.shape == (4, channels, 3, 3)
    if channels > 1:
        for i in range(channels):
            torch.testing.assert_close(new[:, i], rgb[:, i % 3] * 3 / channels)
    if channels in (1, 6):  # the response to a grey image is what it was
        torch.testing.assert_close(new.sum(dim=1), rgb.sum(dim=1))
    others = [name for name in state if name != "conv1.weight"]
    assert all(adapted[name] is state[name] for name in others)
    assert state["conv1.weight"].shape == (4, 3, 3, 3), "the given state is not changed"


def test_nothing_to_adapt() -> None:
    rgb, four = random_state(), random_state(4)
    assert adapt_first_layer(rgb, encoder(3)) is rgb
    assert torch.equal(adapt_first_layer(four, encoder(4))["conv1.weight"], four["conv1.weight"])
