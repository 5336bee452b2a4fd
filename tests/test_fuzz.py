"""Hostile files: whatever stands in them, a reader gives a result or the errors that it documents, and nothing else.

A few examples of each in the suite, as many as `PROTOSEG_FUZZ` says under `make fuzz`.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from make_folder import PALETTE, draw_shapes, make_exif, make_folder, write_png
from make_formats import WRITERS, encode_brush, make_pictures
from make_yaml import nested_aliases
from PIL import Image
from rich.console import Console
from torch import nn

import protoseg.trained
from protoseg.arguments import parse_train
from protoseg.bench.cells import column_folder
from protoseg.bench.pictures import PICTURES as COLUMNS
from protoseg.bench.pictures import read_pictures
from protoseg.config import LARGEST_SIDE
from protoseg.data.archive import unpack
from protoseg.data.check import check_labels
from protoseg.data.class_list import read_class_list
from protoseg.data.formats import open_dataset
from protoseg.data.formats.coco import Segmentation
from protoseg.data.formats.labelme import StoredMask
from protoseg.data.geo import is_georeferenced, place_of
from protoseg.data.images import header_size, read_image
from protoseg.data.index import Sample, table_from_names
from protoseg.data.io import UnreadableImageError
from protoseg.data.masks import MaskFile, read_mask
from protoseg.data.palettes import check_palettes, mask_facts
from protoseg.data.rle import decode_brush
from protoseg.data.run_lists import SPLIT, read_run_lists
from protoseg.data.splits import make_partition
from protoseg.engine.callbacks import read_rows, read_shares
from protoseg.engine.checkpoint import MODEL, load_model_file, save_model
from protoseg.engine.evaluate import predict_image
from protoseg.engine.examples import EXAMPLES as PICTURES_FOLDER
from protoseg.engine.predict import window_for
from protoseg.engine.resumable import load_state, save_state
from protoseg.engine.tally import TALLY, make_tally
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.nn.small_unet import SmallUNet
from protoseg.nn.weights import read_state
from protoseg.report.gather import BASELINE, RESULT, START, gather
from protoseg.report.page import render
from protoseg.settings import TrainConfig
from protoseg.stage import read_finished, stored_json
from protoseg.stored import is_text
from protoseg.summary import print_result
from protoseg.trained import by_prototypes, load_model

EXAMPLES = int(os.environ.get("PROTOSEG_FUZZ", "0"))


def fuzzed(quick: int) -> Callable[[Any], Any]:
    """So many examples in the suite; the folder of a test serves all of its examples."""
    ignored = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    phases = tuple(Phase) if EXAMPLES else (Phase.explicit, Phase.generate)  # a failure in the suite is shown as it is found
    return settings(
        max_examples=EXAMPLES or quick,
        deadline=None,
        suppress_health_check=ignored,
        derandomize=not EXAMPLES,
        phases=phases,
    )


def refused(read: Callable[[], object], *documented: type[Exception]) -> str:
    """What a reader says against a file; empty where it takes it. Any error that it does not document is a fault."""
    try:
        read()
    except documented as error:
        return str(error) or "nothing"
    return ""


ODD = [-1, 0, 1, 2, 255, 1 << 40, 10**400, 0.5, 1e308, "", "0", "..", "/", "a.png", "\0", "\ud800", "/etc/passwd"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(ODD) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)
"""Whatever JSON can hold, and some of what attackers like."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of a file with some overwritten, left out, put in, or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["one", "some", "drop", "insert", "cut"]))
        if kind == "one" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "some":
            piece = draw(st.binary(max_size=8))
            content[at : at + len(piece)] = piece
        elif kind == "drop":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        else:
            del content[at:]
    return bytes(content)


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """A structure of JSON with some of its values replaced, left out or repeated."""
    content = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "drop", "repeat"]))
        if kind == "replace":
            container[key] = draw(JSON)
        elif kind == "drop":
            del container[key]
        elif isinstance(container, list):
            container.append(container[key])
        else:
            container[draw(st.text(max_size=5))] = container[key]
    return content


def _places(content: Any) -> Any:
    keys = content.keys() if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


# ---------------------------------------------------------------------------------------------------------------- masks


def _pictures() -> dict[str, bytes]:
    image, mask = draw_shapes(np.random.default_rng(0), (9, 12))
    palette = Image.fromarray(mask)
    palette.putpalette(PALETTE)
    wide = Image.fromarray(mask.astype(np.uint16) * 300)
    turned = Image.Exif()
    turned[274] = 6
    files: dict[str, bytes] = {}
    for name, picture, options in (
        ("index.png", palette, {}),
        ("wide.png", wide, {}),
        ("color.png", Image.fromarray(image), {}),
        ("color.bmp", Image.fromarray(image), {}),
        ("index.tif", palette, {}),
        ("packed.tif", Image.fromarray(image), {"compression": "tiff_lzw"}),
        ("wide.tiff", wide, {"compression": "tiff_deflate"}),
        ("photo.jpg", Image.fromarray(image), {"exif": turned}),
        ("photo.webp", Image.fromarray(image), {}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, Image.registered_extensions()[Path(name).suffix], **options)
        files[name] = buffer.getvalue()
    with TemporaryDirectory() as folder:
        rows = [bytes(range(i, i + 24)) for i in range(5)]
        files["deep.png"] = write_png(Path(folder) / "deep.png", rows, width=4, depth=16, color=2).read_bytes()
    return files


PICTURES = _pictures()


@pytest.mark.parametrize("name", PICTURES)
@given(data=st.data())
@fuzzed(12)
def test_pictures(tmp_path: Path, name: str, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(PICTURES[name])))
    for read in (read_image, read_mask, header_size):
        message = refused(partial(read, path), UnreadableImageError)
        assert not message or str(path) in message


TAGS = [256, 270, 274, 282, 296, 305, 306, 513, 531, 532, 700, 33432, 34665, 34853, 40965, 65535]
"""What cameras write, pointers to further lists of tags among it."""
ENTRIES = st.tuples(
    st.sampled_from(TAGS) | st.integers(0, 65535),
    st.integers(0, 14),
    st.integers(0, 5) | st.just(1 << 31),
    st.binary(min_size=4, max_size=4) | st.integers(0, 80).map(lambda place: struct.pack("<I", place)),
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of each tag that is passed over
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@given(entries=st.lists(ENTRIES, max_size=5), code=st.integers(1, 8), rest=st.binary(max_size=60))
@fuzzed(20)
def test_tags_of_pictures(tmp_path: Path, suffix: str, entries: Any, code: int, rest: bytes) -> None:
    """Tags of any type, beside an orientation that turns the image: whatever they say, its pixels are whole."""
    path, turned = tmp_path / f"x{suffix}", (274, 3, 1, struct.pack("<H", code))
    Image.new("RGB", (7, 5)).save(path, exif=make_exif(turned, *entries) + rest)
    assert read_image(path).shape in {(5, 7, 3), (7, 5, 3)}
    if suffix == ".png":  # the others blur the numbers of classes, and are no masks
        assert read_mask(path).shape == read_image(path).shape[:2]


GEO = [(33550, 12, (0.5, 0.5, 0.0)), (33922, 12, (0.0, 0.0, 0.0, 9.0, 8.0, 0.0)), (34735, 3, (1, 1, 0, 1, 3072, 0, 1, 32633))]
"""Tags of GeoTIFF: size of a pixel, place of the first one, reference system; and the types of their numbers."""
NUMBERS = st.lists(st.sampled_from([0, 1, 255, 32767, 3072, 2048]) | st.integers(0, 65535), min_size=1, max_size=20)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(data=st.data())
@fuzzed(20)
def test_places_of_geotiffs(tmp_path: Path, data: st.DataObject) -> None:
    """Of an image that can be read: it says where it lies, or it does not."""
    path, tags = tmp_path / "x.tif", []
    for code, kind, values in GEO:
        if data.draw(st.booleans()):
            values = tuple(data.draw(NUMBERS))
        tags.append((code, kind, len(values), values, True))
    if data.draw(st.booleans()):
        tags.append((34264, 12, 16, tuple(float(value) for value in data.draw(NUMBERS.map(lambda x: (16 * x)[:16]))), True))
    tifffile.imwrite(path, np.zeros((5, 7), dtype=np.uint8), extratags=tags)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    if not refused(partial(read_image, path), UnreadableImageError):
        assert is_georeferenced(path) in (True, False)
        assert str(place_of(path))


def with_chunk(whole: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG with another content in its first chunk of a kind."""
    at = whole.index(kind)
    (length,) = struct.unpack(">I", whole[at - 4 : at])
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole[: at - 4] + chunk + whole[at + 4 + length + 4 :]


@given(
    palettes=st.lists(st.binary(max_size=24) | st.binary(min_size=760, max_size=800), min_size=2, max_size=2),
    listed=st.booleans(),
)
@fuzzed(20)
def test_palettes(tmp_path: Path, palettes: list[bytes], listed: bool) -> None:
    """Palettes of any length, against one another and against the colours of a class list."""
    samples = []
    for name, palette in zip("ab", palettes, strict=True):
        path = tmp_path / f"{name}.png"
        path.write_bytes(with_chunk(PICTURES["index.png"], b"PLTE", palette))
        samples.append(Sample(name, path, MaskFile(path), "train"))
    table = table_from_names(["a", "b"], [(0, 0, 0), (200, 30, 0)]) if listed else None
    message = refused(lambda: check_palettes(mask_facts(samples), table), ValueError)
    assert not message or str(tmp_path) in message


@given(data=st.data())
@fuzzed(15)
def test_pngs_in_labelme(data: st.DataObject) -> None:
    content = data.draw(damaged(PICTURES["index.png"]))
    code = data.draw(st.just(base64.b64encode(content).decode()) | st.text(max_size=20))
    place = st.integers(-20, 40)
    try:
        patch = StoredMask(data.draw(place), data.draw(place), code).patch((9, 12))
    except ValueError:
        return
    assert patch.inside.dtype == np.bool_
    assert patch.top + patch.inside.shape[0] <= 9
    assert patch.left + patch.inside.shape[1] <= 12


@given(
    code=st.lists(st.integers(0, 255) | JSON, max_size=40) | damaged(bytes(encode_brush(np.eye(4, 5, dtype=bool)))).map(list)
)
@fuzzed(15)
def test_brushes_of_label_studio(code: list[Any]) -> None:
    refused(lambda: decode_brush(code, (4, 5)), ValueError)


RUNS = {"size": [4, 5], "counts": [2, 3, 15]}
CODES = st.one_of(
    changed({"code": RUNS}).map(lambda record: record.get("code")),
    st.text(alphabet=[chr(n) for n in range(46, 114)], max_size=12).map(lambda counts: {**RUNS, "counts": counts}),
    changed([[0.0, 0.0, 3.0, 0.0, 3.0, 3.0]]),
    JSON,
)


@given(code=CODES)
@fuzzed(25)
def test_segmentations_of_coco(code: Any) -> None:
    try:
        patch = Segmentation(code).patch((4, 5))
    except ValueError:
        return
    assert patch.top + patch.inside.shape[0] <= 4
    assert patch.left + patch.inside.shape[1] <= 5


# ----------------------------------------------------------------------------------------------------- annotation files

FILE = {
    "coco": "annotations/instances_train2017.json",
    "labelme": "train/images/scene_1.json",
    "label studio": "project-3.json",
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    for name in FILE:
        WRITERS[name][1](root / name, make_pictures())
    return root


def read_labels(root: Path, format: str) -> None:
    index = open_dataset(root, format=format)
    check_labels(index, make_partition(index))


@pytest.mark.parametrize("name", FILE)
@given(data=st.data())
@fuzzed(12)
def test_annotation_files(datasets: Path, name: str, data: st.DataObject) -> None:
    file = datasets / name / FILE[name]
    whole = file.read_bytes()
    try:
        structure = changed(json.loads(whole)).map(lambda content: json.dumps(content).encode())
        file.write_bytes(data.draw(structure | damaged(whole)))
        assert refused(lambda: read_labels(datasets / name, name.replace(" ", "_")), ValueError, FileNotFoundError) != "nothing"
    finally:
        file.write_bytes(whole)


# ---------------------------------------------------------------------------------------------------- lists and archives

CLASS_LISTS = {
    "classes.txt": ["cat", "dog 1 2 3", "bird #ff0080", "7 8 9 fish", "1 cow", "hen: 4", "# note"],
    "classes.csv": ["name,r,g,b", "cat,1,2,3", "dog,4,5,6", "value;name", "1;cat"],
    "labelmap.txt": ["cat:1,2,3::", "dog:4,5,6:part:act", "# label:color_rgb:parts:actions"],
}
PIECES = [
    "9" * 5000,
    "256",
    "-1",
    "\N{SUPERSCRIPT TWO}",
    "\N{ARABIC-INDIC DIGIT THREE}",
    ",",
    ";",
    ":",
    "#",
    '"',
    "\t",
    "\0",
    "\ufeff",
    " ",
]


@st.composite
def listing(draw: st.DrawFn, lines: list[str]) -> bytes:
    """A text of lines, some of them with odd pieces."""
    chosen = st.sampled_from(lines) | st.text(max_size=8)
    odd = st.tuples(chosen, st.sampled_from(PIECES), st.sampled_from(["", "1", " 1 2 3"])).map("".join)
    return "\n".join(draw(st.lists(chosen | odd, max_size=5))).encode(errors="replace")


@pytest.mark.parametrize("name", CLASS_LISTS)
@given(data=st.data())
@fuzzed(40)
def test_class_lists(tmp_path: Path, name: str, data: st.DataObject) -> None:
    lines = CLASS_LISTS[name]
    (tmp_path / name).write_bytes(data.draw(listing(lines) | damaged("\n".join(lines[:3]).encode())))
    message = refused(lambda: read_class_list(tmp_path), ValueError)
    assert not message or str(tmp_path / name) in message or message.startswith("the class name")


@pytest.fixture(scope="module")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("fuzz") / "data", train=3, labeled=2, test=1)


@given(data=st.data(), option=st.sampled_from(["labels", "holdout"]))
@fuzzed(40)
def test_lists_of_images(tmp_path: Path, folder_of_images: Path, data: st.DataObject, option: str) -> None:
    index, path = open_dataset(folder_of_images), tmp_path / "list.txt"
    names = [
        "img_00",
        "img_01.png",
        "images/img_00.png",
        "img_02",
        "test/test_00",
        "img_00.png masks/img_00.png",
        "../img_00",
        "/",
    ]
    path.write_bytes(data.draw(listing(names) | damaged("\n".join(names[:2]).encode())))
    refused(lambda: make_partition(index, **{option: str(path)}), ValueError)


MEMBERS = [
    "images/a.png",
    "masks/a.png",
    "../out.png",
    "/out.png",
    "C:/out.png",
    "a\\..\\..\\out.png",
    "images",
    "a/../../out.png",
    "\0",
    "",
]
LINK = 0o120777 << 16


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(data=st.data())
@fuzzed(40)
def test_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    """Nothing is written outside the cache, and nothing is left in it of what is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "x.zip"
    names = data.draw(st.lists(st.sampled_from(MEMBERS) | st.text(max_size=300), min_size=1, max_size=4, unique=True))
    with zipfile.ZipFile(path, "w", data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name in names:
            member = zipfile.ZipInfo(name.encode(errors="replace").decode())
            member.external_attr = data.draw(st.sampled_from([0, 0, LINK]))
            archive.writestr(member, b"/etc/passwd")
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    message = refused(lambda: unpack(path), ValueError)
    assert not message or str(path) in message
    assert {found.name for found in tmp_path.iterdir()} <= {"x.zip", "cache"}
    unpacked = tmp_path / "cache/protoseg/unpacked"
    assert not message or list(unpacked.iterdir()) == []
    assert not any(found.is_symlink() for found in unpacked.rglob("*"))
    shutil.rmtree(tmp_path / "cache")


# ------------------------------------------------------------------------------------------------------------- settings

SETTINGS = TrainConfig(data="data").to_dict()
SOURCE = yaml.safe_dump(SETTINGS)
TEXTS = [
    "a: [",
    "&a [*a]",
    "[" * 3000,
    "!!python/object/apply:os.system [exit]",
    "a: !!int x",
    "a: 2001-99-99",
    "\0",
    "=:",
    "? ",
    nested_aliases(),
    nested_aliases(mappings=True),
    f"classes: {{merge: {nested_aliases()}}}",
    f"model: '{nested_aliases()}'",
    "steps: &a {x: *a}",
]


@given(text=changed(SETTINGS).map(yaml.safe_dump) | damaged(SOURCE.encode()) | st.sampled_from(TEXTS) | st.text(max_size=20))
@fuzzed(10)
def test_files_of_settings(tmp_path: Path, text: str | bytes) -> None:
    """As a recipe, and as what a run goes on with."""
    recipe = tmp_path / "config.yaml"
    recipe.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    for words in (["data", "--recipe", str(recipe)], ["--resume", str(tmp_path)]):
        assert refused(partial(parse_train, words), ValueError, FileNotFoundError) != "nothing"


# --------------------------------------------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / MODEL
    config = TrainConfig(data="data").to_dict()
    config["model"] |= {"arch": "small_unet", "width": 2, "weights": "none"}
    config["inference"] |= {"window": 24, "stride": 20, "scales": [1.0, 0.5]}
    header = {
        "config": config,
        "classes": {"names": ["a", "b"], "values": [[0], [1]], "colors": [[0, 0, 0], [9, 9, 9]], "ignored": []},
        "normalization": {"mean": [0.5] * 3, "std": [0.2] * 3, "dtype": "uint8"},
        "crop": 32,
        "recipe": "prototype",
        "versions": {},
    }
    head = PrototypeHead(2, 2, per_class=2)
    save_model(path, SmallUNet(2, width=2).state_dict(), head.state_dict(), header)
    load_model(path)
    by_prototypes(load_model(path), path)
    return path


def with_header(whole: bytes, header: str) -> bytes:
    """A model file with another description."""
    length = struct.unpack("<Q", whole[:8])[0]
    outer = json.loads(whole[8 : 8 + length])
    outer["__metadata__"]["protoseg"] = header
    text = json.dumps(outer).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


@given(data=st.data())
@fuzzed(15)
def test_models(tmp_path: Path, model: Path, data: st.DataObject) -> None:
    whole = model.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = load_model_file(model).header
    path = tmp_path / MODEL
    path.write_bytes(
        data.draw(
            changed(header).map(lambda content: with_header(whole, json.dumps(content)))
            | st.sampled_from(["[" * 100_000, "[]", "1" * 5000]).map(lambda text: with_header(whole, text))
            | damaged(whole[: 8 + length]).map(lambda head: head + whole[8 + length :])
            | damaged(whole)
        )
    )
    message = refused(lambda: by_prototypes(load_model(path), path), ValueError)
    assert not message or str(path) in message
    if not message:
        says_something_of_an_image(path)


def says_something_of_an_image(path: Path) -> None:
    """A model that is taken predicts, and the windows for a large image are no larger than one."""
    model = load_model(path)
    assert window_for(5000, len(model.classes), model.crop) <= LARGEST_SIDE
    image = np.random.default_rng(0).integers(0, 256, (20, 30, model.normalization.kind.channels))
    found = predict_image(model.network, image.astype(model.normalization.kind.dtype), model.normalization, model.inference)
    assert found.label.shape == (20, 30)


# What somebody may write into the places that say how an image is seen: the settings of a model file are many, these few.
SEEN = st.fixed_dictionaries(
    {},
    optional={
        "crop": JSON | st.floats(),
        "window": st.integers(-1, 40) | JSON | st.floats(),
        "stride": st.integers(-1, 40) | JSON | st.floats(),
        "scales": st.lists(st.floats() | st.floats(0, 9) | JSON, max_size=3) | JSON,
        "flip": JSON,
    },
)


@given(seen=SEEN)
@fuzzed(40)
def test_how_a_model_sees_an_image(tmp_path: Path, model: Path, seen: dict[str, Any]) -> None:
    header = load_model_file(model).header
    if "crop" in seen:
        header["crop"] = seen.pop("crop")
    header["config"]["inference"] |= seen
    path = tmp_path / MODEL
    path.write_bytes(with_header(model.read_bytes(), json.dumps(header)))
    message = refused(lambda: load_model(path), ValueError)
    assert not message or str(path) in message
    if not message:
        says_something_of_an_image(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("config", "model", "width"), 10**6, "more channels than its tensors have"),
        (("config", "model", "features"), 10**7, "more channels than its tensors have"),
        (("config", "model", "projection"), 10**7, "more channels than its tensors have"),
        (("config", "model", "mean"), [0.5] * 10**5, "more channels than its tensors have"),
        (("config", "model", "width"), "wide", "model.width is 'wide'"),
        (("classes", "names"), ["background", None, "disc"], "a class is called 'None'"),
        (("config", "model", "arch"), "no_net", "describes a network that cannot be built"),
        (("config", "prototypes", "temperature"), 0, "do not fit its own description: temperature"),
        (("normalization", "mean"), ["grey"], "its header does not fit"),
        (("normalization", "mean"), [10**400] * 3, "its header does not fit"),
        (("normalization", "mean"), [0.5] * 4, "none of images that its network takes"),
        (("normalization", "std"), [0.5], "none of images that its network takes"),
        (("normalization", "dtype"), "int8", "none of images that its network takes"),
        (("crop",), 10**12, "crop is 1000000000000, and at most 4096 pixels"),
        (("crop",), 0, "crop is 0, and at most 4096 pixels"),
        (("crop",), math.nan, "its header does not fit"),
        (("config", "inference", "window"), 10**12, "window is 1000000000000, and at most 4096 pixels"),
        (("config", "inference", "window"), 1.5, "window is 1.5; give a whole number"),
        (("config", "inference", "stride"), 1.5, "stride is 1.5; give a whole number"),
        (("config", "inference", "scales"), [100], r"scales are \[100\]; give 1 to 32 numbers above 0, at most 8"),
        (("config", "inference", "scales"), [math.nan], "scales are .nan.; give"),
        (("config", "inference", "scales"), [1.0, math.inf], "scales are .1.0, inf.; give"),
        (("config", "inference", "scales"), [1.0] * 1000, "give 1 to 32 numbers"),
    ],
)
def test_a_header_is_checked_before_memory_is_made(
    tmp_path: Path, model: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    header = load_model_file(model).header
    section = header
    for name in place[:-1]:
        section = section[name]
    section[place[-1]] = value
    path = tmp_path / MODEL
    path.write_bytes(with_header(model.read_bytes(), json.dumps(header)))
    with pytest.raises(ValueError, match=message) as refusal:
        by_prototypes(load_model(path), path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("arch", ["unet", "dpt", "dino_dpt"])
@pytest.mark.parametrize("encoder", ["tu-hf_hub:evil/x", "tu-local-dir:{}"])
def test_a_header_reaches_no_network_and_no_folder(
    tmp_path: Path, model: Path, arch: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = load_model_file(model).header
    header["config"]["model"] |= {"arch": arch, "encoder": encoder.format(tmp_path), "features": None}
    path = tmp_path / MODEL
    path.write_bytes(with_header(model.read_bytes(), json.dumps(header)))
    touched: list[str] = []
    for outside in ("timm.models._hub.hf_hub_download", "timm.models._hub.load_cfg_from_json", "socket.socket.connect"):
        monkeypatch.setattr(outside, lambda *args, of=outside, **options: touched.append(of))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} describes .* is no plain name"):
        load_model(path)
    assert not touched


@pytest.mark.parametrize(
    ("arch", "encoder"), [("dino_dpt", "dinov2_giant"), ("paper_deeplabv3plus", "resnet50"), ("segformer", "mit_b5")]
)
def test_another_network_is_refused_before_memory_is_made(
    tmp_path: Path, model: Path, arch: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has a few kB; the first of these networks would have 4.5 GB."""
    header = load_model_file(model).header
    header["config"]["model"] |= {"arch": arch, "encoder": encoder, "features": None}
    path = tmp_path / MODEL
    path.write_bytes(with_header(model.read_bytes(), json.dumps(header)))
    build = protoseg.trained.build_network

    def build_without_memory(*args: Any, **options: Any) -> nn.Module:
        assert torch.empty(0).device.type == "meta"
        return build(*args, **options)

    monkeypatch.setattr(protoseg.trained, "build_network", build_without_memory)
    with pytest.raises(ValueError, match="do not fit its own description"):
        load_model(path)


# ---------------------------------------------------------------------------------------------------------- checkpoints


def _checkpoints() -> dict[str, bytes]:
    """With its checksum, as earlier versions wrote it, and as torch wrote files before archives."""
    state = {"state_dict": nn.Conv2d(2, 3, 1).state_dict(), "global_step": 7, "optimizer_states": [{"lr": 0.1}]}
    files: dict[str, bytes] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        save_state(state, path)
        files["checksum"] = path.read_bytes()
        for name, archive in (("archive", True), ("before archives", False)):
            torch.save(state, path, _use_new_zipfile_serialization=archive)
            files[name] = path.read_bytes()
    return files


SAVED = _checkpoints()


def with_pickle(whole: bytes, content: bytes) -> bytes:
    """An archive of torch with another pickle in it."""
    again = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(again, "w") as changed:
        for member in archive.infolist():
            changed.writestr(member.filename, content if member.filename.endswith("data.pkl") else archive.read(member))
    return again.getvalue()


def pickle_of(whole: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


STATES = changed({"state_dict": {"a": 1, "b": {"c": 2}}, "global_step": 7, "protoseg_checksum": False}).map(
    lambda state: saved({**state, "tensor": torch.zeros(3)})
)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(data=st.data())
@fuzzed(30)
def test_checkpoints(tmp_path: Path, data: st.DataObject) -> None:
    """As what a run goes on from, and as a file of weights: bytes of the file, of its pickle alone, and other content."""
    bytes_of_any = st.sampled_from(list(SAVED.values())).flatmap(damaged)
    bytes_of_pickle = damaged(pickle_of(SAVED["archive"])).map(partial(with_pickle, SAVED["archive"]))
    content = data.draw(bytes_of_any | bytes_of_pickle | STATES)
    run, weights = tmp_path / "last.ckpt", tmp_path / "weights.pth"
    for path, read in ((run, partial(load_state, run)), (weights, partial(read_state, weights))):
        path.write_bytes(content)
        message = refused(read, ValueError)
        assert not message or str(path) in message


# --------------------------------------------------------------------------------------------------------- run folders


CELL = {"method": "prototype", "seed": 0, "data": "data", "labels": "3", "recipe": "prototype@1"}
COLUMN = f"{COLUMNS}/{column_folder(CELL)}"


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run leaves behind, of two images and a baseline."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    (folder / BASELINE).mkdir(parents=True)
    (folder / MODEL).write_bytes(model.read_bytes())
    (folder / "config.yaml").write_text(SOURCE)
    lists = {"hash": "00", "labeled": ["a", "b"], "unlabeled": 3, "evaluation": ["c", "d"], "evaluation_name": "test"}
    (folder / SPLIT).write_text(json.dumps(lists))
    score = {"miou": 0.5, "iou": {"a": 0.5, "b": None}, "steps": 8, "seconds": 61.5}
    device = {"device": "cpu: x", "cpus": 2, "system": "y"}
    events = [{"step": 3, "alarm": "text"}, {"step": 4, "alarm": "text", "back_to": 2, "lr_factor": 0.5}]
    said = {"method": "prototype", "recipe": "r", "split": {"evaluation": "test"}, "skipped": ["x.png"], "other_kind": []}
    result = {**score, **said, "evaluated": 2, "events": events, "machine": device, "finished": "2026-01-01T00:00:00"}
    (folder / RESULT).write_text(json.dumps({**result, "baseline": score, "gain": 0.1}))
    (folder / BASELINE / RESULT).write_text(json.dumps(result))
    facts = {"folder": "data", "format": "folder", "labeled": 2, "unlabeled": 3, "evaluation": 2, "evaluation_name": "test"}
    finding = {"severity": "warning", "title": "a title", "advice": "do it"}
    facts |= {"sizes": [[12, 9, 2]], "kind": "x", "shares": {"a": 0.5, "b": 0.5}, "notes": ["a note"], "findings": [finding]}
    (folder / START).write_text(json.dumps({"commands": ["protoseg train data"], "data": facts}))
    rows = ["step,seconds,images_per_second,lr,loss,miou", "4,1.0,2.0,0.1,0.5,", "8,2.0,2.0,0.1,inf,0.5"]
    shares = {"labeled": [0.5, 0.5], "pseudo": [0.4, 0.6], "prototype_use": []}
    for part in (folder, folder / BASELINE):
        (part / "metrics.csv").write_text("\n".join(rows) + "\n")
        (part / "health.jsonl").write_text("".join(json.dumps({"step": step, **shares}) + "\n" for step in (4, 8)))
        make_tally(2, [(name, torch.tensor([[3, 1], [0, 2]])) for name in "cd"]).save(part / TALLY)
    (folder / PICTURES_FOLDER).mkdir()
    for name in ("0-image.jpg", "0-0.png"):
        Image.new("RGB", (4, 3)).save(folder / PICTURES_FOLDER / name)
    layer = {"name": "truth", "picture": "0-0.png", "score": None, "shares": {"a": 1.0}}
    shown = [{"name": "c", "rank": "worst", "size": [4, 3], "image": "0-image.jpg", "layers": [layer]}]
    (folder / PICTURES_FOLDER / "examples.json").write_text(json.dumps(shown))
    shutil.copytree(folder / PICTURES_FOLDER, folder / COLUMN)  # as a benchmark keeps them
    said = {"method": "prototype", "seed": 0, "classes": ["a", "b"], "colors": [[0, 0, 0], [9, 9, 9]]}
    (folder / COLUMN / "shown.json").write_text(json.dumps(said))
    assert read_pictures(folder / COLUMNS, CELL) is not None
    assert "IoU of each class" in render(gather(folder))
    read_what_goes_on(folder)
    return folder


def read_what_goes_on(folder: Path) -> None:
    """What `train --resume` reads of a run folder, beside its settings and checkpoints."""
    read_run_lists(folder)
    stored_json(folder / START, {"commands": [is_text]})
    for file in (folder / RESULT, folder / BASELINE / RESULT):
        print_result(read_finished(file, scored=True), folder, Console(file=io.StringIO()))
    assert all(int(row["step"]) < 1 << 63 and float(row["seconds"]) < math.inf for row in read_rows(folder / "metrics.csv"))
    assert all(row["step"] < 1 << 63 for row in read_shares(folder / "health.jsonl"))


def packed(arrays: dict[str, Any]) -> bytes:
    """An archive of arrays, of whatever they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            array = io.BytesIO()
            if name == "names":
                content = list(json.dumps(content).encode())
            try:
                whole = np.array(content, dtype=np.uint8 if name == "names" else None)
            except ValueError:  # lists of different lengths
                whole = np.array([content, None], dtype=object)
            np.lib.format.write_array(array, whole)
            archive.writestr(f"{name.encode(errors='replace').decode()}.npy", array.getvalue())
    return buffer.getvalue()


ARRAYS = {"num_classes": 2, "names": ["c", "d"], "first": [0, 3, 6], "pair": [0, 1, 3] * 2, "count": [3, 1, 2] * 2}
OUTSIDE = ["/tmp/x-image.jpg", "../x-image.jpg", "../../x.png", "a/../../x-0.png", "..", ".png", "a\0.png", "\ud800.png"]
"""What a list of pictures may name."""
PARTS = [SPLIT, RESULT, START, f"{BASELINE}/{RESULT}", "examples/examples.json", "health.jsonl", "metrics.csv", TALLY]
PARTS += [f"{COLUMN}/shown.json", f"{COLUMN}/examples.json"]


def written(rows: list[Any]) -> bytes:
    """A table, of whatever it is."""
    lines = [",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
    return "".join(line + "\n" for line in lines).encode(errors="replace")


@st.composite
def another(draw: st.DrawFn, name: str, whole: bytes) -> bytes:
    """A file of a run folder, whose bytes or content somebody has changed."""
    if name == TALLY:
        content = changed(ARRAYS).map(packed)
    elif name.endswith("examples.json"):
        rows = json.loads(whole)
        row, other = rows[0], draw(st.sampled_from(OUTSIDE))
        names = st.sampled_from(
            [{"image": other}, {"layers": [{**row["layers"][0], "picture": other}]}, {"size": [1 << 20] * 2}]
        )
        listed = names.map(lambda own: [row | own])
        content = (changed(rows) | listed).map(lambda value: json.dumps(value).encode())
    elif name.endswith(".json"):
        content = changed(json.loads(whole)).map(lambda value: json.dumps(value).encode())
    elif name == "health.jsonl":
        lines = [json.loads(line) for line in whole.splitlines()]
        content = changed(lines).map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode())
    elif name == "metrics.csv":
        table = [line.split(",") for line in whole.decode().splitlines()]
        content = changed(table).map(written)
    else:
        content = st.sampled_from(TEXTS).map(str.encode)
    others = [b"", b"null", b"3", b"[]", b"{}", *([] if name == "config.yaml" else [b"[" * 100_000])]  # a minute, as YAML
    return draw(content | content | damaged(whole) | st.sampled_from(others))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:All-NaN", "ignore:Duplicate name")
@pytest.mark.parametrize("name", [*PARTS, "config.yaml"])
@given(data=st.data())
@fuzzed(8)
def test_files_of_a_run(run: Path, name: str, data: st.DataObject) -> None:
    """Behind `protoseg report` and `train --resume`."""
    file = run / name
    whole = file.read_bytes()
    readers = [lambda: render(gather(run)).encode(errors="backslashreplace"), lambda: read_what_goes_on(run)]
    readers.append(lambda: read_pictures(run / COLUMNS, CELL))
    try:
        file.write_bytes(data.draw(another(name, whole)))
        for read in readers:
            message = refused(read, ValueError, FileNotFoundError)
            assert not message or str(file) in message
            assert "\n" not in message
    finally:
        file.write_bytes(whole)
