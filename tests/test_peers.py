"""A published training script is run as it lies, timed, and compared: on a small one that asks for what the real ones do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import peer_script
import peers
from protoseg.bench import store
from protoseg.types import SegOutput

SCRIPT = """
import argparse, os
import numpy as np, torch, yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from model.semseg.deeplabv3plus import DeepLabV3Plus

parser = argparse.ArgumentParser()
for name in ("--config", "--labeled-id-path", "--unlabeled-id-path", "--save-path"):
    parser.add_argument(name, required=True)
args = parser.parse_args()
cfg = yaml.safe_load(open(args.config))
SummaryWriter(args.save_path)
torch.cuda.set_device(int(os.environ["RANK"]) % torch.cuda.device_count())
torch.distributed.init_process_group(backend="nccl", world_size=int(os.environ["WORLD_SIZE"]), rank=int(os.environ["RANK"]))
model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(DeepLabV3Plus(cfg)).cuda()
model.load_state_dict(torch.load("pretrained/resnet101.pth"), strict=False)
model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[0], output_device=0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


class Crops(torch.utils.data.Dataset):
    lines = open(args.unlabeled_id_path).read().splitlines()

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, i):
        image, mask = (Image.open(os.path.join(cfg["data_root"], part)) for part in self.lines[i].split(" "))
        assert image.size == mask.size == (500, 375)
        size = (cfg["crop_size"], cfg["crop_size"])
        return torch.tensor(np.asarray(image.resize(size))).permute(2, 0, 1) / 255


for batch in torch.utils.data.DataLoader(Crops(), batch_size=cfg["batch_size"], drop_last=True):
    optimizer.zero_grad()
    model(batch.cuda()).mean().backward()
    optimizer.step()
raise SystemExit("it should have been ended before")
"""
NETWORK = """
import torch
from torch import nn
from model.backbone.resnet import resnet101


class DeepLabV3Plus(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.backbone = resnet101()
        self.head, self.reduce = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 8, 1)
        self.fuse, self.classifier = nn.Sequential(nn.Conv2d(16, 256, 1), nn.BatchNorm2d(256)), nn.Conv2d(256, cfg["nclass"], 1)

    def forward(self, x):
        low, _, _, high = self.backbone.base_forward(x)
        size = dict(mode="bilinear", align_corners=True)
        high = nn.functional.interpolate(self.head(high), low.shape[-2:], **size)
        logits = self.classifier(self.fuse(torch.cat([self.reduce(low), high], 1)))
        return nn.functional.interpolate(logits, x.shape[-2:], **size)
"""
RESNET = """
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 8, 4, stride=4)

    def base_forward(self, x):
        low = self.first(x)
        return low, low, low, self.last(low)


def resnet101(pretrained=False, **options):
    return Small()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    files = {"fixmatch.py": SCRIPT, "model/semseg/deeplabv3plus.py": NETWORK, "model/backbone/resnet.py": RESNET}
    files |= {"configs/pascal.yaml": "{nclass: 21, crop_size: 321, batch_size: 2, data_root: Your/Pascal/Path}", ".git/x": ""}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_both_are_timed(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # with which torch believes in a stand-in too
    results = tmp_path / "r.jsonl"
    words = ["fixmatch", "--checkout", str(checkout), "--crop", "32", "--batch", "2", "--steps", "2", "--before", "2"]
    peers.main([*words, "--rounds", "1", "--results", str(results)])
    rows = store.read(results)
    expected = ["theirs", "protoseg in float32"] + ["protoseg as it trains"] * torch.cuda.is_available()
    assert [row["what"] for row in rows] == expected
    assert rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(rows[1]["images_per_second"] / rows[0]["images_per_second"])
    assert all(0 <= row["waiting"] < 1 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)
    assert not (checkout / "pretrained").exists(), "the peer's own folder is left as it was"
    assert not (checkout / "benchmark.yaml").exists()


def test_a_script_that_fails_is_shown(checkout: Path, tmp_path: Path) -> None:
    (checkout / "fixmatch.py").write_text("raise RuntimeError('torch has no such thing any more')")
    with pytest.raises(SystemExit, match="torch has no such thing any more"):
        peers.main(["fixmatch", "--checkout", str(checkout), "--batch", "1", "--steps", "1", "--before", "1"])


def test_lines_are_changed_in_a_copy(tmp_path: Path) -> None:
    """All that a change names, or none: another version of the peer is not guessed at."""
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "a.py").write_text("x = it.next()\ny = it.next()\n")
    change = peers.Change("a.py", "it.next()", "next(it)", 2, "why")
    copy = peers.copy_peer(tmp_path / "peer", tmp_path / "copy", [change])
    assert (copy / "a.py").read_text() == "x = next(it)\ny = next(it)\n"
    assert "it.next()" in (tmp_path / "peer" / "a.py").read_text()
    with pytest.raises(ValueError, match=r"a\.py has 'it\.next\(\)' 2 times, not 1: it is another version"):
        peers.copy_peer(tmp_path / "peer", tmp_path / "other", [change._replace(times=1)])


def test_the_settings_of_u2pl_are_its_own_but_for_sizes(tmp_path: Path) -> None:
    import yaml

    folder = tmp_path / "peer" / "experiments/pascal/1464/ours"
    folder.mkdir(parents=True)
    part = {"data_root": "?", "data_list": "?", "flip": True, "crop": {"type": "rand", "size": [513, 513]}}
    own = {"dataset": {"train": part, "val": part, "batch_size": 4, "workers": 2}, "trainer": {"epochs": 80, "eval_on": True}}
    (folder / "config.yaml").write_text(yaml.safe_dump(own))
    words = peers.configure("u2pl", tmp_path, tmp_path / "peer", crop=65, batch=3, number=50)
    found = yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())
    assert found["dataset"]["train"]["crop"] == {"type": "rand", "size": [65, 65]}
    assert found["dataset"]["n_sup"] == 10_582 - 50  # it takes the rest of VOC's images for the length of its lists
    assert found["dataset"]["train"]["data_list"].endswith("labeled.txt")
    assert (found["dataset"]["workers"], found["dataset"]["train"]["flip"]) == (2, True)
    assert found["trainer"] == {"epochs": 80, "eval_on": False, "sup_only_epoch": 0}


def test_the_network_is_the_peers(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.syspath_prepend(checkout)
    network = peer_script.peer_network(21).eval()
    image = torch.randn(2, 3, 32, 48)
    out = network(image)
    assert isinstance(out, SegOutput)
    assert out.features.shape == (2, network.feature_channels, 8, 12)
    assert out.logits.shape == (2, 21, 32, 48)
    torch.testing.assert_close(out.logits, network.inner(image))
    doubled = network(image, perturb=lambda maps: [torch.cat([x, 0 * x]) for x in maps])
    assert len(doubled.logits) == 4
    assert {id(p) for p in network.encoder_parameters()} == {id(p) for p in network.inner.backbone.parameters()}


def test_the_clock_counts_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(peer_script.os, "_exit", ended.append)
    monkeypatch.setattr(peer_script, "register_optimizer_step_post_hook", lambda hook: None)
    loaders = peer_script._BaseDataLoaderIter
    monkeypatch.setattr(loaders, "__next__", loaders.__next__)  # put back afterwards
    clock = peer_script.Clock(tmp_path / "r.json", before=2, steps=3)
    for waited in (9.0, 9.0, 0.25, 0.25, 0.5):
        clock.waiting += waited
        clock.on_step()
    assert ended == [0]
    row = json.loads((tmp_path / "r.json").read_text())
    assert row["waiting"] == 1.0, "of the steps before nothing counts"
    assert row["seconds"] > 0
