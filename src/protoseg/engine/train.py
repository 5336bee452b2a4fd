"""Train one method to its last step with the Lightning Trainer."""

from __future__ import annotations

import inspect
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console
from torch.optim import Optimizer

from protoseg.data.batch import BatchViews
from protoseg.engine.callbacks import Checkpoint, MetricsLog, Snapshots, read_rows
from protoseg.engine.collapse import Collapse, CollapseError, OnCollapse, describe, roll_back
from protoseg.engine.datamodule import StreamModule
from protoseg.engine.lost import UNREACHABLE, LastWord, lost
from protoseg.engine.machine import peak_bytes
from protoseg.engine.module import TrainingModule
from protoseg.engine.resumable import CHECKPOINT, CHECKPOINTS, PREVIOUS, WAITING, CheckpointFiles, load_run
from protoseg.engine.stop import WAIT, AskedError, Stop
from protoseg.engine.tracker import Tracker
from protoseg.methods.base import Method
from protoseg.stored import DamagedError

METRICS = "metrics.csv"


@dataclass(frozen=True)
class FitReport:
    """What a run cost and what it left out.

    Attributes:
        steps: optimizer steps done.
        seconds: of training, resumed parts included, scoring not.
        skipped: unlabelled files that could not be read, sorted.
        events: collapses, and what was done about each.
        dropped: steps that changed nothing, because their loss or gradient was no number.
        is_main: False on all but the first process of a distributed run.
        device: on which it trained.
        peak_bytes: most memory that this process needed since it began: on a GPU what torch had handed out, else all of it;
            None on Windows, which does not say.
    """

    steps: int
    seconds: float
    skipped: tuple[str, ...]
    events: tuple[dict[str, Any], ...]
    dropped: int
    is_main: bool
    device: torch.device
    peak_bytes: int | None


def fit(
    method: Method,
    data: StreamModule,
    views: BatchViews,
    *,
    out: Path,
    steps: int,
    make_optimizer: Callable[[Method], Optimizer],
    class_names: Sequence[str],
    class_pixels: Sequence[int],
    seed: int = 0,
    power: float = 0.9,
    lr_warmup: int = 0,
    log_every: int = 50,
    checkpoint_every: int | None = 500,
    fields: tuple[str, ...] = ("loss", "labeled"),
    score: Callable[[TrainingModule], float] | None = None,
    score_every: int = 0,
    on_collapse: OnCollapse = "continue",
    tracker: Tracker | None = None,
    console: Console,
    title: str,
    trainer_options: dict[str, Any] | None = None,
    snapshots: Sequence[int] = (),
) -> FitReport:
    """Train, or go on from `out/last.ckpt` where there is one, or from the checkpoint before where it is damaged.

    Args:
        method: what to train; at its last step afterwards.
        data: the two streams.
        views: makes batches on the device.
        out: existing folder for `last.ckpt` and `metrics.csv`.
        steps: optimizer steps of the whole run.
        make_optimizer: builds the optimizer.
        class_names: of the C classes, for warnings.
        class_pixels: (C,) labelled pixels of each.
        seed: of the run.
        power, lr_warmup: of the learning-rate schedule.
        log_every, checkpoint_every, score_every: in optimizer steps; no checkpoint where it is None.
        fields: names of the loss terms and monitors, the columns of the metrics file.
        score: dataset mIoU of the present predictor, for a curve.
        on_collapse: what to do where the pseudo-labels collapse: go on with a warning, stop, or go back to the last healthy
            checkpoint with a gentler setting, twice at most. Steps whose loss or gradient is no number are dropped; `stop` ends
            the run with the first of them on a CPU, and at the next row of the metrics on a GPU, where asking would cost;
            where there are nothing but such steps, a run that would go on stops.
        tracker: gets what stands in `metrics.csv` too.
        console, title: of the progress display.
        snapshots: steps whose weights are kept, as `snapshot-STEP.safetensors`.
        trainer_options: handed to the Lightning Trainer (accelerator, devices, precision, accumulate_grad_batches, ...).

    Returns:
        FitReport.

    Raises:
        CollapseError: training has collapsed.
        KeyboardInterrupt: with the number of the signal that has stopped it.
        LostProcessError: another process, or one that reads images, has died.
        DamagedError: no checkpoint is whole, or they are of another model.
    """
    _quiet()
    stop = Stop()

    def labeled_pass(step: int) -> Iterator[dict[str, Any]]:
        return stop.between_steps(data.labeled_pass(step))

    module = TrainingModule(
        method,
        views,
        make_optimizer=make_optimizer,
        total_steps=steps,
        labeled_pass=labeled_pass,
        class_names=class_names,
        class_pixels=class_pixels,
        seed=seed,
        power=power,
        lr_warmup=lr_warmup,
    )
    log = MetricsLog(
        out / METRICS,
        every=log_every,
        fields=fields,
        score=score,
        score_every=score_every,
        on_collapse=on_collapse,
        stop=stop,
        tracker=tracker,
        console=console,
        title=title,
    )
    options: dict[str, Any] = {"accelerator": "auto", "devices": 1, **(trainer_options or {})}
    if options.get("strategy") == "ddp":
        # Buffers are kept equal by the method itself; sending the teacher with every forward pass would be waste.
        options["strategy"] = DDPStrategy(broadcast_buffers=False, timeout=WAIT, find_unused_parameters=method.may_idle)
    rollback = on_collapse == "rollback"
    start = Start(None) if not has_checkpoint(out) else newest_whole(out, module)
    while True:
        checkpoint = Checkpoint(out, every=checkpoint_every, stop=stop, to_go_back_to=rollback)
        trainer = L.Trainer(
            max_steps=steps,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            callbacks=[LastWord(), log, Snapshots(out, snapshots), checkpoint],
            plugins=[CheckpointFiles()],
            **options,
        )
        if start.note and trainer.is_global_zero:
            console.print(f"warning: {start.note}")
        try:
            trainer.fit(module, datamodule=data, ckpt_path=start.path, weights_only=True)
            break
        except AskedError:
            raise KeyboardInterrupt(stop.signum) from None
        except SystemExit:  # what Lightning makes of Ctrl-C
            if trainer.interrupted:
                raise KeyboardInterrupt(stop.signum or signal.SIGINT) from None
            raise
        except (RuntimeError, *UNREACHABLE) as error:  # a worker or another process has died, perhaps of the same signal
            if stop.signum:
                raise KeyboardInterrupt(stop.signum) from error
            if death := lost(error, getattr(trainer.strategy.launcher, "procs", ()), in_hand=data.in_hand()):
                raise death from error
            raise
        except Collapse as collapse:
            if checkpoint.way_back is None:
                raise CollapseError(
                    f"stopped at step {collapse.step}: {collapse}. --on-collapse rollback goes back and tries a gentler setting"
                ) from collapse
            event = roll_back(checkpoint.way_back, collapse, threshold=method.threshold)
            start = Start(out / CHECKPOINT)
            console.print(f"back to step {event['back_to']} with {describe(event)}")
    if stop.signum:
        raise KeyboardInterrupt(stop.signum)
    if trainer.is_global_zero and (out / CHECKPOINT).is_file():
        for name in (PREVIOUS, WAITING):
            (out / name).unlink(missing_ok=True)
    # From the file, because a run that was killed while it was scored trains no further step when it goes on.
    rows = read_rows(out / METRICS) if trainer.is_global_zero else []
    seconds = float(rows[-1]["seconds"]) if rows else 0.0  # unknown where somebody took the file away
    device = trainer.strategy.root_device
    return FitReport(
        trainer.global_step,
        seconds,
        tuple(sorted(module.skipped)),
        tuple(module.events),
        module.dropped,
        trainer.is_global_zero,
        device,
        peak_bytes(device),
    )


_INSTEAD = {
    "max_steps": "--steps",
    "max_epochs": "--steps",
    "accumulate_grad_batches": "--accumulate",
    "gradient_clip_val": "--optimizer.clip",
}
_OWN = {
    "logger",
    "callbacks",
    "default_root_dir",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "plugins",
} | {*("num_sanity_val_steps", "use_distributed_sampler", "reload_dataloaders_every_n_epochs", "max_time", "min_steps")}

LEFT_OUT = ("auto", "single_device")
"""Strategies that are what protoseg does by itself, the latter with one device: Lightning's own choice among several has other
settings, and its single device is always a CPU."""


def check_trainer_options(options: dict[str, Any], *, several: bool) -> None:
    """Check options for the Lightning Trainer.

    Args:
        options: as the settings have them.
        several: there may be more than one process.

    Raises:
        ValueError: the Trainer has no such option, it is one that protoseg sets itself, this machine has no such device, or the
            strategy is none that a teacher can follow.
    """
    for name in options:
        if name in _INSTEAD:
            raise ValueError(f"--trainer.{name} would leave the rest of the run behind; use {_INSTEAD[name]}")
        if name in _OWN:
            raise ValueError(f"--trainer.{name} is set by protoseg and cannot be changed")
        if name not in inspect.signature(L.Trainer).parameters:
            raise ValueError(f"--trainer.{name}: the Lightning Trainer has no such option")
    strategy = options.get("strategy", "auto")
    if strategy not in ("ddp", *LEFT_OUT) or (strategy == "single_device" and several):
        raise ValueError(f"--trainer.strategy {strategy} {_why_not(str(strategy).lower())}")
    device = {name: options[name] for name in ("accelerator", "precision") if name in options}
    if device:
        _quiet()
        try:
            L.Trainer(**device, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        except (MisconfigurationException, ValueError) as error:
            given = ", ".join(f"--trainer.{name} {value}" for name, value in device.items())
            raise ValueError(f"{given} cannot be used here: {' '.join(str(error).split())[:200]}") from error


def _why_not(strategy: str) -> str:
    """Why protoseg does not train with a strategy, and what to do."""
    if any(name in strategy for name in ("fsdp", "deepspeed")):
        return (
            "keeps a part of the student on each device, and the teacher that follows it needs the whole; use ddp, with a "
            "smaller --batch and more --accumulate where memory is short"
        )
    if any(name in strategy for name in ("spawn", "fork", "notebook")):
        return "trains in processes whose steps and warnings never come back to be reported; use ddp, or leave it out"
    if strategy == "single_device":
        return "trains on one device, and --trainer.devices or --trainer.num_nodes ask for more; leave one of them out"
    return "is not set up here (what it sends in each step, how long it waits for a score); use ddp, or leave it out"


class Start(NamedTuple):
    """Where a run goes on.

    Attributes:
        path: of the checkpoint; None to start with the first step.
        note: what to say about it; empty for nothing.
    """

    path: Path | None
    note: str = ""


def has_checkpoint(out: Path) -> bool:
    """Whether there is something to go on from."""
    return any((out / name).is_file() for name in CHECKPOINTS)


def newest_whole(out: Path, module: TrainingModule) -> Start:
    """The last checkpoint, or the newest before it that is not damaged; looked at before the trainer touches anything.

    Raises:
        DamagedError: none is whole, or it is of another model.
    """
    damage: DamagedError | None = None
    for path in (out / name for name in CHECKPOINTS):
        if not path.is_file():
            continue
        try:
            state = load_run(path)
        except DamagedError as error:
            damage = damage or error
            continue
        _check_fits(path, state["state_dict"], module)
        note = f"{damage}; going on from the checkpoint before it, of step {state.get('global_step')}" if damage else ""
        return Start(path, note)
    raise DamagedError(f"{damage}; put a whole copy in its place, or start a new run") from damage


def _check_fits(path: Path, state: dict[str, torch.Tensor], module: TrainingModule) -> None:
    own = module.state_dict()
    other = [name for name in own if name not in state or state[name].shape != own[name].shape]
    other += [name for name in state if name not in own]
    if other:
        raise DamagedError(
            f"{path} is the checkpoint of another model ({len(other)} tensors differ, e.g. {other[0]}); "
            "resume the run folder that it belongs to"
        )


def _quiet() -> None:
    """Keep Lightning's banners and advice for developers off the user's screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It ends all processes where one has died and the others wait for it, and this is the only word about it.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
