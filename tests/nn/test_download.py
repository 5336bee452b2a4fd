"""The download of ImageNet weights by name, from a hub that the test serves itself: real client, real files, no network."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from protoseg.nn.segmenter import create_segmenter, named_state
from protoseg.nn.vit import create_dino_dpt

COMMIT = "0" * 40


class Hub:
    """What the hub's client asks for: `/OWNER/REPO/resolve/REVISION/FILE`, whatever the owner and the revision."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                parts = self.path.strip("/").split("/")
                content = hub.files.get((parts[1], parts[-1])) if "resolve" in parts else None
                if content is None:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{len(content)}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_GET = do_HEAD  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test's output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def in_new_process(code: str, hub: Hub, cache: Path) -> subprocess.CompletedProcess[str]:
    """The client reads its address when it is imported, so it gets a process of its own."""
    keep = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("HF_")}
    hub_client = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "30",
    }
    return subprocess.run([sys.executable, "-c", code], env=keep | hub_client, capture_output=True, text=True, check=False)


def noise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that no initialisation gives."""
    generator = torch.Generator().manual_seed(5)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


def test_imagenet_weights_of_an_smp_encoder(hub: Hub, tmp_path: Path) -> None:
    encoder = smp.encoders.get_encoder("mobilenet_v2", weights=None)
    state = noise(encoder.state_dict())
    # smp drops the classifier of the published file, so it has to be there
    published = {**state, "classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}
    hub.files["mobilenet_v2.imagenet", "config.json"] = b"{}"
    hub.files["mobilenet_v2.imagenet", "model.safetensors"] = save(published)
    save_file(state, tmp_path / "expected.safetensors")
    code = f"""
from safetensors.torch import load_file
from protoseg.nn.segmenter import create_segmenter
encoder = create_segmenter("unet", "mobilenet_v2", num_classes=2, weights="imagenet").encoder.state_dict()
expected = load_file({str(tmp_path / "expected.safetensors")!r})
assert expected.keys() == encoder.keys() and all(encoder[key].equal(expected[key]) for key in expected)
"""
    done = in_new_process(code, hub, tmp_path / "cache")
    assert done.returncode == 0, done.stderr


def test_imagenet_weights_of_a_timm_network(hub: Hub, tmp_path: Path) -> None:
    network = timm.create_model("test_resnet")
    repository = str(network.pretrained_cfg["hf_hub_id"]).split("/")[1]
    state = noise(network.state_dict())
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": {}}
    hub.files[repository, "config.json"] = json.dumps(config).encode()
    hub.files[repository, "model.safetensors"] = save(state)
    save_file(state, tmp_path / "expected.safetensors")
    code = f"""
from safetensors.torch import load_file
from protoseg.nn.segmenter import create_segmenter, named_state
expected = load_file({str(tmp_path / "expected.safetensors")!r})
state = named_state("test_resnet")
assert expected.keys() == state.keys() and all(state[key].equal(expected[key]) for key in expected)
encoder = create_segmenter("unet", "tu-test_resnet", num_classes=2, weights="imagenet").encoder.state_dict()
shared = [key for key in encoder if key.removeprefix("model.") in expected]
assert len(shared) == len(encoder)
assert all(encoder[key].equal(expected[key.removeprefix("model.")]) for key in shared)
"""
    done = in_new_process(code, hub, tmp_path / "cache")
    assert done.returncode == 0, done.stderr


def test_dino_weights_by_name(hub: Hub, tmp_path: Path) -> None:
    network = timm.create_model("vit_small_patch14_dinov2.lvd142m", num_classes=0)
    repository = str(network.pretrained_cfg["hf_hub_id"]).split("/")[1]
    state = noise(network.state_dict())
    hub.files[repository, "config.json"] = json.dumps({"architecture": "vit_small_patch14_dinov2"}).encode()
    hub.files[repository, "model.safetensors"] = save(state)
    save_file(state, tmp_path / "expected.safetensors")
    code = f"""
from safetensors.torch import load_file
from protoseg.nn.vit import create_dino_dpt
expected = load_file({str(tmp_path / "expected.safetensors")!r})
encoder = create_dino_dpt(encoder="dinov2_small", num_classes=2, weights="imagenet").encoder.state_dict()
blocks = [key for key in expected if key.startswith(("blocks.", "patch_embed."))]
assert blocks and all(encoder[key].equal(expected[key]) for key in blocks)
"""
    done = in_new_process(code, hub, tmp_path / "cache")
    assert done.returncode == 0, done.stderr


def test_a_file_that_the_hub_does_not_have(hub: Hub, tmp_path: Path) -> None:
    code = """
from protoseg.nn.segmenter import create_segmenter
try:
    create_segmenter("unet", "mobilenet_v2", num_classes=2, weights="imagenet")
except ConnectionError as error:
    print(error)
"""
    done = in_new_process(code, hub, tmp_path / "cache")
    assert "imagenet weights of mobilenet_v2 could not be downloaded" in done.stdout, done.stdout + done.stderr
    assert "--model.weights FILE" in done.stdout


@pytest.mark.parametrize(
    "create",
    [
        lambda: named_state("test_resnet"),
        lambda: create_segmenter("unet", "mobilenet_v2", num_classes=2, weights="imagenet"),
        lambda: create_dino_dpt("dinov2_small", num_classes=2, weights="imagenet"),
    ],
    ids=["state", "segmenter", "dino"],
)
def test_a_hub_out_of_reach_is_said_once(create: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a line for each time that its client tried."""
    client, lines = logging.getLogger("huggingface_hub.utils._http"), list[str]()

    def offline(*args: object, **options: object) -> None:
        client.warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError("no network")

    monkeypatch.setattr(client, "handle", lambda record: lines.append(record.getMessage()))
    monkeypatch.setattr(smp, "create_model", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConnectionError, match="could not be downloaded"):
        create()
    assert lines == []
    client.warning("heard again")
    assert lines == ["heard again"]
