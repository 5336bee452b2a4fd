"""The checkpoint that a run goes on from: written whole, with a checksum at its end, the one before kept until it is there."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from protoseg.files import replacing
from protoseg.stored import DamagedError, is_text, is_whole, misfit
from protoseg.torch_file import load_torch_file

CHECKPOINT, PREVIOUS = "last.ckpt", "previous.ckpt"
WAITING = "waiting.ckpt"
"""Between the two, where a run that may go back does not know yet whether it is healthy."""
CHECKPOINTS = (CHECKPOINT, WAITING, PREVIOUS)
"""The newest first."""
_MARK = b"\nprotoseg-sha256 "
_ENDING = len(_MARK) + 64 + 1  # torch reads a zip archive, whose end is found from behind: what follows it is no part of it
_END_RECORD = 22  # bytes at the end of a zip archive without a comment
_HAS_ENDING = "protoseg_checksum"  # key of a checkpoint: a file that says so and has no ending has lost it
_CHUNK = 1 << 20


_PARTS = {
    "global_step": is_whole,
    "pytorch-lightning_version": is_text,
    **dict.fromkeys(("loops", "callbacks"), lambda value: isinstance(value, dict)),
    **dict.fromkeys(("optimizer_states", "lr_schedulers"), lambda value: isinstance(value, list) and bool(value)),
    "protoseg": {
        "meter": {"total": {}, "count": {}, "images": is_whole},
        "health": {
            **dict.fromkeys(("pseudo", "prototype_use", "agreeing"), lambda value: isinstance(value, Tensor | None)),
            **dict.fromkeys(("alive", "raised"), lambda value: isinstance(value, list)),
            "images": lambda value: isinstance(value, int | float),
            "since": {},
        },
        "skipped": [is_text],
        "events": [{}],
    },
}
"""Of a checkpoint that a run goes on from: what Lightning takes from it, and `TrainingModule`."""


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes a checkpoint; its `storage_options` are the file that the checkpoint before goes to."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Path | None = None) -> None:
        save_state(checkpoint, Path(path), keep=storage_options)


def save_state(state: dict[str, Any], path: Path, *, keep: Path | None = None) -> None:
    """Write a checkpoint with its checksum.

    Args:
        state: what `load_state` shall give back; there it also says that the file has a checksum.
        path: of the file.
        keep: where the checkpoint before goes, once the new one is on the disk.

    Raises:
        CannotWriteError: see `replacing`.
    """
    content = io.BytesIO()  # torch turns a full disk into an error of its own when it writes by itself
    torch.save({**state, _HAS_ENDING: True}, content)
    with replacing(path, keep=keep) as partial, partial.open("wb") as file:
        file.write(content.getbuffer())
        file.write(_ending(hashlib.sha256(content.getbuffer()).hexdigest()))


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without unpickling anything but tensors and plain values.

    Raises:
        DamagedError: it is not what was written, or what would tell is lost. One of an earlier version, without a checksum, has
            to be readable.
    """
    try:
        with path.open("rb") as file:
            checked = _has_ending(file)
            if checked and not _is_as_written(file):
                raise DamagedError(f"{path} is damaged: it is not what its checksum was made of")
        state = load_torch_file(path)
        weights = state["state_dict"]
        if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise TypeError("it holds no weights")
        if _HAS_ENDING in state and not checked:
            raise DamagedError(f"{path} is damaged: its checksum is missing")
    except DamagedError:
        raise
    except Exception as error:  # on a file of another kind torch's reader raises whatever its bytes lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DamagedError(f"{path} is damaged or no checkpoint ({reason})") from error
    return state  # type: ignore[no-any-return]


def load_run(path: Path) -> dict[str, Any]:
    """Read a checkpoint that a run can go on from: whole, and with all parts that one of a run has.

    Raises:
        DamagedError: see `load_state`; or a part is missing.
    """
    state = load_state(path)
    if why := misfit(state, _PARTS):
        raise DamagedError(f"{path} is damaged or no checkpoint of a run ({why})")
    return state


def _has_ending(file: BinaryIO) -> bool:
    """False of an earlier version's file, which is a zip archive to its last byte.

    Raises:
        EOFError: it ends in neither way, so that there is nothing to check it by.
    """
    tail = _last(file, _ENDING)
    if tail.startswith(_MARK):
        return True
    if tail[-_END_RECORD:].startswith(b"PK\x05\x06") and tail.endswith(b"\0\0"):  # the length of a comment after it
        return False
    raise EOFError("it ends neither with a checksum nor as torch ends a file")


def _is_as_written(file: BinaryIO) -> bool:
    ending = _last(file, _ENDING)
    left = file.tell() - _ENDING
    file.seek(0)
    digest = hashlib.sha256()
    while left:
        chunk = file.read(min(left, _CHUNK))
        digest.update(chunk)
        left -= len(chunk)
    return ending == _ending(digest.hexdigest())


def _last(file: BinaryIO, count: int) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - count))
    return file.read()


def _ending(digest: str) -> bytes:
    return _MARK + digest.encode() + b"\n"
