"""One portable file for a trained model: tensors plus a JSON header. Loading it never unpickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from protoseg.files import replacing

FORMAT = "protoseg-model-1"
MODEL = "model.safetensors"
"""File of a run folder."""


class ModelFile(NamedTuple):
    tensors: dict[str, Tensor]  # `network.*`, and `prototype` (C, K, D) and `ready` (C,) where there are prototypes
    header: dict[str, Any]  # model, classes, normalization, crop, recipe, versions, ...


def save_model(path: Path, network: dict[str, Tensor], prototypes: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a model file; a reader never sees half of one.

    Args:
        path: of the file.
        network: state dict of the network that ships.
        prototypes: state dict of its prototype head, empty without one.
        header: anything that JSON can hold.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.items()} | {
        f"prototypes.{name}": tensor for name, tensor in prototypes.items()
    }
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        # Not `save_file`, which lets nobody else read the file, whatever the user's umask says.
        partial.write_bytes(save(tensors, metadata={"format": FORMAT, "protoseg": json.dumps(header)}))


def load_model_file(path: Path) -> ModelFile:
    """Read a model file.

    Args:
        path: of `model.safetensors`, or of the run folder that holds it.

    Returns:
        ModelFile with tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or was not written by protoseg.
    """
    return ModelFile(*_read(path, tensors=True))


def load_header(path: Path) -> dict[str, Any]:
    """What a model file says of itself, without its tensors. Arguments and errors are those of `load_model_file`."""
    return _read(path, tensors=False)[1]


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        if path.is_dir():
            raise FileNotFoundError(
                f"there is no model file {file}: the run has not finished; go on with protoseg train --resume"
            )
        what = f"model file {file}" if file.suffix == Path(MODEL).suffix else f"run in {file}"
        raise FileNotFoundError(f"there is no {what}: give a run folder, or the {MODEL} in it")
    if file.suffix in {".ckpt", ".yaml", ".json", ".csv", ".pt", ".pth"}:
        raise ValueError(f"{file} is no model file: give the run folder, or the {MODEL} in it")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            found = {name: opened.get_tensor(name) for name in opened.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{file} is not a protoseg model (its header has no {FORMAT!r})")
    try:
        return found, json.loads(metadata["protoseg"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: its header cannot be read ({error})") from error


def part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of one part, without its prefix."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
