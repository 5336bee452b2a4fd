"""The command line. torch is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from protoseg.arguments import DRY_RUN, parse_train
from protoseg.data.limit import MAX_PIXELS, limited, parse_pixels
from protoseg.files import CannotWriteError
from protoseg.launch import is_first
from protoseg.settings import RUN_FOLDER

if TYPE_CHECKING:
    from rich.console import Console

_MAX_PIXELS = "--max-pixels"
_ABOUT = """\
protoseg: semantic segmentation from a few masks and many images.

  protoseg demo                                    train on embedded images and compare; no data needed
  protoseg train data/                             train on data/images and data/masks
  protoseg doctor data/                            read everything once and say what is wrong
  protoseg split data/ --labels 1/8                draw which masks to use, into a list for --labels
  protoseg bench data/ --labels 23,1/8             methods, label counts and seeds in one grid, with its tables
  protoseg evaluate runs/NAME data/ --split test   mIoU and IoU per class of a trained model
  protoseg report runs/NAME                        one page that shows the run, to open in a browser
  protoseg atlas runs/NAME data/                   one page that shows what each prototype stands for
  protoseg app runs/NAME images/                   a page to look at images in, with masks, confidence and prototypes
  protoseg predict runs/NAME images/ -o out        masks, overlays and confidence for any images

protoseg COMMAND --help tells more. Every command takes --max-pixels N: larger images are refused (default 100 megapixels); and
--quiet, with which it prints warnings and the result (a path, or the mIoU), nothing else.
"""

_QUIET = "--quiet"
_is_quiet = ContextVar("is_quiet", default=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after the program's name; those of the process when left out.

    Returns:
        Exit status: 0; 2 where the input was at fault; 1 where the doctor found an error, training collapsed or ran out of
        memory, a cell of a benchmark failed, or nothing can be written any more; 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _is_quiet.set(_QUIET in arguments)
    arguments = [argument for argument in arguments if argument != _QUIET]
    commands: dict[str, Callable[[list[str]], int | None]] = {
        "demo": _demo,
        "train": _train,
        "evaluate": _evaluate,
        "report": _report,
        "atlas": _atlas,
        "app": _app,
        "predict": _predict,
        "split": _split,
        "doctor": _doctor,
        "bench": _bench,
    }
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_ABOUT, end="")
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("protoseg"))
        return 0
    if arguments[0] not in commands:
        print(f"protoseg: there is no command {arguments[0]!r}; choose one of {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        with _sigterm_like_ctrl_c(), _pixel_limit(arguments) as words:
            return commands[words[0]](words[1:]) or 0
    except CannotWriteError as error:
        if os.environ.get("PROTOSEG_TRACEBACK"):
            raise
        print(f"protoseg {arguments[0]}: {error}{_how_to_go_on('; once it can, ')}", file=sys.stderr)
        return 1 if os.environ.get(RUN_FOLDER) else 2
    except (ValueError, OSError) as error:
        if os.environ.get("PROTOSEG_TRACEBACK"):
            raise
        print(f"protoseg {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from protoseg.engine.lost import LESS_TO_SEE, out_of_memory

        advice = LESS_TO_SEE if arguments[0] in {"evaluate", "predict"} else "end what else takes memory"
        if os.environ.get("PROTOSEG_TRACEBACK") or not (said := out_of_memory(error, advice)):
            raise
        print(f"protoseg {arguments[0]}: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        if _is_copy():
            return 0  # the first process has said it; any other number makes Lightning kill that one
        print(f"\nstopped{_how_to_go_on('; ')}", file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)
    finally:
        os.environ.pop(RUN_FOLDER, None)


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """What SLURM and `kill` send ends the command as the keyboard does."""
    if threading.current_thread() is not threading.main_thread():  # Python lets no other one do this
        yield
        return

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt(signum)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _pixel_limit(arguments: Sequence[str]) -> Iterator[list[str]]:
    """The words without --max-pixels, which counts for everything that the command does, in all its processes."""
    words, given = list[str](), list[str]()
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == _MAX_PIXELS:
            given.append(value if equals else next(rest, "nothing"))
        else:
            words.append(word)
    with limited(parse_pixels(given[-1]) if given else None):
        yield words


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help shows how")


def _parser(**options: Any) -> argparse.ArgumentParser:
    """With what every command takes, for its --help alone: `_pixel_limit` has taken it away."""
    parser = _Parser(**options)
    parser.add_argument(_MAX_PIXELS, metavar="N", help="refuse larger images; default 100 megapixels, 100e6")
    return parser


def _is_copy() -> bool:
    """Whether this is a further process of a distributed run: Lightning starts the command again for each."""
    return not is_first()


def _how_to_go_on(before: str) -> str:
    """The command that goes on with a run that has been started; empty where none has."""
    run = os.environ.get(RUN_FOLDER)
    started = run is not None and (Path(run) / "config.yaml").is_file()
    return f"{before}go on with protoseg train --resume {run}" if started else ""


def _demo(arguments: list[str]) -> int:
    """Write the embedded data set, then train on it like on any other folder."""
    parser = _parser(
        prog="protoseg demo",
        description="Train on handwritten digits over photographs, with and without the unlabelled images, and compare.",
        epilog="Further options are those of protoseg train, but for --dry-run and --resume.",
    )
    parser.add_argument("--out", default=None, help="run folder; the images go to OUT-data beside it; default runs/demo")
    parser.add_argument("--seed", type=int, default=0, help="of everything random, the images included; default 0")
    options, rest = parser.parse_known_args(arguments)
    if any(word.split("=")[0] == "--resume" for word in rest):
        raise ValueError("a demo goes on like any other run: protoseg train --resume RUN_FOLDER")
    if DRY_RUN in rest:
        raise ValueError(f"a demo has no dry run; on your own data: protoseg train DATA --recipe demo {DRY_RUN}")
    is_copy = _is_copy()  # same folders, nothing to write
    chosen = os.environ[RUN_FOLDER] if is_copy else options.out
    out = Path(chosen) if chosen else _free(Path("runs") / "demo")
    data = out.with_name(f"{out.name}-data")
    for folder in (out, data):
        if folder.exists() and not is_copy:
            raise FileExistsError(f"{folder} exists; give another folder with --out")
    words = [str(data), "--recipe", "demo", "--seed", str(options.seed), "--out", str(out), *rest]
    parse_train(words)  # a misspelt option stops here, before images are written
    from protoseg.data.demo import write_demo

    try:
        if not is_copy:
            write_demo(data, seed=options.seed)
        return _train(words, command=_shown("demo", arguments))
    except BaseException:  # Ctrl-C too
        if not is_copy and not out.exists():  # no run needs the images, and the mended command may use the folder
            shutil.rmtree(data, ignore_errors=True)
        raise


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... where neither it nor its data exist."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 10_000))]
    return next(c for c in candidates if not c.exists() and not c.with_name(f"{c.name}-data").exists())


def _train(arguments: list[str], *, command: str | None = None) -> int:
    """0; 1 where training has collapsed, or lost a process, its drive or its memory; 2 where a file of it is at fault."""
    config = parse_train([word for word in arguments if word != DRY_RUN])
    from protoseg.data.patience import AwayError
    from protoseg.engine.collapse import CollapseError
    from protoseg.engine.lost import LESS_TO_TRAIN, LostProcessError, out_of_memory
    from protoseg.stored import DamagedError

    try:
        if DRY_RUN in arguments:
            from protoseg.dry_run import dry_run

            dry_run(config, console=_console())
        else:
            from protoseg.run import train

            train(config, console=_console(), command=command or _shown("train", arguments))
    except CollapseError as error:
        print(f"protoseg train: {error}", file=sys.stderr)
        return 1
    except (LostProcessError, AwayError) as error:
        if os.environ.get("PROTOSEG_TRACEBACK"):
            raise
        print(f"protoseg train: {error}{_how_to_go_on('; ')}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("PROTOSEG_TRACEBACK") or not (said := out_of_memory(error, LESS_TO_TRAIN)):
            raise
        print(f"protoseg train: {said}{_how_to_go_on('; if something else took it, ')}", file=sys.stderr)
        return 1
    except (CannotWriteError, DamagedError, FileExistsError):
        raise  # of the first `main` knows the way on; the others say what to do instead
    except (ValueError, OSError) as error:
        if os.environ.get("PROTOSEG_TRACEBACK") or not (way_on := _how_to_go_on("; once that is mended, ")):
            raise
        print(f"protoseg train: {error}{way_on}", file=sys.stderr)
        return 2
    return 0


def _shown(command: str, arguments: Sequence[str]) -> str:
    """A command as it was typed, to type it again."""
    limit = os.environ.get(MAX_PIXELS)
    return shlex.join(["protoseg", command, *arguments, *([_MAX_PIXELS, limit] if limit else [])])


def _console() -> Console:
    from protoseg.console import make_console

    return make_console(quiet=_is_quiet.get())


def _evaluate(arguments: list[str]) -> None:
    parser = _parser(prog="protoseg evaluate", description="mIoU and IoU per class of a trained model.")
    parser.add_argument("run", type=Path, help="run folder, or a model.safetensors")
    parser.add_argument("data", type=Path, help="labelled folder, laid out as for training")
    parser.add_argument("--format", help="layout of the folder; recognised when left out")
    parser.add_argument("--split", choices=("test", "val"), help="which evaluation images; default test, else val")
    parser.add_argument("--baseline", action="store_true", help="score the run's labels-only model too, and compare")
    parser.add_argument("--out", type=Path, help="folder for report.html; default evaluate-DATA in the run folder")
    parser.add_argument("--no-report", action="store_true", help="print the table, write nothing")
    _add_inference(parser)
    options = parser.parse_args(arguments)
    if options.no_report and options.out is not None:
        raise ValueError("--out says where the report goes and --no-report that there is none; give one of them")
    from protoseg.trained import evaluate_run, report_folder

    default = report_folder(options.run, options.data, split=options.split, head=options.head)
    evaluate_run(
        options.run,
        options.data,
        split=options.split,
        console=_console(),
        format=options.format,
        inference=_inference_of(options),
        head=options.head,
        baseline=options.baseline,
        out=None if options.no_report else options.out or default,
        command=_shown("evaluate", arguments),
    )


def _report(arguments: list[str]) -> None:
    parser = _parser(
        prog="protoseg report",
        description="Write RUN/report.html: scores, curves, confusions, health and pictures of a run in one file.",
        epilog="train writes it too. With DATA, what a run of an earlier version did not keep is made up for.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("data", type=Path, nargs="?", help="its data set: scores its evaluation images again")
    parser.add_argument("--format", help="layout of the data set; recognised when left out")
    options = parser.parse_args(arguments)
    if options.format is not None and options.data is None:
        raise ValueError("--format is the layout of DATA, which was not given: protoseg report RUN DATA")
    console = _console()
    if options.data is not None:
        from protoseg.rescore import rescore

        page = rescore(options.run, options.data, console=console, format=options.format)
    else:
        from protoseg.report.page import write_report

        page = write_report(options.run)
    console.print(f"report: {page}")


def _atlas(arguments: list[str]) -> None:
    parser = _parser(
        prog="protoseg atlas",
        description="Write one page that shows what each prototype of a run stands for: the image regions nearest to it, how "
        "many pixels follow it, and where prototypes and linear classifier disagree.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("data", type=Path, help="its data set")
    parser.add_argument("-o", "--out", type=Path, help="file to write; default atlas.html in the run folder")
    parser.add_argument(
        "--images", type=int, default=100, help="labelled images, and unlabelled ones; default %(default)s of each"
    )
    parser.add_argument("--format", help="layout of the data set; recognised when left out")
    parser.add_argument("--unlabeled", type=Path, help="its further folder of unlabelled images, where it had one")
    options = parser.parse_args(arguments)
    if not options.run.is_dir():
        raise FileNotFoundError(f"there is no run folder {options.run}")
    from protoseg.atlas.gather import gather
    from protoseg.atlas.page import ATLAS, write_atlas

    out: Path = options.out or options.run / ATLAS
    if not out.parent.is_dir() or out.is_dir():  # before the work, not after it
        raise FileNotFoundError(f"{out} cannot be written: give a file in a folder that exists with -o")
    console = _console()
    atlas = gather(
        options.run,
        options.data,
        console=console,
        images=options.images,
        format=options.format,
        unlabeled=options.unlabeled,
    )
    write_atlas(atlas, out)
    console.print(f"atlas: {out}")


def _app(arguments: list[str]) -> None:
    parser = _parser(
        prog="protoseg app",
        usage="protoseg app RUN [RUN ...] [IMAGES] [--port N] [--no-browser] ...",
        description="Open a page in the browser: drop an image or choose one, and see mask, confidence, prototypes and where "
        "both predictors disagree. It runs on this machine alone.",
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN", help="run folders or model files, to switch between")
    parser.add_argument("--images", type=Path, help="data set, or any folder of images, to browse; also the last word")
    parser.add_argument("--format", help="layout of the data set; recognised when left out")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; default %(default)s, for this machine alone")
    parser.add_argument("--port", type=int, help="default 8765, or a free one where that is taken")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args(arguments)
    from protoseg.app.command import serve, told_apart

    runs, images = told_apart(options.paths, options.images)
    serve(
        runs,
        images,
        host=options.host,
        port=options.port,
        browser=not options.no_browser,
        say=_console().print,
        format=options.format,
    )


def _add_inference(parser: argparse.ArgumentParser) -> None:
    """How the network sees an image, where it differs from what the model was trained with."""
    group = parser.add_argument_group("how the network sees an image; default as the training run was told")
    group.add_argument("--window", type=int, help="side of a sliding window in pixels, 0 for the whole image")
    group.add_argument("--stride", type=int, help="pixels between windows; default 2/3 of the window")
    group.add_argument("--scales", help="average predictions at these sizes, e.g. 0.75,1,1.25")
    group.add_argument("--batch", type=int, help="windows at a time; default by device, fewer take less memory")
    heads = ("linear", "prototype", "mean")
    group.add_argument("--head", choices=heads, default="linear", help="which predictor answers, or both; default linear")
    group.add_argument("--flip", action=argparse.BooleanOptionalAction, help="average with the mirrored image")


def _inference_of(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Inference that were given.

    Raises:
        ValueError: --scales are no numbers.
    """
    given: dict[str, Any] = {}
    if options.window is not None:
        given |= {"window": options.window or None, "stride": None}
    if options.stride is not None:
        given["stride"] = options.stride
    if options.scales is not None:
        try:
            given["scales"] = tuple(float(text) for text in options.scales.split(","))
        except ValueError as error:
            raise ValueError(f"--scales takes numbers such as 0.75,1,1.25; got {options.scales}") from error
    if options.flip is not None:
        given["flip"] = options.flip
    if options.batch is not None:
        given["batch"] = options.batch
    return given


def _predict(arguments: list[str]) -> None:
    parser = _parser(prog="protoseg predict", description="Write an index PNG, an overlay and a confidence map for each image.")
    parser.add_argument("run", type=Path, help="run folder, or a model.safetensors")
    parser.add_argument("images", type=Path, help="folder of images, or one image")
    parser.add_argument("-o", "--out", type=Path, required=True, help="new folder for the results")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only every N-th image, from the I-th on (1 to N): N processes share a folder, and the GPUs of a machine",
    )
    _add_inference(parser)
    options = parser.parse_args(arguments)
    shard = None if options.shard is None else _shard(options.shard)
    from protoseg.trained import predict_run

    predict_run(
        options.run,
        options.images,
        out=options.out,
        console=_console(),
        inference=_inference_of(options),
        head=options.head,
        shard=shard,
    )


def _shard(text: str) -> tuple[int, int]:
    """2/4 as (2, 4).

    Raises:
        ValueError: it is none.
    """
    which, _, number = text.partition("/")
    if not (which.isdecimal() and number.isdecimal() and 1 <= int(which) <= int(number)):
        raise ValueError(f"--shard takes which of how many parts, from 1/4 to 4/4; got {text}")
    return int(which), int(number)


def _doctor(arguments: list[str]) -> int:
    """0, or 1 where something is found that stops training."""
    parser = _parser(
        prog="protoseg doctor",
        usage="protoseg doctor DATA [--overfit] [--out FILE] [--setting VALUE ...]",
        description="Read all images and masks of a labelled folder once and say what will go wrong in training.",
        epilog="Further options are those of protoseg train: --labels, --unlabeled, --crop, --batch, --model.arch, ...",
    )
    parser.add_argument("--overfit", action="store_true", help="also train on one labelled image for a short while")
    parser.add_argument("--out", type=Path, default=Path("doctor.json"), help="file for all findings; default doctor.json")
    options, rest = parser.parse_known_args(arguments)
    config = parse_train(rest)
    from protoseg.doctor import examine_data

    findings = examine_data(config, console=_console(), overfit=options.overfit, out=options.out)
    return int(any(finding.severity == "error" for finding in findings))


def _bench(arguments: list[str]) -> int:
    """0, or 1 where a cell failed."""
    from protoseg.bench.cells import METHODS

    parser = _parser(
        prog="protoseg bench",
        usage="protoseg bench DATA --labels 23,46,92 [--methods ...] [--seeds 0,1,2] [--setting VALUE ...]",
        description="Train every method with every number of labels and every seed, and compare them. The same command again "
        "runs what is missing.",
        epilog="Further options are those of protoseg train, for every cell: --steps, --evaluate-every, --model.arch, ...",
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, help="labelled folder, laid out as for training: DATA by another name")
    parser.add_argument(
        "--root", type=Path, help="the folder, where --data names its layout, as in --data camvid --root FOLDER"
    )
    parser.add_argument("--labels", default="all", help="N (DATA/splits/N.txt where there is one), 1/8, FILE, all; default all")
    parser.add_argument(
        "--methods",
        default=",".join(METHODS),
        help="as --method takes them, or 'CutMix teacher', which is prototype without its term; default %(default)s",
    )
    parser.add_argument("--seeds", default="0,1,2", help="default %(default)s; an interval needs two, a claim five")
    parser.add_argument("--recipe", default="prototype", help="settings that all cells share; default %(default)s")
    parser.add_argument("--out", type=Path, help="folder for results, tables and plot; default bench/NAME of the data")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time on each GPU, or on the CPU; default 1")
    parser.add_argument("--keep-runs", action="store_true", help="leave the run folders of finished cells")
    parser.add_argument("--table", action="store_true", help="run nothing, only write and print the tables")
    options, extra = parser.parse_known_args(arguments)
    # Not a positional argument of the parser: that would take the value of the first setting that is the training's.
    alone = next((i for i, word in enumerate(extra) if not word.startswith("--") and not _has_value(extra[:i])), None)
    if options.data is None and alone is not None:
        options.data = Path(extra.pop(alone))
    if options.data is None:
        raise ValueError("give the folder that holds images/ and masks/: protoseg bench data/ --labels 23,46,92")
    if options.root is not None:
        extra += ["--format", str(options.data)]
        options.data = options.root
    try:
        seeds = [int(text) for text in options.seeds.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds takes whole numbers such as 0,1,2; got {options.seeds}") from error
    if options.jobs < 1:
        raise ValueError(f"--jobs is {options.jobs}; it must be 1 or more")
    from protoseg.bench.command import bench

    failed = bench(
        options.data,
        labels=options.labels.split(","),
        methods=options.methods.split(","),
        seeds=seeds,
        recipe=options.recipe,
        extra=extra,
        out=options.out or Path("bench") / options.data.resolve().stem,
        jobs=options.jobs,
        keep_runs=options.keep_runs,
        only_table=options.table,
        console=_console(),
        command=_shown("bench", arguments),
    )
    return int(failed > 0)


def _has_value(words: Sequence[str]) -> bool:
    """Whether the next word is the value of the option before it."""
    return bool(words) and words[-1].startswith("--") and "=" not in words[-1]


def _split(arguments: list[str]) -> None:
    parser = _parser(
        prog="protoseg split",
        description="Draw which masks to use, into a list for protoseg train --labels FILE. Draws of one seed are nested.",
        epilog="Warns where evaluation and training images look alike. Of pictures that do not change from left to right "
        "(black frames, plain gradients) only exact copies are found.",
    )
    parser.add_argument("data", type=Path, help="labelled folder, laid out as for training")
    parser.add_argument("--labels", required=True, help="how many: a number, or a fraction such as 1/8")
    parser.add_argument("--seed", type=int, default=0, help="of the draw; default 0")
    parser.add_argument("--balanced", action="store_true", help="take an image with the rarest class next; opens every mask")
    parser.add_argument("--within", type=Path, help="an earlier list to draw from")
    parser.add_argument("--out", type=Path, help="file to write; default DATA/splits/NAME.txt")
    parser.add_argument("--format", help="layout of the folder; recognised when left out")
    parser.add_argument("--unlabeled", type=Path, help="one more folder of unlabelled images, to compare pictures with")
    options = parser.parse_args(arguments)
    from protoseg.split import split_data

    split_data(
        options.data,
        options.labels,
        console=_console(),
        seed=options.seed,
        balanced=options.balanced,
        within=options.within,
        out=options.out,
        format=options.format,
        unlabeled=options.unlabeled,
    )


if __name__ == "__main__":
    sys.exit(main())
