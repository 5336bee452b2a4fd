"""Files of `torch.save`: read without running code in them, and without making more of them than they hold."""

from __future__ import annotations

import io
import mmap
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from protoseg.torch_pickle import TooLargeError, TorchPickles

_ZIP = b"PK\x03\x04"
"""How torch tells a zip archive from its older kind of file."""
_BEFORE = 3  # pickles before that of the content, in the older kind: what it is, its version, the system


def load_torch_file(path: Path) -> Any:
    """Read tensors and plain values onto the CPU.

    Raises:
        RuntimeError: it is a zip archive that is damaged or packed, or describes tensors that are larger than the file.
        UnpicklingError: it holds what would have to be run.
        Exception: whatever torch makes of the bytes of a file of another kind.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(_ZIP)) == _ZIP
    try:
        if is_archive:
            _check_archive(path)
        else:
            _check_old_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch advises to run what is in it
        raise pickle.UnpicklingError("it is no file of torch, or holds more than tensors and plain values") from error


def _check_archive(path: Path) -> None:
    """torch packs nothing when it writes, but unpacks when it reads, and 200 kB can unfold to 200 MB."""
    content, size = b"", path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            packed = packed or sum(member.file_size for member in members) > size
            if len({member.filename.casefold() for member in members}) < len(members):
                raise zipfile.BadZipFile("two records have one name")  # torch need not read the one that is looked at here
            folder = members[0].filename.partition("/")[0]  # whatever the file was called when it was written
            if not packed:
                content = archive.read(f"{folder}/data.pkl")
    except Exception as error:  # on a damaged archive zipfile raises whatever its bytes lead to
        raise RuntimeError(f"its list of contents is damaged: {error}") from error
    if packed:
        raise RuntimeError("it is packed, which torch.save does not do; load it where it comes from and save it again")
    records = {member.filename.removeprefix(f"{folder}/data/"): member.file_size for member in members}
    _check_pickle(TorchPickles(size, records), io.BytesIO(content))


def _check_old_file(path: Path) -> None:
    # Mapped, because a string may say that it is longer than the file, and memory would be made for it.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        pickles = TorchPickles(len(content), None)
        for _ in range(_BEFORE + 1):
            _check_pickle(pickles, content)


def _check_pickle(pickles: TorchPickles, file: Any) -> None:
    try:
        pickles.check(file)
    except (TooLargeError, pickle.UnpicklingError):
        raise
    except Exception as error:  # on what is no pickle, whatever its bytes lead to
        raise pickle.UnpicklingError(str(error)) from error
