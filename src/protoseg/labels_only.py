"""`python -m protoseg.labels_only RUN THREADS [--quiet] [--workers N ...]`: what `beside` starts.

Ends with the process that started it, however that ends: it holds the other end of the standard input.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from protoseg.arguments import parse_train
from protoseg.config import build_method
from protoseg.console import make_console
from protoseg.engine.collapse import CollapseError
from protoseg.engine.lost import LostProcessError
from protoseg.files import locked, make_folder
from protoseg.report.gather import BASELINE
from protoseg.run import baseline_config, build, settle, with_cache
from protoseg.stage import train_one


def main(arguments: Sequence[str]) -> int:
    """Train the labels-only model of a run folder, or go on with it.

    Args:
        arguments: run folder, number of threads, and what `protoseg train --resume` takes.

    Returns:
        Exit status, as that of `protoseg train`.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _interrupt)
    run, threads = Path(arguments[0]), int(arguments[1])
    quiet, words = "--quiet" in arguments, [word for word in arguments[2:] if word != "--quiet"]
    torch.set_num_threads(threads)
    silent = Console(quiet=True)  # what there is to say about data and settings, the other process has said
    try:
        config, data = settle(parse_train(["--resume", str(run), *words]), console=silent)
        normalization, network, ours = build(config, data, console=silent)
        data = with_cache(config, data, ours, silent)
        alone, console = baseline_config(config), make_console(quiet=quiet)
        method = build_method(alone, network, data.report.pixels.tolist())
        make_folder(run / BASELINE)
        with locked(run / BASELINE, warn=lambda _: None):
            result = train_one(alone, data, method, normalization, run / BASELINE, console, title="labels only")
        assert result is not None  # it is the only process
        score = f", mIoU {100 * result['miou']:.1f}" if "miou" in result else ""
        print(f"labels only: {result['steps']} steps in {result['seconds']:.0f} s{score}")
    except (ValueError, OSError) as error:
        print(f"labels only: {error}", file=sys.stderr)
        return 2
    except (CollapseError, LostProcessError) as error:
        print(f"labels only: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    return 0


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt(signum)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
