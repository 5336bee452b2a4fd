"""What a trained model is for: read it back, score it, predict with it."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from rich.console import Console
from rich.progress import track as rich_track
from torch import nn

from protoseg.config import LARGEST_SIDE, build_class_rules, build_inference, build_network, read_yaml
from protoseg.console import plain
from protoseg.data.archive import opened
from protoseg.data.class_list import as_csv
from protoseg.data.formats import folder, open_dataset, with_mask_files
from protoseg.data.index import ClassTable, DataIndex, Sample, Split, UnknownValueError, is_binary, unnamed
from protoseg.data.io import check_names
from protoseg.data.masks import describe
from protoseg.data.palettes import check_palettes, mask_facts
from protoseg.data.run_lists import SPLIT, read_run_lists
from protoseg.engine.checkpoint import MODEL, load_model_file, part
from protoseg.engine.evaluate import Normalization, tally
from protoseg.engine.examples import EXAMPLES, write_examples
from protoseg.engine.inference import Inference
from protoseg.engine.machine import machine
from protoseg.engine.metrics import IoU
from protoseg.engine.predict import LARGE, LARGEST_OVERLAY, PredictReport, predict
from protoseg.engine.tally import TALLY
from protoseg.files import LOCK, locked, make_folder, write_text
from protoseg.nn.described import build_described
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.nn.prototype_predictor import PrototypePredictor
from protoseg.report.gather import BASELINE, RESULT
from protoseg.report.page import write_report
from protoseg.settings import ClassesConfig, InferenceConfig, ModelConfig
from protoseg.summary import gain_line, iou_table
from protoseg.types import IGNORE_INDEX
from protoseg.words import counted, shortened

Head = Literal["linear", "prototype", "mean"]
CONFIG = "config.yaml"
"""File of a run folder: its settings."""
CLASSES = "classes.csv"
"""File of a folder of predictions: what the numbers in the masks mean."""


@dataclass(frozen=True)
class TrainedModel:
    """A model read back from its file.

    Attributes:
        network: in eval mode.
        classes: of its outputs.
        normalization: of its input.
        inference: how it was told to see an image.
        crop: side of its training crops in pixels.
        header: everything else that the file says.
    """

    network: nn.Module
    classes: ClassTable
    normalization: Normalization
    inference: Inference
    crop: int
    header: dict[str, Any]


def load_model(path: Path) -> TrainedModel:
    """Read a trained model from a run folder or a model file; nothing is unpickled.

    Raises:
        FileNotFoundError, ValueError: see `load_model_file`; or the tensors do not fit the network that the file names.
    """
    file = load_model_file(path)
    header = file.header
    try:
        classes = _classes_from(header["classes"])
        stored = header["normalization"]
        mean, std = (tuple(float(value) for value in stored[name]) for name in ("mean", "std"))
        normalization = Normalization(mean, std, stored["dtype"])
        model = _model_from(header["config"]["model"], file.tensors)
        if not len(mean) == len(std) == len(model.mean or "RGB") or normalization.dtype not in ("uint8", "uint16", "float32"):
            raise ValueError("its normalization is none of images that its network takes")
        inference = build_inference(InferenceConfig(**header["config"].get("inference", {})))
        crop = operator.index(header["crop"])
        for name, side in (("crop", crop), ("window", inference.window)):  # of what the network sees of a large image at once
            if side is not None and not 1 <= side <= LARGEST_SIDE:
                raise ValueError(f"{name} is {shortened(side)}, and at most {LARGEST_SIDE} pixels a side are taken")
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # the last: a number larger than floats are
        raise ValueError(f"{path} was written by another version of protoseg, its header does not fit ({error})") from error
    try:
        network = build_described(lambda: build_network(model, len(classes), pretrained=False), part(file.tensors, "network"))
    except ValueError as error:
        raise ValueError(f"{path} describes a network that cannot be built: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"the tensors in {path} do not fit its own description: {str(error).splitlines()[0]}") from error
    return TrainedModel(network.eval(), classes, normalization, inference, crop, header)


def by_prototypes(model: TrainedModel, path: Path, *, mean: bool = False) -> TrainedModel:
    """The same model, which answers by its prototypes instead of by its linear classifier.

    Args:
        model: of `load_model`.
        path: what it was read from.
        mean: by both, the mean of their probabilities.

    Raises:
        ValueError: it was trained without prototypes, or its tensors are none.
    """
    head = load_prototypes(model, path, advice="leave out --head")
    return dataclasses.replace(model, network=PrototypePredictor(model.network, head, mean=mean).eval())


def load_prototypes(model: TrainedModel, path: Path, *, advice: str) -> PrototypeHead:
    """The prototypes of a trained model.

    Args:
        model: of `load_model`.
        path: what it was read from.
        advice: what to do where there are none.

    Raises:
        ValueError: it was trained without prototypes, or its tensors are none.
    """
    state = part(load_model_file(path).tensors, "prototypes")
    if not state:
        raise ValueError(f"{path} was trained without prototypes; {advice}")
    try:
        settings = model.header["config"]["prototypes"]
        classes, per_class, channels = state["prototype"].shape
        head = PrototypeHead(
            channels,
            classes,
            per_class=per_class,
            temperature=settings["temperature"],
            class_prior=settings["class_prior"],
            unit_features=settings["unit_features"],
        )
        head.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the prototypes in {path} do not fit its own description: {str(error).splitlines()[0]}") from error
    return head


def _answering(run: Path, head: Head) -> TrainedModel:
    model = load_model(run)
    return model if head == "linear" else by_prototypes(model, run, mean=head == "mean")


def evaluate_run(
    run: Path,
    root: Path,
    *,
    split: Split | None,
    console: Console,
    format: str | None = None,
    inference: Mapping[str, Any] | None = None,
    head: Head = "linear",
    baseline: bool = False,
    out: Path | None = None,
    command: str | None = None,
) -> IoU:
    """Score a trained model on a labelled folder, print the table and write a report.

    Args:
        run: run folder or model file.
        root: data set.
        split: its evaluation images; None for `test`, or `val` where there is no `test`. Of a data set without evaluation
            images all labelled ones are scored, but of the model's own training data only those that were held out.
        console: for the table.
        format: layout of the data set; recognised when left out.
        inference: fields of `Inference` that differ from what the model was trained with.
        head: which of the two predictors answers.
        baseline: score the labels-only model that was trained beside it too, and compare.
        out: folder for the report and what it is made of; None for no report.
        command: that started it, for the report.

    Raises:
        ValueError: no labels-only model beside it, no labelled image to score on, no class that the model knows, a mask value
            that is none of them, or a palette that contradicts the colours of the classes.
        OSError: nothing can be written into `out`, or another command does it.
    """
    model = _answering(run, head)
    models = {"labels only": _labels_only(run), "ours": model} if baseline else {"ours": model}
    learned_on = _trained_on(run)  # before the work: where config.yaml is damaged, the report after it could not be written
    index = open_dataset(root, format=format, for_training=False)
    samples, where = _to_score(index, run, split, given=root)
    if doubt := _learned_from(samples, run):
        console.print(f"warning: {doubt}")
    here = classes_of(index, model)
    classes, facts = matched(model.classes, here, root), mask_facts(samples)
    foreign = here is None and learned_on != root.resolve()
    # Without names, 255 would count as not labelled, and the rest be scored as if it were all.
    means_nothing = classes.class_of.get(IGNORE_INDEX, IGNORE_INDEX) == IGNORE_INDEX
    if foreign and means_nothing and is_binary(value for fact in facts for value in fact.values):
        raise ValueError(
            f"the masks of {root} are binary, 0 and 255, but 255 is none of the model's classes ({', '.join(classes.names)}); "
            "score it on masks of its own classes, or list the classes in classes.txt if 255 means not labelled there"
        )
    notes = check_palettes(facts, classes)
    with nullcontext() if out is None else _writable(out, console):  # before the work, not after it
        networks = {name: one.network.to(device()).to(memory_format=torch.channels_last) for name, one in models.items()}
        seen = dataclasses.replace(model.inference, **(inference or {}))
        start = time.perf_counter()
        try:
            tallies = {
                name: tally(
                    network,
                    samples,
                    classes,
                    model.normalization,
                    inference=seen,
                    track=progress(f"scoring {name}" if baseline else "scoring", console),
                )
                for name, network in networks.items()
            }
        except UnknownValueError as error:
            label = here.class_of.get(error.value, IGNORE_INDEX) if here else IGNORE_INDEX
            if here is None or label == IGNORE_INDEX:
                raise
            raise ValueError(
                f"the class {here.names[label]!r} of {root} is unknown to the model, which has {', '.join(classes.names)}: if "
                f"it is one of these under another name, change it in the data's list; if not, write 255 into the masks there "
                f"({error})"
            ) from error
        seconds = time.perf_counter() - start
        scores = {name: scored.iou for name, scored in tallies.items()}
        score = scores["ours"]
        if moved := _moved(model.classes, classes):
            notes += (f"classes are matched by name; in these masks {moved}",)
        for note in notes:
            console.print(f"note: {note}")
        console.print(f"{counted(len(samples), where.replace('images', 'image', 1), where)} of {root} ({index.format})")
        console.print(f"predictor {head} of {run}; {seen}")
        console.print(plain(iou_table(classes.names, scores if baseline else {"IoU": score}), console))
        console.print(f"mIoU: {100 * score.mean:.1f}")
        if baseline:
            console.print(gain_line(score.mean - scores["labels only"].mean))
        if out is not None:
            tallies["ours"].save(out / TALLY)
            (out / BASELINE / TALLY).unlink(missing_ok=True)  # of an earlier call; no more, because a run has its model there
            if baseline:
                make_folder(out / BASELINE)
                tallies["labels only"].save(out / BASELINE / TALLY)
            write_examples(out / EXAMPLES, samples, tallies, networks, classes, model.normalization, inference=seen)
            result = {
                "scored": {"folder": str(root), "format": index.format, "images": where, "number": len(samples)},
                "head": head,
                "inference": {name: value for name, value in dataclasses.asdict(seen).items() if name != "batch"},
                "commands": [command] if command else [],
                "seconds": round(seconds, 1),
                "machine": machine(device()),
                "miou": None if score.mean != score.mean else score.mean,
            }
            write_text(out / RESULT, json.dumps(result, indent=2) + "\n")
            console.print(f"report: {write_report(run, scored=out)}")
    return score


def _labels_only(run: Path) -> TrainedModel:
    """The model that `--baseline` trained beside a run's."""
    if not (run / BASELINE / MODEL).is_file():
        raise ValueError(f"there is no labels-only model in {run} to compare with; train with --baseline, or leave it out here")
    return load_model(run / BASELINE)


def report_folder(run: Path, root: Path, *, split: Split | None, head: Head) -> Path:
    """Where `evaluate` leaves its report: in the run folder, named after what is scored."""
    words = [root.resolve().stem, *([split] if split else []), *([head] if head != "linear" else [])]
    return _folder_of(run) / f"evaluate-{'-'.join(words)}"


@contextmanager
def _writable(out: Path, console: Console) -> Iterator[None]:
    """A folder for a report, which no other command writes into meanwhile."""
    advice = "give a folder for the report with --out, or --no-report"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{out} cannot be made ({error}); {advice}") from error
    if not os.access(out, os.W_OK):
        raise OSError(f"nothing can be written into {out}; {advice}")
    with locked(out, warn=lambda text: console.print(f"warning: {text}")):
        yield


def _to_score(index: DataIndex, run: Path, split: Split | None, *, given: Path) -> tuple[list[Sample], str]:
    """The labelled images to score a model on, and what to call them."""
    labeled = [sample for sample in index.whole if sample.mask is not None]
    if not labeled:
        raise ValueError(f"there is no labelled image in {index.root} to score on")
    if any(sample.split != "train" for sample in index.whole):
        chosen: Split = split or ("test" if any(sample.split == "test" for sample in labeled) else "val")
        samples = [sample for sample in labeled if sample.split == chosen]
        if not samples:
            raise ValueError(f"there is no labelled image in the {chosen} part of {index.root}; choose another with --split")
        return samples, f"{chosen} images"
    if split is not None:
        raise ValueError(f"{index.root} has no {split} part, only labelled images; leave out --split to score on them")
    if _trained_on(run) != given.resolve():  # a zip file is unpacked elsewhere
        return labeled, "labelled images (no test/ or val/ there)"
    lists = read_run_lists(_folder_of(run))
    if lists.evaluation_name != "holdout":
        raise ValueError(
            f"the images of {index.root} trained the model in {_folder_of(run)}, so a score on them says nothing; "
            f"put others into {index.root / 'test'}, or train with --holdout 1/5"
        )
    kept = set(lists.evaluation)
    return [sample for sample in (*labeled, *index.spare) if sample.name in kept], "holdout images"


def _learned_from(samples: Sequence[Sample], run: Path) -> str:
    """What to say where images to score on may be such as the model learned from; empty where none is.

    Told by their names, because a data set may have been copied or moved since.
    """
    folder = _folder_of(run)
    told = next((place for place in (folder, folder.parent) if (place / SPLIT).is_file()), None)
    if told is None:
        if all(sample.split != "train" for sample in samples):
            return ""
        return f"{run} alone does not say which images it learned from; if they are among these, the score says nothing"
    try:
        learned = set(read_run_lists(told).labeled)
    except ValueError as error:  # or it is the split.json of something else
        return f"{error}; if the model learned from some of these images, the score says nothing"
    again = [sample for sample in samples if sample.name in learned]
    if not again:
        return ""
    have = counted(len(again), "image to score on has", "images to score on have")
    return (
        f"{have} the name of one that the model in {folder} learned from (the first is {again[0].image}); if they are the "
        "same, a score on them says nothing"
    )


def _folder_of(run: Path) -> Path:
    """The folder of a run that is given by its folder or by its model file."""
    return run if run.is_dir() else run.parent


def _trained_on(run: Path) -> Path | None:
    """The data set of a run; None where there is only a model file."""
    stored = _folder_of(run) / CONFIG
    if not stored.is_file():
        return None
    data = read_yaml(stored).get("data")
    return Path(data).resolve() if isinstance(data, str) else None  # else it is the config.yaml of something else


def classes_of(index: DataIndex, model: TrainedModel) -> ClassTable | None:
    """The data set's classes after the rules that the model was trained with: what it merged is one class here too."""
    if index.classes is None:
        return None
    rules = build_class_rules(ClassesConfig(**model.header["config"].get("classes", {})))
    # Annotation files name their classes, whatever their order was in training.
    named = index.classes if index.names_classes else rules.named(index.classes) or index.classes
    return rules.apply(named, strict=False)


def matched(model: ClassTable, here: ClassTable | None, root: Path) -> ClassTable:
    """The model's classes, with the mask values that a data set gives to those names.

    Annotation files number their classes by what they hold, so the same class may have another value in each of them. Classes
    without names, and values that the data set says nothing about, are what they were in training.
    """
    if here is None:
        return model
    named = {name for name, values in zip(model.names, model.values, strict=True) if name != unnamed(values[0])}
    if named and not named & set(here.names):
        raise ValueError(
            f"none of the classes of {root} ({', '.join(here.names)}) is one of the model's: {', '.join(model.names)}"
        )
    theirs = dict(zip(here.names, here.values, strict=True))
    values = []
    for name, own in zip(model.names, model.values, strict=True):
        free = tuple(value for value in own if here.class_of.get(value, IGNORE_INDEX) == IGNORE_INDEX)
        values.append((*theirs.get(name, ()), *free) if name in named else own)
    # The data set's own rule for ignored values counts, unless the model has learned such a value as a class.
    learned = model.class_of
    ignored = tuple(value for value in here.ignored if learned.get(value, IGNORE_INDEX) == IGNORE_INDEX)
    return dataclasses.replace(model, values=tuple(values), ignored=ignored)


def _moved(trained: ClassTable, here: ClassTable) -> str:
    """The first class with another mask value than in training, in words; empty where there is none."""
    for name, before, now in zip(trained.names, trained.values, here.values, strict=True):
        if now and now[0] not in before:
            return f"{name!r} is {describe(now[0])}, which was {describe(before[0])} in training"
    return ""


def predict_run(
    run: Path,
    images: Path,
    *,
    out: Path,
    console: Console,
    inference: Mapping[str, Any] | None = None,
    head: Head = "linear",
    shard: tuple[int, int] | None = None,
) -> None:
    """Predict every image of a folder (or one file) and write pictures.

    Args:
        run: run folder or model file.
        images: folder, zip file of one, or image. Of a data set with masks, its images alone.
        out: folder for the pictures, and for `classes.csv`, which says what the numbers of the masks mean.
        console: for everything that is printed.
        inference: fields of `Inference` that differ from what the model was trained with. Without a window among them, large
            images are seen through windows.
        head: which of the two predictors answers.
        shard: (i, n), i from 1 to n: only every n-th image, from the i-th on, and on one GPU after the other. So n processes
            share a folder of images, and the folder for their pictures.

    Raises:
        FileExistsError: the output folder holds something; with a shard, something of this shard's images.
        ValueError: a file name is no UTF-8, or no image can be read.
    """
    model = _answering(run, head)
    check_names([images])
    images = opened(images)
    if images.is_file():
        samples = [Sample(images.stem, images, None, "test")]
    elif (index := with_mask_files(images)) is not None:
        samples = sorted((*index.samples, *index.spare), key=lambda sample: sample.name)
        console.print(f"{images} is a data set ({index.format}): its {counted(len(samples), 'image')}, without its masks")
    else:
        found = folder.read_images(images, "prediction")
        samples = [Sample(s.image.relative_to(images).with_suffix("").as_posix(), s.image, None, "test") for s in found]
    where = device()
    if shard is None:
        require_empty(out, "-o")
    else:
        first, step = shard
        samples = samples[first - 1 :: step]
        if done := next((path for path in (out / f"{sample.name}.png" for sample in samples) if path.exists()), None):
            raise FileExistsError(f"{done} exists; give another folder with -o")
        if where.type == "cuda":
            where = torch.device("cuda", (first - 1) % torch.cuda.device_count())
    report = predict(
        model.network.to(where).to(memory_format=torch.channels_last),
        samples,
        model.classes,
        model.normalization,
        out=out,
        inference=dataclasses.replace(model.inference, **(inference or {})),
        crop=None if "window" in (inference or {}) else model.crop,
        track=progress("predicting", console),
    )
    for line in _notes(report, model.classes):
        console.print(line)
    if samples and len(report.skipped) == len(samples):
        raise ValueError(f"none of {counted(len(samples), 'image')} in {images} could be read")
    if shard is None or shard[0] == 1:  # one of the processes
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / CLASSES, as_csv(model.classes))
    number = counted(len(samples) - len(report.skipped), "image")
    console.print(f"predictions: {out}, mask, overlay and confidence of {number}; {CLASSES} names the masks' numbers")


def _notes(report: PredictReport, classes: ClassTable) -> list[str]:
    """What is to be said of predictions."""
    notes = _skipped(report.skipped)
    if report.holes:
        areas = f"note: {counted(report.holes, 'image has', 'images have')} areas without data"
        taken = IGNORE_INDEX in classes.written
        notes.append(
            f"{areas}; {IGNORE_INDEX} is a class of this model, so the masks hold what the network says there"
            if taken
            else f"{areas}, where masks are {IGNORE_INDEX} and the confidence is 0"
        )
    if report.unplaced:
        notes.append(
            f"note: {counted(report.unplaced, 'image is', 'images are')} georeferenced; pip install 'protoseg[geo]' writes "
            "masks as GeoTIFF too"
        )
    if report.windowed:
        sides = " or ".join(str(side) for side in sorted(set(report.windowed)))
        notes.append(
            f"note: {counted(len(report.windowed), 'image')} of more than {LARGE / 1e6:.0f} megapixels went through windows of "
            f"{sides} px; --window chooses others, --window 0 none"
        )
    if report.reduced:
        overlays = counted(report.reduced, "overlay is", "overlays are")
        notes.append(f"note: {overlays} reduced to {LARGEST_OVERLAY} px a side; masks have every pixel")
    return notes


def _skipped(skipped: Sequence[tuple[Path, str]]) -> list[str]:
    """One line for each image; for many with the same fault, the first line and their number."""
    alike: dict[str, list[tuple[Path, str]]] = {}
    for path, error in skipped:
        alike.setdefault(error.replace(str(path), ""), []).append((path, error))
    lines = []
    for images in alike.values():
        listed = images if len(images) <= _LISTED else images[:1]
        lines += [f"warning: skipped, {error}" for _, error in listed]
        if rest := images[len(listed) :]:
            lines.append(f"warning: skipped for the same reason: {len(rest)} more, from {rest[0][0]} to {rest[-1][0]}")
    return lines


_LISTED = 3  # images with the same fault that are all named


def require_empty(out: Path, option: str) -> None:
    """Stop where a folder for results holds something, but for what a run leaves that is killed before it has settings."""
    if out.exists() and (not out.is_dir() or not all(_is_left_over(path) for path in out.iterdir())):
        resumable = (out / CONFIG).is_file()
        hint = f", or go on with it: protoseg train --resume {out}" if resumable else ""
        raise FileExistsError(f"{out} exists and is not empty; give another folder with {option}{hint}")


def _is_left_over(path: Path) -> bool:
    if path.name != SPLIT:
        return path.name in (LOCK, f"{SPLIT}.partial", f"{CONFIG}.partial")
    try:
        read_run_lists(path.parent)
    except (ValueError, OSError):  # somebody else's, which a run would write over
        return False
    return True


def progress(text: str, console: Console) -> Callable[[Sequence[Sample]], Iterable[Sample]]:
    """A progress bar for scoring and predicting; on anything but a terminal, a line now and then."""
    if not console.is_terminal:
        return lambda samples: _now_and_then(text, samples, console)
    return lambda samples: rich_track(samples, description=text, console=console, transient=True)


def _now_and_then(text: str, samples: Sequence[Sample], console: Console) -> Iterator[Sample]:
    said = time.monotonic()
    for done, sample in enumerate(samples):
        if time.monotonic() - said >= _SILENCE:
            said = time.monotonic()
            console.print(f"{text} {done}/{len(samples)}", highlight=False)
        yield sample


_SILENCE = 30.0  # seconds


def _model_from(stored: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> ModelConfig:
    """The network that a file describes. Anybody may have written it, and memory is made for what it says.

    Raises:
        TypeError, ValueError: a setting is of another type, or larger than the file's own tensors.
    """
    model = ModelConfig(**stored)
    for name, hint in get_type_hints(ModelConfig).items():
        kinds = tuple(get_origin(kind) or kind for kind in get_args(hint) or (hint,))
        if not isinstance(getattr(model, name), kinds):
            raise TypeError(f"model.{name} is {str(getattr(model, name))[:40]!r}")
    largest = max((max(tensor.shape, default=1) for tensor in tensors.values() if tensor.numel()), default=1)
    sides = [model.width if model.arch == "small_unet" else 1, 1 if model.features is None else model.features]
    sides.append(model.projection or 1)
    if not all(0 < side <= largest for side in (*sides, len(model.mean or "RGB"))):
        raise ValueError("it speaks of more channels than its tensors have")
    return model


def _classes_from(stored: dict[str, Any]) -> ClassTable:
    colors = tuple((int(r), int(g), int(b)) for r, g, b in stored["colors"])
    values = tuple(tuple(of_class) for of_class in stored["values"])
    for name in stored["names"]:
        if not isinstance(name, str):
            raise TypeError(f"a class is called {str(name)[:40]!r}")
    return ClassTable(tuple(stored["names"]), values, colors, tuple(stored["ignored"]))


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
