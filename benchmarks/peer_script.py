"""Runs a published training script, or protoseg, until so many steps are timed. A part of peers.py, in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter

from protoseg.types import Perturb, SegOutput

STAND_INS = ("torch.utils.tensorboard", "tensorboardX", "cv2", "skimage", "skimage.measure")
"""Modules that the scripts import and that write curves, or serve augmentations which are off: here they do nothing."""


class Clock:
    """Times the steps of whichever optimizer steps first, and how much of that is waiting for images."""

    def __init__(self, result: Path, *, before: int, steps: int) -> None:
        self.result, self.before, self.steps = result, before, steps
        self.step, self.start, self.waiting = 0, 0.0, 0.0
        self.cuda = torch.cuda.is_available()  # as it is now: `stand_in_for_cuda` makes torch believe in one
        register_optimizer_step_post_hook(self.on_step)
        fetch = _BaseDataLoaderIter.__next__

        def timed(loader: Any) -> Any:
            start = time.perf_counter()
            batch = fetch(loader)
            self.waiting += time.perf_counter() - start
            return batch

        _BaseDataLoaderIter.__next__ = timed  # type: ignore[method-assign]

    def on_step(self, *_: Any) -> None:
        self.step += 1
        if self.step not in (self.before, self.before + self.steps):
            return
        if self.cuda:
            torch.cuda.synchronize()  # twice a run: what is between is as the script has it
        if self.step == self.before:
            self.start, self.waiting = time.perf_counter(), 0.0
            return
        row = {"seconds": time.perf_counter() - self.start, "waiting": self.waiting}
        self.result.write_text(json.dumps(row))
        os._exit(0)  # in the middle of a training, with workers that wait: there is nothing to end in order


class PeerNetwork(nn.Module):
    """The network of UniMatch's checkout as protoseg sees one; its weights are random.

    Args:
        network: its `DeepLabV3Plus`.
        num_classes: C.
    """

    in_channels, feature_channels, stride = 3, 256, 4

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.inner, self.num_classes = network, num_classes

    def forward(self, image: Tensor, *, perturb: Perturb | None = None) -> SegOutput:
        net: Any = self.inner
        size = (image.shape[-2], image.shape[-1])
        low, _, _, high = net.backbone.base_forward(image)
        if perturb is not None:
            low, high = perturb([low, high])
        context = F.interpolate(net.head(high), low.shape[-2:], mode="bilinear", align_corners=True)
        features = net.fuse(torch.cat([net.reduce(low), context], dim=1))
        logits = F.interpolate(net.classifier(features), size, mode="bilinear", align_corners=True)
        return SegOutput(logits, features, size, align_corners=True)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        return self.inner.backbone.parameters()  # type: ignore[union-attr, return-value, operator]


def peer_network(num_classes: int) -> PeerNetwork:
    """Built from the peer's own settings, in whose folder this runs."""
    import yaml
    from model.semseg.deeplabv3plus import DeepLabV3Plus  # type: ignore[import-not-found]

    return PeerNetwork(DeepLabV3Plus(yaml.safe_load(Path("configs/pascal.yaml").read_text())), num_classes)


def write_weights() -> None:
    """What stands in for ImageNet's: the same names and shapes, as they are before any training."""
    file = Path("pretrained/resnet101.pth")
    if file.is_file():
        return
    file.parent.mkdir()
    if Path("u2pl").is_dir():
        from u2pl.models.resnet import resnet101  # type: ignore[import-not-found]

        state = resnet101(pretrained=False, multi_grid=True, fpn=True, replace_stride_with_dilation=[False, True, True])
    else:
        from model.backbone.resnet import resnet101

        state = resnet101(pretrained=False, replace_stride_with_dilation=[False, False, True])
    torch.save(state.state_dict(), file)


def stand_in_for_cuda() -> None:
    """Let a script that asks for a GPU run without one: tensors and modules stay where they are, BatchNorm stands for
    SyncBatchNorm, gloo for nccl, and DDP has no device."""
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    nn.Module.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    torch.cuda.device_count, torch.cuda.set_device = lambda: 1, lambda *_: None
    keep = {"convert_sync_batchnorm": staticmethod(lambda module, *_: module)}
    nn.SyncBatchNorm = type("BatchNormHere", (nn.BatchNorm2d,), keep)  # type: ignore[misc, assignment]
    init, parallel = torch.distributed.init_process_group, nn.parallel.DistributedDataParallel
    torch.distributed.init_process_group = lambda backend, **words: init("gloo", **words)  # type: ignore[assignment]

    def without_device(module: nn.Module, *, device_ids: Any, output_device: Any, **words: Any) -> nn.Module:
        return parallel(module, **words)

    nn.parallel.DistributedDataParallel = without_device  # type: ignore[misc, assignment]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--before", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--script", help="of the peer, in whose folder this runs; its words follow --")
    what.add_argument("--protoseg", action="store_true", help="the words of `protoseg train` follow --")
    parser.add_argument("--network-of", help="train protoseg with the network of the peer")
    end = sys.argv.index("--")  # what follows has options of the same names
    options, words = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    sys.path.insert(0, str(Path.cwd()))
    for name in STAND_INS:
        try:
            __import__(name)
        except ImportError:
            sys.modules[name] = MagicMock(__path__=[], __spec__=ModuleSpec(name, None))
    write_weights()
    Clock(options.result, before=options.before, steps=options.steps)
    if options.script:
        if not torch.cuda.is_available():
            stand_in_for_cuda()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
        sys.argv = [options.script, *words]
        runpy.run_path(options.script, run_name="__main__")
        return
    from protoseg import run
    from protoseg.cli import main as protoseg

    if options.network_of:
        run.build_network = lambda config, num_classes, **_: peer_network(num_classes)
    sys.exit(protoseg(["train", *words]))


if __name__ == "__main__":
    main()
