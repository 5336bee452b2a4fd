"""The numbers of a run in a tracker: TensorBoard, Weights & Biases or MLflow, by their loggers in Lightning."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from rich.console import Console

from protoseg.files import write_text

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
TRACKER = "tracker.json"
"""The run's name at the tracker, so that a resumed run goes on with the same one."""
_PROJECT = "protoseg"


def check_tracker(name: TrackerName) -> None:
    """Stop where a tracker cannot work.

    Raises:
        ValueError: its package is not installed.
    """
    if find_spec(name) is None:
        raise ValueError(f"--logger {name} needs the package {name}: pip install 'protoseg[track]'")


class Tracker:
    """Sends rows of numbers to a tracker until it fails; training does not depend on it.

    Weights & Biases and MLflow are told where to write as they always are: `wandb login` or `WANDB_MODE=offline`,
    `MLFLOW_TRACKING_URI`. TensorBoard's files, and those that Weights & Biases keeps on this machine, go into the run folder.

    Args:
        name: of the tracker.
        out: folder of the run, which gives it its name.
        settings: of the run.
        console: where it is said if the tracker fails.
    """

    def __init__(self, name: TrackerName, out: Path, *, settings: dict[str, Any], console: Console) -> None:
        self.name, self.console = name, console
        self._logger: Logger | None = None
        try:
            logging.getLogger("lightning.pytorch.loggers").setLevel(logging.ERROR)  # "experiment not found, creating it"
            self._logger = _MAKERS[name](_Run(out, _known(out).get(name)))
            self._logger.log_hyperparams(settings)
            write_text(out / TRACKER, json.dumps({name: str(self._logger.version)}) + "\n")
        except Exception as error:  # whatever a service far away comes up with
            self._give_up(error)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(well=kind is None)

    def log(self, numbers: Mapping[str, Any], *, step: int) -> None:
        """Send one row; what is no finite number stays out of it."""
        self._try("log_metrics", {name: float(value) for name, value in numbers.items() if value not in ("", None)}, step=step)

    def close(self, *, well: bool) -> None:
        """Send what is left, and end the tracker's run."""
        self._try("finalize", "success" if well else "failed")
        if self.name == "wandb" and self._logger is not None:
            import wandb

            wandb.finish(exit_code=0 if well else 1)  # or the next run of this process would write into this one
        self._logger = None

    def _try(self, call: str, *arguments: Any, **options: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, call)(*arguments, **options)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._logger = None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        self.console.print(f"warning: {self.name} gets nothing more of this run: {reason}")


class _Run(NamedTuple):
    out: Path  # its folder
    known: str | None  # its name at the tracker, where it goes on

    @property
    def title(self) -> str:
        """`NAME`, or `NAME/baseline` of the labels-only model in it."""
        out = self.out.resolve()
        return f"{out.parent.name}/{out.name}" if (out.parent / "config.yaml").is_file() else out.name


def _tensorboard(run: _Run) -> Logger:
    return TensorBoardLogger(run.out, name="", version="tensorboard", default_hp_metric=False)


def _wandb(run: _Run) -> Logger:
    return WandbLogger(run.title, save_dir=run.out, project=_PROJECT, id=run.known, resume="allow")


def _mlflow(run: _Run) -> Logger:
    import mlflow

    return MLFlowLogger(_PROJECT, run.title, tracking_uri=mlflow.get_tracking_uri(), run_id=run.known)


_MAKERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def _known(out: Path) -> dict[str, str]:
    """What `TRACKER` holds; nothing of a new run."""
    return json.loads((out / TRACKER).read_text()) if (out / TRACKER).is_file() else {}
