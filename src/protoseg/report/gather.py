"""A run folder as data: everything that its report shows, and what is missing from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from protoseg import safe_yaml
from protoseg.data.index import default_colors
from protoseg.data.masks import Color
from protoseg.data.run_lists import SPLIT, RunLists, read_run_lists
from protoseg.engine.callbacks import SHARES, read_rows, read_shares
from protoseg.engine.checkpoint import MODEL, load_header
from protoseg.engine.examples import EXAMPLES, read_examples
from protoseg.engine.tally import REMEDY, TALLY, Tally
from protoseg.report.compare import Interval, Verdict, gain_interval, verdict
from protoseg.report.shapes import EVALUATION, HEADER, SHOWN, STARTED, TOGETHER
from protoseg.stored import misfit, read_json
from protoseg.words import counted, shortened

RESULT, START, SHEET, BASELINE = "result.json", "run.json", "predictions.png", "baseline"
"""Files of a run folder: what came out, what it came from, a sheet of predictions; the folder of the labels-only model."""


@dataclass(frozen=True)
class Part:
    """One model of a run, as its folder tells.

    Attributes:
        title: what the page calls it.
        miou, iou: of the last step; None where nothing was scored, or a class is absent.
        tally: of the scored images; None in run folders of earlier versions.
        rows: of metrics.csv.
        shares: of classes and prototypes over time.
        result: result.json.
    """

    title: str
    miou: float | None
    iou: dict[str, float | None]
    tally: Tally | None
    rows: tuple[dict[str, float], ...]
    shares: tuple[dict[str, Any], ...]
    result: dict[str, Any]


@dataclass(frozen=True)
class Story:
    """What the report tells.

    Attributes:
        name: of the run folder.
        subject: what was scored.
        class_names, colors: of the model.
        ours: the run's own model.
        baseline: the labels-only model beside it.
        interval: of the gain in mIoU.
        verdict: what the unlabelled images did.
        config: every setting.
        start: run.json.
        split: which images were what; None where nothing says so.
        versions: of the code that trained.
        examples: of `write_examples`; pictures are files below `folder_of_examples`.
        folder_of_examples: where they are.
        sheet: predictions.png where there are no examples.
        evaluation: what `evaluate` was told, where it wrote this; empty for the score of a training run.
        missing: sentences on what is not there and how to get it.
    """

    name: str
    subject: str
    class_names: tuple[str, ...]
    colors: tuple[Color, ...]
    ours: Part
    baseline: Part | None
    interval: Interval | None
    verdict: Verdict
    config: dict[str, Any]
    start: dict[str, Any]
    split: RunLists | None
    versions: dict[str, Any]
    examples: tuple[dict[str, Any], ...]
    folder_of_examples: Path
    sheet: Path | None
    evaluation: dict[str, Any]
    missing: tuple[str, ...]

    @property
    def gain(self) -> float | None:
        """Of mIoU against labels only."""
        if self.baseline is None or self.baseline.miou is None or self.ours.miou is None:
            return None
        return self.ours.miou - self.baseline.miou

    @property
    def events(self) -> list[dict[str, Any]]:
        """Alarms of the run, each with its step and text."""
        return list(self.ours.result.get("events", ()))


def gather(run: Path, *, scored: Path | None = None) -> Story:
    """Read a run folder.

    Args:
        run: its folder, or the model file alone.
        scored: folder that `evaluate` wrote; None for the score of the training itself.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: one of its files is damaged.
    """
    folder = run if run.is_dir() else run.parent
    if not run.is_dir() and (folder / MODEL).resolve() != run.resolve():
        folder = run.with_suffix("")  # a model file that was moved: what lies beside it is about something else
    has_model = run.is_file() or (folder / MODEL).is_file()
    if not has_model and not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"there is no run in {run} (neither {MODEL} nor config.yaml)")
    start = _json(folder / START, STARTED)
    header = _header(run) if has_model else {}
    names, colors = _classes(header, start)
    ours = _part(folder, "ours", names)
    baseline = _part(folder / BASELINE, "labels only", names) if (folder / BASELINE / RESULT).is_file() else None
    compared = baseline
    if scored is not None:
        ours = _rescored(ours, scored, names)
        is_scored = (scored / BASELINE / TALLY).is_file()
        compared = _rescored(baseline, scored / BASELINE, names) if baseline is not None and is_scored else None
    config = _settings(folder, header)
    interval = gain_interval(ours.tally, compared.tally if compared else None)
    gain = None if compared is None or compared.miou is None or ours.miou is None else ours.miou - compared.miou
    why_not = _why_not(config, ours, scored=scored is not None, unfinished=not has_model)
    evaluation = _json(scored / RESULT, EVALUATION) if scored is not None else {}
    pictures = (scored or folder) / EXAMPLES
    examples = tuple(read_examples(pictures, advice=_ADVICE)) if (pictures / "examples.json").is_file() else ()
    sheet = folder / SHEET if not examples and scored is None and (folder / SHEET).is_file() else None
    split = _split(folder, must_be_whole=scored is None)
    return Story(
        name=folder.resolve().name,
        subject=_subject(ours, split, evaluation),
        class_names=names,
        colors=colors,
        ours=ours,
        baseline=compared,
        interval=interval,
        verdict=verdict(gain, interval, images=len(ours.tally.names) if ours.tally else 0, why_not=why_not),
        config=config,
        start=start,
        split=split,
        versions=header.get("versions", {}),
        examples=examples,
        folder_of_examples=pictures,
        sheet=sheet,
        evaluation=evaluation,
        missing=tuple(_missing(ours, start, examples, has_model=has_model)),
    )


def _part(folder: Path, title: str, names: tuple[str, ...]) -> Part:
    result = _result(folder / RESULT)
    tally = _tally(folder, names) if (folder / TALLY).is_file() else None
    rows = tuple({key: _number(value) for key, value in row.items()} for row in read_rows(folder / "metrics.csv"))
    shares = tuple(read_shares(folder / SHARES))
    iou = dict(result.get("iou", {}))
    miou = result.get("miou")
    if tally is not None and miou is None:
        miou, iou = _scores(tally, names)
    return Part(title, miou, iou, tally, rows, shares, result)


def _rescored(part: Part, scored: Path, names: tuple[str, ...]) -> Part:
    tally = _tally(scored, names)
    miou, iou = _scores(tally, names)
    return Part(part.title, miou, iou, tally, part.rows, part.shares, part.result)


def _tally(folder: Path, names: tuple[str, ...]) -> Tally:
    tally = Tally.load(folder / TALLY)
    if tally.num_classes != len(names):
        classes = counted(tally.num_classes, "class", "classes")
        raise ValueError(f"{folder / TALLY} is of {classes}, and the model has {len(names)}; {REMEDY}")
    return tally


def _scores(tally: Tally, names: tuple[str, ...]) -> tuple[float | None, dict[str, float | None]]:
    found = tally.iou
    per_class = zip(names, found.per_class, strict=True)
    return _known(found.mean), {name: _known(value) for name, value in per_class}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _classes(header: dict[str, Any], start: dict[str, Any]) -> tuple[tuple[str, ...], tuple[Color, ...]]:
    """Names and colours: of the model, or of the data while there is none."""
    if header:
        stored = header["classes"]
        return tuple(stored["names"]), tuple((int(r), int(g), int(b)) for r, g, b in stored["colors"])
    names = tuple(start.get("data", {}).get("shares", {}))
    return names, default_colors(len(names))


def _settings(folder: Path, header: dict[str, Any]) -> dict[str, Any]:
    """config.yaml, or what the model file repeats of it."""
    path = folder / "config.yaml"
    if not path.is_file():
        return dict(header.get("config", {}))
    try:
        return dict(safe_yaml.load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({shortened(' '.join(str(error).split()), 300)})") from error


def _why_not(config: dict[str, Any], ours: Part, *, scored: bool, unfinished: bool) -> str:
    if unfinished:
        return "the run has not finished"
    if scored:
        return "evaluate with --baseline, where one was trained"
    if config.get("method") == "supervised":
        return "this model learned from labels only"
    if ours.miou is None:
        return "nothing was scored"
    return "run with --baseline"


def _split(folder: Path, *, must_be_whole: bool) -> RunLists | None:
    if not (folder / SPLIT).is_file():
        return None
    try:
        return read_run_lists(folder)
    except ValueError:
        if must_be_whole:
            raise
        return None  # `evaluate` has said so; beside a model file alone it may be the split.json of something else


def _subject(ours: Part, split: RunLists | None, evaluation: dict[str, Any]) -> str:
    """What the score is of."""
    if evaluation:
        scored = evaluation["scored"]
        images = scored["images"]
        return f"{counted(scored['number'], images.replace('images', 'image', 1), images)} of {scored['folder']}"
    number = ours.result.get("evaluated") or (len(ours.tally.names) if ours.tally else 0)
    name = (split.evaluation_name if split else "") or "evaluation"
    return f"{counted(number, f'{name} image')}, the model of the last step" if number else ""


def _missing(ours: Part, start: dict[str, Any], examples: tuple[Any, ...], *, has_model: bool) -> list[str]:
    again = "protoseg report RUN DATA scores the model again and adds it"
    found = []
    if not has_model:
        found.append("The run has not finished: there is no model and no score. protoseg train --resume RUN goes on with it.")
    elif ours.miou is None:
        found.append("There is no score: no labelled images were kept to score on, or evaluation was switched off.")
    elif ours.tally is None:
        found.append(
            f"The confusion matrix is not here, nor an interval: an earlier version of protoseg kept neither; {again}."
        )
    if ours.miou is not None and not examples:
        found.append(f"There are no pictures of the best and worst images; {again}.")
    if has_model and not ours.rows:
        found.append("There are no curves: metrics.csv is not here.")
    if ours.rows and not ours.shares:
        found.append("Shares of classes over time are not here: health.jsonl is missing, as in runs of an earlier version.")
    if not start:
        found.append("The command and the summary of the data are not here: run.json is missing.")
    return found


def _json(path: Path, shape: Any) -> dict[str, Any]:
    """A JSON object of a run folder; empty where there is none."""
    return read_json(path, shape, advice=_ADVICE) if path.is_file() else {}


def _result(path: Path) -> dict[str, Any]:
    result = _json(path, SHOWN)
    if missing := [other for one, other in TOGETHER.items() if one in result and other not in result]:
        raise ValueError(f"{path} is damaged ({missing[0]!r} is missing); {_ADVICE}")
    return result


def _header(run: Path) -> dict[str, Any]:
    header = load_header(run)
    why = misfit(header, HEADER, "the header")
    if not why and len(header["classes"]["names"]) != len(header["classes"]["colors"]):
        why = "its classes have other colours"
    if why:
        raise ValueError(f"the model of {run} was written by another version of protoseg, its header does not fit ({why})")
    return header


_ADVICE = "put a whole copy in its place, or take it away, and the report does without it"
