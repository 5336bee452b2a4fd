"""Settings, and the objects they become."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from make_yaml import nested_aliases

from protoseg.arguments import parse_train
from protoseg.config import (
    METHODS,
    RECIPES,
    build_geometry,
    build_method,
    build_network,
    build_normalization,
    build_optimizer,
    build_views,
    find_recipe,
    method_class,
    metric_fields,
    note_on_batch,
    read_recipe,
    read_settings,
    read_yaml,
    recipe_files,
    resolve,
    validate,
)
from protoseg.data.check import ChannelStatistics, LabelReport
from protoseg.data.images import PHOTOGRAPH, ImageKind
from protoseg.data.index import table_from_names
from protoseg.functional.losses import ohem_cross_entropy
from protoseg.settings import ModelConfig, OptimizerConfig, TrainConfig

SMALL = ["data", "--model.arch", "small_unet", "--model.width", "4", "--model.weights", "none"]
recipe = functools.cache(lambda name: parse_train(["data", "--recipe", name]))
NOT_OF_THE_PAPER = {"encoder", "width", "features"}  # what its network has no choice of
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@functools.cache
def parsed(*words: str) -> TrainConfig:
    return parse_train([*SMALL, *words])


def resolved(
    *words: str, sizes: dict[tuple[int, int], int] | None = None, num_unlabeled: int = 10, cuda: bool = False
) -> TrainConfig:
    return resolve(parsed(*words), found(sizes), num_unlabeled=num_unlabeled, cuda=cuda)


def found(sizes: dict[tuple[int, int], int] | None = None, kind: ImageKind = PHOTOGRAPH) -> LabelReport:
    """What decoding the labelled images may show."""
    numbers = tuple(0.1 * (i + 1) for i in range(kind.channels))
    pixels = np.array([100, 100])
    return LabelReport(
        table_from_names(["a", "b"]), pixels, sizes or {(100, 130): 1}, kind, ChannelStatistics(numbers, numbers)
    )


class TestRecipes:
    def test_the_published_and_the_default_ones_are_there(self) -> None:
        assert {"prototype", "demo", "paper_voc", "paper_cityscapes", "dinov2"} <= set(NAMES)

    @pytest.mark.parametrize("name", NAMES)
    def test_every_line_of_a_recipe_counts(self, name: str) -> None:
        config = recipe(name)
        assert config.recipe == name

        def compare(stored: dict, settings: object) -> None:  # type: ignore[type-arg]
            for key, value in stored.items():
                if isinstance(value, dict) and key != "trainer":
                    compare(value, getattr(settings, key))
                else:
                    assert getattr(settings, key) == value, key

        compare(read_recipe(name), config)

    @pytest.mark.parametrize(
        ("family", "labels", "epoch", "steps"),
        [
            *(("voc", n, e, 80 * e) for n, e in {92: 656, 183: 650, 366: 638, 732: 616, 1464: 570}.items()),
            *(("voc_blended_u2pl", n, e, 80 * e) for n, e in {662: 620, 1323: 579, 2646: 496, 5291: 331}.items()),
            *(("voc_blended_cps", n, e, 80 * e) for n, e in {662: 620, 1323: 579, 2646: 496, 5291: 331}.items()),
            *(("cityscapes", n, e, 200 * e) for n, e in {186: 174, 372: 163, 744: 139, 1488: 93}.items()),
        ],
    )
    def test_every_setting_of_the_paper(self, family: str, labels: int, epoch: int, steps: int) -> None:
        """The authors' configuration files, number by number, and what these leave open (docs/decisions/0002).

        An epoch is one pass of the unlabelled list, by 8 processes with 2 images each.
        """
        city = family == "cityscapes"
        unlabeled = (2975 if city else 10_582) - labels
        config = resolve(recipe(f"paper_{family}_{labels}"), found(), num_unlabeled=unlabeled, cuda=True)
        assert -(-unlabeled // 8) // 2 == epoch
        assert (config.full_method, config.steps, config.batch, config.accumulate) == ("prototype", steps, 16, 1)
        assert (config.crop, config.trainer) == (769 if city else 513, {"sync_batchnorm": True})
        assert {key: value for key, value in dataclasses.asdict(config.model).items() if key not in NOT_OF_THE_PAPER} == {
            "arch": "paper_deeplabv3plus",  # always on a ResNet-101
            "weights": "imagenet",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "freeze_bn": False,
            "freeze_encoder": False,
            "grad_checkpointing": False,
            "auxiliary": city,
            "projection": 0,
        }
        assert dataclasses.asdict(config.optimizer) == {
            "name": "sgd",
            "lr": 1e-2 if city else 1e-3,
            "head_factor": 1 if city else 10,
            "layer_decay": 1,
            "baseline_lr": None,
            "weight_decay": 5e-4 if city else 1e-4,
            "momentum": 0.9,
            "power": 0.9,
            "warmup_steps": 0,
            "clip": 0,
        }
        assert dataclasses.asdict(config.loss) == {
            "name": "ohem",
            "balance": 0,
            "class_weights": None,
            "ohem_threshold": 0.7,
            "ohem_min_kept": 50_000,  # of each image: 100,000 of two there
            "auxiliary_weight": 0.4,
        }
        assert dataclasses.asdict(config.consistency) == {
            "threshold": 0.65 if city else 0.8,
            "selection": "threshold",
            "normalizer": "valid",
            "drop_percent": 20,  # 100 - 80, of a rule that is not selected
            "labels_from": None,
            "rampup_steps": None,
            "reliable_first": None,
            "weight": 1,
            "align_shares": False,
            "class_thresholds": False,
            "ema_momentum": 0.99,
            "warmup_steps": epoch,
        }
        assert dataclasses.asdict(config.prototypes) == {
            "per_class": 3 if city else 4,
            "temperature": 0.1,
            "momentum": 0.99,
            "weight": 1,
            "delay": 0,
            "grid": 32,
            "points_per_cell": 1,
            "emphasis": "even",
            "balance": 0,
            "images": "both",
            "shared_points": False,
            "start": "kmeans",
            "unit_features": False,
            "class_prior": False,
            "labels": "linear",
            "fit_points": 4096,
        }
        assert {key: value for key, value in dataclasses.asdict(config.views).items() if key != "color_style"} == {
            "scale": [0.5, 2.0],
            "flip": True,
            "color": False,
            "color_labeled": False,
            "cutmix_probability": 0.5,
            "cutmix_area": None,  # half
            "cutmix_per": "batch",
            "label_padding": False,
            "rare_crops": 0,
        }
        seen = {"window": 769, "stride": 513} if city else {"window": None, "stride": None}
        assert dataclasses.asdict(config.inference) == {**seen, "scales": [1.0], "flip": False}

    @pytest.mark.parametrize(
        ("name", "network", "crop", "batch", "steps", "per_class", "rates", "loss"),
        [
            ("voc_unimatch_v2_resnet101", "paper_deeplabv3plus", 513, 16, 50_000, 4, ("sgd", 1e-3, 10), "cross_entropy"),
            ("voc_unimatch_v2_dinov2", "dino_dpt", 518, 16, 39_360, 4, ("adamw", 5e-6, 40), "cross_entropy"),
            ("cityscapes_unimatch_v2_resnet101", "paper_deeplabv3plus", 769, 16, 32_600, 3, ("sgd", 1e-2, 1), "ohem"),
            ("cityscapes_unimatch_v2_dinov2", "dino_dpt", 798, 8, 62_820, 3, ("adamw", 5e-6, 40), "ohem"),
        ],
    )
    def test_the_presets_of_unimatch_v2(
        self,
        name: str,
        network: str,
        crop: int,
        batch: int,
        steps: int,
        per_class: int,
        rates: tuple[str, float, float],
        loss: str,
    ) -> None:
        config = resolve(recipe(name), found(), num_unlabeled=10_000, cuda=True)
        assert (config.model.arch, config.crop, config.batch, config.steps) == (network, crop, batch, steps)
        assert (config.full_method, config.prototypes.per_class) == ("unimatch_v2+prototypes", per_class)
        assert (config.optimizer.name, config.optimizer.lr, config.optimizer.head_factor) == rates
        assert config.loss.name == loss
        assert config.loss.ohem_min_kept == (100_000 if name == "cityscapes_unimatch_v2_dinov2" else 50_000)
        assert (config.consistency.threshold, config.consistency.ema_momentum) == (0.95, 0.996)
        assert (config.views.color, config.views.cutmix_area, config.views.cutmix_per) == (True, [0.02, 0.4], "image")
        window = crop if name.startswith("cityscapes") else None
        assert config.inference.window == window
        assert config.model.auxiliary == (name == "cityscapes_unimatch_v2_resnet101")
        assert "dinov2" not in name or config.model.encoder == "dinov2_base"

    @pytest.mark.parametrize("name", NAMES)
    def test_every_recipe_is_one_of_its_method(self, name: str) -> None:
        """Nothing in it is for another method, and nothing is out of range."""
        config = resolve(recipe(name), found(), num_unlabeled=10, cuda=False)
        validate(config)
        small = dataclasses.replace(config.model, arch="small_unet", weights="none", width=4, auxiliary=False)
        method = build_method(config, build_network(small, 2))
        assert type(method) is method_class(config.method)
        assert (method.prototypes is None) is (config.prototypes.per_class == 0)

    def test_a_recipe_extends_another(self, tmp_path: Path) -> None:
        (tmp_path / "far.yaml").write_text("steps: 7\ncrop: 64\nprototypes: {grid: 8, weight: 0.5}\n")
        (tmp_path / "near.yaml").write_text("extends: far\nsteps: 9\nprototypes: {weight: 0.25}\n")
        config = parse_train(["data", "--recipe", str(tmp_path / "near.yaml"), "--crop", "32"])
        assert (config.steps, config.crop, config.prototypes.grid, config.prototypes.weight) == (9, 32, 8, 0.25)
        assert [file.name for file in recipe_files(str(tmp_path / "near.yaml"))] == ["far.yaml", "near.yaml"]
        (tmp_path / "far.yaml").write_text("extends: near\n")
        with pytest.raises(ValueError, match="extends itself"):
            read_recipe(str(tmp_path / "near.yaml"))
        (tmp_path / "far.yaml").write_text("extends: nowhere\n")
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read_recipe(str(tmp_path / "near.yaml"))
        (tmp_path / "far.yaml").write_text("just words\n")
        with pytest.raises(ValueError, match=r"far\.yaml is not a YAML file of settings"):
            read_recipe(str(tmp_path / "near.yaml"))

    def test_anchors_and_aliases(self, tmp_path: Path) -> None:
        names = ", ".join(f"class_{i:04}" for i in range(100))
        (tmp_path / "own.yaml").write_text(
            f"classes: &rules {{names: &all [{names}], ignore: *all}}\nmodel: {{mean: &half [0.5], std: *half}}\n"
            "views: {scale: &wide [0.5, 2.0]}\ntrainer: {<<: {max_time: 1}, one: *rules, two: [*rules, *rules]}\n"
        )
        for file in (tmp_path / "own.yaml", tmp_path / "config.yaml"):
            words = ["data", "--recipe", str(file)] if file.stem == "own" else ["--resume", str(tmp_path)]
            config = parse_train(words)
            assert config.classes.names == config.classes.ignore == names.split(", ")
            assert config.model.mean == config.model.std == [0.5]
            assert config.trainer["two"][1] == config.trainer["one"]
            assert config.trainer["max_time"] == 1
            (tmp_path / "config.yaml").write_text(yaml.safe_dump(read_recipe(str(file))))  # which writes aliases of its own
        assert "*id" in (tmp_path / "config.yaml").read_text()

    @pytest.mark.parametrize(
        "text", [nested_aliases(), nested_aliases(mappings=True), "a: &a [*a]", f"steps: '{nested_aliases()}'"]
    )
    def test_what_aliases_blow_up_is_refused(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        for given in ("data --recipe FILE", "--resume FOLDER", "data --steps TEXT"):
            places = {"FILE": str(file), "FOLDER": str(tmp_path), "TEXT": text}
            says = r"its aliases \(\*name\) stand for .*; write the values out|steps is .*; it must be a whole number"
            with pytest.raises(ValueError, match=says) as caught:
                parse_train([places.get(word, word) for word in given.split()])
            assert len(str(caught.value)) < 300 + len(str(file))

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ("--steps VALUE", ""),
            ("--model.mean VALUE", ""),
            ("--VALUE 3", ""),
            ("--method VALUE", ""),
            ("--recipe VALUE", ""),
            ("", "steps: VALUE"),
            ("", "extends: VALUE"),
            ("", "VALUE: 3"),
            ("", "a: !!VALUE 3"),
            ("", "views: {scale: [1, NUMBER]}"),
        ],
    )
    def test_messages_quote_no_more_of_a_value_than_tells_which(self, tmp_path: Path, words: str, text: str) -> None:
        value, file = "v" * 6000, tmp_path / "own.yaml"
        file.write_text(text.replace("VALUE", value).replace("NUMBER", "-1" + 300 * "0"))
        recipe = [] if "--recipe" in words else ["--recipe", str(file)]
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            parse_train(["data", *recipe, *words.replace("VALUE", value).split()])
        assert len(str(caught.value)) < 1200
        assert value[:100] not in str(caught.value) or "!!" in text

    @pytest.mark.parametrize("name", NAMES)
    def test_imagenet_for_real_data_and_none_in_the_demo(self, name: str) -> None:
        assert recipe(name).model.weights == ("none" if name == "demo" else "imagenet")

    def test_the_demo_compares_and_the_others_only_when_asked(self) -> None:
        assert [name for name in NAMES if recipe(name).baseline] == ["demo"]

    def test_find(self, tmp_path: Path) -> None:
        assert find_recipe("demo") == RECIPES / "demo.yaml"
        own = tmp_path / "own.yaml"
        own.write_text("steps: 3\n")
        assert find_recipe(str(own)) == own
        with pytest.raises(FileNotFoundError, match=r"'nothing'.*demo.*prototype"):
            find_recipe("nothing")


class TestResolve:
    def test_leaves_nothing_open(self) -> None:
        config = resolved()
        for name in ("steps", "crop", "batch", "workers", "log_every"):
            assert getattr(config, name) is not None, name
        assert config.consistency.warmup_steps is not None

    def test_what_was_given_stays(self) -> None:
        given = ("--steps", "70", "--crop", "40", "--batch", "3", "--workers", "1", "--log-every", "7")
        config = resolved(*given, "--consistency.warmup_steps", "0")
        assert (config.steps, config.crop, config.batch, config.workers, config.log_every) == (70, 40, 3, 1, 7)
        assert config.consistency.warmup_steps == 0

    @pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (70, 35), (1000, 500), (4000, 500), (10_000, 500), (40_000, 2000)])
    def test_the_warm_up_is_long_enough_for_rare_classes(self, steps: int, warmup: int) -> None:
        assert resolved("--steps", str(steps)).consistency.warmup_steps == warmup

    def test_the_warm_up_leaves_room_for_a_delay(self) -> None:
        config = resolved("--steps", "1000", "--prototypes.delay", "800")
        validate(config)
        assert config.consistency.warmup_steps == 100
        assert resolved("--steps", "1000", "--prototypes.delay", "2000").consistency.warmup_steps == 0

    def test_the_given_settings_are_not_written_to(self) -> None:
        config = parse_train(SMALL)
        before = config.to_dict()
        resolve(config, found(), num_unlabeled=10, cuda=False)
        assert config.to_dict() == before

    @pytest.mark.parametrize(
        ("sizes", "crop"),
        [({(100, 130): 1}, 96), ({(500, 375): 3, (200, 300): 1}, 192), ({(40, 40): 1}, 64), ({(2000, 3000): 1}, 512)],
    )
    def test_crop_goes_by_the_smallest_labeled_image(self, sizes: dict[tuple[int, int], int], crop: int) -> None:
        assert resolved(sizes=sizes).crop == crop

    def test_steps_grow_with_the_unlabeled_images(self) -> None:
        steps = [resolved(num_unlabeled=n).steps for n in (0, 10, 2_000, 10_000, 10**6)]
        assert steps == sorted(steps)
        assert steps[0] == steps[1] == 4_000
        assert steps[2] == 30 * 2_000 // 4
        assert steps[-1] == 40_000

    def test_a_gpu_takes_larger_batches(self) -> None:
        assert (resolved().batch, resolved(cuda=True).batch) == (4, 8)

    def test_files_become_whole_paths_and_amounts_stay(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
        monkeypatch.chdir(tmp_path)
        for name in ("5", "list.txt", "start.pt"):
            (tmp_path / name).write_text("")
        config = resolved("--labels", "5", "--holdout", "list.txt", "--prototypes.start", "start.pt")
        assert config.labels == "5"
        assert config.holdout == str(tmp_path / "list.txt")
        assert config.prototypes.start == str(tmp_path / "start.pt")

    def test_stored_settings_come_back(self, tmp_path) -> None:  # type: ignore[no-untyped-def]
        config = resolved("--model.mean", "[0.1,0.2,0.3]", "--trainer.devices", "1", "--labels", "1/8")
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
        assert parse_train(["--resume", str(tmp_path)]) == dataclasses.replace(config, resume=str(tmp_path))


class TestNormalization:
    def test_imagenet_by_default(self) -> None:
        assert build_normalization(ModelConfig(), PHOTOGRAPH).mean == pytest.approx((0.485, 0.456, 0.406))
        assert build_normalization(ModelConfig(), PHOTOGRAPH).std == pytest.approx((0.229, 0.224, 0.225))

    @pytest.mark.parametrize(
        ("encoder", "mean", "std"),
        [
            ("tu-mobilevit_s", 0.0, 1.0),
            ("tu-tf_efficientnetv2_s", 0.5, 0.5),
            ("tu-resnet18", 0.485, 0.229),
            ("xception", 0.5, 0.5),
            ("dpn68", 124 / 255, 1 / (0.0167 * 255)),
            ("mobilenet_v2", 0.485, 0.229),
            ("dinov2_small", 0.485, 0.229),
        ],
    )
    def test_the_encoders_own(self, encoder: str, mean: float, std: float) -> None:
        found = build_normalization(ModelConfig(arch="unet", encoder=encoder), PHOTOGRAPH)
        assert (found.mean[0], found.std[0]) == pytest.approx((mean, std))
        fresh = build_normalization(ModelConfig(arch="unet", encoder=encoder, weights="none"), PHOTOGRAPH)
        assert fresh.mean == pytest.approx((0.485, 0.456, 0.406))

    def test_one_number_is_for_all_channels(self) -> None:
        normalization = build_normalization(ModelConfig(mean=[0.5], std=[0.25]), PHOTOGRAPH)
        assert normalization.mean == (0.5, 0.5, 0.5)
        assert normalization.std == (0.25, 0.25, 0.25)

    @pytest.mark.parametrize(
        ("mean", "std"),
        [
            ([0.5, 0.5], [0.5]),
            ([0.5], [0.5, 0.5]),
            ([0.5], [0.0]),
            ([0.5], [-1.0]),
            ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]),  # of pixels in 0..255, as many papers print them
            ([123.7, 116.3, 103.5], None),
        ],
    )
    def test_what_cannot_be_is_refused(self, mean: list[float], std: list[float] | None) -> None:
        with pytest.raises(ValueError, match=r"model\.mean"):
            build_normalization(ModelConfig(mean=mean, std=std), PHOTOGRAPH)


class TestOtherImages:
    """Nothing is known about images that are no 8-bit RGB: their own statistics count."""

    KIND = ImageKind(5, "uint16")

    def test_the_images_own_statistics(self) -> None:
        config = resolve(parsed(), found(kind=self.KIND), num_unlabeled=10, cuda=False)
        assert config.model.mean == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
        assert config.model.std == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
        assert build_normalization(config.model, self.KIND).kind == self.KIND
        assert not build_views(config, build_normalization(config.model, self.KIND)).clamp

    def test_given_ones_count_more(self) -> None:
        given = parsed("--model.mean", "[0.5]", "--model.std", "[0.25]")
        config = resolve(given, found(kind=self.KIND), num_unlabeled=10, cuda=False)
        assert config.model.mean == [0.5] * 5
        with pytest.raises(ValueError, match="take 5 numbers, one for each channel"):
            build_normalization(ModelConfig(mean=[0.5] * 3, std=[0.5] * 3), self.KIND)

    def test_floats_may_lie_anywhere(self) -> None:
        kind = ImageKind(2, "float32")
        assert build_normalization(ModelConfig(mean=[-12.5, 800.0], std=[3.0, 90.0]), kind).mean == (-12.5, 800.0)

    @pytest.mark.parametrize("arch", ["small_unet", "unet", "paper_deeplabv3plus"])
    def test_the_network_has_as_many_input_channels(self, arch: str) -> None:
        config = ModelConfig(arch=arch, encoder="resnet18", weights="none", mean=[0.5] * 5, width=4)
        assert build_network(config, 3).in_channels == 5


class TestBuild:
    def test_padding_has_the_mean_color(self) -> None:
        config = resolved("--crop", "48", "--views.scale", "[0.7,1.5]", "--no-views.flip", "--model.mean", "[0.0,0.5,1.0]")
        geometry = build_geometry(config, build_normalization(config.model, PHOTOGRAPH))
        assert (geometry.size, geometry.scale, geometry.flip) == (48, (0.7, 1.5), False)
        assert geometry.fill == (0, 0.5, 1)

    @pytest.mark.parametrize("scale", ["[2]", "[0,1]", "[2.0,0.5]", "[-1,1]"])
    def test_a_range_of_scales_that_cannot_be_is_refused(self, scale: str) -> None:
        with pytest.raises(ValueError, match=r"views\.scale"):  # here or as soon as it is parsed
            build_geometry(resolved("--views.scale", scale), build_normalization(ModelConfig(), PHOTOGRAPH))

    def test_views(self) -> None:
        config = resolved("--views.cutmix_per", "batch", "--views.cutmix_probability", "0.3", "--seed", "4", "--no-views.color")
        views = build_views(config, build_normalization(config.model, PHOTOGRAPH))
        assert (views.cutmix_per, views.cutmix_probability, views.seed, views.color) == ("batch", 0.3, 4, False)

    @pytest.mark.parametrize("name", ["adamw", "sgd"])
    def test_optimizer_holds_each_student_parameter_once(self, name: str) -> None:
        method = build_method(resolved(), build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3))
        config = OptimizerConfig(name=name, lr=0.01, head_factor=5.0, weight_decay=0.1)  # type: ignore[arg-type]
        optimizer = build_optimizer(config, method)
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in method.student.parameters())
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.05])
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
        encoder = {id(p) for p in method.network.encoder_parameters()}
        assert {id(p) for p in optimizer.param_groups[0]["params"]} == encoder

    @pytest.mark.parametrize(
        ("device", "clip", "scaled", "fused"),
        [("cpu", 0.0, False, True), ("cpu", 1.0, False, None), ("cpu", 0.0, True, None), ("meta", 0.0, False, None)],
    )
    @pytest.mark.parametrize("name", ["adamw", "sgd"])
    def test_optimizer_is_fused_unless_gradients_are_clipped_or_scaled(
        self, name: str, device: str, clip: float, *, scaled: bool, fused: bool | None
    ) -> None:
        network = build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3)
        method = build_method(resolved(), network).to(device)
        settings = OptimizerConfig(name=name, lr=0.01, clip=clip)  # type: ignore[arg-type]
        optimizer = build_optimizer(settings, method, scaled=scaled)
        assert {group["fused"] for group in optimizer.param_groups} == {fused}

    def test_method_gets_its_settings(self) -> None:
        words = ("--prototypes.per_class", "3", "--prototypes.temperature", "0.2", "--consistency.threshold", "0.7")
        network = build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3)
        method = build_method(resolved(*words, "--consistency.ema_momentum", "0.5"), network)
        assert method.prototypes.head.prototype.shape == (3, 3, 4)  # type: ignore[union-attr]
        assert method.ema_momentum == 0.5
        assert method.threshold == 0.7

    @pytest.mark.parametrize("batch", [1, 3])
    def test_ohem_keeps_pixels_by_image(self, batch: int) -> None:
        words = ("--loss.name", "ohem", "--loss.ohem_min_kept", "20", "--loss.ohem_threshold", "0.01")
        method = build_method(resolved(*words), build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3))
        logits, mask = torch.randn(batch, 3, 8, 8), torch.randint(0, 3, (batch, 8, 8))
        expected = ohem_cross_entropy(logits, mask, threshold=0.01, min_kept=20 * batch)
        assert method.labeled_loss(logits, mask) == expected  # type: ignore[operator]

    def test_rare_classes_can_count_more(self) -> None:
        report = dataclasses.replace(found(), pixels=np.array([900, 100]))
        config = resolve(parsed("--loss.balance", "1"), report, num_unlabeled=10, cuda=False)
        assert config.loss.class_weights == pytest.approx([1 / 1.8, 1 / 0.2])
        method = build_method(config, build_network(ModelConfig(arch="small_unet", weights="none", width=4), 2))
        assert method.labeled_loss.class_weight.tolist() == pytest.approx([1 / 1.8, 1 / 0.2])
        assert not any("class_weight" in name for name in method.state_dict())
        config = resolve(parsed("--prototypes.balance", "1"), report, num_unlabeled=10, cuda=False)
        network = build_network(ModelConfig(arch="small_unet", weights="none", width=4, projection=6), 2)
        method = build_method(config, network, class_pixels=report.pixels.tolist())
        assert method.prototypes.class_weight.tolist() == pytest.approx([1 / 1.8, 1 / 0.2])
        assert method.prototypes.head.feature_channels == 6
        with pytest.raises(ValueError, match="need the labelled pixels of each class"):
            build_method(config, network)

    def test_a_projection_is_for_prototypes(self) -> None:
        words = ("--model.projection", "6", "--method")
        assert resolved(*words, "fixmatch").model.projection == 0
        assert resolved(*words, "fixmatch+prototypes").model.projection == 6
        assert resolved("--model.projection", "6", "--prototypes.per_class", "0").model.projection == 0
        assert resolved().loss.class_weights is None

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--loss.balance", "2"), "from 0 to 1"),
            (("--prototypes.balance", "-0.5"), "from 0 to 1"),
            (("--prototypes.points_per_cell", "0"), "above 0"),
            (("--model.projection", "-1"), "0 or more"),
            (("--model.projection", "8", "--method", "u2pl+prototypes"), "reads the network's features too"),
            (("--model.projection", "8", "--method", "corrmatch+prototypes"), "reads the network's features too"),
            (("--loss.balance", "0.5", "--loss.name", "ohem"), "its own way with rare classes"),
            (("--loss.class_weights", "[1, 2, 3]"), "3 numbers for 2 classes"),
            (("--loss.class_weights", "[1, -1]"), "0 or more"),
        ],
    )
    def test_weights_that_cannot_be_are_refused(self, words: tuple[str, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            resolved(*words)

    def test_a_threshold_of_each_class_needs_a_threshold(self) -> None:
        network = build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3)
        for method in ("cps", "u2pl", "self_training", "mean_teacher"):
            config = resolved("--method", method, "--consistency.class_thresholds", "true")
            if config.consistency.threshold:
                continue
            with pytest.raises(ValueError, match=f"lowers a threshold, and {method} has none"):
                build_method(config, network)
        given = resolved("--method", "cps", "--consistency.class_thresholds", "true", "--consistency.threshold", "0.7")
        assert build_method(given, network).class_thresholds is not None
        labels_only = resolved("--method", "supervised", "--consistency.class_thresholds", "true")
        assert build_method(labels_only, network).threshold is None

    @pytest.mark.parametrize(
        ("words", "note"),
        [
            (("--batch", "4"), "is for 16 labelled images a step, and this run takes 4; --accumulate 4 takes as many, or "),
            (("--batch", "4", "--accumulate", "4"), ""),
            (("--batch", "4", "--optimizer.lr", "1e-5"), ""),
            (("--batch", "32"), "this run takes 32; --optimizer.lr 7.07e-06 is what"),
            (("--batch", "6"), "this run takes 6; --optimizer.lr 3.06e-06 is what"),
        ],
        ids=str,
    )
    def test_a_recipes_learning_rate_and_another_batch(self, words: tuple[str, ...], note: str) -> None:
        config = resolve(parse_train(["data", "--recipe", "dinov2", *words]), found(), num_unlabeled=10, cuda=False)
        assert note in note_on_batch(config)
        assert bool(note) == bool(note_on_batch(config))

    def test_no_note_where_a_recipe_leaves_the_batch_open(self) -> None:
        assert note_on_batch(resolved("--batch", "2")) == ""

    def test_zero_prototypes_switch_the_term_off(self) -> None:
        config = resolved("--prototypes.per_class", "0")
        method = build_method(config, build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3))
        assert method.prototypes is None
        assert "prototype_labeled" not in metric_fields(config)

    def test_the_term_needs_images_that_the_method_uses(self) -> None:
        network = build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3)
        assert build_method(resolved("--prototypes.images", "labeled"), network).prototypes.images == "labeled"  # type: ignore[union-attr]
        config = resolved("--method", "supervised+prototypes", "--prototypes.images", "unlabeled")
        with pytest.raises(ValueError, match=r"--prototypes\.images unlabeled leaves supervised without any"):
            build_method(config, network)

    @pytest.mark.parametrize(
        ("method", "why"),
        [
            ("supervised+prototypes", r"is about pseudo-labels, and supervised\+prototypes has none"),
            ("self_training", "a finished model"),
        ],
    )
    def test_prototypes_say_nothing_to_labels_that_they_do_not_reach(self, method: str, why: str) -> None:
        for labels in ("agree", "mean"):
            with pytest.raises(ValueError, match=f"{why}.*leave"):
                resolved("--method", method, "--prototypes.labels", labels)
        # The labels-only run beside another method, which has no prototypes.
        resolved("--method", "supervised", "--prototypes.labels", "agree")

    def test_metric_fields_go_by_the_method(self) -> None:
        assert metric_fields(resolved("--method", "supervised")) == ("loss", "labeled", "ema_distance")
        assert {"consistency", "confident", "prototype_labeled", "prototype_consistency"} <= set(metric_fields(resolved()))

    @pytest.mark.parametrize("plus", ["", "+prototypes"])
    @pytest.mark.parametrize("name", sorted(METHODS))
    def test_every_method_is_built_by_its_name(self, name: str, plus: str) -> None:
        config = resolved("--method", name + plus)
        method = build_method(config, build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3))
        assert type(method) is method_class(name)
        assert (method.prototypes is not None) is bool(plus or name == "prototype")
        views = build_views(config, build_normalization(config.model, PHOTOGRAPH))
        assert views.num_strong == method.num_strong
        columns = {"loss"} | ({*method.unlabeled_weights, "confident"} if method.uses_unlabeled else set())
        for network in method.trained_names:
            columns.add(f"labeled{network}")
            if method.prototypes is not None:
                columns |= {f"prototype_labeled{network}", f"prototype_agreement{network}"}
                columns |= {f"prototype_consistency{network}"} if method.uses_unlabeled else set()
        columns |= method.labeled_weights.keys()
        columns |= {"ema_distance"} | ({"teacher_agreement", "pseudo_distance"} if method.uses_unlabeled else set())
        columns |= {"prototype_entropy", "dead_prototypes"} if method.prototypes is not None else set()
        assert set(metric_fields(config)) == columns

    def test_what_a_recipe_says_about_its_own_method_is_not_for_another(self) -> None:
        assert parsed().consistency.threshold == 0.9  # the recipe's
        other = resolved("--method", "unimatch_v2", "--batch", "16")
        assert (other.consistency.threshold, other.consistency.ema_momentum) == (0.95, 0.996)  # the paper's
        assert other.prototypes.per_class == 0
        given = resolved("--method", "unimatch_v2+prototypes", "--consistency.threshold", "0.6", "--prototypes.per_class", "2")
        assert (given.method, given.consistency.threshold, given.prototypes.per_class) == ("unimatch_v2", 0.6, 2)
        assert resolved("--method", "prototype").consistency.threshold == 0.9

    def test_the_color_style_is_the_methods_unless_given(self) -> None:
        styles = []
        for words in [(), ("--method", "augseg"), ("--method", "augseg", "--views.color_style", "jitter")]:
            config = resolved(*words)
            views = build_views(config, build_normalization(config.model, PHOTOGRAPH))
            assert views.color_style == config.views.color_style
            styles.append(views.color_style)
        assert styles == ["jitter", "random", "jitter"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--method", "fixmtach"), "choose one of"),
            (("--method", "fixmatch+prototype"), r"with \+prototypes behind it"),
            (("--method", "fixmatch+prototypes", "--prototypes.per_class", "0"), "drop one"),
            (("--views.cutmix_area", "[0.4, 0.1]"), "two shares of the crop"),
        ],
    )
    def test_methods_that_cannot_be_are_refused(self, words: tuple[str, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parsed(*words)

    def test_options_that_a_method_lacks_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"fixmatch has no consistency\.selection"):
            resolved("--method", "fixmatch", "--consistency.selection", "entropy_drop")

    def test_small_unet_has_no_trained_weights(self) -> None:
        with pytest.raises(ValueError, match=r"--model\.weights none"):
            build_network(ModelConfig(arch="small_unet", weights="imagenet"), 3)
        build_network(ModelConfig(arch="small_unet", weights="imagenet"), 3, pretrained=False)

    def test_a_network_starts_from_the_seed(self) -> None:
        starts = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            starts.append(build_network(ModelConfig(arch="small_unet", weights="none", width=4), 3).state_dict())
        assert all(torch.equal(starts[0][k], starts[1][k]) for k in starts[0])
        assert any(not torch.equal(starts[0][k], starts[2][k]) for k in starts[0])


def test_sections_count_where_settings_do_and_not_in_a_file_of_something_else(tmp_path: Path) -> None:
    """A model file may lie beside the config.yaml of another program."""
    (tmp_path / "config.yaml").write_text("model: fast\noptimizer:\nsteps: 3\n")
    assert read_yaml(tmp_path / "config.yaml") == {"model": "fast", "optimizer": None, "steps": 3}
    with pytest.raises(ValueError, match=r"model is fast; it holds settings by their names"):
        read_settings(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("optimizer:\nsteps: 3\n")
    assert read_settings(tmp_path / "config.yaml") == {"steps": 3}
