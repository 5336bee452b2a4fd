"""From the words of the command line to a page that is open in a browser."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from protoseg.app.desk import Desk
from protoseg.app.gallery import Gallery, left_out_note, list_folder
from protoseg.app.models import Models, choices
from protoseg.app.page import render
from protoseg.app.server import Server
from protoseg.engine.checkpoint import MODEL
from protoseg.trained import CONFIG
from protoseg.words import counted

PORT = 8765
"""Where the page is unless told otherwise; a free port where this one is taken."""


def serve(
    runs: Sequence[Path],
    images: Path | None,
    *,
    host: str,
    port: int | None,
    browser: bool,
    say: Callable[[str], None],
    format: str | None = None,
) -> None:
    """Show the page until Ctrl-C or SIGTERM.

    Args:
        runs: run folders or model files to choose from.
        images: a data set or any other folder to browse.
        host: address to listen at.
        port: 0 for a free one; PORT when left out.
        browser: open one.
        say: prints a line.
        format: layout of the data set; recognised when left out.

    Raises:
        FileNotFoundError, ValueError: a run or the folder cannot be used.
        OSError: nothing can listen there.
    """
    found = choices(runs)
    shelf = None if images is None else list_folder(images, format=format)
    models, gallery = Models(found, shelf.index if shelf else None), Gallery(shelf)
    try:
        models.get(0)  # now, so that the first image does not wait for it, and what is wrong with it stands in the terminal
        with _listening(host, port, Desk(models, gallery)) as server:
            number = len(shelf.entries) if shelf else 0
            say(f"{counted(len(found), 'model')}, {counted(number, 'image')}")
            if shelf and (note := left_out_note(shelf)):
                say(f"note: {note}")
            if not server.local:
                say(f"warning: whoever reaches {host} in the network can see these images and use these models")
            say(f"protoseg app: {server.address} (Ctrl-C ends it)")
            if browser:
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                say("ended")
    finally:
        gallery.close()


def told_apart(paths: Sequence[Path], images: Path | None) -> tuple[list[Path], Path | None]:
    """Runs, and the folder of images where the last of several paths is one: `protoseg app RUN IMAGES`.

    Raises:
        FileNotFoundError: the last path is neither.
    """
    *runs, last = paths
    is_run = last.suffix == Path(MODEL).suffix or any((last / name).is_file() for name in (MODEL, CONFIG))
    if images is not None or not runs or is_run:
        return list(paths), images
    if not last.exists():
        raise FileNotFoundError(f"there is neither a run nor a folder of images {last}")
    return runs, last


def _listening(host: str, port: int | None, desk: Desk) -> Server:
    page = render()
    for number in (PORT, 0) if port is None else (port,):
        try:
            return Server(host, number, desk, page)
        except OverflowError as error:
            raise ValueError(f"--port is {port}; give 1 to 65535, or 0 for a free one") from error
        except OSError as error:
            reason = error
    why = reason.strerror or str(reason)
    raise OSError(f"nothing can listen at {host}, port {number}: {why}; give another --port or --host") from reason
