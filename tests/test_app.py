"""The app without its page: what is looked at, what may be looked at, and what another page or a hostile file is answered."""

from __future__ import annotations

import functools
import http.client
import io
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from make_folder import TINY, make_folder, write_image
from PIL import Image
from torch import Tensor, nn

from protoseg.app.command import serve, told_apart
from protoseg.app.desk import THUMB, Desk
from protoseg.app.gallery import BusyError, Entry, Gallery, list_folder
from protoseg.app.look import MAPS, colored, cropped, cut, look, shares, smaller
from protoseg.app.models import Models, choices
from protoseg.app.page import render
from protoseg.app.recent import Recent
from protoseg.app.server import GoneError, Server, is_local
from protoseg.atlas.follow import lattice
from protoseg.atlas.pictures import Box as Part
from protoseg.cli import main
from protoseg.data.index import ClassTable
from protoseg.data.io import UnreadableImageError
from protoseg.data.limit import MAX_PIXELS
from protoseg.engine.evaluate import Normalization, predict_image
from protoseg.engine.inference import Inference
from protoseg.functional.random import generator
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.trained import TrainedModel
from protoseg.types import IGNORE_INDEX, SegOutput

CLASSES = ClassTable(("ground", "square", "disc"), ((0,), (1,), (2,)), ((10, 10, 10), (250, 0, 0), (0, 0, 250)))
NOBODY = 0xFFFF


class Near(nn.Module):
    """A network that sees each pixel and so many around it, at full resolution."""

    def __init__(self, around: int = 0) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 5, 2 * around + 1, padding=around)
        self.linear = nn.Conv2d(5, 3, 1)
        self.calls = 0
        with torch.no_grad():
            for i, weight in enumerate(self.parameters()):
                weight.copy_(torch.randn(weight.shape, generator=generator(0, i)))

    def forward(self, image: Tensor) -> SegOutput:
        self.calls += 1
        features = self.features(image)
        return SegOutput(self.linear(features), features, (image.shape[-2], image.shape[-1]), False)


def make_model(around: int = 0, inference: Inference | None = None) -> TrainedModel:
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    return TrainedModel(Near(around).eval(), CLASSES, normalization, inference or Inference(), crop=32, header={})


def make_head() -> PrototypeHead:
    """Of random prototypes; the last class has none yet."""
    head = PrototypeHead(5, 3, per_class=2)
    head.prototype.copy_(torch.randn(head.prototype.shape, generator=generator(0, "head")))
    head.ready[:2] = True
    return head


def make_image(height: int = 11, width: int = 14, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def followed(maps: dict[str, Any]) -> Any:
    return maps["followed_high"].astype(int) * 256 + maps["followed_low"]


class TestLook:
    @torch.no_grad()
    def test_equals_a_loop_over_pixels(self) -> None:
        model, head, image = make_model(), make_head(), make_image()
        truth = np.random.default_rng(1).choice([0, 1, 2, IGNORE_INDEX], image.shape[:2]).astype(np.uint8)
        shown = look(model, head, image, truth)
        maps = shown.picture()
        network = model.network
        for y in range(image.shape[0]):
            for x in range(image.shape[1]):
                pixel = (torch.from_numpy(image[y, x]).float() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor(
                    [0.2, 0.3, 0.4]
                )
                feature = network.features.weight[:, :, 0, 0] @ pixel + network.features.bias  # type: ignore[union-attr, operator, index]
                said = (network.linear.weight[:, :, 0, 0] @ feature + network.linear.bias).softmax(0)  # type: ignore[union-attr, operator, index]
                near = [[float(F.cosine_similarity(feature, head.prototype[c, k], dim=0)) for k in (0, 1)] for c in (0, 1)]
                weights = [math.exp(max(values) / head.temperature) for values in near]
                c = weights.index(max(weights))
                own = {name: plane[y, x] for name, plane in maps.items()}
                assert own["label"] == shown.label[y, x] == said.argmax()
                assert own["confidence"] == shown.confidence[y, x] == pytest.approx(255 * float(said.max()), abs=0.51)
                assert own["truth"] == truth[y, x]
                assert own["prototype"] == c
                assert own["certainty"] == pytest.approx(255 * max(weights) / sum(weights), abs=0.51)
                assert followed(maps)[y, x] == 2 * c + near[c].index(max(near[c]))
                if own["label"] == c:
                    assert own["disagreement"] == 0
                elif truth[y, x] == IGNORE_INDEX:
                    assert own["disagreement"] == 4
                else:
                    assert own["disagreement"] == {int(own["label"]): 1, c: 2}.get(int(truth[y, x]), 3)
        assert set(np.unique(maps["disagreement"])) == {0, 1, 2, 3, 4}  # else the loop has not tried all
        assert shown.parts == 1
        assert set(maps) == set(MAPS)

    def test_pieces_say_what_the_whole_says(self) -> None:
        model, head, image = make_model(around=2), make_head(), make_image(47, 61)
        truth = np.random.default_rng(1).integers(0, 3, image.shape[:2], dtype=np.uint8)
        whole = look(model, head, image, truth)
        pieces = look(model, head, image, truth, side=20, margin=3)
        assert pieces.parts == 4 * 5
        assert (pieces.label == whole.label).all()
        assert abs(pieces.confidence.astype(int) - whole.confidence).max() <= 1
        expected, maps = whole.picture(), pieces.picture()
        for name in MAPS:
            assert abs(maps[name].astype(int) - expected[name]).max() <= (name in {"confidence", "certainty"})
        assert len(np.unique(followed(expected))) > 2

    def test_a_picture_shows_the_middle_pixels_of_its_cells(self) -> None:
        shown = look(make_model(), make_head(), make_image(40, 60))
        y, x = lattice(0, 0, 40, 60, rows=10, columns=15).view(10, 15, 2).numpy().transpose(2, 0, 1)
        whole, maps = shown.picture(), shown.picture(15)
        assert whole["label"].shape == (40, 60)
        for name in MAPS:
            assert (maps[name] == whole[name][y, x]).all()

    def test_a_part_is_every_pixel_of_a_box(self) -> None:
        truth = np.random.default_rng(1).choice([0, 1, 2, IGNORE_INDEX], (40, 60)).astype(np.uint8)
        shown = look(make_model(), make_head(), make_image(40, 60), truth)
        whole, part = shown.picture(), shown.part(Part(3, 7, 20, 11))
        for name in MAPS:
            assert (part[name] == whole[name][3:23, 7:18]).all()

    def test_without_prototypes(self) -> None:
        shown = look(make_model(), None, make_image())
        maps = shown.picture()
        assert (followed(maps) == NOBODY).all()
        assert (maps["prototype"] == IGNORE_INDEX).all()
        assert not maps["disagreement"].any()
        assert len(np.unique(shown.label)) > 1

    @pytest.mark.parametrize("inference", [Inference(), Inference(flip=True, scales=(0.5, 1.0)), Inference(window=9)], ids=str)
    def test_the_mask_is_that_of_predict(self, inference: Inference) -> None:
        model, image = make_model(around=2, inference=inference), make_image(22, 30)
        predicted = predict_image(model.network, image, model.normalization, inference)
        shown = look(model, make_head(), image)
        assert (shown.label == predicted.label.numpy()).all()
        assert abs(shown.confidence / 255 - predicted.confidence.numpy()).max() < 0.0021

    def test_whoever_has_gone_is_not_worked_for(self) -> None:
        model, asked = make_model(), []

        def between(done: int, of: int) -> None:
            asked.append((done, of))
            if len(asked) > 2:
                raise GoneError

        with pytest.raises(GoneError):
            look(model, None, make_image(30, 30), side=10, margin=1, between=between)
        assert model.network.calls == 2
        assert asked == [(0, 16), (1, 16), (2, 16)]

    def test_many_classes_are_seen_in_smaller_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("protoseg.app.look._MOST_NUMBERS", 3 * 20 * 20)
        shown = look(make_model(), None, make_image(30, 30), margin=2)
        assert shown.parts == 4

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 20), (21, 20), (97, 5), (64, 200)])
    def test_pieces_cover_an_image_once(self, height: int, width: int) -> None:
        count = np.zeros((height, width), int)
        for seen, kept in cut(height, width, side=20, margin=4):
            count[kept.top : kept.top + kept.height, kept.left : kept.left + kept.width] += 1
            assert max(seen.height, seen.width) <= 20
            spans = (
                (seen.top, seen.height, kept.top, kept.height, height),
                (seen.left, seen.width, kept.left, kept.width, width),
            )
            for start, length, own, of_own, size in spans:
                assert start >= 0
                assert start + length <= size
                assert own - start >= 4 or start == 0
                assert start + length - own - of_own >= 4 or start + length == size
        assert (count == 1).all()

    def test_pieces_without_anything_to_keep(self) -> None:
        with pytest.raises(ValueError, match="leaves nothing"):
            list(cut(100, 100, side=20, margin=10))

    def test_shares(self) -> None:
        assert shares(np.array([[0, 2], [2, 2]], np.uint8), 4).tolist() == [0.25, 0, 0.75, 0]


class TestPicture:
    def test_bands_are_channels(self) -> None:
        image = np.zeros((4, 6, 5), np.uint16)
        image[:, 3:, 4] = 900
        image[2:, :, 1] = 70
        shown = colored(image, (4, 0, 1))
        assert shown[:, :3, 0].max() == 0
        assert shown[:, 3:, 0].min() == 255
        assert shown[..., 1].max() == 0
        assert (shown[2:, :, 2] == 255).all()
        assert (shown[:2, :, 2] == 0).all()

    def test_a_photograph_keeps_its_colours(self) -> None:
        image = make_image()
        assert (colored(image) == image).all()
        assert (colored(image, (2, 1, 0)) == image[..., ::-1]).all()

    def test_four_bands_of_8_bits_are_spread_whichever_are_chosen(self) -> None:
        image = (make_image(20, 20)[..., [0, 1, 2, 0]] // 8).astype(np.uint8)
        assert (colored(image, (0, 1, 2)) == colored(image)).all()
        assert colored(image).max() == 255

    def test_a_large_image_is_made_smaller(self) -> None:
        assert smaller(make_image(30, 90), longest=45).shape == (15, 45, 3)
        image = make_image(30, 90)
        assert (smaller(image) == image).all()

    def test_a_part(self) -> None:
        image = make_image(30, 90)
        assert (cropped(image, Part(4, 9, 20, 31)) == image[4:24, 9:40]).all()

    @pytest.mark.parametrize("bands", [(0, 1, 3), (-1, 0, 1), (0, 1)])
    def test_no_such_band(self, bands: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="channels 0 to 2"):
            colored(make_image(), bands)


class Box:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class TestRecent:
    def test_what_was_used_last_stays(self) -> None:
        kept = Recent[Box](10)
        for name in "abc":
            kept.put(name, Box(3))
        assert kept.get("a") is not None
        kept.put("d", Box(3))  # 12 bytes: what was not used for longest goes
        assert [kept.get(name) is not None for name in "abcd"] == [True, False, True, True]

    def test_the_newest_stays_however_large(self) -> None:
        kept = Recent[Box](10)
        kept.put("a", Box(3))
        kept.put("b", Box(99))
        assert len(kept) == 1
        assert kept.get("b") is not None


def png(height: int = 12, width: int = 16) -> bytes:
    file = io.BytesIO()
    Image.fromarray(make_image(height, width)).save(file, format="PNG")
    return file.getvalue()


def wait_until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def add(gallery: Gallery, name: str, content: bytes) -> str:
    return gallery.add(name, len(content), io.BytesIO(content).read).id


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    gallery = Gallery(most_bytes=5000, most_files=3, most_stored=10_000)
    yield gallery
    gallery.close()


class TestShelf:
    def test_a_data_set_shows_its_images_and_not_its_masks(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        shelf = list_folder(root)
        assert [(e.id, e.name) for e in shelf.entries] == [
            ("f0", "test/test_00"), *((f"f{i + 1}", f"img_{i:02d}") for i in range(4)),
        ]  # fmt: skip
        assert [e.role for e in shelf.entries] == ["test image", *["train image"] * 2, *["train image, no mask"] * 2]
        assert shelf.index is not None

    def test_any_other_folder_shows_all_that_is_an_image(self, tmp_path: Path) -> None:
        for name in ("b.png", "below/a.jpg"):
            write_image(tmp_path / name, make_image())
        (tmp_path / "notes.txt").write_text("no image")
        shelf = list_folder(tmp_path)
        assert [(e.name, e.role) for e in shelf.entries] == [("b", ""), ("below/a", "")]
        assert shelf.index is None

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no folder"):
            list_folder(tmp_path / "missing")
        with pytest.raises(ValueError, match="no image"):
            list_folder(tmp_path)

    def test_links_out_of_the_folder_are_left_out(self, tmp_path: Path) -> None:
        secret = write_image(tmp_path / "secret/private.png", make_image())
        root = tmp_path / "open"
        write_image(root / "own.png", make_image())
        (root / "file.png").symlink_to(secret)
        (root / "folder").symlink_to(secret.parent)
        (root / "inside.png").symlink_to(root / "own.png")
        shelf = list_folder(root)
        assert [e.name for e in shelf.entries] == ["inside", "own"]
        assert shelf.left_out == 2
        (root / "own.png").unlink()
        (root / "inside.png").unlink()
        with pytest.raises(ValueError, match="links"):
            list_folder(root)

    def test_a_mask_that_leads_out_is_left_out_with_its_image(self, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=3, labeled=2)
        secret = write_image(tmp_path / "secret.png", make_image()[..., 0])
        (root / "masks/img_01.png").unlink()
        (root / "masks/img_01.png").symlink_to(secret)
        assert [e.name for e in list_folder(root).entries] == ["img_00", "img_02"]

    def test_a_file_that_becomes_a_link_is_not_read(self, tmp_path: Path) -> None:
        secret = write_image(tmp_path / "secret.png", make_image())
        root = tmp_path / "open"
        write_image(root / "own.png", make_image())
        gallery = Gallery(list_folder(root))
        assert gallery.read(gallery.find("f0")).shape == (11, 14, 3)
        (root / "own.png").unlink()
        (root / "own.png").symlink_to(secret)
        with pytest.raises(LookupError):
            gallery.find("f0")
        gallery.close()


class TestUploads:
    def test_an_image_is_kept_until_the_end(self, gallery: Gallery) -> None:
        id = add(gallery, "holiday.PNG", png())
        entry = gallery.find(id)
        assert (entry.name, entry.role, entry.sample.name) == ("holiday.PNG", "uploaded", "holiday")
        assert gallery.read(entry).shape == (12, 16, 3)
        folder = entry.sample.image.parent
        gallery.close()
        assert not folder.exists()

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("../../etc/passwd.png", "passwd.png"),
            ("/etc/shadow.png", "shadow.png"),
            ("..\\..\\boot.png", "boot.png"),
            ("a\0b\n\x1b[31m.png", "ab[31m.png"),
            ("\udcff.png", None),
            ("x" * 500 + ".png", "x" * 116 + ".png"),
            (".png", None),
            ("..", None),
            ("", None),
        ],
    )
    def test_names_are_words_and_never_paths(self, gallery: Gallery, name: str, shown: str | None) -> None:
        before = set(Path(gallery._folder.name).iterdir())
        if shown is None:
            with pytest.raises(UnreadableImageError, match="none of"):
                add(gallery, name, png())
            assert set(Path(gallery._folder.name).iterdir()) == before
        else:
            entry = gallery.find(add(gallery, name, png()))
            assert entry.name == shown
            assert entry.sample.image == Path(gallery._folder.name) / "u1.png"

    def test_a_file_that_is_too_large_is_not_read(self, gallery: Gallery) -> None:
        def read(number: int) -> bytes:
            raise AssertionError("nothing must be read")

        with pytest.raises(OverflowError, match="MB"):
            gallery.add("a.png", 5001, read)

    def test_what_is_no_image_leaves_nothing(self, gallery: Gallery) -> None:
        for content in (b"no image", b"", png()[:60]):
            with pytest.raises(UnreadableImageError) as caught:
                add(gallery, "a.png", content)
            assert "a.png" in str(caught.value)
            assert gallery._folder.name not in str(caught.value)
        with pytest.raises(ConnectionError):
            gallery.add("a.png", 4000, io.BytesIO(png()).read)
        assert list(Path(gallery._folder.name).iterdir()) == []
        assert gallery.entries() == []

    def test_a_bomb_is_refused_by_its_header(self, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(MAX_PIXELS, "180")
        content = io.BytesIO()
        tifffile.imwrite(content, np.zeros((20, 20), np.uint8))
        for name, data in (("a.png", png()), ("a.tif", content.getvalue())):
            with pytest.raises(UnreadableImageError, match="pixels by its header"):
                add(gallery, name, data)

    def test_the_oldest_go_first(self, gallery: Gallery) -> None:
        ids = [add(gallery, f"{i}.png", png()) for i in range(5)]
        assert [entry.id for entry in gallery.entries()] == ids[:1:-1]
        assert len(list(Path(gallery._folder.name).iterdir())) == 3
        with pytest.raises(LookupError):
            gallery.find(ids[0])

    def test_so_many_bytes_are_kept(self) -> None:
        gallery = Gallery(most_stored=2 * len(png()) + 1)
        ids = [add(gallery, "a.png", png()) for _ in range(3)]
        assert [entry.id for entry in gallery.entries()] == ids[:0:-1]
        gallery.close()

    @pytest.mark.parametrize(
        ("limits", "at_once"), [({"most_files": 3}, 3), ({"most_stored": 4 * len(png()) - 1}, 3), ({"most_stored": 1}, 1)]
    )
    def test_what_is_on_its_way_has_limits_before_it_is_read(self, limits: dict[str, int], at_once: int) -> None:
        gallery, size, go = Gallery(**limits), len(png()), threading.Event()

        def slow(number: int) -> bytes:
            assert go.wait(60)
            return png()

        def unread(number: int) -> bytes:
            raise AssertionError("nothing must be read")

        with ThreadPoolExecutor() as pool:
            coming = [pool.submit(gallery.add, f"{i}.png", size, slow) for i in range(at_once)]
            wait_until(lambda: len(list(Path(gallery._folder.name).iterdir())) == at_once)
            for _ in range(2):
                with pytest.raises(BusyError, match=r"^late\.png is not taken: too many files .* try again in a while$"):
                    gallery.add("late.png", size, unread)
            assert len(list(Path(gallery._folder.name).iterdir())) == at_once
            go.set()
            assert len({upload.result().id for upload in coming}) == at_once
        add(gallery, "late.png", png())  # those that have come leave room
        gallery.close()

    def test_uploads_that_fail_leave_room(self) -> None:
        gallery = Gallery(most_files=2, most_stored=2 * len(png()))
        for _ in range(3):
            with pytest.raises(UnreadableImageError):
                add(gallery, "a.png", b"no image")
            with pytest.raises(ConnectionError):
                gallery.add("a.png", len(png()), io.BytesIO(b"early").read)
        with ThreadPoolExecutor() as pool:
            both = threading.Barrier(2)  # neither is read before both have their room
            coming = [pool.submit(gallery.add, "a.png", len(png()), lambda _: both.wait(60) * b"" + png()) for _ in range(2)]
            assert len({upload.result().id for upload in coming}) == 2
        gallery.close()

    def test_two_uploads_are_decoded_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gallery, inside, most = Gallery(), list[int](), list[int]()

        def read(entry: Entry) -> Any:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.1)
            inside.pop()

        monkeypatch.setattr(gallery, "read", read)
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda i: add(gallery, f"{i}.png", png()), range(6)))
        assert max(most) == 2
        gallery.close()

    @pytest.mark.parametrize("id", ["f0", "u0", "u1", "", "f", "../u1", "f-1", "f1e3", "f٣", "u999999999999", "f00"])
    def test_ids_that_are_none(self, gallery: Gallery, id: str) -> None:
        with pytest.raises(LookupError, match="no such image"):
            gallery.find(id)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(
        tmp_path_factory.mktemp("app") / "data", train=6, labeled=3, test=2, classes=("ground", "square", "disc")
    )


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    out = data.parent / "run"
    assert main(["train", str(data), *TINY, "--baseline", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def desk(run: Path, data: Path) -> Iterator[Desk]:
    shelf = list_folder(data)
    gallery = Gallery(shelf, most_bytes=100_000)
    yield Desk(Models(choices([run]), shelf.index), gallery)
    gallery.close()


def unpacked(answer: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    length = int.from_bytes(answer[:4], "big")
    said = json.loads(answer[4 : 4 + length])
    columns, rows = said["shown"]
    planes = np.frombuffer(answer[4 + length :], np.uint8).reshape(-1, rows, columns)
    return said, dict(zip(said["planes"], planes, strict=True))


class TestModels:
    def test_the_labels_only_model_beside_a_run(self, run: Path) -> None:
        assert [choice.name for choice in choices([run])] == ["run", "run, labels only"]
        assert [choice.name for choice in choices([run / "model.safetensors"])] == ["run/model.safetensors"]

    def test_runs_of_one_name_are_told_apart(self, run: Path, tmp_path: Path) -> None:
        other = tmp_path / "run"
        other.mkdir()
        (other / "model.safetensors").symlink_to(run / "model.safetensors")
        assert [choice.name for choice in choices([run, other])] == [f"run ({run})", "run, labels only", f"run ({other})"]

    def test_a_run_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="has not finished"):
            choices([tmp_path])

    def test_what_the_last_path_is(self, run: Path, data: Path, tmp_path: Path) -> None:
        assert told_apart([run], None) == ([run], None)
        assert told_apart([run, data], None) == ([run], data)
        assert told_apart([run, run], None) == ([run, run], None)
        assert told_apart([run, run / "model.safetensors"], None) == ([run, run / "model.safetensors"], None)
        assert told_apart([run, run], data) == ([run, run], data)
        (tmp_path / "config.yaml").touch()  # a run that has not finished
        assert told_apart([run, tmp_path], None) == ([run, tmp_path], None)
        with pytest.raises(FileNotFoundError, match="neither"):
            told_apart([run, tmp_path / "missing"], None)


class TestDesk:
    def test_a_look_at_a_test_image(self, desk: Desk, data: Path) -> None:
        said, planes = unpacked(desk.look(0, "f0"))
        assert said["size"] == said["shown"] == [48, 40]
        assert [one["name"] for one in said["classes"]] == ["ground", "square", "disc"]
        assert sum(one["share"] for one in said["classes"]) == pytest.approx(1)
        assert np.array(said["tones"]).shape == (3, said["prototypes"], 3)
        assert (planes["truth"] == np.asarray(Image.open(data / "masks/test/test_00.png"))).all()
        assert (planes["prototype"] < 3).all()
        assert said["notes"] == []

    def test_labels_only_may_have_no_prototypes_and_no_truth_is_known_without_a_mask(self, desk: Desk) -> None:
        said, planes = unpacked(desk.look(1, "f7"))
        assert said["prototypes"] == 0
        assert (planes["truth"] == IGNORE_INDEX).all()
        assert not planes["disagreement"].any()

    def test_downloads_are_what_predict_writes(self, desk: Desk, run: Path, data: Path, tmp_path: Path) -> None:
        assert main(["predict", str(run), str(data / "images/test"), "-o", str(tmp_path / "out")]) == 0
        for what in ("mask", "overlay", "confidence"):
            file = desk.download(0, "f0", what)
            expected = tmp_path / "out" / file.name
            assert file.content == expected.read_bytes()
        assert desk.download(0, "f0", "mask").name == "test_00.png"

    def test_a_part_of_an_image_pixel_by_pixel(self, desk: Desk, data: Path) -> None:
        _, whole = unpacked(desk.look(0, "f0"))
        box = Part(10, 4, 21, 33)
        planes = np.frombuffer(desk.near(0, "f0", box), np.uint8).reshape(len(MAPS), 21, 33)
        for name, plane in zip(MAPS, planes, strict=True):
            assert (plane == whole[name][10:31, 4:37]).all()
        shown = np.asarray(Image.open(io.BytesIO(desk.part("f0", box))))
        assert (shown == np.asarray(Image.open(data / "images/test/test_00.png"))[10:31, 4:37]).all()

    @pytest.mark.parametrize("box", [(0, 0, 41, 48), (0, 1, 40, 48), (0, 0, 0, 9), (99, 0, 1, 1)], ids=str)
    def test_there_is_no_such_part(self, desk: Desk, box: tuple[int, int, int, int]) -> None:
        for ask_for in (functools.partial(desk.near, 0, "f0"), functools.partial(desk.part, "f0")):
            with pytest.raises(ValueError, match="no such part of an image of 48 x 40"):
                ask_for(Part(*box))

    def test_a_part_that_is_too_large(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("protoseg.app.desk.MOST_NEAR", 100)
        assert len(desk.near(0, "f0", Part(0, 0, 10, 10))) == 100 * len(MAPS)
        with pytest.raises(ValueError, match="at most 100 of them"):
            desk.near(0, "f0", Part(0, 0, 10, 11))

    def test_a_part_has_the_brightness_of_the_whole(self, desk: Desk) -> None:
        dark_and_bright, content = np.zeros((40, 40, 3), np.uint16), io.BytesIO()
        dark_and_bright[:, 20:] = 60_000
        dark_and_bright[:, :20] = np.arange(20)[:, None]  # would be spread from black to white, were it alone
        tifffile.imwrite(content, dark_and_bright, photometric="rgb")
        entry = desk.upload("bands.tif", len(content.getvalue()), io.BytesIO(content.getvalue()).read)
        assert np.asarray(Image.open(io.BytesIO(desk.part(entry["id"], Part(0, 0, 16, 16))))).max() < 9

    def test_a_part_of_other_bands(self, desk: Desk) -> None:
        part, other = (Image.open(io.BytesIO(desk.part("f0", Part(5, 6, 7, 8), bands))) for bands in (None, (2, 1, 0)))
        assert (np.asarray(other) == np.asarray(part)[..., ::-1]).all()

    def test_a_closer_look_does_not_wait_for_the_network(self, desk: Desk) -> None:
        desk.look(0, "f0")
        with desk._looking:  # at another image
            assert desk.near(0, "f0", Part(0, 0, 9, 9))

    def test_small_pictures(self, desk: Desk) -> None:
        small = Image.open(io.BytesIO(desk.thumb("f1")))
        assert max(small.size) == min(48, THUMB)

    def test_an_image_of_another_kind(self, desk: Desk, tmp_path: Path) -> None:
        content = io.BytesIO()
        tifffile.imwrite(content, np.zeros((9, 9, 4), np.uint16), photometric="minisblack", planarconfig="contig")
        entry = desk.upload("bands.tif", len(content.getvalue()), io.BytesIO(content.getvalue()).read)
        with pytest.raises(
            UnreadableImageError, match=r"bands.tif has 4 channels of uint16, and run has learned from .* uint8"
        ):
            desk.look(0, entry["id"])
        assert Image.open(io.BytesIO(desk.picture(entry["id"], (3, 1, 0)))).size == (9, 9)

    def test_a_mask_that_cannot_be_read_is_said(self, run: Path, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=2, labeled=2, classes=("ground", "square", "disc"))
        Image.fromarray(np.full((40, 48), 77, np.uint8)).save(root / "masks/img_00.png")
        shelf = list_folder(root)
        desk = Desk(Models(choices([run]), shelf.index), Gallery(shelf))
        said, planes = unpacked(desk.look(0, "f0"))
        assert "77" in said["notes"][0]
        assert (planes["truth"] == IGNORE_INDEX).all()
        assert unpacked(desk.look(0, "f1"))[0]["notes"] == []
        desk.gallery.close()

    def test_progress_of_what_is_looked_at(self, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        desk = Desk(Models(choices([run])), Gallery(list_folder(data)))
        monkeypatch.setattr("protoseg.app.desk.look", functools.partial(look, side=30, margin=3))
        seen: list[dict[str, int]] = []
        desk.look(0, "f0", lambda: seen.append(desk.progress(0, "f0")))
        assert seen == [{"done": i, "of": 4} for i in range(4)]
        assert desk.progress(0, "f0") == {}
        desk.look(0, "f0", lambda: seen.append({}))  # remembered
        assert len(seen) == 4
        desk.gallery.close()

    def test_masks_of_other_classes_are_not_compared(self, run: Path, tmp_path: Path) -> None:
        root = make_folder(tmp_path / "data", train=2, labeled=2, classes=("sea", "land", "ice"))
        shelf = list_folder(root)
        desk = Desk(Models(choices([run]), shelf.index), Gallery(shelf))
        said, planes = unpacked(desk.look(0, "f0"))
        assert "none of the classes" in said["notes"][0]
        assert (planes["truth"] == IGNORE_INDEX).all()
        desk.gallery.close()


@pytest.fixture(scope="module")
def server(desk: Desk) -> Iterator[Server]:
    with Server("127.0.0.1", 0, desk, render()) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: Server, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """What a client gets that sends a path as it is, whatever it holds."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    answer = (response.status, response.read(), response.headers)
    connection.close()
    return answer


class TestServer:
    def test_the_page_may_ask_nobody_else(self, server: Server) -> None:
        status, content, headers = ask(server, "/")
        assert status == 200
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert not re.findall(rb"https?://|//[a-z]+\.|@import|url\(", content)

    def test_what_can_be_chosen(self, server: Server, data: Path) -> None:
        state = json.loads(ask(server, "/state")[1])
        assert state["models"] == ["run", "run, labels only"]
        assert [image["id"] for image in state["images"] if image["id"].startswith("f")] == [f"f{i}" for i in range(8)]
        assert state["folder"] == str(data)

    def test_an_image_and_what_is_said_of_it(self, server: Server) -> None:
        status, content, headers = ask(server, "/picture?image=f2")
        assert (status, headers["Content-Type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(content)).size == (48, 40)
        assert unpacked(ask(server, "/look?model=0&image=f2")[1])[0]["shown"] == [48, 40]
        assert ask(server, "/thumb?image=f2")[0] == 200

    def test_a_download_has_the_name_of_its_image(self, server: Server) -> None:
        status, content, headers = ask(server, "/download?model=0&image=f0&what=mask")
        assert status == 200
        assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''test_00.png"
        assert Image.open(io.BytesIO(content)).mode == "P"

    @pytest.mark.parametrize(
        "path",
        [
            "/../../../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/..%2f..%2fetc/passwd",
            "/..\\..\\etc\\passwd",
            "//etc/passwd",
            "/etc/passwd",
            "/file=/etc/passwd",
            "/app.js",
            "/picture/../../etc/passwd",
            "/static/..%252f..%252fetc/passwd",
        ],
    )
    def test_no_path_leads_to_a_file(self, server: Server, path: str) -> None:
        status, content, _ = ask(server, path)
        assert status == 404
        assert b"root:" not in content

    @pytest.mark.parametrize(
        "id",
        [
            "/etc/passwd",
            "../../../etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "f0/../../x",
            "f0%00.png",
            "file:///etc/passwd",
            "f99",
        ],
    )
    @pytest.mark.parametrize(
        "address",
        [
            "/picture?image=",
            "/thumb?image=",
            "/look?model=0&image=",
            "/near?model=0&box=0,0,9,9&image=",
            "/part?box=0,0,9,9&image=",
            "/download?model=0&what=mask&image=",
        ],
    )
    def test_no_id_leads_to_a_file(self, server: Server, address: str, id: str) -> None:
        status, content, _ = ask(server, address + id)
        assert status == 404
        assert "no such image" in json.loads(content)["error"]

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/look?image=f0", 400),
            ("/look?model=0", 400),
            ("/look?model=-1&image=f0", 400),
            ("/look?model=x&image=f0", 400),
            ("/look?model=7&image=f0", 404),
            ("/look?model=0&image=f0&image=f1", 400),
            ("/download?model=0&image=f0&what=../run", 400),
            ("/picture?image=f0&bands=0,1", 400),
            ("/picture?image=f0&bands=0,1,x", 400),
            ("/picture?image=f0&bands=0,1,9", 422),
            ("/part?image=f0&box=0,0,9", 400),
            ("/part?image=f0&box=0,0,9,99", 422),
            ("/part?image=f0&box=0,0,9,9", 200),
            ("/near?model=0&image=f0", 400),
            ("/near?model=0&image=f0&box=0,0,9,-9", 400),
            ("/near?model=0&image=f0&box=0,0,9,9999999999999999", 400),
            ("/near?model=0&image=f0&box=0,0,9,99", 422),
            ("/near?model=0&image=f0&box=0,0,9,9", 200),
            ("/?" + "a" * 3000, 414),
            ("/state?" + "&".join("abcdefghijk"), 200),
            ("/look?" + "&".join(f"{i}=1" for i in range(20)), 422),
        ],
    )
    def test_addresses_that_say_too_little(self, server: Server, path: str, status: int) -> None:
        assert ask(server, path)[0] == status

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example"},
            {"Host": "evil.example:{port}"},
            {"Host": "127.0.0.1.evil.example:{port}"},
            {"Host": "localhost.evil.example"},
            {"Host": "user@evil.example"},
            {"Host": "localhost@evil.example:{port}"},
            {"Host": "[::1"},
            {"Host": ""},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1:1"},
        ],
    )
    @pytest.mark.parametrize("path", ["/", "/state", "/picture?image=f0"])
    def test_another_page_or_name_is_refused(self, server: Server, headers: dict[str, str], path: str) -> None:
        port = str(server.server_address[1])
        status, content, _ = ask(server, path, **{name: value.replace("{port}", port) for name, value in headers.items()})
        assert status == 403
        assert b"f0" not in content

    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.0.0.2", "localhost:9000", "[::1]:9000"])
    def test_names_of_this_machine_also_through_a_tunnel(self, server: Server, name: str) -> None:
        assert ask(server, "/state", Host=name)[0] == 200

    def test_a_link_may_open_the_page_and_nothing_else(self, server: Server) -> None:
        click = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
        assert ask(server, "/", **click)[0] == 200
        assert ask(server, "/picture?image=f0", **click)[0] == 403

    def test_pictures_that_a_browser_keeps_are_of_one_start(self, desk: Desk) -> None:
        sessions = {Desk(desk.models, desk.gallery).state()["session"] for _ in range(3)}
        assert len(sessions) == 3
        assert desk.state()["session"] == desk.state()["session"]

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
    def test_other_methods(self, server: Server, method: str) -> None:
        assert ask(server, "/", method)[0] == 501

    def test_upload(self, server: Server) -> None:
        name = quote("Größe 1 & <b>.png")
        status, content, _ = ask(server, f"/upload?name={name}", "POST", png(30, 20), X_Protoseg="upload")
        assert status == 201
        entry = json.loads(content)
        assert entry["name"] == unquote(name)
        assert unpacked(ask(server, f"/look?model=0&image={entry['id']}")[1])[0]["shown"] == [20, 30]
        _, _, headers = ask(server, f"/download?model=0&image={entry['id']}&what=overlay")
        assert headers["Content-Disposition"] == f"attachment; filename*=UTF-8''{quote('Größe 1 & <b>', safe='')}.overlay.jpg"

    @pytest.mark.parametrize(
        ("name", "body", "headers", "status"),
        [
            ("a.png", b"no image", {"X_Protoseg": "upload"}, 422),
            ("a.exe", png(), {"X_Protoseg": "upload"}, 422),
            ("a.png", bytes(100_001), {"X_Protoseg": "upload"}, 413),
            ("a.png", png(), {}, 403),
            ("a.png", png(), {"X_Protoseg": "upload", "Content_Length": "-5"}, 411),
            ("a.png", png(), {"X_Protoseg": "upload", "Content_Length": "1e3"}, 411),
            ("a.png", png(), {"X_Protoseg": "upload", "Content_Length": "9" * 30}, 411),
            ("a.png", png(), {"X_Protoseg": "upload", "Transfer_Encoding": "chunked"}, 411),
            ("a.png", png(), {"X_Protoseg": "upload", "Origin": "http://evil.example"}, 403),
        ],
    )
    def test_uploads_that_are_refused(
        self, server: Server, name: str, body: bytes, headers: dict[str, str], status: int
    ) -> None:
        before = set(Path(server.desk.gallery._folder.name).iterdir())
        assert ask(server, f"/upload?name={name}", "POST", body, **headers)[0] == status
        assert set(Path(server.desk.gallery._folder.name).iterdir()) == before

    def test_simultaneous_uploads_beyond_the_limit_are_refused_in_a_sentence(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gallery = server.desk.gallery
        monkeypatch.setattr(gallery, "most_files", 1)
        before = set(Path(gallery._folder.name).iterdir())
        with socket.create_connection(server.server_address[:2]) as connection:
            head = f"POST /upload?name=a.png HTTP/1.1\r\nHost: 127.0.0.1:{server.server_address[1]}\r\nX-Protoseg: upload\r\n"
            connection.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode() + png()[:200])
            wait_until(lambda: len(set(Path(gallery._folder.name).iterdir()) - before) == 1)
            status, content, _ = ask(server, "/upload?name=b.png", "POST", bytes(90_000), X_Protoseg="upload")
            assert status == 503
            assert json.loads(content)["error"].startswith("b.png is not taken: too many files are being uploaded")
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
        wait_until(lambda: set(Path(gallery._folder.name).iterdir()) == before and not gallery._coming)

    def test_an_upload_that_ends_early_leaves_nothing(self, server: Server) -> None:
        before = set(Path(server.desk.gallery._folder.name).iterdir())
        with socket.create_connection(server.server_address[:2]) as connection:
            head = f"POST /upload?name=a.png HTTP/1.1\r\nHost: 127.0.0.1:{server.server_address[1]}\r\nX-Protoseg: upload\r\n"
            connection.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode() + png()[:200])
            connection.shutdown(socket.SHUT_WR)
            connection.recv(100)
        assert set(Path(server.desk.gallery._folder.name).iterdir()) == before

    def test_a_failure_is_said_without_its_inside(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def fail() -> None:
            raise RuntimeError("inside")

        monkeypatch.setattr(server.desk, "state", fail)
        status, content, _ = ask(server, "/state")
        assert status == 500
        assert b"inside" not in content
        assert "inside" in capfd.readouterr().err

    def test_a_look_that_nobody_waits_for_ends(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        ended = threading.Event()

        def slow(number: int, id: str, between: Callable[[], None]) -> bytes:
            try:
                for _ in range(600):
                    between()
                    time.sleep(0.1)
            except GoneError:
                ended.set()
                raise
            return b""

        monkeypatch.setattr(server.desk, "look", slow)
        with socket.create_connection(server.server_address[:2]) as connection:
            host = f"127.0.0.1:{server.server_address[1]}"
            connection.sendall(f"GET /look?model=0&image=f0 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert not ended.wait(0.5)
        assert ended.wait(30)

    def test_only_this_machine_by_default(self, server: Server) -> None:
        assert server.local
        assert server.address == f"http://127.0.0.1:{server.server_address[1]}/"
        assert [is_local(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "192.168.1.2", "example.org")] == [
            *[True] * 3, *[False] * 3,
        ]  # fmt: skip


def started(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> tuple[int, list[str]]:
    """The command, ended as soon as it serves, and the addresses that it has opened."""
    opened: list[str] = []

    def interrupt(self: Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupt)
    monkeypatch.setattr("webbrowser.open", opened.append)
    return main(["app", *arguments]), opened


class TestCommand:
    def test_opens_the_page_and_ends_with_ctrl_c(
        self, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, opened = started(monkeypatch, [str(run), str(data), "--port", "0"])
        said = capsys.readouterr().out
        assert status == 0
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address is not None
        assert opened == [address[0]]
        assert "2 models, 8 images" in said
        assert "warning" not in said

    def test_all_the_network_is_warned_of(
        self, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, opened = started(monkeypatch, [str(run), "--host", "0.0.0.0", "--port", "0", "--no-browser"])
        said = capsys.readouterr().out
        assert (status, opened) == (0, [])
        assert said.count("warning") == 1

    def test_a_port_that_is_taken(self, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert started(monkeypatch, [str(run), "--port", str(port), "--no-browser"])[0] == 2
            assert "another --port" in capsys.readouterr().err
            monkeypatch.setattr("protoseg.app.command.PORT", port)
            assert started(monkeypatch, [str(run), "--no-browser"])[0] == 0
            assert f":{port}/" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["{run}", "{missing}"], "neither a run nor a folder"),
            (["{missing}"], "no run in"),
            (["{run}", "--images", "{missing}"], "no folder"),
            (["{run}", "--port", "70000"], "65535"),
            (["{run}", "--images", "{run}", "--format", "voc"], "voc"),
        ],
    )
    def test_what_cannot_be_shown_is_said_in_a_sentence(
        self,
        run: Path,
        arguments: list[str],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        words = [word.format(run=run, missing=tmp_path / "missing") for word in arguments]
        assert started(monkeypatch, [*words, "--no-browser"])[0] == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1

    def test_what_was_uploaded_is_deleted_at_the_end(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folders: list[Path] = []

        def upload(self: Server) -> None:
            entry = self.desk.upload("a.png", len(png()), io.BytesIO(png()).read)
            folders.append(self.desk.gallery.find(entry["id"]).sample.image.parent)
            assert folders[0].is_dir()
            raise KeyboardInterrupt

        monkeypatch.setattr(Server, "serve_forever", upload)
        serve([run], None, host="127.0.0.1", port=0, browser=False, say=lambda line: None)
        assert not folders[0].exists()
