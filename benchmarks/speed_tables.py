"""Tables and plots of docs/performance.md, from what was measured in results/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from line_plot import line_plot
from peers import PEERS
from protoseg.bench import store
from protoseg.bench.tables import Table
from protoseg.words import counted

RESULTS = Path(__file__).with_name("results")
GPU_STEP = {"network": "deeplabv3plus on resnet50", "machine": "16 x86_64 cores, NVIDIA H200"}
GPU_STEP |= {"commit": "5fc978976ecd1daab415ea106964a4ae38d76043"}
CPU_STEP = {"network": "deeplabv3plus on resnet18", "machine": "2 x86_64 cores", "against": "fixmatch"}


def gpu_steps(*, rounds: int) -> str:
    """Time and work of a step on a GPU: of every method (8 rounds), or of two in several ways (12 rounds)."""
    lines = []
    for row in store.read(RESULTS / "step.jsonl"):
        if GPU_STEP.items() <= row.items() and row["rounds"] == rounds:
            low, high = row["quartiles"]
            busy = f"{100 * row['kernel_seconds'] / row['seconds']:.0f} %"
            work = [str(row["kernels"]), f"{1000 * row['kernel_seconds']:.1f}", busy]
            rate = f"{row['operations'] / row['seconds'] / 1e12:.0f}"
            times = [f"{1000 * row['seconds']:.1f}", f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"]
            lines.append([row["method"], *times, *work, rate])
    titles = ["method", "ms a step", "against fixmatch (quartiles)", "kernels", "ms of kernels", "busy", "TFLOP/s"]
    return Table(titles, lines).markdown()


def prediction_speed() -> str:
    """Prediction beside the bare network."""
    rows = [row for row in store.read(RESULTS / "predict.jsonl") if row["what"] == "speed"]
    lines = []
    for row in rows:
        network = f"{row['arch']} on {row['encoder']}"
        seconds = [f"{row['seconds'][who]:.1f}" for who in ("predict", "network")]
        lines.append([network, str(row["windows"]), str(row["window"]), *seconds, f"{row['ratio']:.2f}", row["machine"]])
    titles = ["network", "windows", "side", "seconds, predict", "seconds, network alone", "share of its speed", "machine"]
    return Table(titles, lines).markdown()


def prediction_memory() -> str:
    """How far a process grows that predicts one huge image."""
    rows = [row for row in store.read(RESULTS / "predict.jsonl") if row["what"] == "memory"]
    lines = []
    for row in rows:
        sizes = [f"{row[key] / 2**30:.2f} GiB" for key in ("decoded", "grown", "above")]
        lines.append([row["kind"], f"{row['side']:,} x {row['side']:,}", *sizes, f"{row['seconds']:.0f}", row["machine"]])
    titles = ["file", "pixels", "decoded image", "growth at the peak", "above the decoded image", "seconds", "machine"]
    return Table(titles, lines).markdown()


def doctor() -> str:
    """How long the doctor takes: the last measurement on each number of images and machine."""
    lines = []
    for row in {(row["images"], row["machine"]): row for row in store.read(RESULTS / "doctor.jsonl")}.values():
        runs = f"{row['runs'][0]:.1f} to {row['runs'][-1]:.1f} in {len(row['runs'])} runs"
        speed, processor = f"{row['images'] / row['seconds']:.0f}", f"{row['processor_seconds']:.1f}"
        sizes = [f"{row['images']:,}", str(row["masks"])]
        lines.append([*sizes, f"{row['seconds']:.1f}", runs, speed, processor, row["machine"], *made(row)])
    titles = ["images", "masks", "seconds", "of", "images a second", "processor seconds", "machine", "commit", "date"]
    return Table(titles, lines).markdown()


def branch() -> str:
    """A step of the branch by both ways: the last measurement on each machine with so many threads."""
    lines = []
    for row in {(row["machine"], row["threads"]): row for row in store.read(RESULTS / "branch.jsonl")}.values():
        cost = [
            f"{1000 * row['seconds'][way]:.1f} ms, {row['peak_bytes'][way] / 2**20:,.0f} MiB"
            for way in ("at the points", "up-sampled first")
        ]
        smaller = row["peak_bytes"]["up-sampled first"] / row["peak_bytes"]["at the points"]
        machine = f"{row['machine']}, {counted(row['threads'], 'thread')}"
        lines.append([machine, *cost, f"{row['ratio']:.0f} x", f"{smaller:.0f} x", *made(row)])
    titles = ["machine", "at the points", "up-sampled first", "faster (median of the rounds)", "smaller", "commit", "date"]
    return Table(titles, lines).markdown()


def made(row: Mapping[str, Any]) -> list[str]:
    """Commit and date of a measurement; -dirty where the checkout had changes that were not committed yet."""
    commit = row["commit"] or "none"
    return [commit[:7] + ("-dirty" if commit.endswith("-dirty") else ""), row["finished"]]


def crops() -> str:
    """Crops a second of one core, by the ways to make them: the last measurement of each setting."""
    last = {(row["width"], row["suffix"], row["crop"]): row for row in store.read(RESULTS / "input.jsonl")}
    lines = []
    for row in last.values():
        image = f"{row['width']} x {row['height']} {row['suffix'][1:].upper()}"
        bound = f"{row['decode']:.0f} ({row['decode'] / row['theirs']:.1f} x)"
        speeds = [bound, f"{row['theirs']:.1f}", f"{row['worker']:.0f}", f"{row['worker'] / row['theirs']:.1f} x"]
        both = 1 / (1 / row["worker"] + 1 / row["views"])
        speeds += [f"{row['views']:.1f}", f"{both / row['theirs']:.1f} x"]
        kept = [f"{row['cached']:.0f}", f"{row['gain']:.1f} x", *(f"{1000 * row[name]:.1f} ms" for name in ("fill", "check"))]
        lines.append([image, str(row["crop"]), *speeds, *kept, *made(row)])
    titles = [
        "image",
        "crop",
        "decoding alone",
        "the peers' way",
        "ours, without the strong views",
        "",
        "the strong views here",
        "with them",
    ]
    titles += ["with `--cache`", "against without", "to fill it, an image", "at each start, an image", "commit", "date"]
    return Table(titles, lines).markdown()


def listed() -> dict[tuple[int, bool], dict[str, Any]]:
    """(Images, whether inside) -> the last measurement of a pool of that size."""
    return {(row["images"], row["inside"]): row for row in store.read(RESULTS / "index.jsonl")}


def pools() -> str:
    """What listing a pool of unlabelled images costs: the last measurement of each size."""
    lines = []
    for _, row in sorted(listed().items()):
        where = "`images/`" if row["inside"] else "`--unlabeled`"
        seconds = [f"{row[name]:.1f} s" for name in ("list", "divide", "hash", "pack")]
        sizes = [f"{row[name] / 2**20:,.0f} MiB" for name in ("packed", "held", "peak")]
        lines.append([f"{row['images']:,} in {where}", *seconds, *sizes, *made(row)])
    titles = [
        "unlabelled images",
        "list",
        "divide",
        "hash",
        "pack",
        "packed",
        "held afterwards",
        "at the peak",
        "commit",
        "date",
    ]
    return Table(titles, lines).markdown()


def grown() -> dict[tuple[int, int, int], dict[str, Any]]:
    """(Classes, prototypes of each, crop) -> the last measurement of the branch at that size."""
    return {(row["classes"], row["per_class"], row["crop"]): row for row in store.read(RESULTS / "growth.jsonl")}


def growth() -> str:
    """Milliseconds and memory of the branch by classes and prototypes, then by crop."""
    lines = []
    for (classes, per_class, crop), row in sorted(grown().items()):
        cost = [f"{1000 * row['seconds']:.0f}", f"{row['ratio']:.2f}", f"{row['peak_bytes'] / 2**20:.0f} MiB"]
        lines.append([f"{classes:,}", str(per_class), str(crop), *cost, *made(row)])
    titles = ["classes", "prototypes of each", "crop", "ms a step", "against 21 x 4 at 257", "peak memory", "commit", "date"]
    return Table(titles, lines).markdown()


def growth_plot() -> str:
    """Milliseconds over classes, a line for each number of prototypes."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for (classes, per_class, crop), row in sorted(grown().items(), key=lambda item: item[0][1]):
        if crop == 257:
            lines.setdefault(counted(per_class, "prototype"), []).append((classes, 1000 * row["seconds"]))
    return line_plot(lines, x="classes", y="ms a step of the branch")


def pools_plot() -> str:
    """Seconds before the first step over the number of unlabelled images."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in listed().values():
        seconds = sum(row[name] for name in ("list", "divide", "hash", "pack"))
        lines.setdefault("in images/" if row["inside"] else "in --unlabeled", []).append((row["images"], seconds))
    return line_plot(lines, x="unlabelled images", y="seconds before the first step")


def cpu_steps() -> str:
    """Time and memory of a step on a CPU: the last measurement against FixMatch."""
    rows = {row["method"]: row for row in store.read(RESULTS / "step.jsonl") if CPU_STEP.items() <= row.items()}
    lines = []
    for method, row in rows.items():
        low, high = row["quartiles"]
        memory = f"{row['peak_bytes'] / 2**30:.2f} GiB"
        lines.append([method, f"{row['seconds']:.2f}", f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})", memory, *made(row)])
    titles = ["method", "seconds a step", "against fixmatch (quartiles)", "peak memory", "commit", "date"]
    return Table(titles, lines).markdown()


def peers() -> str:
    """Whole trainings beside the published scripts."""
    lines = []
    for row in store.read(RESULTS / "peers.jsonl"):
        size = [f"{row['crop']}", f"{row['batch']} + {row['batch']}", f"{row['rounds']} x {row['steps']}"]
        low, high = row["ratios"][0], row["ratios"][-1]
        ratio = "" if row["what"] == "theirs" else f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        rate = f"{row['images_per_second']:.1f}"
        lines.append(
            [row["peer"], row["what"], *size, rate, ratio, f"{100 * row['waiting']:.0f} %", *made(row), row["machine"]]
        )
    titles = [
        "script",
        "what",
        "crop",
        "batch",
        "rounds of steps",
        "images a second",
        "times theirs (of the rounds)",
        "waiting for images",
    ]
    return Table([*titles, "commit", "date", "machine"], lines).markdown()


def changed_lines() -> str:
    """What of the peers' code does not run as it is."""
    lines = []
    for name, peer in PEERS.items():
        for change in peer.changes:
            lines.append([name, f"`{change.file}`", f"`{change.old}`", f"`{change.new}`", str(change.times), change.why])
        if not peer.changes:
            lines.append([name, f"`{peer.script}`", "", "", "0", "runs as it is"])
    return Table(["script", "file", "line", "instead", "times", "why"], lines).markdown()


def waiting() -> str:
    """A step by how threads wait, alone and beside a busy process: the last measurement of each cell."""
    last = {(row["recipe"], row["way"], row["beside"]): row for row in store.read(RESULTS / "waiting.jsonl")}
    lines = []
    for recipe, way in dict.fromkeys(key[:2] for key in last):
        cells = [last[recipe, way, beside] for beside in ("nothing", "one busy process")]
        lines.append([recipe, way, *(f"{row['seconds']:.2f} s ({row['against_spin']:.2f} x)" for row in cells)])
    return Table(["recipe", "threads that wait", "nothing beside", "one busy process beside"], lines).markdown()


TABLES: dict[str, Callable[[], str]] = {
    "gpu steps": lambda: gpu_steps(rounds=8),
    "gpu ways": lambda: gpu_steps(rounds=12),
    "prediction speed": prediction_speed,
    "prediction memory": prediction_memory,
    "doctor": doctor,
    "branch": branch,
    "cpu steps": cpu_steps,
    "growth": growth,
    "crops": crops,
    "pools": pools,
    "waiting": waiting,
    "peers": peers,
    "changed lines": changed_lines,
}
"""Of docs/performance.md, by name."""
PLOTS: dict[str, Callable[[], str]] = {"growth.svg": growth_plot, "pools.svg": pools_plot}
"""In docs/pictures."""
