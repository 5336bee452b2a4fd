"""What the words behind `protoseg train` say, and the text of its --help."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from protoseg.config import OWN_NETWORKS, SECTIONS, change_method, read_recipe, read_settings, settle_method, validate
from protoseg.safe_yaml import check_expansion
from protoseg.settings import TrainConfig
from protoseg.words import shortened

DRY_RUN = "--dry-run"
"""A word that is no setting: it says what to do with them."""


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
    from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

    def load(text: str) -> Any:
        check_expansion(text)
        return get_loader("yaml")(text)

    # A name of its own: "yaml" is also how other programs that use protoseg read theirs.
    set_loader("protoseg", load, exceptions=(yaml.YAMLError,))
    words = _normalize(arguments)
    if _value_of(words, "--config") is not None:  # the parser's own, for recipes
        raise ValueError("a file of settings is a recipe: --recipe FILE")
    parser = ArgumentParser(prog="protoseg train", exit_on_error=False, allow_abbrev=False, parser_mode="protoseg")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TrainConfig, as_group=False)
    resume = _value_of(words, "--resume")
    if resume is not None:
        return _parse_resume(parser, words, Path(resume))
    settings = read_recipe(_value_of(words, "--recipe") or TrainConfig.recipe)
    parsed: Namespace = _parse(parser, ["--config", yaml.safe_dump(settings), *words])
    written_for = str(settings.get("method", TrainConfig.method))
    config: TrainConfig = _instantiate(parser, parsed)
    if config.method.partition("+")[0] != written_for.partition("+")[0]:
        config = change_method(config, _instantiate(parser, _parse(parser, words)))
    config = settle_method(config)
    validate(config)
    _check_used(config.model.arch, _given(words))
    if config.labels == "all":
        config.labels = None
    if not config.data:
        raise ValueError("give the folder that holds images/ and masks/: protoseg train data/")
    return config


_ONLY_FOR = {
    "--model.width": ("small_unet",),
    "--model.features": ("small_unet", "dino_dpt"),
    "--model.auxiliary": ("paper_deeplabv3plus",),
}
"""Settings that one network has alone."""


def _check_used(arch: str, given: set[str]) -> None:
    """Stop where a setting was given that the network has no use for: whoever gave it expects something.

    A recipe may hold it all the same, for the network that it was written for.
    """
    for name in sorted(given & _ONLY_FOR.keys()):
        if arch not in _ONLY_FOR[name]:
            raise ValueError(f"{name} is for --model.arch {' or '.join(_ONLY_FOR[name])}, not for {arch}; leave it out")
    if "--model.encoder" in given and arch in OWN_NETWORKS:
        raise ValueError(f"{arch} has an encoder of its own; leave out --model.encoder, or choose another --model.arch")


_RESUMABLE = ("--resume", "--workers", "--checkpoint_every", "--logger", "--cache")
"""What may change when a run goes on: nothing that changes its result."""
_MOVABLE = ("--data", "--unlabeled", "--labels", "--holdout")
"""Where images and lists lie now; that they are the same images is checked by the run."""


def _parse_resume(parser: Any, words: list[str], run: Path) -> TrainConfig:
    import yaml

    stored = run / "config.yaml"
    if not stored.is_file():
        raise FileNotFoundError(f"there is no run to go on with in {run} (no config.yaml)")
    given = _given(words)
    if changed := sorted(given - {*_RESUMABLE, *_MOVABLE}):
        raise ValueError(
            f"{', '.join(changed)} would change the run that --resume goes on with; give only --checkpoint-every, --workers, "
            f"--logger, --cache, or where images and lists lie now ({', '.join(_MOVABLE)}), or start a new run"
        )
    config: TrainConfig = _instantiate(parser, _parse(parser, ["--config", yaml.safe_dump(read_settings(stored)), *words]))
    return config


def _parse(parser: Any, words: list[str]) -> Any:
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(words)
    except (ArgumentError, argparse.ArgumentError) as error:
        raise ValueError(f"{_explain(' '.join(str(error).split()))}; protoseg train --help lists the settings") from error


def _explain(error: str) -> str:
    """What jsonargparse has to say, in our words: it speaks of Python's types."""
    if unknown := re.match(r"unrecognized arguments: --(\S+)|Option '(\S+)' is not accepted", error):
        dashes, name = "--" if unknown[1] else "", str(unknown[1] or unknown[2]).partition("=")[0]
        name = shortened(name)
        close = difflib.get_close_matches(name, _types(), n=1)
        return f"there is no setting {dashes}{name}" + (f"; did you mean {dashes}{close[0]}?" if close else "")
    wrong = re.match(r'Parser key "([\w.]+)":.*(?:Given value|Got value): (.*)$', error)
    if wrong and (accepted := _accepted(_types().get(wrong[1], Any))):
        return f"{wrong[1]} is {shortened(wrong[2])}; it must be {accepted}"
    return shortened(re.sub(r'^Parser key "([\w.]+)"', r"\1", error), 300)


def _types() -> dict[str, Any]:
    """Dotted name -> annotation of every setting."""
    config = TrainConfig()
    return {
        prefix + name: hint
        for prefix, section in _sections()
        for name, hint in get_type_hints(type(section)).items()
        if not dataclasses.is_dataclass(attrgetter(prefix + name)(config))
    }


def _accepted(hint: Any) -> str:
    """`a whole number` for int, and so on; empty for what has no short name."""
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) is list:
        return {float: "a list of numbers, e.g. [0.5, 2.0]", str: "a list of names, e.g. [sky, road]"}.get(
            get_args(hint)[0], "a list, e.g. [0, 1]"
        )
    if get_origin(hint) is dict:
        return "a table, e.g. {car: [car, truck]}"
    options = [option for option in get_args(hint) if option is not type(None)]
    if options:
        return " or ".join(_accepted(option) for option in options)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, "")


def _instantiate(parser: Any, parsed: Any) -> TrainConfig:
    values = parser.instantiate(parsed)
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in vars(values).items() if name in names})
    for name, hint in _types().items():  # jsonargparse lets `name: null` of a file pass
        if attrgetter(name)(config) is None and type(None) not in get_args(hint):
            raise ValueError(f"{name} is empty; it must be {_accepted(hint)}, or be left out")
    return config


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
                raise ValueError(f"{shortened(item)!r} is one word too many; protoseg train takes one folder")
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


def _given(words: Sequence[str]) -> set[str]:
    """The options among words."""
    return {word.partition("=")[0] for word in words if word.startswith("--")}


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
    return [("", config), *((f"{name}.", getattr(config, name)) for name in SECTIONS)]


def _flags() -> set[str]:
    return {
        prefix + field.name
        for prefix, section in _sections()
        for field in dataclasses.fields(section)
        if isinstance(getattr(section, field.name), bool)
    }


def train_help() -> str:
    """All settings with their defaults, one a line or two that are described together. The text comes from their docstrings.

    The defaults are what `protoseg train DATA` does: those of the recipe that it takes where none is named.
    """
    recipe = read_recipe(TrainConfig.recipe)
    lines = [
        f"usage: protoseg train DATA [--setting VALUE ...]   --no-NAME for a flag   [default, of --recipe {TrainConfig.recipe}]"
    ]
    lines.append(_line(DRY_RUN, "build the network, read the data, take two small steps, write nothing"))
    lines.append(_line("--max-pixels", "refuse larger images, as every command does [100e6]"))
    for prefix, section in _sections():
        texts = _attribute_docs(section)
        if prefix:
            lines.append((type(section).__doc__ or "").splitlines()[0])
        together = {name: names for names in texts for name in names.split(", ")}
        settings = {
            field.name for field in dataclasses.fields(section) if not dataclasses.is_dataclass(getattr(section, field.name))
        }
        for names in dict.fromkeys(together.get(field.name, field.name) for field in dataclasses.fields(section)):
            shown = names.split(", ")
            if names == "data" or not settings.issuperset(shown):
                continue
            options = " ".join(f"--{prefix}{name}" if prefix else f"--{name.replace('_', '-')}" for name in shown)
            text = texts.get(names, "handed to the Lightning Trainer: --trainer.devices 2")
            chosen = recipe.get(prefix[:-1], {}) if prefix else recipe
            default = chosen.get(shown[0], getattr(section, shown[0]))
            lines.append(_line(options, text + ("" if default in (None, [], {}) else f" [{default}]")))
    return "\n".join(lines) + "\n"


def _line(options: str, text: str) -> str:
    return f"  {options:<30} {text}"


def _attribute_docs(section: Any) -> dict[str, str]:
    """What the docstring says of each setting, or of several with equal defaults (`mean, std`)."""
    lines = (type(section).__doc__ or "").splitlines()
    pairs = (line.strip().split(": ", 1) for line in lines if line.startswith("        "))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
