"""Bad input stops before training: one message that names the file, exit status 2, and nothing written."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from make_folder import TINY, TINY_RUN, cut_short, draw_shapes, make_folder, write_image, write_index, write_png
from make_yaml import nested_aliases
from PIL import Image
from safetensors.torch import save_file

from protoseg.cli import main
from protoseg.data.masks import read_mask
from protoseg.engine.checkpoint import FORMAT, load_model_file

Refuse = Callable[..., str]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, and every folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a command that has to be refused; returns its message."""

    def run(*words: str | Path, names: str | Path) -> str:
        before = tree(tmp_path)
        capsys.readouterr()
        status = main([str(word) for word in words])
        error = capsys.readouterr().err
        assert status == 2
        assert len(error.strip().splitlines()) == 1, error
        assert error.startswith(f"protoseg {words[0]}: ")
        assert str(names) in error
        assert tree(tmp_path) == before
        return error

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", train=6, labeled=3, test=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that ended, with its data set beside it."""
    folder = tmp_path_factory.mktemp("trained")
    make_folder(folder / "data", train=6, labeled=3, test=2)
    assert main(["train", str(folder / "data"), *TINY, "--out", str(folder / "run")]) == 0
    return folder / "run"


def no_folder(data: Path) -> Path:
    shutil.rmtree(data)
    return data


def no_images(data: Path) -> Path:
    shutil.rmtree(data / "images")
    return data


def no_masks_folder(data: Path) -> Path:
    shutil.rmtree(data / "masks")
    return data


def no_mask(data: Path) -> Path:
    for mask in (data / "masks").rglob("*.png"):
        mask.unlink()
    return data / "masks"


def no_image_in_common(data: Path) -> Path:
    no_mask(data)
    return write_index(data / "masks/other.png", draw_shapes(np.random.default_rng(0))[1]).relative_to(data)


def masks_in_a_folder_of_another_name(data: Path) -> Path:
    (data / "masks").rename(data / "labels")
    return Path("if labels/ holds the masks, rename it to masks/")


def folders_of_other_names(data: Path) -> Path:
    (data / "masks").rename(data / "gt")
    (data / "images").rename(data / "Images")
    return Path("if Images/ or gt/ holds the images, rename it to images/")


def labels_of_boxes(data: Path) -> Path:
    (data / "masks").rename(data / "labels")
    for mask in (data / "labels").rglob("*.png"):
        mask.rename(mask.with_suffix(".txt")).write_text("0 0.5 0.5 0.2 0.1\n")
    return data / "labels/img_00.txt (YOLO's labels) is not read"


def xml_of_cvat(data: Path) -> Path:
    shutil.rmtree(data / "masks")
    (data / "annotations.xml").write_text("<annotations></annotations>")
    return data / "annotations.xml (CVAT's XML or VOC's boxes) is not read"


def a_data_set_one_level_deeper(data: Path) -> Path:
    aside = data.rename(data.with_name("aside"))
    data.mkdir()
    aside.rename(data / "unpacked")
    return data / "unpacked looks like one"


def masks_with_a_longer_name(data: Path) -> Path:
    for mask in (data / "masks").glob("*.png"):
        mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    return Path(f"{data}/images/img_00.png is meant, call it {data}/masks/img_00.png")


def masks_outside_the_folders_of_their_images(data: Path) -> Path:
    (data / "images/a").mkdir()
    for image in (data / "images").glob("*.png"):
        image.rename(data / "images/a" / image.name)
    return Path(f"{data}/images/a/img_00.png is meant, call it {data}/masks/a/img_00.png")


def images_of_an_unread_kind(data: Path) -> Path:
    for image in (data / "images").glob("*.png"):
        image.rename(image.with_suffix(".heic"))
    return data / "images/img_00.heic is of a kind that is not read"


def truncated_image(data: Path) -> Path:
    return cut_short(data / "images/img_01.png")


def truncated_mask(data: Path) -> Path:
    return cut_short(data / "masks/img_01.png")


def truncated_test_image(data: Path) -> Path:
    return cut_short(data / "images/test/test_01.png")


def text_as_image(data: Path) -> Path:
    (data / "images/img_00.png").write_text("hello")
    return data / "images/img_00.png"


def one_image_of_sixteen_bits(data: Path) -> Path:
    tifffile.imwrite(
        data / "images/img_02.tif", np.zeros((40, 48, 5), np.uint16), photometric="minisblack", planarconfig="contig"
    )
    (data / "images/img_02.png").unlink()
    return data / "images/img_02.tif"


def an_animation_as_image(data: Path) -> Path:
    frames = [Image.new("RGB", (48, 40), color) for color in ("red", "green", "blue")]
    frames[0].save(data / "images/img_02.png", save_all=True, append_images=frames[1:])
    return Path(f"{data}/images/img_02.png holds 3 images")


def an_animation_as_mask(data: Path) -> Path:
    frames = [Image.new("L", (48, 40), color) for color in (0, 1)]
    frames[0].save(data / "masks/img_02.png", save_all=True, append_images=frames[1:])
    return Path(f"{data}/masks/img_02.png holds 2 images")


def an_image_of_400_megapixels(data: Path) -> Path:
    path = write_png(data / "images/img_02.png", [bytes(4)], width=4, depth=8, color=0)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return Path(f"{path} is an image of 400 megapixels")


def photograph_as_mask(data: Path) -> Path:
    return write_image(data / "masks/img_02.png", draw_shapes(np.random.default_rng(0))[0])


def colors_beside_numbers(data: Path) -> Path:
    """Which colour is which number, nobody knows."""
    path = data / "masks/img_02.png"
    return write_image(path, np.array([[0, 0, 0], [200, 30, 0], [0, 0, 255]], dtype=np.uint8)[read_mask(path)])


def color_outside_the_class_list(data: Path) -> Path:
    (data / "classes.txt").write_text("ground 0 0 0\nsquare 200 30 0\ndisc 0 0 254\n")
    return colors_beside_numbers(data)


def transparent_mask(data: Path) -> Path:
    return write_image(data / "masks/img_02.png", np.arange(40 * 48 * 4, dtype=np.uint8).reshape(40, 48, 4))


def other_size(data: Path) -> Path:
    return write_index(data / "masks/img_02.png", np.zeros((48, 40), dtype=np.uint8))


def colors_under_a_list_of_names(data: Path) -> Path:
    (data / "classes.txt").write_text("ground\nsquare\ndisc\n")
    colors_beside_numbers(data)
    return Path("the masks hold colours and the class list none: write them into it (`ground R G B` and so on)")


def masks_that_count_from_one(data: Path) -> Path:
    (data / "classes.txt").write_text("ground\nsquare\ndisc\n")
    for mask in (data / "masks").rglob("*.png"):
        write_index(mask, (read_mask(mask) + 1).astype(np.uint8))
    return Path("0-2, 255; the masks count from 1 and the class list from 0: write the numbers into it (`1 ground` and so on)")


def outside_the_class_list(data: Path) -> Path:
    (data / "classes.txt").write_text("ground\nsquare\n")
    return data / "masks/img_0"


def outside_the_labeled_values(data: Path) -> Path:
    return write_index(data / "masks/test/test_00.png", np.full((40, 48), 9, dtype=np.uint8))


def ignored_test_masks(data: Path) -> Path:
    for mask in (data / "masks/test").iterdir():
        write_index(mask, np.full((40, 48), 255, dtype=np.uint8))
    return data / "masks/test/test_00.png"


def one_class(data: Path) -> Path:
    for mask in (data / "masks").rglob("*.png"):
        write_index(mask, np.zeros((40, 48), dtype=np.uint8))
    return data


def zero_and_255_of_three_classes(data: Path) -> Path:
    """Ignored or the second class? The list says that there are three, so 255 keeps its meaning."""
    (data / "classes.txt").write_text("ground\nthing\nother\n")
    for mask in (data / "masks").rglob("*.png"):
        write_index(mask, np.repeat(np.array([[0, 255]], dtype=np.uint8), 24, axis=1).repeat(40, axis=0))
    return data


def binary_masks_with_a_stray_pixel(data: Path) -> Path:
    for mask in (data / "masks").rglob("*.png"):
        write_index(mask, np.where(read_mask(mask) > 0, 255, 0).astype(np.uint8))
    stray = read_mask(data / "masks/img_01.png").copy()
    stray[0, 0] = 254
    return write_index(data / "masks/img_01.png", stray)


def palettes_in_two_orders(data: Path) -> Path:
    for i, order in enumerate([(0, 1, 2), (0, 2, 1), (0, 1, 2)]):
        picture = Image.fromarray(read_mask(data / f"masks/img_{i:02d}.png"))
        picture.putpalette([part for color in order for part in ((0, 0, 0), (255, 0, 0), (0, 255, 0))[color]])
        picture.save(data / f"masks/img_{i:02d}.png")
    return data / "masks/img_01.png"


def masks_as_jpeg(data: Path) -> Path:
    for mask in (data / "masks").rglob("*.png"):
        Image.open(mask).save(mask.with_suffix(".jpg"))
        mask.unlink()
    return data / "masks"


def a_mask_with_minus_one(data: Path) -> Path:
    mask = read_mask(data / "masks/img_01.png").astype(np.int16)
    mask[0, 0] = -1
    (data / "masks/img_01.png").unlink()
    tifffile.imwrite(data / "masks/img_01.tif", mask)
    return data / "masks/img_01.tif"


def nothing_unlabeled(data: Path) -> Path:
    for i in (3, 4, 5):
        (data / f"images/img_{i:02d}.png").unlink()
    return Path("--unlabeled")


def nothing_readable_unlabeled(data: Path) -> Path:
    for i in (3, 4, 5):
        (data / f"images/img_{i:02d}.png").write_bytes(b"")
    return data / "images/img_03.png"


SPOIL = [
    no_folder,
    no_images,
    no_masks_folder,
    no_mask,
    no_image_in_common,
    masks_in_a_folder_of_another_name,
    folders_of_other_names,
    labels_of_boxes,
    xml_of_cvat,
    a_data_set_one_level_deeper,
    masks_with_a_longer_name,
    masks_outside_the_folders_of_their_images,
    images_of_an_unread_kind,
    truncated_image,
    truncated_mask,
    truncated_test_image,
    text_as_image,
    one_image_of_sixteen_bits,
    an_animation_as_image,
    an_animation_as_mask,
    an_image_of_400_megapixels,
    photograph_as_mask,
    colors_beside_numbers,
    color_outside_the_class_list,
    transparent_mask,
    other_size,
    colors_under_a_list_of_names,
    masks_that_count_from_one,
    outside_the_class_list,
    outside_the_labeled_values,
    ignored_test_masks,
    one_class,
    zero_and_255_of_three_classes,
    binary_masks_with_a_stray_pixel,
    palettes_in_two_orders,
    masks_as_jpeg,
    a_mask_with_minus_one,
    nothing_unlabeled,
    nothing_readable_unlabeled,
]


@pytest.mark.parametrize("spoil", SPOIL, ids=lambda spoil: spoil.__name__)
def test_data(data: Path, tmp_path: Path, refuse: Refuse, spoil: Callable[[Path], Path]) -> None:
    name = spoil(data)
    refuse("train", data, *TINY, "--out", tmp_path / "run", names=name)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--labels", "nowhere.txt"], "nowhere.txt"),
        (["--labels", "LIST"], "line 2: 'img_77'"),
        (["--labels", "99"], "--labels 99"),
        (["--holdout", "3"], "--holdout 3"),
        (["--unlabeled", "nowhere"], "nowhere"),
        (
            ["--model.weights", "nowhere.safetensors", "--model.arch", "unet", "--model.encoder", "resnet18"],
            "nowhere.safetensors",
        ),
        (["--model.weights", "OTHER", "--model.arch", "unet", "--model.encoder", "resnet18"], "other.safetensors"),
        (["--prototypes.start", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--prototypes.start", "OTHER"], "other.safetensors"),
        (["--model.arch", "umet"], "umet"),
        (["--model.arch", "unet", "--model.encoder", "resnet19"], "resnet19"),
        (["--model.arch", "unet", "--model.encoder", "tu-resnet18.nonsense"], "timm has no resnet18.nonsense"),
        (["--model.arch", "dino_dpt", "--model.encoder", "resnet18"], "give --model.encoder dinov2_small"),
        (["--optimizer.layer_decay", "0.5"], "optimizer.layer_decay goes by the blocks of a plain ViT"),
        (["--optimizer.layer_decay", "1.5"], "optimizer.layer_decay is 1.5; it must be above 0, at most 1"),
        (["--optimizer.layer_decay", "0.5", "--model.freeze_encoder"], "leave one of them out"),
        (["--model.freeze_encoder"], "small_unet starts from nothing"),
        (["--recipe", "nothing"], "nothing"),
        (["--stpes", "3"], "there is no setting --stpes; did you mean --steps?"),
        (["--consistency.warmup_steps", "2"], "consistency.warmup_steps is 2, which leaves none of 2 steps"),
        (["--prototypes.delay", "2"], "prototypes.delay is 2"),
        (["--batch", "1", "--model.arch", "deeplabv3plus", "--model.encoder", "resnet18"], "batch of at least 2"),
        (["--batch", "3", "--trainer.devices", "2"], "--batch 3 does not divide over 2 processes"),
        (["--on-collapse", "rollback", "--trainer.devices", "2"], "--on-collapse rollback works in one process, not in 2"),
        (["--trainer.bogus", "1"], "--trainer.bogus"),
        (["--trainer.max_steps", "5"], "--steps"),
        (["--trainer.accumulate_grad_batches", "2"], "--accumulate"),
        (["--trainer.logger", "true"], "--trainer.logger"),
        (["--trainer.strategy", "fsdp"], "the teacher that follows it needs the whole; use ddp"),
        (["--trainer.strategy", "deepspeed_stage_2"], "the teacher that follows it needs the whole; use ddp"),
        (["--trainer.strategy", "ddp_spawn"], "ddp_spawn trains in processes whose steps and warnings never come back"),
        (
            ["--trainer.strategy", "ddp_fork", "--trainer.devices", "2", "--batch", "2"],
            "never come back to be reported; use ddp",
        ),
        (["--trainer.strategy", "ddp_notebook"], "never come back to be reported; use ddp, or leave it out"),
        (["--trainer.strategy", "ddp_find_unused_parameters_true"], "parameters_true is not set up here"),
        (["--trainer.strategy", "xla"], "how long it waits for a score); use ddp, or leave it out"),
        (["--trainer.strategy", "DDP"], "--trainer.strategy DDP is not set up here"),
        (["--trainer.strategy", "nonsense"], "use ddp, or leave it out"),
        (
            ["--trainer.strategy", "single_device", "--trainer.devices", "2", "--batch", "2"],
            "one device, and --trainer.devices",
        ),
        (["--recipe", "BROKEN"], "broken.yaml"),
    ],
    ids=str,
)
def test_settings(data: Path, tmp_path: Path, refuse: Refuse, words: list[str], name: str) -> None:
    (tmp_path / "list.txt").write_text("img_00\nimg_77\n")
    save_file({"conv.weight": torch.ones(3)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.yaml").write_text("steps: [1\nmethod: {")
    paths = {"LIST": tmp_path / "list.txt", "OTHER": tmp_path / "other.safetensors", "BROKEN": tmp_path / "broken.yaml"}
    tiny = TINY_RUN if "--model.arch" in words else TINY
    refuse("train", data, *tiny, *(paths.get(word, word) for word in words), "--out", tmp_path / "run", names=name)


def test_baseline_without_anything_to_score_on_asks_for_a_holdout(tmp_path: Path, refuse: Refuse) -> None:
    make_folder(tmp_path / "data")
    refuse("train", tmp_path / "data", *TINY, "--baseline", "--out", tmp_path / "run", names="--holdout")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "0"),
        ("steps", "-1"),  # which Lightning takes for "without end"
        ("batch", "0"),
        ("batch", "-2"),
        ("crop", "0"),
        ("crop", "-5"),
        ("crop", "4097"),  # no model file may have it
        ("inference.window", "4097"),
        ("accumulate", "0"),
        ("checkpoint-every", "0"),
        ("log-every", "-1"),
        ("evaluate-every", "-3"),
        ("workers", "-1"),
        ("views.scale", "[0,1]"),
        ("views.scale", "[2.0,0.5]"),
        ("views.scale", "[1.0]"),
        ("views.cutmix_probability", "1.5"),
        ("model.mean", "[123.7,116.3,103.5]"),
        ("model.width", "0"),
        ("prototypes.per_class", "-1"),
        ("prototypes.grid", "0"),
        ("prototypes.temperature", "0"),
        ("prototypes.momentum", "1.5"),
        ("consistency.threshold", "80"),
        ("consistency.ema_momentum", "1.5"),
        ("optimizer.lr", "-1"),
    ],
)
def test_numbers_out_of_range(
    data: Path, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr("protoseg.stage.fit", fit)
    last = name.rpartition(".")[2].replace("-", "_")
    error = refuse("train", data, *TINY, f"--{name}", value, "--out", tmp_path / "run", names="")
    assert last in error.replace("-", "_") or last.replace("_", " ") in error


@pytest.mark.parametrize("words", [("evaluate", "run"), ("predict", "run"), ("report",), ("split", "data"), ("app",)])
def test_a_word_too_few(words: tuple[str, ...], refuse: Refuse) -> None:
    refuse(*words, names=f"protoseg {words[0]} --help")


def test_a_file_of_settings_is_a_recipe(data: Path, refuse: Refuse) -> None:
    refuse("train", data, "--config", "own.yaml", names="--recipe FILE")


class TestRunFolder:
    def test_one_that_holds_something_is_left_as_it_is(self, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/config.yaml").write_text("mine")
        error = refuse("train", data, *TINY, "--out", tmp_path / "run", names=tmp_path / "run")
        assert "--resume" in error

    def test_a_file_in_its_place(self, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        (tmp_path / "run").write_text("mine")
        refuse("train", data, *TINY, "--out", tmp_path / "run", names=tmp_path / "run")

    @pytest.mark.parametrize("command", ["train", "demo"])
    def test_a_file_on_the_way(self, data: Path, tmp_path: Path, refuse: Refuse, command: str) -> None:
        (tmp_path / "file").write_text("mine")
        words = [data, *TINY] if command == "train" else []
        refuse(command, *words, "--out", tmp_path / "file/run", names=tmp_path / "file")

    def test_an_empty_one_is_used(self, data: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0

    def test_demo_with_a_misspelt_option_writes_nothing(self, tmp_path: Path, refuse: Refuse) -> None:
        refuse("demo", "--out", tmp_path / "run", "--stpes", "5", names="--stpes")

    def test_demo_too_short_to_use_an_unlabelled_image_writes_nothing(self, tmp_path: Path, refuse: Refuse) -> None:
        refuse("demo", "--out", tmp_path / "run", "--steps", "300", names="consistency.warmup_steps")

    def test_demo_that_stops_before_its_run_leaves_no_images(self, tmp_path: Path, refuse: Refuse) -> None:
        refuse("demo", "--out", tmp_path / "run", "--labels", "500", names="500")

    def test_demo_has_no_dry_run(self, tmp_path: Path, refuse: Refuse) -> None:
        refuse("demo", "--out", tmp_path / "run", "--dry-run", names="protoseg train DATA --recipe demo --dry-run")

    def test_demo_into_a_folder_that_holds_something(self, tmp_path: Path, refuse: Refuse) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/notes").write_text("mine")
        refuse("demo", "--out", tmp_path / "run", names=tmp_path / "run")


def spoil_with(content: bytes | Callable[[Path], object]) -> Callable[[Path], object]:
    return content if callable(content) else lambda path: path.write_bytes(content)


OTHER_FILES = {
    "empty": spoil_with(b""),
    "text": spoil_with(b"hello, this is no checkpoint"),
    "truncated": spoil_with(cut_short),
    "pickled": spoil_with(lambda path: torch.save({"a": 1}, path)),
    "weights": spoil_with(lambda path: save_file({"conv.weight": torch.ones(3)}, path)),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
class TestFilesOfAnotherKind:
    @pytest.mark.parametrize("command", ["evaluate", "predict"])
    def test_model(self, trained: Path, data: Path, tmp_path: Path, refuse: Refuse, kind: str, command: str) -> None:
        model = Path(shutil.copy(trained / "model.safetensors", tmp_path))
        OTHER_FILES[kind](model)
        words = [data] if command == "evaluate" else [data / "images", "-o", tmp_path / "out"]
        refuse(command, model, *words, names=model)

    def test_checkpoint(self, trained: Path, tmp_path: Path, refuse: Refuse, kind: str) -> None:
        run = interrupted(trained, tmp_path / "run")
        OTHER_FILES[kind](run / "last.ckpt")
        refuse("train", "--resume", run, names=run / "last.ckpt")


def interrupted(trained: Path, run: Path) -> Path:
    """A copy of a run that has not got to its end."""
    shutil.copytree(trained, run)
    (run / "result.json").unlink()
    return run


class TestResume:
    def test_with_a_checkpoint_of_another_model(self, trained: Path, tmp_path: Path, refuse: Refuse) -> None:
        words = ["train", str(trained.parent / "data"), *TINY, "--model.width", "5", "--out", str(tmp_path / "other")]
        assert main(words) == 0
        run = interrupted(trained, tmp_path / "run")
        shutil.copy(tmp_path / "other/last.ckpt", run / "last.ckpt")
        error = refuse("train", "--resume", run, names=run / "last.ckpt")
        assert "resume the run folder that it belongs to" in error

    def test_after_the_images_changed(self, trained: Path, tmp_path: Path, refuse: Refuse) -> None:
        run = interrupted(trained, tmp_path / "run")
        extra = trained.parent / "data/images/new.png"
        write_image(extra, draw_shapes(np.random.default_rng(0))[0])
        try:
            refuse("train", "--resume", run, names=run)
        finally:
            extra.unlink()

    def test_a_folder_without_a_run(self, tmp_path: Path, refuse: Refuse) -> None:
        refuse("train", "--resume", tmp_path / "nowhere", names=tmp_path / "nowhere")

    def test_other_settings(self, trained: Path, refuse: Refuse) -> None:
        refuse("train", "--resume", trained, "--seed", "8", names="--seed")


class TestUse:
    """evaluate and predict."""

    @pytest.mark.parametrize("command", ["evaluate", "report", "resume"])
    def test_settings_that_aliases_blow_up(
        self, trained: Path, data: Path, tmp_path: Path, refuse: Refuse, command: str
    ) -> None:
        run = interrupted(trained, tmp_path / "run")
        (run / "config.yaml").write_text(nested_aliases())
        words = {"evaluate": ["evaluate", run, data], "report": ["report", run], "resume": ["train", "--resume", run]}[command]
        assert "its aliases (*name) stand for" in refuse(*words, names=run / "config.yaml")

    def test_an_unfinished_run(self, trained: Path, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        run = interrupted(trained, tmp_path / "run")
        (run / "model.safetensors").unlink()
        refuse("evaluate", run, data, names=run)

    def test_a_missing_run(self, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        refuse("evaluate", tmp_path / "nowhere", data, names=tmp_path / "nowhere")

    def test_missing_data(self, trained: Path, tmp_path: Path, refuse: Refuse) -> None:
        refuse("evaluate", trained, tmp_path / "nowhere", names=tmp_path / "nowhere")

    def test_a_class_that_the_model_does_not_know(self, trained: Path, data: Path, refuse: Refuse) -> None:
        error = refuse("evaluate", trained, data, names=outside_the_labeled_values(data))
        assert "value 9" in error

    def test_its_own_training_images(self, tmp_path: Path, refuse: Refuse) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=3)
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0
        error = refuse("evaluate", tmp_path / "run", data, names=data)
        assert "--holdout" in error

    def test_no_labelled_image(self, trained: Path, tmp_path: Path, refuse: Refuse) -> None:
        data = make_folder(tmp_path / "data", train=3, labeled=0)
        refuse("evaluate", trained, data, names=f"no labelled image in {data}")

    def test_other_classes(self, tmp_path: Path, refuse: Refuse) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=3, test=1, classes=("ground", "square", "disc"))
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "run")]) == 0
        (data / "classes.txt").write_text("cat\ndog\nhorse\n")
        error = refuse("evaluate", tmp_path / "run", data, names=data)
        assert "cat, dog, horse" in error
        assert "ground, square, disc" in error

    def test_a_model_of_a_later_version(self, trained: Path, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        """One setting more than this version knows."""
        tensors, header = load_model_file(trained)
        header["config"]["model"]["wings"] = 2
        save_file(tensors, tmp_path / "later.safetensors", metadata={"format": FORMAT, "protoseg": json.dumps(header)})
        refuse("evaluate", tmp_path / "later.safetensors", data, names=tmp_path / "later.safetensors")

    def test_tensors_that_do_not_fit_the_header(self, trained: Path, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        tensors, header = load_model_file(trained)
        header["config"]["model"]["width"] = 6
        save_file(tensors, tmp_path / "mixed.safetensors", metadata={"format": FORMAT, "protoseg": json.dumps(header)})
        refuse("evaluate", tmp_path / "mixed.safetensors", data, names=tmp_path / "mixed.safetensors")

    def test_missing_images(self, trained: Path, tmp_path: Path, refuse: Refuse) -> None:
        error = refuse("predict", trained, tmp_path / "nowhere", "-o", tmp_path / "out", names=tmp_path / "nowhere")
        assert "--unlabeled" not in error  # an option of another command

    def test_no_image(self, trained: Path, tmp_path: Path, refuse: Refuse) -> None:
        (tmp_path / "empty").mkdir()
        refuse("predict", trained, tmp_path / "empty", "-o", tmp_path / "out", names=tmp_path / "empty")

    def test_one_broken_image(self, trained: Path, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        refuse("predict", trained, truncated_image(data), "-o", tmp_path / "out", names=data / "images/img_01.png")

    def test_results_are_never_written_over(self, trained: Path, data: Path, tmp_path: Path, refuse: Refuse) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine.png").write_text("mine")
        refuse("predict", trained, data / "images", "-o", tmp_path / "out", names=tmp_path / "out")


class TestWhatIsFine:
    """What looks odd, is normal, and is said in one line."""

    @pytest.fixture
    def train(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, dict[str, object]]]:
        def run(data: Path, *words: str) -> tuple[str, dict[str, object]]:
            assert main(["train", str(data), *TINY, *words, "--out", str(tmp_path / "run")]) == 0
            printed = " ".join(capsys.readouterr().out.split())  # lines may break anywhere
            return printed, json.loads((tmp_path / "run/result.json").read_text())

        return run

    def test_fewer_labeled_images_than_the_batch(self, data: Path, train) -> None:  # type: ignore[no-untyped-def]
        printed, result = train(data, "--labels", "1", "--batch", "4")
        assert "1 labelled image for a batch of 4" in printed
        assert (result["labeled"], result["unlabeled"], result["steps"]) == (1, 5, 2)

    def test_fewer_unlabeled_images_than_the_batch(self, data: Path, train) -> None:  # type: ignore[no-untyped-def]
        for i in (4, 5):
            (data / f"images/img_{i:02d}.png").unlink()
        assert train(data, "--batch", "4")[1]["unlabeled"] == 1

    def test_images_smaller_than_the_crop(self, data: Path, train) -> None:  # type: ignore[no-untyped-def]
        Image.new("RGB", (80, 80)).save(data / "images/img_04.png")
        printed, result = train(data, "--crop", "64")
        assert "3 of 3 labelled images are smaller than the crop (40 < 64 px) and padded" in printed
        assert "2 of 3 unlabelled images looked at are smaller than the crop (40 < 64 px) and padded" in printed
        assert result["steps"] == 2

    @pytest.mark.parametrize("workers", ["0", "1"])
    def test_a_corrupt_unlabeled_image(self, data: Path, train, workers: str) -> None:  # type: ignore[no-untyped-def]
        cut_short(data / "images/img_04.png")
        printed, result = train(data, "--steps", "4", "--workers", workers)
        assert result["skipped"] == [str(data / "images/img_04.png")]
        assert printed.replace(" ", "").count("img_04.png") == 1
        assert "1 unlabelled image" in printed

    def test_corrupt_masks_of_images_that_are_not_to_be_learned_from(self, data: Path, tmp_path: Path, train) -> None:  # type: ignore[no-untyped-def]
        (tmp_path / "list.txt").write_text("img_00\nimg_02\n")
        cut_short(data / "masks/img_01.png")
        result = train(data, "--labels", str(tmp_path / "list.txt"))[1]
        assert (result["labeled"], result["unlabeled"]) == (2, 4)

    def test_other_formats_and_modes(self, tmp_path: Path, train) -> None:  # type: ignore[no-untyped-def]
        make_folder(tmp_path / "data", train=4, labeled=2, test=1, suffix=".jpg", palette=True, nested=True, layout="beside")
        printed, result = train(tmp_path / "data")
        assert "scored on 1 test image " in printed
        assert result["evaluated"] == 1
