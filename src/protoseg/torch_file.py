"""Files of `torch.save`: read without running code in them, and without unpacking more than they hold."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

_ZIP = b"PK\x03\x04"
"""How torch tells a zip archive from its older kind of file."""


def load_torch_file(path: Path) -> Any:
    """Read tensors and plain values onto the CPU.

    Raises:
        RuntimeError: it is a zip archive that is damaged or packed.
        UnpicklingError: it holds what would have to be run.
        Exception: whatever torch makes of the bytes of a file of another kind.
    """
    _refuse_packed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch advises to run what is in it
        raise pickle.UnpicklingError("it is no file of torch, or holds more than tensors and plain values") from error


def _refuse_packed(path: Path) -> None:
    """torch packs nothing when it writes, but unpacks when it reads, and 200 kB can unfold to 200 MB."""
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except Exception as error:  # on a damaged archive zipfile raises whatever its bytes lead to
            raise RuntimeError(f"its list of contents is damaged: {error}") from error
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise RuntimeError("it is packed, which torch.save does not do; load it where it comes from and save it again")
