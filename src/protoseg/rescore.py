"""`protoseg report RUN DATA`: score the evaluation images of a finished run again, and keep what its report shows of them."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from protoseg.data.formats import open_dataset
from protoseg.data.index import ClassTable, DataIndex, Sample
from protoseg.data.run_lists import read_run_lists
from protoseg.engine.checkpoint import MODEL
from protoseg.engine.evaluate import tally
from protoseg.engine.examples import EXAMPLES, write_examples
from protoseg.engine.tally import TALLY
from protoseg.files import locked
from protoseg.report.gather import BASELINE
from protoseg.report.page import write_report
from protoseg.trained import TrainedModel, classes_of, device, load_model, matched, progress
from protoseg.words import counted


def rescore(run: Path, root: Path, *, console: Console, format: str | None = None) -> Path:
    """Write the tally, the pictures and the report that `train` writes today.

    Args:
        run: folder of a finished run.
        root: the data set that it was trained on, wherever it lies now.
        console: for progress.
        format: layout of the data set; recognised when left out.

    Returns:
        The report.

    Raises:
        FileExistsError: another command writes into the folder.
        FileNotFoundError: there is no finished run.
        ValueError: the run was scored on no image, or not on images of this data set.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}; a model file alone is scored by protoseg evaluate")
    folders = {"ours": run}
    if (run / BASELINE / MODEL).is_file():
        folders = {"labels only": run / BASELINE, **folders}
    models = {name: load_model(folder) for name, folder in folders.items()}
    ours = models["ours"]
    samples, classes = scored_images(run, ours, root, format=format)
    networks = {name: model.network.to(device()).to(memory_format=torch.channels_last) for name, model in models.items()}
    with locked(run, warn=lambda text: console.print(f"warning: {text}"), instead=""):  # from here on, to the last file
        tallies = {
            name: tally(
                network,
                samples,
                classes,
                ours.normalization,
                inference=ours.inference,
                track=progress(f"scoring {name}", console),
            )
            for name, network in networks.items()
        }
        for name, folder in folders.items():
            tallies[name].save(folder / TALLY)
        write_examples(run / EXAMPLES, samples, tallies, networks, classes, ours.normalization, inference=ours.inference)
        return write_report(run)


def scored_images(run: Path, model: TrainedModel, root: Path, *, format: str | None = None) -> tuple[list[Sample], ClassTable]:
    """The evaluation images of a run in its order, and how their masks are read.

    Args:
        run: its folder.
        model: what it trained.
        root, format: see `rescore`.

    Raises:
        ValueError: see `rescore`.
    """
    index = open_dataset(root, format=format, for_training=False)
    return _scored(run, index), matched(model.classes, classes_of(index, model), root)


def _scored(run: Path, index: DataIndex) -> list[Sample]:
    names = read_run_lists(run).evaluation
    if not names:
        raise ValueError(f"the run in {run} kept no images to score on; leave out the data set")
    labeled = {sample.name: sample for sample in (*index.samples, *index.spare) if sample.mask is not None}
    if missing := [name for name in names if name not in labeled]:
        of = f"of the {counted(len(names), 'evaluation image')} of {run}"
        raise ValueError(
            f"{counted(len(missing), f'{of} is', f'{of} are')} not in {index.root} with a mask, e.g. "
            f"{missing[0]}; give the data set that it was trained on, or score others with protoseg evaluate"
        )
    return [labeled[name] for name in names]
