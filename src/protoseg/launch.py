"""Which of several processes this is, and how many there are, where torchrun or SLURM's srun has started them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_INTERACTIVE = ("bash", "interactive")


def is_first() -> bool:
    """Whether this process writes and speaks: true for the only one."""
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK")  # the latter are Lightning's
    return all(int(os.environ.get(name, "0")) == 0 for name in names)


def num_processes(trainer: Mapping[str, Any]) -> int:
    """Of the run, all machines together; 1 where Lightning chooses.

    Args:
        trainer: options for the Lightning Trainer.
    """
    return int(os.environ.get("WORLD_SIZE", _asked_for(trainer)))


def asks_for_several(trainer: Mapping[str, Any]) -> bool:
    """Whether there may be more than one process: torchrun or the settings say so, or leave it to Lightning."""
    options = started_by_torchrun() | dict(trainer)
    return any(options.get(name, 1) not in (1, "1") for name in ("devices", "num_nodes"))


def started_by_torchrun() -> dict[str, int]:
    """The Trainer's options that torchrun has settled already; empty where it is none."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {}
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": here, "num_nodes": int(os.environ["WORLD_SIZE"]) // here}


def join_slurm(trainer: Mapping[str, Any]) -> None:
    """Name this process as torchrun would, where srun has started several and the settings ask for several.

    Where the settings ask for one, they are runs of their own (`srun` over seeds).

    Raises:
        ValueError: srun has started another number, or Lightning would not see that it has.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if "RANK" in os.environ or "LOCAL_RANK" in os.environ or tasks == 1 or _asked_for(trainer) == 1:
        return
    if tasks != _asked_for(trainer):
        raise ValueError(
            f"srun has started {tasks} processes, --trainer.devices and --trainer.num_nodes ask for {_asked_for(trainer)}"
        )
    if os.environ.get("SLURM_JOB_NAME") in _INTERACTIVE:
        raise ValueError("give the job another name with --job-name: Lightning takes this one for a shell, not for a job")
    if "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError("give SLURM the number of processes by --ntasks-per-node, not by --ntasks: Lightning looks there")
    os.environ.update(RANK=os.environ["SLURM_PROCID"], LOCAL_RANK=os.environ["SLURM_LOCALID"], WORLD_SIZE=str(tasks))


def _asked_for(trainer: Mapping[str, Any]) -> int:
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    return devices * nodes if isinstance(devices, int) and isinstance(nodes, int) else 1
