"""`protoseg doctor`: reads everything once, and says what is wrong before a GPU is started.

B images · C classes
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from torch import nn

from protoseg.config import (
    build_class_rules,
    build_geometry,
    build_network,
    build_normalization,
    build_partition,
    build_views,
    default_crop,
    method_class,
)
from protoseg.console import plain
from protoseg.data.check import channel_statistics, class_table
from protoseg.data.doctor import (
    Finding,
    Severity,
    class_rows,
    diagnose,
    gravest_first,
    ignored_shares,
    left_out,
    nothing_to_score_on,
    unscored,
)
from protoseg.data.facts import Facts, Part, examine
from protoseg.data.images import PHOTOGRAPH, ImageKind
from protoseg.data.index import ClassTable, DataIndex
from protoseg.data.loader import LabeledCrops, collate
from protoseg.data.palettes import check_palettes
from protoseg.data.sampler import Draw
from protoseg.data.splits import Partition, is_amount
from protoseg.functional.losses import cross_entropy
from protoseg.settings import TrainConfig
from protoseg.words import counted

_OVERFIT_STEPS, _OVERFIT_LR, _LEARNED = 200, 1e-3, 0.1
_GRAVE = {"error": "red", "warning": "yellow", "note": "default"}
_BATCH, _OVERFIT_DRAWS = 8, 20
_NAMED = "the sentence says what it is about, and that is no one file"
_SETTINGS = "it is about the settings of the training, whatever the files are"


def examine_data(config: TrainConfig, *, console: Console, overfit: bool = False, out: Path | None = None) -> list[Finding]:
    """Examine a data set as `protoseg train` with the same settings would use it.

    Args:
        config: of the training to come; its model and crop say what is checked beyond the files.
        console: for the verdict.
        overfit: also train on one labelled image for a short while.
        out: file for the findings as JSON; none when left out.

    Returns:
        All findings, the gravest first.

    Raises:
        FileNotFoundError: there is no such data, or no such list: the words of the command are wrong, not the files.
        OSError: nothing can be written into `out`.
    """
    if out is not None:
        _check_out(out)  # before the work, not after it
    if not Path(config.data).exists():
        raise FileNotFoundError(f"there is no folder {config.data}; give the folder that holds images/ and masks/")
    for option, name in (("labels", config.labels), ("holdout", config.holdout), ("unlabeled", config.unlabeled)):
        if name is not None and not is_amount(name) and not Path(name).exists():
            raise FileNotFoundError(f"--{option} {name}: there is no such file or folder")
    listed, faults = _listed(config)
    if listed is None:
        return _unlisted(config, faults, console=console, out=out)
    index, partition = listed

    def progress(parts: Sequence[Part]) -> Iterable[Part]:
        return track(parts, "reading", console=console, transient=True, disable=not console.is_terminal)

    # Both val and test are read, whichever is scored: a broken or leaking file in the other one comes to light as well.
    scored_on = {sample.name for sample in partition.evaluation}
    others = [s for s in index.whole if s.split != "train" and s.mask is not None and s.name not in scored_on]
    facts = examine(partition, others, track=progress)
    labeled = [fact for fact in facts if fact.role == "labeled" and fact.is_readable]
    index = dataclasses.replace(index, notes=index.notes + partition.notes)
    scored = [fact for fact in facts if fact.role == "evaluation" and fact.is_readable]
    findings, classes = _classes(config, index, labeled, scored)
    crop = config.crop or (default_crop(fact.size for fact in labeled) if labeled else None)
    findings += [*left_out(index), *unscored(index), *nothing_to_score_on(partition), *_nothing_unlabeled(config, partition)]
    findings += diagnose(facts, classes, crop=crop)
    if classes is not None and crop is not None and not _has_error(findings):
        findings.append(_memory(config, len(classes), labeled[0].kind or PHOTOGRAPH, crop))
    if overfit:
        findings.append(_tried(config, labeled, classes, crop, findings))
    findings = gravest_first([*faults, *findings])
    _print(config, index, partition, facts, classes, findings, console)
    if out is not None:
        out.write_text(json.dumps(_as_json(index, partition, facts, classes, findings), indent=2) + "\n")
        console.print(f"findings: {out}, with all files")
    return findings


def _check_out(out: Path) -> None:
    advice = "give another file with --out"
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; {advice}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}; make it, or {advice}")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise PermissionError(f"--out {out} cannot be written; {advice}")


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)


def _listed(config: TrainConfig) -> tuple[tuple[DataIndex, Partition] | None, list[Finding]]:
    """The images, and what kept some or all of them from being listed: an annotation file that is broken takes all away, one
    that keeps the holdout from being drawn takes nothing."""
    try:
        return build_partition(config), []
    except (ValueError, OSError) as error:
        if config.holdout is None:
            return None, [_fault(str(error), config)]
        listed, faults = _listed(dataclasses.replace(config, holdout=None))
        return listed, [_fault(f"the images to keep back cannot be drawn: {error}", config), *faults]


def _nothing_unlabeled(config: TrainConfig, partition: Partition) -> list[Finding]:
    if partition.unlabeled or not method_class(config.method).uses_unlabeled:
        return []
    return [
        Finding(
            "warning",
            "there are no unlabelled images: training needs some, but for --method supervised",
            "add some to the images or with --unlabeled DIR, or use fewer masks with --labels",
            no_files="none is there",
        )
    ]


def _fault(what: str, config: TrainConfig) -> Finding:
    return _said("error", what, "correct it, and examine the data again", config)


def _said(severity: Severity, what: str, advice: str, config: TrainConfig) -> Finding:
    """A finding that is known as a sentence alone, with the files that the sentence names."""
    given = [name for name in (config.data, config.labels, config.holdout, config.unlabeled) if name and not is_amount(name)]
    files = files_named(what, [*given, *(os.path.normpath(Path(name).absolute()) for name in given)])
    return Finding(severity, what, advice, files, no_files="" if files else _NAMED)


def files_named(sentence: str, places: Iterable[str]) -> tuple[str, ...]:
    """The files that a sentence names, in its order.

    Args:
        sentence: paths may stand anywhere in it; they may hold blanks.
        places: what the paths begin with, files or folders.
    """
    starts = sorted({i for place in places for i in range(len(sentence)) if sentence.startswith(place, i)})
    found, end = dict[str, None](), 0
    for start in starts:
        if start < end:  # inside the path before
            continue
        # The longest: `a.png` may be there beside `a.png.txt`. Path.is_file would stop at names longer than any can be.
        whole = next((e for e in range(len(sentence), start, -1) if os.path.isfile(sentence[start:e])), None)  # noqa: PTH113
        if whole is not None:
            found[sentence[start:whole]], end = None, whole
    return tuple(found)


def _unlisted(config: TrainConfig, faults: list[Finding], *, console: Console, out: Path | None) -> list[Finding]:
    """The verdict on data whose images cannot be listed."""
    _print_findings(faults, console)
    console.print("nothing else could be examined")
    if out is not None:
        stored = {"data": config.data, "findings": [dataclasses.asdict(fault) for fault in faults]}
        out.write_text(json.dumps(stored, indent=2) + "\n")
    return faults


def _classes(
    config: TrainConfig, index: DataIndex, labeled: list[Facts], scored: list[Facts]
) -> tuple[list[Finding], ClassTable | None]:
    """The class table, or the finding that there is none; and how the masks were read. None without one that can be read."""
    said = [_said("note", note, "if that is not meant, change the files", config) for note in index.notes]
    if not labeled:
        return said, None
    try:
        rules = build_class_rules(config.classes)
        given = rules.table_of(index)
        classes, notes = class_table(given, labeled)
        notes += check_palettes([*labeled, *scored], given)
        return [
            *said,
            *(_said("note", note, "if that is not meant, see --classes.names", config) for note in notes),
        ], rules.apply(classes)
    except ValueError as error:
        return [*said, _said("error", str(error), "correct the class list or the masks", config)], None


def saved_bytes(network: nn.Module, image: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights included. On the meta device it costs no time."""
    storages: dict[int, int] = {}
    kept = []  # alive until all are counted: a freed one's address would be given to the next

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        kept.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image)
    return sum(storages.values())


def _memory(config: TrainConfig, num_classes: int, kind: ImageKind, crop: int) -> Finding:
    """What a training step needs, counted on one forward pass without numbers (on torch's meta device)."""
    model = dataclasses.replace(config.model, mean=[0.5] * kind.channels)
    try:
        network = build_network(model, num_classes, pretrained=False).to("meta").train()
    except (ValueError, OSError) as error:
        return Finding("error", str(error), "choose another --model.arch or --model.encoder", no_files=_SETTINGS)
    two = saved_bytes(network, torch.zeros(2, kind.channels, crop, crop, device="meta"))
    per_image = saved_bytes(network, torch.zeros(3, kind.channels, crop, crop, device="meta")) - two
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    batch, method = config.batch or _BATCH, method_class(config.method)
    networks = len(method.trained_names)
    copies = networks + 1 + method.num_snapshots  # the teacher, also where it only averages
    images = networks * batch * (1 + (method.num_strong if method.uses_unlabeled else 0))
    fixed = 4 * (copies * parameters + 3 * networks * trained)  # weights; gradients and two moments of AdamW
    total = (fixed + images * per_image) / 2**30
    return Finding(
        "note",
        f"a step of {counted(images, 'crop')} of {crop} px needs about {total:.1f} GiB in float32, {per_image / 2**30:.2f} "
        f"GiB of them for each image, and little more than half of that in bfloat16 (estimated; {parameters / 1e6:.1f} million "
        f"parameters, {counted(copies, 'copy', 'copies')} of them; what a method keeps beside its networks and its strong "
        "views is not counted)",
        f"if that is too much: --batch {max(1, batch // 2)} --accumulate 2, or a smaller --crop",
        no_files=_SETTINGS,
    )


def _tried(
    config: TrainConfig, labeled: list[Facts], classes: ClassTable | None, crop: int | None, findings: list[Finding]
) -> Finding:
    """What learning one image by heart showed, or why that was not tried: the other findings are worth having without it."""
    if classes is None or crop is None or _has_error(findings):
        return Finding("note", "--overfit was not tried, because of the errors", "correct them first", no_files=_SETTINGS)
    try:
        return _overfit(config, labeled, classes, labeled[0].kind or PHOTOGRAPH, crop)
    except (ValueError, OSError) as error:
        return Finding(
            "error",
            f"--overfit was not tried, because no training can begin: {error}",
            "correct the setting; --model.weights none begins without a file or a download",
            no_files=_SETTINGS,
        )


def _overfit(config: TrainConfig, labeled: list[Facts], classes: ClassTable, kind: ImageKind, crop: int) -> Finding:
    """Train on one crop of the labelled image that shows most classes: a pipeline that cannot learn that learns nothing."""
    best = max(labeled, key=lambda fact: len(fact.pixels(classes)))
    files = (str(best.sample.image),)
    normalization = build_normalization(config.model, kind, channel_statistics([best.sample], kind))
    model = dataclasses.replace(config.model, mean=list(normalization.mean), std=list(normalization.std))
    torch.manual_seed(config.seed)
    network = build_network(model, len(classes))
    geometry = build_geometry(dataclasses.replace(config, crop=crop), normalization)
    geometry = dataclasses.replace(geometry, scale=(1.0, 1.0), flip=False)
    crops = LabeledCrops([best.sample], classes, geometry)
    view = max((crops[Draw(0, config.seed + i)] for i in range(_OVERFIT_DRAWS)), key=lambda v: len(v["mask"].unique()))
    shown = [classes.names[i] for i in view["mask"].unique().tolist() if i < len(classes)]
    if len(shown) < 2:
        return Finding("warning", f"no crop of {best.sample.image} shows two classes", "give a larger --crop", files)
    raw = collate([view] * 2)
    batch = build_views(config, normalization).labeled(raw)
    losses = overfit_losses(network, batch.image, batch.mask)
    where = f"on one crop of {best.sample.image} ({', '.join(shown)})"
    what = f"{where} the loss went from {losses[0]:.2f} to {losses[-1]:.2f} in {counted(len(losses), 'step')}"
    if losses[-1] < _LEARNED:
        return Finding("note", what, "network, masks and images fit together", files)
    return Finding(
        "warning",
        what,
        "a network should learn one image by heart: look whether mask and image belong together, try other weights or crops",
        files,
    )


def overfit_losses(network: nn.Module, image: torch.Tensor, mask: torch.Tensor, *, steps: int = _OVERFIT_STEPS) -> list[float]:
    """Losses of a network that learns one batch by heart, until it knows it.

    Args:
        network: any that returns SegOutput.
        image: (B, I, H, W) float, normalised.
        mask: (B, H, W) int64.
        steps: of AdamW, at most.
    """
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=_OVERFIT_LR)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(network(image).logits, mask)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < _LEARNED:
            break
    return losses


def _print(
    config: TrainConfig,
    index: DataIndex,
    partition: Partition,
    facts: list[Facts],
    classes: ClassTable | None,
    findings: list[Finding],
    console: Console,
) -> None:
    console.print(
        f"{config.data} ({index.format}): {len(partition.labeled)} labelled, {len(partition.unlabeled)} unlabelled, "
        f"{_evaluation_images(partition, facts)}"
    )
    if classes is not None:
        table = Table("class", "labelled pixels", "labelled images", "evaluation images")
        for name, share, labeled, evaluation in class_rows(facts, classes):
            table.add_row(name, f"{100 * share:.2f} %", str(labeled), str(evaluation))
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(plain(table, console))
    _print_findings(findings, console)


def _evaluation_images(partition: Partition, facts: Sequence[Facts]) -> str:
    """How many evaluation images were read, as the table and the findings count them; and which of them are scored."""
    scored = {sample.name for sample in partition.evaluation}
    others = Counter(fact.sample.split for fact in facts if fact.role == "evaluation" and fact.sample.name not in scored)
    said = counted(len(scored) + others.total(), "evaluation image")
    if not others:
        return said
    parts = [f"{len(scored)} {partition.evaluation_name}", *(f"{count} {split}" for split, count in sorted(others.items()))]
    return f"{said} ({' + '.join(parts)}; training scores on {partition.evaluation_name})"


def _print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Every finding, and the verdict."""
    for finding in findings:
        title = (f"{finding.severity}: {finding.title}{_files_of(finding)}", _GRAVE[finding.severity])
        console.print(Text.assemble(title, f"\n    try: {finding.advice}"))  # one piece: --quiet prints both or none
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in _GRAVE}
    verdict = (
        "not ready to train" if counts["error"] else "ready to train, with doubts" if counts["warning"] else "ready to train"
    )
    console.print(f"{verdict}: {', '.join(counted(count, severity) for severity, count in counts.items())}")


def _files_of(finding: Finding) -> str:
    """How many files a finding is about, and the first of them where its sentence names none."""
    if all(file in finding.title for file in finding.files):  # their number would pass for that of all that it is about
        return ""
    said = [f"{len(finding.files)} files"] if len(finding.files) > 1 else []
    if finding.files and not any(file in finding.title for file in finding.files):
        said.append(f"{'the first ' if said else ''}{finding.files[0]}")
    return f" [{', '.join(said)}]" if said else ""


def _as_json(
    index: DataIndex, partition: Partition, facts: list[Facts], classes: ClassTable | None, findings: list[Finding]
) -> dict[str, Any]:
    keys = ("name", "pixel_share", "labeled_images", "evaluation_images")
    rows = [] if classes is None else class_rows(facts, classes)
    ignored, ignored_of = (None, {}) if classes is None else ignored_shares(facts, classes)
    return {
        "data": str(index.root),
        "format": index.format,
        "split_hash": partition.hash,
        "labeled": len(partition.labeled),
        "unlabeled": len(partition.unlabeled),
        "evaluation": len(partition.evaluation),
        "classes": [dict(zip(keys, row, strict=True)) for row in rows],
        "ignored_share": ignored,
        "ignored_share_of": ignored_of,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
