"""`protoseg train`: from settings to a run folder."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from rich.console import Console
from torch import nn

from protoseg.config import (
    METHOD_OPTIONS,
    build_class_rules,
    build_geometry,
    build_inference,
    build_method,
    build_network,
    build_normalization,
    build_partition,
    method_class,
    parameter_groups,
    read_yaml,
    resolve,
    settle_method,
    validate,
)
from protoseg.data.cache import open_cache
from protoseg.data.check import CheckedData, check_labels, check_unlabeled
from protoseg.data.index import Sample
from protoseg.data.limit import MAX_PIXELS, limited, most_pixels
from protoseg.data.run_lists import SPLIT, as_stored, read_limit, read_run_lists
from protoseg.data.splits import Partition
from protoseg.engine.evaluate import Normalization
from protoseg.engine.tracker import check_tracker
from protoseg.engine.train import check_trainer_options, has_checkpoint
from protoseg.files import locked, make_folder, write_text
from protoseg.launch import asks_for_several, is_first, join_slurm, num_processes
from protoseg.methods.base import Method
from protoseg.orphan import ends_with_the_first
from protoseg.report.gather import BASELINE, RESULT, START
from protoseg.report.page import write_report
from protoseg.self_training import FIRST, prepare
from protoseg.settings import RUN_FOLDER, TrainConfig
from protoseg.stage import describe_device, stored_json, train_one, uses_cuda, write_json
from protoseg.stored import is_text
from protoseg.summary import describe_data, print_found, print_result
from protoseg.trained import CONFIG, progress, require_empty


@ends_with_the_first()
def train(config: TrainConfig, *, console: Console, command: str | None = None) -> dict[str, Any] | None:
    """Train as the settings say and leave a run folder; go on with one where `config.resume` names it.

    Args:
        config: settings; open ones are filled in.
        console: for everything that is printed.
        command: that started it, for its report; None where it was no command.

    Returns:
        What `result.json` holds; None on all but the first process of a distributed run.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, ConnectionError: one sentence on what is wrong, before training.
    """
    with limited(_limit_of(config)):
        return _train(config, console=console, command=command)


def _limit_of(config: TrainConfig) -> int | None:
    """How large the images of a resumed run may be, as at its start: with another limit it would draw others."""
    if config.resume is None:
        return None
    limit = read_limit(Path(config.resume))
    if limit is not None and MAX_PIXELS in os.environ and most_pixels() != limit:
        raise ValueError(
            f"--max-pixels {most_pixels()} would change the run that --resume goes on with, which has --max-pixels {limit}; "
            "leave it out, or start a new run"
        )
    return limit


def _train(config: TrainConfig, *, console: Console, command: str | None) -> dict[str, Any] | None:
    join_slurm(config.trainer)
    config, data = settle(config, console=console)
    normalization, network, method = build(config, data, console=console)
    data = _with_cache(config, data, method, console)
    # Whatever cannot work has stopped by now; only from here on something is written, but for the cache, which is of any run.
    with _run_folder(config, data.partition, console) as out:
        if is_first():
            found = describe_data(config, data)
            trains = not (out / RESULT).is_file()
            if config.resume is not None and not trains:
                console.print(f"note: the run in {out} has finished before; nothing is trained, this is its result")
            if config.resume is None:
                _note_start(out, command, found)
            print_found(config, data, found, out, describe_device(config), console)
        if config.baseline and not method.uses_unlabeled:
            console.print("note: --baseline adds nothing to --method supervised, which is the baseline")

        baseline: dict[str, Any] | None = None
        labels_only = _baseline_config(config)
        if method.needs_labeler:  # first, because it keeps snapshots of the labels-only model
            prepare(
                method,
                config,
                labels_only,
                data,
                normalization,
                start=network,
                folder=out,
                first=out / (BASELINE if config.baseline else FIRST),
                console=console,
            )
        if config.baseline and method.uses_unlabeled:
            start = build_method(labels_only, copy.deepcopy(network), data.report.pixels.tolist())  # the same weights
            baseline = train_one(labels_only, data, start, normalization, out / BASELINE, console, title="labels only")
        result = train_one(config, data, method, normalization, out, console, title=config.full_method, baseline=baseline)
        if result is not None:
            if config.resume is not None and trains:
                _note_start(out, command, found)  # only now: a run that cannot go on is left as it was
            print_result(result, out, console)
            console.print(f"report: {write_report(out)}")
        return result


def settle(config: TrainConfig, *, console: Console) -> tuple[TrainConfig, CheckedData]:
    """Read the data, and fill in what the settings leave open.

    Raises:
        ValueError, FileNotFoundError: one sentence on what is wrong.
    """
    config = settle_method(config)
    validate(config)
    data = load_data(config, track=progress("reading labelled images", console))
    if config.baseline and not data.partition.evaluation:
        raise ValueError(
            "--baseline compares two models on labelled images, and none are left; keep some back with --holdout 1/5"
        )
    config = resolve(config, data.report, num_unlabeled=len(data.partition.unlabeled), cuda=uses_cuda(config))
    validate(config)
    return config, data


class Built(NamedTuple):
    """What a run trains, at its start."""

    normalization: Normalization
    network: nn.Module
    method: Method


def build(config: TrainConfig, data: CheckedData, *, console: Console) -> Built:
    """Build everything that a run needs, and check whatever can be checked before it starts.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: one sentence on what is wrong.
    """
    if config.logger is not None:
        check_tracker(config.logger)
    normalization = build_normalization(config.model, data.report.kind)
    build_geometry(config, normalization)
    build_inference(config.inference)
    torch.manual_seed(config.seed)
    # A checkpoint holds every weight, so a run can go on where its start weights are out of reach.
    goes_on = config.resume is not None and has_checkpoint(Path(config.resume))
    network = build_network(config.model, len(data.classes), pretrained=not goes_on)
    method = build_method(config, network, data.report.pixels.tolist())
    if method.uses_unlabeled and not data.partition.unlabeled:
        raise ValueError(
            f"there are no unlabelled images to learn from; add some to {config.data} or with --unlabeled DIR, use fewer masks "
            "with --labels, or train with --method supervised"
        )
    if method.uses_unlabeled:
        assert config.crop is not None
        for note in check_unlabeled(data.partition.unlabeled, data.report.kind, crop=config.crop):
            console.print(f"warning: {note}")
    _check_batch(config, network)
    if method.uses_unlabeled and (note := _note_on_pairs(config)):
        console.print(f"warning: {note}")
    parameter_groups(config.optimizer, method)
    check_trainer_options(config.trainer, several=asks_for_several(config.trainer))
    return Built(normalization, network, method)


def load_data(config: TrainConfig, *, track: Callable[[Sequence[Sample]], Iterable[Sample]] = iter) -> CheckedData:
    """List the images, divide them, and decode all labelled ones.

    Args:
        config: settings.
        track: wraps a list of images, to show progress.

    Raises:
        ValueError, FileNotFoundError: see `open_dataset`, `make_partition` and `check_labels`.
    """
    index, partition = build_partition(config)
    return CheckedData(index, partition, check_labels(index, partition, build_class_rules(config.classes), track=track))


def _with_cache(config: TrainConfig, data: CheckedData, method: Method, console: Console) -> CheckedData:
    """The same data, its training images decoded in the folder of --cache where one is named."""
    if config.cache is None:
        return data
    # All of them, whichever is labelled, so that divisions of the same images share a cache.
    samples = [*data.partition.labeled, *(data.partition.unlabeled if method.uses_unlabeled else ())]
    cache = open_cache(
        Path(config.cache),
        samples,
        data.report.kind,
        say=console.print if is_first() else lambda text: None,
        track=progress("decoding images for the cache", console),
    )
    return dataclasses.replace(data, cache=cache)


def _baseline_config(config: TrainConfig) -> TrainConfig:
    """The run on labels alone: same start, images, crops, seeds, steps and EMA; its own learning rate if one is set."""
    lr = config.optimizer.baseline_lr or config.optimizer.lr
    own: dict[str, Any] = dict.fromkeys(METHOD_OPTIONS)
    return dataclasses.replace(
        config,
        method="supervised",
        baseline=False,
        optimizer=dataclasses.replace(config.optimizer, lr=lr),
        prototypes=dataclasses.replace(config.prototypes, per_class=0),
        consistency=dataclasses.replace(config.consistency, **own),
    )


@contextmanager
def _run_folder(config: TrainConfig, partition: Partition, console: Console) -> Iterator[Path]:
    """The run folder, which no other run can use meanwhile: a new one with settings and lists in it, or that of a resumed run,
    whose images have to be the same."""
    if not is_first():
        yield _folder_of_main(config)
        return
    if config.resume is not None:
        out = Path(config.resume)
        if read_run_lists(out).hash != partition.hash:
            raise ValueError(f"the images in {config.data} are not those that the run in {out} started with; start a new run")
    else:
        out = _new_folder(config)
    os.environ[RUN_FOLDER] = str(out)  # for the processes that Lightning starts, and to say how to go on
    with locked(out, warn=lambda text: console.print(f"warning: {text}")):
        if config.resume is None:
            require_empty(out, "--out")  # another run may have come first
            write_json(out / SPLIT, as_stored(partition))
            stored = dataclasses.replace(config, out=str(out))
            try:  # last: what has settings can go on
                write_text(out / CONFIG, yaml.safe_dump(stored.to_dict(), sort_keys=False))
            except OSError:
                (out / SPLIT).unlink()  # without settings it would only keep the folder from being used
                raise
        else:
            _note_moved(config, out / CONFIG)
        yield out


def _folder_of_main(config: TrainConfig) -> Path:
    if name := config.resume or os.environ.get(RUN_FOLDER) or config.out:
        return Path(name)
    raise ValueError("several processes were started from outside: give the run folder with --out, so that all of them know it")


def _note_moved(config: TrainConfig, stored: Path) -> None:
    """Write down where the images of a resumed run lie now: the next resume and `evaluate` look there."""
    before = read_yaml(stored)
    after = before | {name: getattr(config, name) for name in ("data", "unlabeled", "labels", "holdout")}
    if after != before:
        write_text(stored, yaml.safe_dump(after, sort_keys=False))


def _note_start(out: Path, command: str | None, found: dict[str, Any]) -> None:
    """run.json: the commands that the run came from, and what its data looked like."""
    path = out / START
    commands = stored_json(path, {"commands": [is_text]})["commands"] if path.is_file() else []
    write_json(path, {"commands": [*commands, *([command] if command else [])], "data": found})


def _new_folder(config: TrainConfig) -> Path:
    """Make the folder of a new run: --out, or one in `runs` that no other run has."""
    if config.out:
        require_empty(Path(config.out), "--out")
        make_folder(Path(config.out))
        return Path(config.out)
    stem = f"{Path(config.data).resolve().name}-{config.full_method}-seed{config.seed}"
    names = [stem, *(f"{stem}-{i}" for i in range(2, 10_000))]
    return next(path for path in (Path("runs") / name for name in names) if make_folder(path))


def _check_batch(config: TrainConfig, network: nn.Module) -> None:
    """Stop where a process would get no whole share of the batch, or one image that BatchNorm cannot train on."""
    assert config.batch is not None
    processes = num_processes(config.trainer)
    if processes > 1 and method_class(config.method).needs_labeler:
        raise ValueError(f"{config.method} trains several models one after the other, in one process, not in {processes}")
    if processes > 1 and config.on_collapse == "rollback":
        raise ValueError(f"--on-collapse rollback works in one process, not in {processes}; give stop or continue")
    if processes > 1 and config.trainer.get("sync_batchnorm") and not uses_cuda(config):
        raise ValueError("--trainer.sync_batchnorm true works on GPUs alone; with several processes of a CPU give false")
    if processes > 1 and config.batch % processes:
        raise ValueError(f"--batch {config.batch} does not divide over {processes} processes; give a multiple of {processes}")
    if config.batch == max(processes, 1):
        image = torch.zeros(1, int(network.in_channels), config.crop or 1, config.crop or 1)  # type: ignore[arg-type]
        copy.deepcopy(network).train()(image)


def _note_on_pairs(config: TrainConfig) -> str:
    """What to say where the pairs of CutMix, which are neighbours in the batch, depend on the number of processes."""
    assert config.batch is not None
    processes = num_processes(config.trainer)
    share = config.batch // processes
    if processes == 1 or share % 2 == 0:
        return ""
    missing = "no image has a partner for CutMix" if share == 1 else "one of them has no partner of its own for CutMix"
    return f"each of {processes} processes gets {share} of {config.batch} images, and {missing}; better --batch {2 * processes}"
