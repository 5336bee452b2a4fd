"""Zip files as data sets: unpacked once into the user's cache, and nowhere else.

What has not been used for 30 days goes when another zip file is unpacked. A folder's time of change is when it was last used.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import stat
import tempfile
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path, PurePosixPath

from protoseg.data.index import named_split
from protoseg.files import held

_MOST_RATIO, _SMALL = 200, 1 << 26  # photographs hardly shrink and masks do: more than this is a decompression bomb
_SHOWN = 40  # letters of a name that a message or the name of a folder can hold
_KEY = 17  # letters behind a file's name: a dash and 16 hex digits
_KEPT = 30 * 24 * 3600  # seconds
_ELSEWHERE = "name a folder on another disk in XDG_CACHE_HOME"


def unpack(path: Path) -> Path:
    """Unpack a zip file, or find it unpacked.

    Args:
        path: of the zip file.

    Returns:
        A folder below `protoseg/unpacked` in the cache (`XDG_CACHE_HOME`, else `~/.cache`), for this file as it is now.

    Raises:
        ValueError: it is no zip file, damaged, encrypted, far larger unpacked than packed, larger than the room on the disk, or
            holds a link, a path that leads elsewhere or one that cannot be written.
    """
    now = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {now.st_size} {now.st_mtime_ns}".encode()).hexdigest()[:16]
    cache = _cache()
    target = cache / f"{path.stem[:_SHOWN]}-{key}"
    if _take(target):
        return _top(target)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _clean(cache)
        # Unpacked beside and then renamed: what is there under its name is whole.
        partial = Path(tempfile.mkdtemp(prefix=f"{path.stem[:_SHOWN]}-", dir=cache))
    except OSError as error:
        raise ValueError(f"{path} cannot be unpacked into {cache}: {error.strerror}; {_ELSEWHERE}") from error
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive, room=shutil.disk_usage(cache).free, cache=cache)
            for member in archive.infolist():
                _extract(path, archive, member, partial)
        partial.rename(target)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, EOFError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}; give a folder or a whole zip file") from error
    except OSError as error:
        if not target.is_dir():  # else another process was faster
            raise ValueError(f"{path} cannot be unpacked: {error.strerror}; give a folder, or {_ELSEWHERE}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _top(target)


def opened(path: Path) -> Path:
    """Where the files of a path are: for a zip file the folder that it is unpacked into, for all else the path itself."""
    return unpack(path) if path.suffix.lower() == ".zip" and path.is_file() else path


def title(folder: Path) -> str:
    """A folder's name; of an unpacked zip file the file's, so that names of images in it last when the file is moved."""
    return folder.name[:-_KEY] if folder.parent == _cache() else folder.name


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "protoseg/unpacked"


def _take(folder: Path) -> bool:
    """Note that an unpacked folder is used now.

    Returns:
        False where there is none.
    """
    if not folder.is_dir():
        return False
    with held(folder.parent):
        try:
            os.utime(folder)
        except FileNotFoundError:  # cleaned away a moment ago
            return False
        except OSError:  # read-only, or another user's: whoever owns it cleans it
            pass
    return True


def _clean(cache: Path) -> None:
    """Remove what has not been used for long, and what processes that were killed have left.

    No process takes a folder while another one cleans. Without locks nothing is removed.
    """
    away = Path(tempfile.mkdtemp(prefix=".old-", dir=cache))
    with held(cache) as is_held:
        for folder in cache.iterdir() if is_held else ():
            with suppress(OSError):  # another process has finished and renamed it meanwhile, or it is another user's
                if time.time() - folder.stat().st_mtime > _KEPT:
                    folder.rename(away / folder.name)
    shutil.rmtree(away, ignore_errors=True)  # which takes long, so nobody has to wait for it


def _top(folder: Path) -> Path:
    """The data set's folder: the only one that was packed, or the only one in that, and so on; or all of it."""
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    if len(inside) != 1 or not inside[0].is_dir() or inside[0].name == "images":
        return folder
    # The name of a folder of evaluation images says what they are for.
    is_part = named_split(inside[0].name) in {"val", "test"} and (inside[0] / "images").is_dir()
    return folder if is_part else _top(inside[0])


def _extract(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    name = member.filename
    member.filename = name.replace("\\", "/")  # as some programs for Windows write it
    try:
        archive.extract(member, folder)
    except OSError as error:  # a name that is too long, or a file where another one needs a folder; else the disk is full
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        raise ValueError(
            f"{path} holds {shown!r}, which cannot be unpacked into {folder.parent}: {error.strerror}; unpack the file by hand "
            f"and give the folder, or {_ELSEWHERE}"
        ) from error


def _check(path: Path, archive: zipfile.ZipFile, *, room: int, cache: Path) -> None:
    members = archive.infolist()
    for member in members:
        if not member.filename:
            raise ValueError(f"{path} holds a file without a name; it is not unpacked")
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or any(":" in part for part in name.parts[:1]):
            raise ValueError(f"{path} holds {member.filename!r}, which leads out of it; it is not unpacked")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"{path} holds the link {member.filename!r}; it is not unpacked")
    total = sum(member.file_size for member in members)
    if total > max(_SMALL, _MOST_RATIO * path.stat().st_size):
        raise ValueError(f"{path} would unpack to {total >> 20} MiB from {path.stat().st_size >> 20} MiB; it is not unpacked")
    if total > room:
        raise ValueError(
            f"{path} would unpack to {total >> 20} MiB, and {cache} has room for {room >> 20} MiB; make room, or {_ELSEWHERE}"
        )
