"""One portable file, read without unpickling."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from make_folder import cut_short
from safetensors import safe_open
from safetensors.torch import save_file

from protoseg.engine.checkpoint import load_model_file, part, save_model

HEADER = {"classes": {"names": ["grün", "b"], "values": [0, 7]}, "crop": 64, "nothing": None, "lr": 1e-4}


def tensors() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    network = {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn.num_batches_tracked": torch.tensor(12),
        "turned": torch.randn(5, 6, generator=generator).T,  # not contiguous
    }
    network["shared"] = network["conv.weight"]  # safetensors alone refuses tensors that share memory
    return network, {"prototype": torch.randn(2, 3, 4, generator=generator), "ready": torch.tensor([True, False])}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.safetensors", *tensors(), HEADER)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("by", ["file", "folder"])
def test_what_is_saved_comes_back(saved: Path, by: str) -> None:
    loaded = load_model_file(saved if by == "file" else saved.parent)
    assert loaded.header == HEADER
    for name, expected in zip(("network", "prototypes"), tensors(), strict=True):
        found = part(loaded.tensors, name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype for key in expected)


def test_the_header_is_json_that_other_tools_read(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "protoseg-model-1"
    assert json.loads(metadata["protoseg"]) == HEADER


def test_writing_replaces_the_file_and_leaves_nothing_else(saved: Path) -> None:
    save_model(saved, {"x": torch.ones(1)}, {}, {})
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]
    assert load_model_file(saved).tensors.keys() == {"network.x"}


def test_a_failed_write_keeps_the_old_file(saved: Path) -> None:
    with pytest.raises(TypeError):
        save_model(saved, {"x": torch.ones(1)}, {}, {"no json": object()})
    assert load_model_file(saved).header == HEADER


def test_loading_never_unpickles(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, stop)
    assert load_model_file(saved).header == HEADER


def test_part_takes_whole_prefixes() -> None:
    assert part({"net.a": 1, "network.b": 2, "network.network.c": 3}, "network") == {"b": 2, "network.c": 3}  # type: ignore[dict-item]


def _truncated(path: Path) -> None:
    cut_short(path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("hello")


def _pickled(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def _weights(path: Path) -> None:
    save_file({"features.0.weight": torch.ones(2)}, path)


def _other_tool(path: Path) -> None:
    save_file({"features.0.weight": torch.ones(2)}, path, metadata={"format": "pt"})


def _no_header(path: Path) -> None:
    save_file({"network.x": torch.ones(2)}, path, metadata={"format": "protoseg-model-1"})


def _broken_header(path: Path) -> None:
    save_file({"network.x": torch.ones(2)}, path, metadata={"format": "protoseg-model-1", "protoseg": "{"})


@pytest.mark.parametrize(
    "spoil", [_truncated, _empty, _text, _pickled, _weights, _other_tool, _no_header, _broken_header], ids=lambda f: f.__name__
)
def test_another_file_is_refused_and_named(saved: Path, spoil: Any) -> None:
    spoil(saved)
    with pytest.raises(ValueError, match=r"damaged|not a protoseg model") as caught:
        load_model_file(saved)
    assert str(saved) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load_model_file(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*--resume"):
        load_model_file(tmp_path)
