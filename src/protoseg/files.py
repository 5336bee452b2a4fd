"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
"""In a folder that is held: who holds it. Empty, or out of date, where nobody does."""


class CannotWriteError(OSError):
    """The disk is full or the folder read-only; the message names the folder."""


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """A file to write, which takes the place of another once it is whole and on the disk.

    Args:
        path: what is replaced: a reader finds the file before or the one after.
        keep: where the file before goes; None for nowhere. Between the two renames there is the kept file alone.

    Raises:
        CannotWriteError: nothing can be written; the file before is still there, as `path` or as `keep`.
    """
    partial = path.with_name(f"{path.name}.partial")
    with _naming(path.parent):
        try:
            yield partial
            _to_disk(partial)
            if keep is not None and path.is_file():
                path.replace(keep)
            partial.replace(path)
            _to_disk(path.parent)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)  # what fills the disk is of no use
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def append_text(path: Path, text: str) -> None:
    """Write at the end of a text file; what a reader may find half is the last line.

    Raises:
        CannotWriteError: see `replacing`.
    """
    with _naming(path.parent), path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path) -> bool:
    """Make a folder, and those above it.

    Returns:
        False where it was there before.

    Raises:
        CannotWriteError: see `replacing`.
    """
    with _naming(path):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            return False
    return True


@contextmanager
def locked(
    folder: Path, *, warn: Callable[[str], None], instead: str = ", or give another folder with --out"
) -> Iterator[None]:
    """Hold a folder. The system lets go of it as soon as this process ends, however it ends.

    Args:
        folder: to hold.
        warn: is told where the file system knows no locks.
        instead: of waiting for who holds it, at the end of the message.

    Raises:
        FileExistsError: another process holds it.
        CannotWriteError: see `replacing`.
    """
    with _naming(folder):
        file = (folder / LOCK).open("a+")
    with file:
        try:
            # Not `flock`: processes that this one has started would hold that on when it is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise FileExistsError(
                f"{folder} is in use by {file.read() or 'another process'}; wait for its end{instead}"
            ) from error
        except (OSError, NameError):  # Windows has no fcntl
            warn(f"the file system of {folder} knows no locks: see that no other command uses this folder")
        with _naming(folder):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a folder for a while, after whoever holds it; False where the file system knows no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # as on Windows, of every folder
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_held = True
        except OSError:
            is_held = False
        yield is_held
    finally:
        os.close(descriptor)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    try:
        yield
    except CannotWriteError:
        raise
    except OSError as error:
        raise CannotWriteError(f"{folder} cannot be written to ({error.strerror or error})") from error


def _to_disk(path: Path) -> None:
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # where a folder cannot be opened, and a rename is on the disk at once
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network drives and those of virtual machines know no such call for a folder; the file in it is on the disk.
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)
