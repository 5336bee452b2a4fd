"""How many images a second go through the published training scripts, and how many through protoseg, on the same machine?

    python benchmarks/peers.py unimatch --checkout UNIMATCH
    python benchmarks/peers.py fixmatch --checkout UNIMATCH
    python benchmarks/peers.py u2pl --checkout U2PL

UNIMATCH is a checkout of github.com/LiheYoung/UniMatch, U2PL one of github.com/Haochen-Wang409/U2PL. Their script runs from a
copy, as it is but for the lines that `PEERS` lists, on generated photographs in its layout, in one process, with random weights
in the place of ImageNet's. Then protoseg trains by the same method on the same files, once in float32 as they do (and with
UniMatch's own network), and once in the precision that it chooses itself. From reading to the optimizer all of it counts; they
take turns.

Without a GPU the scripts do not start. `stand_in_for_cuda` in peer_script.py then stands in for what they ask of CUDA, which
shows that this benchmark works, and is a measure of nothing but this processor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from doctor import write_images
from protoseg.bench.store import append, machine
from protoseg.versions import commit

RESULTS = Path(__file__).with_name("results") / "peers.jsonl"
CHILD = Path(__file__).with_name("peer_script.py")
_CLASSES, _WHOLE_VOC = 21, 10_582


class Change(NamedTuple):
    """Lines of a peer's file that do not run any more, or name what is not here."""

    file: str
    old: str
    new: str
    times: int
    why: str


class Peer(NamedTuple):
    """A published script, and what protoseg calls the same."""

    script: str
    words: tuple[str, ...]  # of protoseg train
    loaders: int  # processes that decode for it
    changes: tuple[Change, ...] = ()


_NEXT = "iterators have no `next` of their own in today's torch"
_ABC = "gone from `collections` since Python 3.10"
_U2PL = (
    Change("train_semi.py", "loader_l_iter.next()", "next(loader_l_iter)", 1, _NEXT),
    Change("train_semi.py", "loader_u_iter.next()", "next(loader_u_iter)", 1, _NEXT),
    Change("u2pl/dataset/augmentation.py", "collections.Iterable", "collections.abc.Iterable", 6, _ABC),
    Change("u2pl/models/resnet.py", "/path/to/resnet101.pth", "pretrained/resnet101.pth", 1, "a place to fill in"),
)
PEERS = {
    "unimatch": Peer("unimatch.py", ("--method", "unimatch"), 3),
    "fixmatch": Peer("fixmatch.py", ("--method", "fixmatch", "--consistency.labels_from", "self"), 3),
    "u2pl": Peer("train_semi.py", ("--method", "u2pl", "--model.arch", "paper_deeplabv3plus"), 4, _U2PL),
}
"""UniMatch's FixMatch labels with the student itself. Each opens so many processes for images: one for labelled crops, one for
unlabelled ones and one for their CutMix partners; two and two."""


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--checkout", type=Path, required=True, help="the peer's repository")
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--batch", type=int, default=8, help="labelled and unlabelled crops each; default 8")
    parser.add_argument("--steps", type=int, default=30, help="timed steps of a run; default 30")
    parser.add_argument("--before", type=int, default=10, help="steps before them; default 10")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns; default 3")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"JSON lines file to add to; default {RESULTS}")
    options = parser.parse_args(words)
    peer, measured = PEERS[options.peer], commit()
    cuda = torch.cuda.is_available()
    ways = {"theirs": "float32", "protoseg in float32": "32-true"}
    ways |= {"protoseg as it trains": "bf16-mixed"} if cuda else {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    waiting: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy = copy_peer(options.checkout, root / "peer", peer.changes)
        labeled = max(8, options.batch)
        number = labeled + options.batch * (options.before + options.steps + 8)  # a log line wants eight steps in an epoch
        write_data(root, number, labeled=labeled)
        configured = configure(options.peer, root, copy, crop=options.crop, batch=options.batch, number=number)
        for round_ in range(options.rounds):
            for name, precision in ways.items():
                out = root / f"{round_}-{precision}"
                if name == "theirs":
                    run = ["--script", peer.script, "--", *configured]
                else:
                    network = ["--network-of", options.peer] * (options.peer != "u2pl")
                    own = own_words(peer, root, out, options.crop, options.batch, precision)
                    run = ["--protoseg", *network, "--", *own]
                row = run_child(copy, root / "measured.json", run, before=options.before, steps=options.steps)
                seconds[name].append(row["seconds"])
                waiting[name].append(row["waiting"])
                print(f"{name}: {row['seconds'] / options.steps:.3f} s a step", file=sys.stderr, flush=True)
    images = 2 * options.batch * options.steps
    print("| what | images a second | times theirs | waiting for images |\n|---|---|---|---|")
    for name, precision in ways.items():
        ratios = [theirs / own for theirs, own in zip(seconds["theirs"], seconds[name], strict=True)]
        rate, share = images / statistics.median(seconds[name]), sum(waiting[name]) / sum(seconds[name])
        print(f"| {name} | {rate:.1f} | {statistics.median(ratios):.2f} | {100 * share:.0f} % |")
        row = {"peer": options.peer, "what": name, "precision": precision, "crop": options.crop, "batch": options.batch}
        row |= {"images_per_second": rate, "ratio": statistics.median(ratios), "ratios": sorted(ratios), "waiting": share}
        row |= {
            "steps": options.steps,
            "before": options.before,
            "rounds": options.rounds,
            "peer_commit": head_of(options.checkout),
        }
        row |= {"commit": measured, "machine": machine(), "torch": torch.__version__, "finished": time.strftime("%Y-%m-%d")}
        append(options.results, row)


def copy_peer(checkout: Path, copy: Path, changes: Sequence[Change]) -> Path:
    """The peer's code, where its lists and logs may be written, with the changed lines.

    Raises:
        ValueError: a line is not there: it is another version than the changes are for.
        FileNotFoundError: there is no such checkout.
    """
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "more-scenarios", "training-logs", "docs", "coco"))
    for change in changes:
        file = copy / change.file
        text = file.read_text()
        if text.count(change.old) != change.times:
            found = f"{change.file} has {change.old!r} {text.count(change.old)} times, not {change.times}"
            raise ValueError(f"{found}: it is another version than the changes in peers.py are for")
        file.write_text(text.replace(change.old, change.new))
    return copy


def write_data(root: Path, number: int, *, labeled: int) -> None:
    """Photographs of 500 x 375 with masks: as protoseg reads them, as VOC lies, and the lists of both peers."""
    data, voc, lists = root / "data", root / "VOC2012", root / "pascal"
    write_images(data, number, labeled=number, test=0)
    (data / "classes.txt").write_text("\n".join(f"class {c}" for c in range(_CLASSES)) + "\n")
    voc.mkdir()
    for theirs, ours in (("JPEGImages", "images"), ("SegmentationClass", "masks"), ("SegmentationClassAug", "masks")):
        (voc / theirs).symlink_to(data / ours, target_is_directory=True)
    names = sorted(path.stem for path in (data / "images").iterdir())
    for kind, of in (("labeled", names[:labeled]), ("unlabeled", names[labeled:])):
        for folder, line in ((lists / "paths", "JPEGImages/{0}.jpg SegmentationClass/{0}.png"), (lists / "names", "{0}")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{kind}.txt").write_text("".join(f"{line.format(name)}\n" for name in of))


def configure(peer: str, root: Path, copy: Path, *, crop: int, batch: int, number: int) -> list[str]:
    """The peer's own settings, but for places, sizes and lengths; returns the words of its script."""
    lists, file = root / "pascal", copy / "benchmark.yaml"
    if peer == "u2pl":
        config = yaml.safe_load((copy / "experiments/pascal/1464/ours/config.yaml").read_text())
        dataset = config["dataset"]
        dataset |= {"batch_size": batch, "n_sup": _WHOLE_VOC - number}
        for part in ("train", "val"):
            dataset[part] |= {"data_root": str(root / "VOC2012"), "data_list": str(lists / "names" / "labeled.txt")}
            dataset[part]["crop"]["size"] = [crop, crop]
        config["trainer"] |= {"sup_only_epoch": 0, "eval_on": False}  # the first step is a whole one
        words = ["--config", str(file), "--seed", "2"]
    else:
        config = yaml.safe_load((copy / "configs/pascal.yaml").read_text())
        config |= {"crop_size": crop, "batch_size": batch, "data_root": str(root / "VOC2012")}
        words = ["--config", str(file), "--save-path", str(root / "theirs")]
        words += [
            "--labeled-id-path",
            str(lists / "paths/labeled.txt"),
            "--unlabeled-id-path",
            str(lists / "paths/unlabeled.txt"),
        ]
    file.write_text(yaml.safe_dump(config))
    return words


def own_words(peer: Peer, root: Path, out: Path, crop: int, batch: int, precision: str) -> list[str]:
    """Of `protoseg train` on the same files, with as many processes for images."""
    words = [str(root / "data"), *peer.words, "--labels", str(root / "pascal/names/labeled.txt"), "--out", str(out)]
    words += ["--crop", str(crop), "--batch", str(batch), "--steps", "1000", "--workers", str(peer.loaders), "--no-evaluate"]
    words += ["--model.weights", "none", "--consistency.warmup_steps", "0", "--optimizer.name", "sgd", "--optimizer.lr", "1e-3"]
    return [*words, "--trainer.precision", precision]


def run_child(copy: Path, result: Path, words: Sequence[str], *, before: int, steps: int) -> dict[str, float]:
    """One run in a process of its own, until so many steps are timed."""
    result.unlink(missing_ok=True)
    command = [sys.executable, str(CHILD), "--result", str(result), "--before", str(before), "--steps", str(steps)]
    ran = subprocess.run(
        [*command, *words], cwd=copy, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": _paths()}
    )
    if not result.is_file():
        raise SystemExit(f"peers.py: no result of {' '.join(words)}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}")
    measured: dict[str, float] = json.loads(result.read_text())
    return measured


def _paths() -> str:
    """The child runs elsewhere."""
    return os.pathsep.join(str(Path(path or ".").absolute()) for path in sys.path)


def head_of(checkout: Path) -> str | None:
    found = subprocess.run(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or None


if __name__ == "__main__":
    main()
