"""The models that may be chosen, each read when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protoseg.atlas.pictures import shades
from protoseg.data.index import ClassTable, DataIndex
from protoseg.engine.checkpoint import MODEL, load_header, load_model_file, part
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.report.gather import BASELINE
from protoseg.trained import TrainedModel, classes_of, device, load_model, load_prototypes, matched


@dataclass(frozen=True)
class Choice:
    """A model by its name. Attributes: name; run folder or model file."""

    name: str
    path: Path


@dataclass(frozen=True)
class Loaded:
    """A model that is ready.

    Attributes:
        choice: what it was chosen by.
        model: on its device.
        head: its prototypes, where it has some.
        masks: its classes with the mask values of the data set that is looked at; None where masks cannot be compared.
        note: why they cannot, if they should.
    """

    choice: Choice
    model: TrainedModel
    head: PrototypeHead | None
    masks: ClassTable | None = None
    note: str = ""
    tones: list[list[tuple[int, int, int]]] = field(default_factory=list)


def choices(runs: Sequence[Path]) -> list[Choice]:
    """What can be chosen: each run, and the labels-only model that was trained beside it.

    Raises:
        FileNotFoundError, ValueError: see `load_header`.
    """
    found = dict[Path, str]()
    for run in runs:
        load_header(run)  # says now what is wrong with it, and not when it is chosen
        name = run.resolve().name if run.is_dir() else f"{run.resolve().parent.name}/{run.name}"
        found[run] = name
        if run.is_dir() and (run / BASELINE / MODEL).is_file():
            load_header(run / BASELINE)
            found[run / BASELINE] = f"{name}, labels only"
    repeated = {name for name in found.values() if list(found.values()).count(name) > 1}
    return [Choice(f"{name} ({path})" if name in repeated else name, path) for path, name in found.items()]


class Models:
    """Models by their place in the list.

    Args:
        choices: see above.
        index: the data set whose masks they are compared with.
    """

    def __init__(self, choices: Sequence[Choice], index: DataIndex | None = None) -> None:
        self.choices, self.index = tuple(choices), index
        self._loaded: dict[int, Loaded] = {}
        self._lock = threading.Lock()

    def get(self, number: int) -> Loaded:
        """A model, read from its file the first time.

        Raises:
            LookupError: there is none of that number.
            FileNotFoundError, ValueError: see `load_model`.
        """
        if not 0 <= number < len(self.choices):
            raise LookupError("there is no such model")
        with self._lock:
            if number not in self._loaded:
                self._loaded[number] = self._load(self.choices[number])
            return self._loaded[number]

    def _load(self, choice: Choice) -> Loaded:
        model = load_model(choice.path)
        model.network.to(device())
        head, tones = None, list[list[tuple[int, int, int]]]()
        if part(load_model_file(choice.path).tensors, "prototypes"):
            head = load_prototypes(model, choice.path, advice="").to(device()).eval()
            tones = shades(model.classes.colors, head.per_class).tolist()
        masks, note = None, ""
        if self.index is not None and any(sample.mask for sample in self.index.whole):
            try:
                masks = matched(model.classes, classes_of(self.index, model), self.index.root)
            except ValueError as error:
                note = f"masks are not shown: {error}"
        return Loaded(choice, model, head, masks, note, tones)
