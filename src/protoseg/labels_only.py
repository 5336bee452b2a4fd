"""`python -m protoseg.labels_only RUN THREADS PARENT [--workers N ...]`: what `beside` starts, and what ends with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from protoseg.arguments import parse_train
from protoseg.config import build_method
from protoseg.console import make_console
from protoseg.data.patience import AwayError
from protoseg.data.run_lists import read_run_lists
from protoseg.engine.collapse import CollapseError
from protoseg.engine.lost import LostProcessError
from protoseg.files import locked, make_folder
from protoseg.report.gather import BASELINE
from protoseg.run import baseline_config, build, settle, with_cache
from protoseg.stage import train_one


def main(arguments: Sequence[str]) -> int:
    """Train the labels-only model of a run folder, or go on with it.

    Args:
        arguments: run folder, number of threads, process that started this one, and what `protoseg train --resume` takes.

    Returns:
        Exit status, as that of `protoseg train`.
    """
    run, threads, parent = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    quiet, words = "--quiet" in arguments, [word for word in arguments[3:] if word != "--quiet"]
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGTERM, _interrupt)
    torch.set_num_threads(threads)
    silent = Console(quiet=True)  # what there is to say about data and settings, the other process has said
    try:
        config, data = settle(parse_train(["--resume", str(run), *words]), console=silent)
        normalization, network, ours = build(config, data, console=silent)
        if read_run_lists(run).hash != data.partition.hash:
            raise ValueError(f"the images in {config.data} are not those that the run in {run} started with")
        data = with_cache(config, data, ours, silent)
        alone, console = baseline_config(config), make_console(quiet=quiet)
        method = build_method(alone, network, data.report.pixels.tolist())
        make_folder(run / BASELINE)
        with locked(run / BASELINE, warn=lambda _: None):
            result = train_one(alone, data, method, normalization, run / BASELINE, console, title="labels only")
        assert result is not None  # it is the only process
        score = f", mIoU {100 * result['miou']:.1f}" if "miou" in result else ""
        print(f"labels only: {result['steps']} steps in {result['seconds']:.0f} s{score}")
    except (CollapseError, LostProcessError, AwayError) as error:
        print(f"labels only: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"labels only: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    return 0


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt(signum)


def _end_with(parent: int) -> None:
    """End as soon as another process does, however it ends. Nothing in here holds a lock that a forked worker would need."""
    if sys.platform == "win32":  # which leaves the dead its number: it held the other end of the standard input
        while os.read(0, 1):
            pass
    else:  # where its workers would hold that end longer than it
        while os.getppid() == parent:
            time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
