"""The command line. torch is imported inside the commands, so that --help answers at once."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.config import change_method, find_recipe, settle_method, validate
from protoseg.settings import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console

_ABOUT = """\
protoseg: semantic segmentation from a few masks and many images.

  protoseg demo                                    train on embedded images and compare; no data needed
  protoseg train data/                             train on data/images and data/masks
  protoseg doctor data/                            read everything once and say what is wrong
  protoseg split data/ --labels 1/8                draw which masks to use, into a list for --labels
  protoseg evaluate runs/NAME data/ --split test   mIoU and IoU per class of a trained model
  protoseg predict runs/NAME images/ -o out        masks, overlays and confidence for any images

protoseg COMMAND --help tells more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after the program's name; those of the process when left out.

    Returns:
        Exit status: 0, 2 where the input was at fault, 1 where the doctor found an error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int | None]] = {
        "demo": _demo,
        "train": _train,
        "evaluate": _evaluate,
        "predict": _predict,
        "split": _split,
        "doctor": _doctor,
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
        return commands[arguments[0]](arguments[1:]) or 0
    except (ValueError, OSError) as error:
        if os.environ.get("PROTOSEG_TRACEBACK"):
            raise
        print(f"protoseg {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        run = os.environ.get("PROTOSEG_RUN_FOLDER") if arguments[0] in {"train", "demo"} else None
        print(f"\nstopped; go on with protoseg train --resume {run}" if run else "\nstopped", file=sys.stderr)
        return 130


def _demo(arguments: list[str]) -> None:
    """Write the embedded data set, then train on it like on any other folder."""
    parser = argparse.ArgumentParser(
        prog="protoseg demo",
        description="Train on handwritten digits over photographs, with and without the unlabelled images, and compare.",
        epilog="Further options are those of protoseg train.",
    )
    parser.add_argument("--out", default=None, help="run folder; the images go to OUT-data beside it; default runs/demo")
    parser.add_argument("--seed", type=int, default=0, help="of everything random, the images included; default 0")
    options, rest = parser.parse_known_args(arguments)
    if any(word.split("=")[0] == "--resume" for word in rest):
        raise ValueError("a demo goes on like any other run: protoseg train --resume RUN_FOLDER")
    # Lightning starts the command again for each further process of a distributed run: same folders, nothing to write.
    is_copy = int(os.environ.get("LOCAL_RANK", "0")) > 0
    chosen = os.environ["PROTOSEG_RUN_FOLDER"] if is_copy else options.out
    out = Path(chosen) if chosen else _free(Path("runs") / "demo")
    data = out.with_name(f"{out.name}-data")
    for folder in (out, data):
        if folder.exists() and not is_copy:
            raise FileExistsError(f"{folder} exists; give another folder with --out")
    words = [str(data), "--recipe", "demo", "--seed", str(options.seed), "--out", str(out), *rest]
    parse_train(words)  # a misspelt option stops here, before images are written
    from protoseg.data.demo import write_demo

    if not is_copy:
        write_demo(data, seed=options.seed)
    _train(words)


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... where neither it nor its data exist."""
    candidates = [path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 10_000))]
    return next(c for c in candidates if not c.exists() and not c.with_name(f"{c.name}-data").exists())


def _train(arguments: list[str]) -> None:
    config = parse_train(arguments)
    from protoseg.run import train

    train(config, console=_console())


def _console() -> Console:
    """Class names and paths are printed as they are: brackets are no markup, and no line is broken inside a path."""
    from rich.console import Console

    return Console(markup=False, soft_wrap=True)


def _evaluate(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="protoseg evaluate", description="mIoU and IoU per class of a trained model.")
    parser.add_argument("run", type=Path, help="run folder, or a model.safetensors")
    parser.add_argument("data", type=Path, help="labelled folder, laid out as for training")
    parser.add_argument("--format", help="layout of the folder; recognised when left out")
    parser.add_argument("--split", choices=("test", "val"), help="which evaluation images; default test, else val")
    options = parser.parse_args(arguments)
    from protoseg.trained import evaluate_run

    evaluate_run(options.run, options.data, split=options.split, console=_console(), format=options.format)


def _predict(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="protoseg predict", description="Write an index PNG, an overlay and a confidence map for each image."
    )
    parser.add_argument("run", type=Path, help="run folder, or a model.safetensors")
    parser.add_argument("images", type=Path, help="folder of images, or one image")
    parser.add_argument("-o", "--out", type=Path, required=True, help="new folder for the results")
    options = parser.parse_args(arguments)
    from protoseg.trained import predict_run

    predict_run(options.run, options.images, out=options.out, console=_console())


def _doctor(arguments: list[str]) -> int:
    """0, or 1 where something is found that stops training."""
    parser = argparse.ArgumentParser(
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


def _split(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="protoseg split",
        description="Draw which masks to use, into a list for protoseg train --labels FILE. Draws of one seed are nested.",
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


def parse_train(arguments: Sequence[str]) -> TrainConfig:
    """Settings of a run: the defaults, then the recipe's, then those of the command line.

    Args:
        arguments: of `protoseg train`.

    Raises:
        ValueError: a setting does not exist or has a wrong type.
        FileNotFoundError: there is no such recipe or run folder.
    """
    if any(argument in {"-h", "--help"} for argument in arguments):
        print(train_help(), end="")
        raise SystemExit(0)
    import yaml
    from jsonargparse import ArgumentParser, Namespace

    words = _normalize(arguments)
    parser = ArgumentParser(prog="protoseg train", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TrainConfig, as_group=False)
    resume = _value_of(words, "--resume")
    if resume is not None:
        return _parse_resume(parser, words, Path(resume))
    recipe = find_recipe(_value_of(words, "--recipe") or TrainConfig.recipe)
    try:
        settings = yaml.safe_load(recipe.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{recipe} is not a YAML file of settings: {' '.join(str(error).split())}") from error
    parsed: Namespace = _parse(parser, ["--config", str(recipe), *words])
    written_for = str((settings or {}).get("method", TrainConfig.method))
    config: TrainConfig = _instantiate(parser, parsed)
    if config.method.partition("+")[0] != written_for.partition("+")[0]:
        config = change_method(config, _instantiate(parser, _parse(parser, words)))
    config = settle_method(config)
    validate(config)
    if not config.data:
        raise ValueError("give the folder that holds images/ and masks/: protoseg train data/")
    return config


_RESUMABLE = {"--resume", "--workers", "--checkpoint_every"}
"""What may change when a run goes on: nothing that changes its result."""


def _parse_resume(parser: Any, words: list[str], run: Path) -> TrainConfig:
    stored = run / "config.yaml"
    if not stored.is_file():
        raise FileNotFoundError(f"there is no run to go on with in {run} (no config.yaml)")
    given = {word.split("=", 1)[0] for word in words if word.startswith("--")}
    if changed := sorted(given - _RESUMABLE):
        raise ValueError(
            f"{', '.join(changed)} would change the run that --resume goes on with; give only "
            f"{', '.join(sorted(option.replace('_', '-') for option in _RESUMABLE - {'--resume'}))}, or start a new run"
        )
    config: TrainConfig = _instantiate(parser, _parse(parser, ["--config", str(stored), *words]))
    return config


def _parse(parser: Any, words: list[str]) -> Any:
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(words)
    except (ArgumentError, argparse.ArgumentError) as error:
        raise ValueError(f"{' '.join(str(error).split())}; protoseg train --help lists the settings") from error


def _instantiate(parser: Any, parsed: Any) -> TrainConfig:
    values = parser.instantiate(parsed)
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in vars(values).items() if name in names})


def _normalize(arguments: Sequence[str]) -> list[str]:
    """Accept the shell's spelling: a positional folder, dashes in names, flags without a value, --no-evaluate."""
    flags = _flags()
    words: list[str] = []
    items = list(arguments)
    while items:
        item = items.pop(0)
        if not item.startswith("--"):
            if words and words[-1].startswith("--") and "=" not in words[-1]:
                words.append(item)  # the value of the option before
            elif "--data" in words:
                raise ValueError(f"{item!r} is one word too many; protoseg train takes one folder")
            else:
                words += ["--data", item]
            continue
        name, equals, value = item[2:].partition("=")
        name = name.replace("-", "_")
        if name.startswith("no_") and name[3:] in flags:
            words.append(f"--{name[3:]}=false")
        elif name in flags and not equals and not (items and items[0].lower() in {"true", "false"}):
            words.append(f"--{name}=true")
        else:
            words.append(f"--{name}{equals}{value}")
    return words


def _value_of(words: Sequence[str], option: str) -> str | None:
    found = None
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            found = words[i + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found


def _sections() -> list[tuple[str, Any]]:
    """The flat settings, then each section with its prefix."""
    config = TrainConfig()
    nested = [field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(getattr(config, field.name))]
    return [("", config), *((f"{name}.", getattr(config, name)) for name in nested)]


def _flags() -> set[str]:
    return {
        prefix + field.name
        for prefix, section in _sections()
        for field in dataclasses.fields(section)
        if isinstance(getattr(section, field.name), bool)
    }


def train_help() -> str:
    """All settings, one a line, with their defaults. The text comes from the docstrings of the settings."""
    lines = ["usage: protoseg train DATA [--setting VALUE ...]", ""]
    for prefix, section in _sections():
        texts = _attribute_docs(section)
        if prefix:
            lines += ["", f"{(type(section).__doc__ or '').splitlines()[0]}"]
        for field in dataclasses.fields(section):
            default = getattr(section, field.name)
            if field.name == "data" or dataclasses.is_dataclass(default):
                continue
            name = f"--{prefix}{field.name}" if prefix else f"--{field.name.replace('_', '-')}"
            shown = "" if default in (None, [], {}) else f" [{default}]"
            text = texts.get(field.name, "handed to the Lightning Trainer: --trainer.devices 2")
            lines.append(f"  {name:<30} {text}{shown}")
    lines += ["", "A flag takes no value; --no-NAME switches it off. Defaults are those without a recipe."]
    return "\n".join(lines) + "\n"


def _attribute_docs(section: Any) -> dict[str, str]:
    lines = (type(section).__doc__ or "").splitlines()
    pairs = (line.strip().split(": ", 1) for line in lines if line.startswith("        "))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


if __name__ == "__main__":
    sys.exit(main())
