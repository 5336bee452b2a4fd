"""What a number was computed on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """Name of the device, processor and system, for a report.

    Args:
        device: that computed.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": f"{device.type}: {name}", "cpus": os.cpu_count(), "system": platform.platform()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux alone; platform.processor() is empty there
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
