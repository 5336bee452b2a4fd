"""What a run leaves behind while it goes: a resumable checkpoint, a table of metrics, a line of progress."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from safetensors.torch import save

from protoseg.engine.collapse import Collapse, OnCollapse, WayBack
from protoseg.engine.health import Alarm
from protoseg.engine.module import TrainingModule
from protoseg.engine.resumable import CHECKPOINT, PREVIOUS, WAITING
from protoseg.engine.stop import AskedError, Stop
from protoseg.engine.tracker import Tracker
from protoseg.files import append_text, replacing, write_text
from protoseg.stored import is_number, is_whole, misfit
from protoseg.words import shortened

SHARES = "health.jsonl"
"""For each row of the metrics: shares of classes among labels and pseudo-labels, and of the prototypes of each class."""


class StepCallback(Callback):
    """Calls `on_step` after each optimizer step, with the number of steps done."""

    def __init__(self) -> None:
        self._last = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step != self._last:  # not between the parts of an accumulated step
            self._last = trainer.global_step
            assert isinstance(pl_module, TrainingModule)
            self.on_step(trainer, pl_module, trainer.global_step)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        raise NotImplementedError


class Checkpoint(StepCallback):
    """Write a resumable checkpoint every so many steps and at the end, an early one too, and keep the one before: there is
    always a whole one.

    Args:
        folder: of the run.
        every: optimizer steps; None for no checkpoint at all.
        stop: ends training.
        to_go_back_to: the one that is kept is one that the run may go back to, and there from the first step on.

    Attributes:
        way_back: to the last healthy checkpoint, once training has started; None without `to_go_back_to`.
    """

    def __init__(self, folder: Path, *, every: int | None, stop: Stop, to_go_back_to: bool = False) -> None:
        super().__init__()
        self.last, self.previous = folder / CHECKPOINT, folder / PREVIOUS
        self.folder, self.every, self.stop, self.to_go_back_to = folder, every, stop, to_go_back_to
        self.way_back: WayBack | None = None
        self._written = -1  # step of the last one

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path is not None:
            self._written = trainer.global_step
        # Every process has read it by now. The last one is damaged or missing, and must not take its place.
        if trainer.is_global_zero and trainer.ckpt_path is not None and Path(trainer.ckpt_path) != self.last:
            Path(trainer.ckpt_path).replace(self.last)
            (self.folder / WAITING).unlink(missing_ok=True)  # a damaged one too
        if self.to_go_back_to:
            assert isinstance(pl_module, TrainingModule)
            if not self.previous.is_file():
                trainer.save_checkpoint(self.previous)
            self.way_back = WayBack(self.folder, pl_module.health)
        self.stop.watch()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, AskedError) and self.every is not None and self._written != trainer.global_step:
            assert isinstance(pl_module, TrainingModule)
            self._write(trainer, pl_module, trainer.global_step)
        self.stop.release()

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        trainer.should_stop = self.stop.agreed()
        if self.every is None:
            return
        due = trainer.should_stop or step % self.every == 0 or step == trainer.max_steps
        if due:
            self._write(trainer, module, step)

    def _write(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if not module.is_well():
            return
        keep = self.previous if self.way_back is None else self.way_back.make_room()
        trainer.save_checkpoint(self.last, storage_options=keep)
        self._written = step
        if self.way_back is not None:
            self.way_back.wrote()


class Snapshots(StepCallback):
    """Keep the weights of what would ship, at some steps.

    Args:
        folder: where `snapshot-STEP.safetensors` go.
        steps: at which.
    """

    def __init__(self, folder: Path, steps: Iterable[int]) -> None:
        super().__init__()
        self.folder, self.steps = folder, frozenset(steps)

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if step in self.steps and trainer.is_global_zero:
            state = {name: tensor.cpu().contiguous() for name, tensor in module.method.predictor.state_dict().items()}
            with replacing(snapshot(self.folder, step)) as partial:
                partial.write_bytes(save(state))


def snapshot(folder: Path, step: int) -> Path:
    """The file of the weights of a step."""
    return folder / f"snapshot-{step}.safetensors"


class MetricsLog(StepCallback):
    """Append the means of all loss terms to a CSV file, and show them.

    Args:
        path: of the CSV file; rows of later steps than the resumed one are dropped.
        every: optimizer steps between rows.
        fields: columns after `step`, `seconds` and `images_per_second`.
        score: called with the step every `score_every` steps; its number goes into the column `miou`.
        score_every: optimizer steps, 0 for never.
        on_collapse: what an alarm does beside a warning. On a CPU "stop" is in the very step that was dropped, on a GPU at the
            row after it.
        stop: ends training, and scoring in the midst.
        tracker: gets every row too.
        console: where progress goes; a bar on a terminal, plain lines elsewhere.
        title: of the bar.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        fields: tuple[str, ...],
        score: Callable[[TrainingModule], float] | None = None,
        score_every: int = 0,
        on_collapse: OnCollapse = "continue",
        stop: Stop,
        tracker: Tracker | None = None,
        console: Console,
        title: str,
    ) -> None:
        super().__init__()
        self.path, self.every, self.tracker, self.console, self.title = path, every, tracker, console, title
        self.shares, self.on_collapse, self.stop = path.with_name(SHARES), on_collapse, stop
        self.score, self.score_every = score, score_every if score is not None else 0
        self.columns = ("step", "seconds", "images_per_second", "lr", *fields, *(("miou",) if self.score_every else ()))
        self.seconds = 0.0
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._warned = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, TrainingModule)
        self._since, self._warned = time.perf_counter(), bool(pl_module.skipped)
        if not trainer.is_global_zero:
            return
        rows = [row for row in read_rows(self.path) if int(row["step"]) <= trainer.global_step]
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        write_text(self.path, "".join(self._line(row) for row in ({name: name for name in self.columns}, *rows)))
        shares = [row for row in read_shares(self.shares) if row["step"] <= trainer.global_step]
        write_text(self.shares, "".join(json.dumps(row) + "\n" for row in shares))
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self._progress = _BarAboveText(*columns, *times, console=self.console)
            self._task = self._progress.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step, text="")
            self._progress.start()

    def on_step(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step)
        if module.skipped and not self._warned:
            self._warned = True
            self.console.print(
                f"warning: {min(module.skipped)} is skipped: unreadable, or of another kind than the labelled images; "
                "further ones are only counted"
            )
        due = bool(self.score_every) and (step % self.score_every == 0 or step == trainer.max_steps)
        # The gradient, because that is the same on all processes, which have to read together.
        ending = self.on_collapse == "stop" and module.meter.knows_of_bad("gradient")
        if step % self.every and not due and not ending and step != trainer.max_steps:
            return
        images = module.meter.images * trainer.world_size
        means, bad = module.meter.read()
        now = time.perf_counter()
        elapsed = now - self._since
        self.seconds += elapsed
        row: dict[str, Any] = {
            "step": step,
            "seconds": f"{self.seconds:.1f}",
            "images_per_second": f"{images / elapsed:.1f}",
        }
        row["lr"] = f"{trainer.optimizers[0].param_groups[-1]['lr']:.6g}"
        health = module.read_health()
        row |= {name: repr(value) for name, value in (means | health.scalars()).items()}
        if due and self.score is not None and trainer.is_global_zero:
            with self.stop.at_once():
                row["miou"] = repr(self.score(module))
        if trainer.is_global_zero:
            append_text(self.path, self._line(row))
            if self.tracker is not None:
                self.tracker.log({name: value for name, value in row.items() if name != "step"}, step=step)
            shares = {"labeled": health.labeled, "pseudo": health.pseudo, "prototype_use": health.prototype_use}
            append_text(self.shares, json.dumps({"step": step, **shares}) + "\n")
            self._show(trainer, step, means, row)
        for alarm in module.health.judge(health):
            self._raise(alarm, module, step)
        if bad.keys() & {"loss", "gradient"}:
            self._dropped(bad, module, step)
        self._since = time.perf_counter()  # scoring is not training time

    def _line(self, row: dict[str, Any]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="").writerow(row)
        return text.getvalue()

    def _raise(self, alarm: Alarm, module: TrainingModule, step: int) -> None:
        self.console.print(f"warning: step {step}: {alarm.text}")
        # A network that gives no numbers any more leaves nothing to continue with.
        if self.on_collapse != "continue" or alarm.remedy == "learning rate":
            raise Collapse(alarm, step)
        module.events.append({"step": step, "alarm": alarm.text})

    def _dropped(self, bad: dict[str, int], module: TrainingModule, step: int) -> None:
        """Say that steps were dropped, and why; later ones are only counted."""
        number = bad.get("gradient", bad.get("loss", 0)) // module.trainer.world_size
        terms = ", ".join(repr(name) for name in bad if name not in {"loss", "gradient"})
        what = f"the loss {terms}".rstrip() if "loss" in bad else "the gradient"
        text = f"{number} of the steps since the last log line were dropped: {what} was no number"
        if self.on_collapse == "stop":
            raise Collapse(Alarm("dropped", f"{text}; --on-collapse continue leaves such steps out", "learning rate"), step)
        if not module.dropped:
            if module.trainer.is_global_zero:
                self.console.print(f"warning: step {step}: {text}; further ones are only counted")
            module.events.append({"step": step, "alarm": text})
        module.dropped += number

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end_progress()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_progress()

    def _show(self, trainer: L.Trainer, step: int, means: dict[str, float], row: dict[str, Any]) -> None:
        shares = {"confident", "prototype_agreement", "prototype_agreement_peer"}
        shown = [
            f"{name.replace('_', ' ')} {value:.0%}" if name in shares else f"{name.replace('_', ' ')} {value:.3f}"
            for name, value in means.items()
        ]
        text = "  ".join([*shown, f"{row['images_per_second']} images/s"])
        if "miou" in row:
            text += f"  mIoU {100 * float(row['miou']):.1f}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, text=text)
        elif time.perf_counter() - self._last_line > 10 or step == trainer.max_steps or "miou" in row:
            self._last_line = time.perf_counter()
            self.console.print(f"{self.title} {step}/{trainer.max_steps}  {text}", soft_wrap=True, highlight=False)

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class _BarAboveText(Progress):
    """A progress bar with the loss terms on a line of their own: they do not fit beside it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            yield Text(task.fields["text"], style="dim", no_wrap=False, overflow="fold")  # whole on narrow terminals too


def read_shares(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of shares, without one that a crash cut short; none where there is no file.

    Raises:
        ValueError: it is damaged.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                if number == len(lines):
                    break
                raise
            if why := misfit(row, _SHARES, f"line {number}"):
                raise ValueError(why)
            if len(row["pseudo"]) not in (0, len(row["labeled"])):
                raise ValueError(f"'labeled' and 'pseudo' of line {number} are of other classes")
            rows.append(row)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return rows


_SHARES = {"step": is_whole, "labeled": [is_number], "pseudo": [is_number]}


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file, without one that a crash cut short; none where there is no file.

    Returns:
        Texts of numbers, empty where there is none. `step` is a whole number, and `seconds` is one.

    Raises:
        ValueError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        rows: list[dict[Any, Any]] = list(csv.DictReader(io.StringIO(text, newline="")))
        if rows and not text.endswith("\n"):
            del rows[-1]
        for row in rows:
            _check_row(row)
    except (ValueError, csv.Error) as error:
        raise _damaged(path, error) from error
    return rows


def _check_row(row: dict[Any, Any]) -> None:
    if None in row or None in row.values():
        raise ValueError("a row is of another length than the first one")
    for name in ("step", "seconds"):
        if name not in row:
            raise ValueError(f"it has no column {name!r}")
    if not is_whole(int(row["step"])) or not is_number(float(row["seconds"])):
        raise ValueError(f"a row is of step {shortened(row['step'])}")
    for name, text in row.items():
        value = float(text) if text else 0.0
        if math.isfinite(value) and not is_number(value):  # an infinite loss is one that was logged
            raise ValueError(f"{name!r} is {text}")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is damaged ({shortened(error, 200)}); put a whole copy in its place, or take it away: the curves begin anew"
    )
