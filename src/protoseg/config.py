"""What settings mean: the only place where names become objects."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from protoseg import safe_yaml
from protoseg.settings import ClassesConfig, InferenceConfig, ModelConfig, OptimizerConfig, TrainConfig, ViewsConfig
from protoseg.words import shortened

if TYPE_CHECKING:  # torch is imported inside the builders, so that --help answers at once
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from protoseg.data.batch import BatchViews
    from protoseg.data.check import ChannelStatistics, LabelReport
    from protoseg.data.class_rules import ClassRules
    from protoseg.data.images import ImageKind
    from protoseg.data.index import DataIndex
    from protoseg.data.loader import Geometry
    from protoseg.data.rare import RareCrops
    from protoseg.data.splits import Partition
    from protoseg.engine.evaluate import Normalization
    from protoseg.engine.inference import Inference
    from protoseg.functional.losses import SegmentationLoss
    from protoseg.methods.base import Method
    from protoseg.nn.prototype_head import PrototypeHead

RECIPES = Path(__file__).parent / "recipes"
METHODS = {
    "supervised": "supervised.Supervised",
    "mean_teacher": "mean_teacher.MeanTeacher",
    "cutmix_mt": "cutmix_mt.CutMixMT",
    "fixmatch": "fixmatch.FixMatch",
    "augseg": "augseg.AugSeg",
    "u2pl": "u2pl.U2PL",
    "corrmatch": "corrmatch.CorrMatch",
    "cps": "cps.CrossPseudoSupervision",
    "self_training": "self_training.SelfTraining",
    "unimatch": "unimatch.UniMatch",
    "prevmatch": "prevmatch.PrevMatch",
    "unimatch_v2": "unimatch_v2.UniMatchV2",
    "prototype": "prototype.PrototypeConsistency",
}
"""Name -> class in `protoseg.methods`."""
SECTIONS = tuple(field.name for field in dataclasses.fields(TrainConfig) if dataclasses.is_dataclass(field.default_factory))
"""Settings that hold settings."""
OWN_NETWORKS = {"small_unet", "paper_deeplabv3plus"}
"""Architectures that bring their own encoder."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


METHOD_OPTIONS = ("threshold", "selection", "normalizer", "drop_percent", "labels_from", "rampup_steps", "reliable_first")
"""Settings of `consistency` that not every method has; where they are None, the method's own values count."""


def settle_method(config: TrainConfig) -> TrainConfig:
    """Take METHOD+prototypes apart, and decide whether there are prototypes.

    Raises:
        ValueError: there is no such method, or the settings contradict each other.
    """
    name, plus, term = config.method.partition("+")
    if name not in METHODS or (plus and term != "prototypes"):
        raise ValueError(
            f"there is no method {shortened(config.method)!r}; choose one of {', '.join(METHODS)}, with +prototypes behind it "
            "for the term"
        )
    per_class = config.prototypes.per_class
    if plus and per_class == 0:
        raise ValueError(f"--method {config.method} asks for prototypes, --prototypes.per_class 0 for none; drop one")
    if per_class is None:
        per_class = 4 if plus or name == "prototype" else 0  # the paper's number on Pascal VOC
    prototypes = dataclasses.replace(config.prototypes, per_class=per_class)
    return dataclasses.replace(config, method=name, prototypes=prototypes)


def change_method(config: TrainConfig, given: TrainConfig) -> TrainConfig:
    """Settings of a recipe that was written for another method: its constants are not this one's.

    Args:
        config: recipe and command line together.
        given: the command line alone, which counts whatever the method.
    """
    names = list(METHOD_OPTIONS)
    if config.method.partition("+")[0] != "supervised":  # the baseline has no paper: it is averaged as what it is compared with
        names.append("ema_momentum")
    own = {name: getattr(given.consistency, name) for name in names}
    return dataclasses.replace(
        config,
        prototypes=dataclasses.replace(config.prototypes, per_class=given.prototypes.per_class),
        consistency=dataclasses.replace(config.consistency, **own),
        views=dataclasses.replace(config.views, color_style=given.views.color_style),
    )


def method_class(name: str) -> type[Method]:
    """The class of a method."""
    module, cls = METHODS[name].split(".")
    return getattr(importlib.import_module(f"protoseg.methods.{module}"), cls)  # type: ignore[no-any-return]


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by name or path.

    Raises:
        FileNotFoundError: there is none.
    """
    shipped = RECIPES / f"{name}.yaml"
    if _is_file(shipped):
        return shipped
    if _is_file(Path(name)):
        return Path(name)
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise FileNotFoundError(f"there is no recipe {shortened(name)!r}; choose one of {names}, or give a YAML file")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for any
        return False


def recipe_files(name: str) -> list[Path]:
    """The files of a recipe: its own, and before it those that it `extends`, the furthest first.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: one of them is no YAML mapping, or extends itself.
    """
    files = [find_recipe(name)]
    while (parent := read_yaml(files[0]).get("extends")) is not None:
        beside = files[0].parent / f"{parent}.yaml"
        file = beside if _is_file(beside) else find_recipe(str(parent))
        if file in files:
            raise ValueError(f"{file} extends itself")
        files.insert(0, file)
    return files


def read_recipe(name: str) -> dict[str, Any]:
    """All settings of a recipe, those of what it extends included.

    Raises:
        FileNotFoundError, ValueError: see `recipe_files`.
    """
    settings: dict[str, Any] = {}
    for file in recipe_files(name):
        settings = _laid_over(settings, read_settings(file))
    settings.pop("extends", None)
    return settings


def read_yaml(file: Path) -> dict[str, Any]:
    """A file of settings.

    Raises:
        ValueError: it is none.
    """
    import yaml

    try:
        settings = safe_yaml.load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, or no UTF-8
        raise ValueError(f"{file} is not a YAML file of settings: {shortened(' '.join(str(error).split()), 300)}") from error
    if settings is not None and not isinstance(settings, dict):
        raise ValueError(f"{file} is not a YAML file of settings: it holds no `name: value`")
    return settings or {}


def read_settings(file: Path) -> dict[str, Any]:
    """A file of settings that count, its sections whole: one with nothing below it says nothing.

    Raises:
        ValueError: it is no YAML mapping, or a section of it is none.
    """
    settings = read_yaml(file)
    for name, value in settings.items():
        if name in SECTIONS and not isinstance(value, dict | None):
            raise ValueError(f"{file}: {name} is {shortened(value)}; it holds settings by their names, one a line below it")
    return {name: value for name, value in settings.items() if value is not None or name not in SECTIONS}


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two levels of settings, section by section."""
    sections = {key: {**below[key], **value} for key, value in above.items() if isinstance(value, dict) and key in below}
    return below | above | sections


LARGEST_SIDE = 4096
"""Pixels of a side of crops, and of windows that a recipe or a model file brings: an image of so many squared is about the
largest that `predict` sees whole unasked, and no file may demand that more is seen at once."""

_RANGES: dict[str, tuple[str, ...]] = {
    f"from 1 to {LARGEST_SIDE}": ("crop", "inference.window"),
    "above 0": (
        *("steps", "batch", "accumulate", "checkpoint_every", "log_every", "model.width", "model.features"),
        *("prototypes.grid", "prototypes.points_per_cell", "prototypes.temperature", "prototypes.fit_points"),
        *("optimizer.lr", "optimizer.baseline_lr"),
        *("optimizer.head_factor", "optimizer.power", "loss.ohem_min_kept"),
    ),
    "0 or more": (
        *("workers", "seed", "evaluate_every", "prototypes.per_class", "prototypes.weight", "consistency.weight"),
        *("prototypes.delay", "consistency.rampup_steps", "model.projection"),
        *("consistency.warmup_steps", "optimizer.weight_decay", "optimizer.warmup_steps", "optimizer.clip"),
        "loss.auxiliary_weight",
    ),
    "above 0, at most 1": ("optimizer.layer_decay",),
    "from 0 to 1": (
        "consistency.threshold",
        "views.cutmix_probability",
        "views.rare_crops",
        "loss.ohem_threshold",
        "loss.balance",
        "prototypes.balance",
    ),
    "from 0 to below 1": ("prototypes.momentum", "consistency.ema_momentum", "optimizer.momentum"),
    "from 0 to 100": ("consistency.drop_percent",),
}


def validate(config: TrainConfig) -> None:
    """Check every number that has a range.

    Raises:
        ValueError: the first setting that is out of range, by its dotted name.
    """
    holds: dict[str, Callable[[float], bool]] = {
        f"from 1 to {LARGEST_SIDE}": lambda value: 1 <= value <= LARGEST_SIDE,
        "above 0": lambda value: value > 0,
        "0 or more": lambda value: value >= 0,
        "above 0, at most 1": lambda value: 0 < value <= 1,
        "from 0 to 1": lambda value: 0 <= value <= 1,
        "from 0 to below 1": lambda value: 0 <= value < 1,
        "from 0 to 100": lambda value: 0 <= value <= 100,
    }
    for accepted, names in _RANGES.items():
        for name in names:
            value = attrgetter(name)(config)
            if value is not None and not holds[accepted](value):
                raise ValueError(f"{name} is {shortened(value)}; it must be {accepted}")
    if config.model.projection and config.prototypes.per_class and method_class(config.method).reads_features:
        raise ValueError(
            f"model.projection is for the prototypes, and {config.method} reads the network's features too, which makes it "
            "another method; leave it out"
        )
    warmup, steps = config.consistency.warmup_steps, config.steps
    if warmup is not None and steps is not None:  # else resolve finds numbers that fit
        delay = config.prototypes.delay if config.prototypes.per_class else 0
        if warmup >= steps and config.method != "supervised":
            raise ValueError(
                f"consistency.warmup_steps is {warmup}, which leaves none of {steps} steps to learn from unlabelled images; "
                "give fewer, or more --steps"
            )
        if warmup + delay >= steps and config.prototypes.per_class:
            raise ValueError(
                f"prototypes.delay is {delay}, after {warmup} steps of warm-up: prototypes never start in {steps} steps; "
                "give a smaller delay, or more --steps"
            )
    if config.prototypes.labels != "linear" and config.method == "self_training":
        raise ValueError("self_training labels with a finished model, which has no prototypes; leave out prototypes.labels")
    if config.prototypes.labels != "linear" and config.method == "supervised" and config.prototypes.per_class:
        raise ValueError(
            f"prototypes.labels {config.prototypes.labels} is about pseudo-labels, and supervised+prototypes has none; "
            "leave prototypes.labels out, or choose another --method"
        )
    if config.model.freeze_encoder and config.optimizer.layer_decay != 1:
        raise ValueError("model.freeze_encoder leaves no block for optimizer.layer_decay to slow down; leave one of them out")
    if config.loss.name == "ohem" and (config.loss.balance or config.loss.class_weights):
        raise ValueError("loss.name ohem has its own way with rare classes; leave out loss.balance and loss.class_weights")
    if config.loss.class_weights is not None and not all(weight >= 0 for weight in config.loss.class_weights):
        raise ValueError(f"loss.class_weights are {shortened(config.loss.class_weights)}; they must be 0 or more")
    area = config.views.cutmix_area
    if area is not None and (len(area) != 2 or not 0 <= area[0] <= area[1] <= 1):
        raise ValueError(
            f"views.cutmix_area is {shortened(area)}; it takes two shares of the crop, the smaller first, e.g. [0.02, 0.4]"
        )
    scale = config.views.scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(f"views.scale is {shortened(scale)}; it takes two numbers above 0, the smaller first, e.g. [0.5, 2.0]")


def resolve(config: TrainConfig, found: LabelReport, *, num_unlabeled: int, cuda: bool) -> TrainConfig:
    """Fill in what was left to the size of the data and the machine, so that the stored settings are complete.

    Args:
        config: as given.
        found: in the labelled images.
        num_unlabeled: unlabelled images.
        cuda: whether a GPU trains.

    Returns:
        A copy without open settings.
    """
    from protoseg.data.splits import is_amount

    config = dataclasses.replace(
        config,
        data=_absolute(config.data),
        unlabeled=config.unlabeled and _absolute(config.unlabeled),
        cache=config.cache and str(Path(config.cache).absolute()),  # it may not be there yet
        labels=config.labels and (config.labels if is_amount(config.labels) else _absolute(config.labels)),
        holdout=config.holdout and (config.holdout if is_amount(config.holdout) else _absolute(config.holdout)),
    )
    normalization, weights = build_normalization(config.model, found.kind, found.statistics), config.model.weights
    config.model = dataclasses.replace(
        config.model,
        mean=list(normalization.mean),
        std=list(normalization.std),
        weights=weights if weights in {"imagenet", "none"} else _absolute(weights),
    )
    if not config.prototypes.per_class:
        config.model.projection = 0  # it is for the prototypes: nothing else would teach it
    start = config.prototypes.start
    if start not in {"kmeans", "random"}:
        config.prototypes = dataclasses.replace(config.prototypes, start=_absolute(start))
    batch = config.batch = (8 if cuda else 4) if config.batch is None else config.batch
    if config.crop is None:
        config.crop = default_crop(found.sizes)
    if config.steps is None:
        # Thirty passes of the unlabelled images, within reason: few images still need many steps, many need not all be seen.
        config.steps = min(40_000, max(4_000, 30 * num_unlabeled // batch))
    if config.log_every is None:
        config.log_every = max(1, config.steps // 100)
    if config.workers is None:
        config.workers = 4 if cuda else 0
    if config.loss.class_weights is None and config.loss.balance:
        from protoseg.functional.losses import class_weights

        weights_by_share = class_weights(found.pixels.tolist(), balance=config.loss.balance)
        config.loss = dataclasses.replace(config.loss, class_weights=weights_by_share)
    if config.loss.class_weights is not None and len(config.loss.class_weights) != len(found.classes):
        raise ValueError(
            f"loss.class_weights has {len(config.loss.class_weights)} numbers for {len(found.classes)} classes: "
            f"{', '.join(found.classes.names)}"
        )
    config.consistency = dataclasses.replace(config.consistency, **_own_values(config))
    if config.optimizer.lr is None:
        config.optimizer = dataclasses.replace(
            config.optimizer, lr=default_lr(config.optimizer.name, batch * config.accumulate)
        )
    config.views = dataclasses.replace(config.views, color_style=_color_style(config))
    if config.consistency.warmup_steps is None:
        # A teacher that starts sooner may unteach rare classes: docs/decisions/0006 says how little is known of that.
        left = config.steps - (config.prototypes.delay if config.prototypes.per_class else 0)
        warmup = max(0, min(max(500, config.steps // 20), left // 2)) if method_class(config.method).needs_warmup else 0
        config.consistency = dataclasses.replace(config.consistency, warmup_steps=warmup)
    return config


def _own_values(config: TrainConfig) -> dict[str, Any]:
    """What the method does where the settings say nothing, so that the stored settings do.

    Raises:
        ValueError: the settings say something that the method does not have.
    """
    method, given = method_class(config.method), dataclasses.asdict(config.consistency)
    known = {name: parameter.default for name, parameter in inspect.signature(method).parameters.items()}
    if strange := [name for name in METHOD_OPTIONS if given[name] is not None and name not in known]:
        raise ValueError(f"{config.method} has no consistency.{strange[0]}; leave it out, or choose another --method")
    values = {name: known[name] for name in METHOD_OPTIONS if given[name] is None and name in known}
    if given["ema_momentum"] is None:
        assert config.batch is not None
        values["ema_momentum"] = scaled_momentum(method.own_momentum, config.batch * config.accumulate)
    return values


def note_on_batch(config: TrainConfig) -> str:
    """What to say where a recipe's learning rate meets another batch than the recipe's; empty where it does not."""
    assert config.batch is not None
    recipe = read_recipe(config.recipe)
    meant = recipe.get("batch"), recipe.get("optimizer", {}).get("lr")
    now = config.batch * config.accumulate
    if None in meant or config.optimizer.lr != float(meant[1]) or now == (then := meant[0] * recipe.get("accumulate", 1)):
        return ""
    way = f"--accumulate {then // config.batch} takes as many" if then % config.batch == 0 and then > now else ""
    lr = _scaled_lr(config.optimizer.lr, config.optimizer.name, now / then)
    return (
        f"the recipe's learning rate {config.optimizer.lr:g} is for {then} labelled images a step, and this run takes {now}; "
        + (f"{way}, or " if way else "")
        + f"--optimizer.lr {lr:g} is what the usual rule makes of it"
    )


def default_lr(optimizer: str, batch: int) -> float:
    """The encoder's learning rate for a batch of so many labelled images, over all processes.

    It grows with the square root of the batch for AdamW (Malladi et al., NeurIPS 2022, arXiv 2205.10287) and with the batch
    for SGD (Goyal et al., arXiv 1706.02677), from 1e-4 at 8 images and from the paper's 1e-3 at 16.
    """
    return _scaled_lr(1e-4, optimizer, batch / 8) if optimizer == "adamw" else _scaled_lr(1e-3, optimizer, batch / 16)


def _scaled_lr(lr: float, optimizer: str, growth: float) -> float:
    """A learning rate for a batch that is so many times as large; `default_lr` says where the rules come from."""
    return _rounded(lr * growth ** (0.5 if optimizer == "adamw" else 1))


def scaled_momentum(momentum: float, batch: int) -> float:
    """A paper's EMA momentum, for 16 labelled images, at another batch: a teacher that forgets over as many images.

    The EMA scaling rule (Busbridge et al., NeurIPS 2023, arXiv 2307.13813).
    """
    return 1 - _rounded(1 - momentum ** (batch / 16))


def _rounded(value: float) -> float:
    """To three digits: what is printed and stored can be given again."""
    return float(f"{value:.3g}")


def _color_style(config: TrainConfig) -> Literal["jitter", "random"]:
    return config.views.color_style or method_class(config.method).own_color_style


def default_crop(sizes: Iterable[tuple[int, int]]) -> int:
    """Side of the crops for images of these sizes: the smallest one's, so that little is padding, within 64 to 512."""
    side = min(min(size) for size in sizes)
    return min(512, max(64, side // 32 * 32))


def _absolute(text: str) -> str:
    """A whole path for what is one, so that a run can go on from another folder; anything else as it is."""
    return str(Path(text).resolve()) if text and Path(text).exists() else text


def build_partition(config: TrainConfig) -> tuple[DataIndex, Partition]:
    """List the images that the settings name, and divide them.

    Raises:
        ValueError, FileNotFoundError: see `open_dataset` and `make_partition`.
    """
    from protoseg.data.check import classes_in
    from protoseg.data.formats import open_dataset
    from protoseg.data.splits import is_list, make_partition

    unlabeled = Path(config.unlabeled) if config.unlabeled else None
    rules = build_class_rules(config.classes)
    found = open_dataset(Path(config.data), format=config.format, unlabeled=unlabeled, is_listed=is_list(config.labels))
    index = rules.ordered(found)
    table = rules.table_of(index)
    partition = make_partition(
        index,
        labels=config.labels,
        holdout=config.holdout,
        split=config.split,
        seed=config.seed,
        classes_in=classes_in(None if table is None else rules.apply(table, strict=False)),  # a wrong name is found out later
    )
    return index, partition


def build_class_rules(config: ClassesConfig) -> ClassRules:
    from protoseg.data.class_rules import ClassRules

    return ClassRules(config.names, config.ids, config.colors, config.ignore, config.merge, config.background)


def build_network(config: ModelConfig, num_classes: int, *, pretrained: bool = True) -> nn.Module:
    """Build the network that the settings name.

    Args:
        config: of the model, resolved: its `mean` has as many entries as the images channels.
        num_classes: C.
        pretrained: False skips the start weights, for a network that gets a trained state next.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: see `create_segmenter`.
    """
    from protoseg.nn.projection import Projected
    from protoseg.nn.recompute import recompute_activations

    network: Any = _build_network(config, num_classes, pretrained=pretrained)
    if config.grad_checkpointing:
        own = config.arch in OWN_NETWORKS
        statistics_learn = not (config.freeze_bn or config.freeze_encoder)
        recompute_activations(network.encoder, name=config.arch if own else config.encoder, statistics_learn=statistics_learn)
    return Projected(network, config.projection) if config.projection else network


def _build_network(config: ModelConfig, num_classes: int, *, pretrained: bool) -> nn.Module:
    from protoseg.nn.deeplabv3plus import DeepLabV3Plus
    from protoseg.nn.segmenter import create_segmenter, named_state
    from protoseg.nn.small_unet import SmallUNet
    from protoseg.nn.vit import create_dino_dpt
    from protoseg.nn.weights import adapt_first_layer, load_encoder, read_state

    weights = config.weights if pretrained and config.weights != "none" else None
    in_channels = len(config.mean) if config.mean else 3
    if config.arch == "small_unet":
        if weights is not None:
            raise ValueError("there are no pre-trained weights for small_unet; give --model.weights none")
        if config.freeze_encoder:
            raise ValueError(
                "small_unet starts from nothing, so no encoder is worth freezing; leave out --model.freeze_encoder"
            )
        return SmallUNet(num_classes, in_channels=in_channels, width=config.width, feature_channels=config.features)
    if config.arch == "paper_deeplabv3plus":
        network = DeepLabV3Plus(
            num_classes,
            in_channels=in_channels,
            auxiliary=config.auxiliary,
            freeze_bn=config.freeze_bn,
            freeze_encoder=config.freeze_encoder,
        )
        if weights is not None:
            # timm's resnet101s has the same deep stem and the same tensor names.
            state = named_state("resnet101s") if weights == "imagenet" else read_state(Path(weights))
            load_encoder(network.encoder, adapt_first_layer(state, network.encoder), source=weights)
        return network
    if config.arch == "dino_dpt":
        return create_dino_dpt(
            config.encoder,
            num_classes=num_classes,
            in_channels=in_channels,
            weights=weights,
            feature_channels=config.features,
            freeze_encoder=config.freeze_encoder,
        )
    return create_segmenter(
        config.arch,
        config.encoder,
        num_classes=num_classes,
        in_channels=in_channels,
        weights=weights,
        freeze_bn=config.freeze_bn,
        freeze_encoder=config.freeze_encoder,
    )


def build_method(config: TrainConfig, network: nn.Module, class_pixels: Sequence[int] | None = None) -> Method:
    """Build the method that the settings name, around a network. Expects a resolved config.

    Args:
        class_pixels: (C,) labelled pixels of each class, for prototypes.class_prior, prototypes.balance and
            consistency.align_shares.

    Raises:
        ValueError: settings contradict each other or the network, or want to know the pixels.
    """
    import torch

    from protoseg.functional.losses import class_weights, cross_entropy, ohem_cross_entropy
    from protoseg.functional.random import generator
    from protoseg.methods.prototype_term import PrototypeTerm
    from protoseg.nn.balanced_loss import BalancedCrossEntropy
    from protoseg.nn.class_thresholds import ClassThresholds
    from protoseg.nn.prototype_head import PrototypeHead
    from protoseg.nn.share_alignment import ShareAlignment

    loss, consistency, prototypes = config.loss, config.consistency, config.prototypes
    assert consistency.warmup_steps is not None
    assert config.steps is not None
    assert consistency.ema_momentum is not None
    own: dict[str, Any] = {name: value for name in METHOD_OPTIONS if (value := getattr(consistency, name)) is not None}
    if consistency.class_thresholds and method_class(config.method).uses_unlabeled and not own.get("threshold"):
        raise ValueError(
            f"consistency.class_thresholds lowers a threshold, and {config.method} has none; give --consistency.threshold too, "
            "or leave it out"
        )
    if class_pixels is None and (prototypes.class_prior or prototypes.balance or consistency.align_shares):
        raise ValueError(
            "prototypes.class_prior, prototypes.balance and consistency.align_shares need the labelled pixels of each class"
        )

    def ohem(logits: Tensor, mask: Tensor) -> Tensor:
        kept = loss.ohem_min_kept * len(mask)  # by image, so that it fits whatever share of the batch a process has
        return ohem_cross_entropy(logits, mask, threshold=loss.ohem_threshold, min_kept=kept)

    term, class_weight = None, None
    if prototypes.per_class and prototypes.balance:
        class_weight = class_weights(class_pixels or (), balance=prototypes.balance)
    if prototypes.per_class and prototypes.images == "unlabeled" and not method_class(config.method).uses_unlabeled:
        raise ValueError(f"--prototypes.images unlabeled leaves {config.method} without any; give labeled, or another --method")
    if prototypes.per_class:
        head = PrototypeHead(
            int(network.feature_channels),  # type: ignore[arg-type]
            int(network.num_classes),  # type: ignore[arg-type]
            per_class=prototypes.per_class,
            temperature=prototypes.temperature,
            momentum=prototypes.momentum,
            unit_features=prototypes.unit_features,
            class_prior=prototypes.class_prior,
            seed=config.seed,
        )
        if class_pixels is not None:
            head.set_prior(class_pixels)
        if prototypes.start == "random":
            head.assign(torch.randn(head.prototype.shape, generator=generator(config.seed, "random prototypes")))
        elif prototypes.start != "kmeans":
            _assign_file(head, Path(prototypes.start))
        term = PrototypeTerm(
            head,
            grid=prototypes.grid,
            images=prototypes.images,
            shared_points=prototypes.shared_points,
            fit_start=prototypes.start == "kmeans",
            fit_points=prototypes.fit_points,
            labels=prototypes.labels,
            points_per_cell=prototypes.points_per_cell,
            emphasis=prototypes.emphasis,
            class_weight=class_weight,
        )
    labeled_loss: SegmentationLoss = ohem if loss.name == "ohem" else cross_entropy
    if loss.class_weights is not None:
        labeled_loss = BalancedCrossEntropy(loss.class_weights)
    method = method_class(config.method)
    if "total_steps" in inspect.signature(method).parameters:
        own["total_steps"] = config.steps
    return method(
        network,
        labeled_loss=labeled_loss,
        auxiliary_weight=loss.auxiliary_weight,
        ema_momentum=consistency.ema_momentum,
        warmup_steps=consistency.warmup_steps,
        unlabeled_weight=consistency.weight,
        prototypes=term,
        prototype_weight=prototypes.weight,
        prototype_delay=prototypes.delay,
        alignment=ShareAlignment(class_pixels) if class_pixels is not None and consistency.align_shares else None,
        class_thresholds=ClassThresholds(int(network.num_classes)) if consistency.class_thresholds else None,  # type: ignore[arg-type]
        seed=config.seed,
        **own,
    )


def _assign_file(head: PrototypeHead, path: Path) -> None:
    from protoseg.nn.weights import read_state

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} for prototypes.start; give a file, kmeans or random")
    try:
        state = read_state(path)
        head.assign(state.get("prototypes.prototype", next(iter(state.values()))))  # a model file of protoseg has them so
    except ValueError as error:
        raise ValueError(f"prototypes.start {path}: {error}") from error


def metric_fields(config: TrainConfig) -> tuple[str, ...]:
    """Columns of the metrics file: the loss terms and monitors that the settings bring about."""
    method = method_class(config.method)
    fields = ["labeled", *(["auxiliary"] if config.model.auxiliary else [])]
    if config.prototypes.per_class:
        fields += ["prototype_labeled", *(["prototype_consistency"] if method.uses_unlabeled else []), "prototype_agreement"]
    own = (*method.unlabeled_weights, "confident", "teacher_agreement", "pseudo_distance") if method.uses_unlabeled else ()
    of_prototypes = ("prototype_entropy", "dead_prototypes") if config.prototypes.per_class else ()
    shared = (f"{name}{network}" for network in method.trained_names for name in fields)
    return ("loss", *shared, *method.labeled_weights, *own, *of_prototypes, "ema_distance")


def build_optimizer(config: OptimizerConfig, method: Method, *, scaled: bool = False) -> Optimizer:
    """The optimizer over what learns of the student, by `parameter_groups`. Expects a resolved config.

    Args:
        scaled: whether gradients come scaled, as in float16.
    """
    import torch

    assert config.lr is not None
    groups = parameter_groups(config, method)
    # One loop over all parameters instead of a dozen small operations for each, which torch leaves to the caller; but Lightning
    # clips no gradients of a fused optimizer in mixed precision, and such an optimizer takes the scale off only after the guard
    # against steps that are no numbers has looked, which then leaves the scaler nothing to see.
    able = all(parameter.device.type in {"cpu", "cuda"} for group in groups for parameter in group["params"])
    fused = True if able and not config.clip and not scaled else None
    if config.name == "sgd":
        return torch.optim.SGD(groups, config.lr, config.momentum, weight_decay=config.weight_decay, fused=fused)
    return torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay, fused=fused)


def parameter_groups(config: OptimizerConfig, method: Method) -> list[dict[str, Any]]:
    """Parameters and their learning rates: the encoder's `lr`, and last everything else at `lr * head_factor`.

    With `layer_decay` d below 1 the encoder's N blocks are a group each: the last learns at `lr`, the i-th at
    `lr * d ** (N - i)`, and what comes before the first, as if it were the 0-th, at `lr * d ** N`.

    Raises:
        ValueError: `layer_decay` on an encoder without such blocks.
    """
    assert config.lr is not None
    layers = [list(method.encoder_parameters())]
    if config.layer_decay != 1:
        from protoseg.nn.vit import vit_layers

        each = [vit_layers(part.network) for part in method.trained()]
        layers = [[p for layer in same_depth for p in layer] for same_depth in zip(*each, strict=True)]
    inside = {id(parameter) for layer in layers for parameter in layer}
    rates = [config.lr * config.layer_decay ** (len(layers) - 1 - depth) for depth in range(len(layers))]
    layers.append([parameter for parameter in method.trained_parameters() if id(parameter) not in inside])
    rates.append(config.lr * config.head_factor)
    groups = [{"params": [p for p in layer if p.requires_grad], "lr": rate} for layer, rate in zip(layers, rates, strict=True)]
    return [group for group in groups if group["params"]]  # none of a frozen encoder


def build_normalization(config: ModelConfig, kind: ImageKind, statistics: ChannelStatistics | None = None) -> Normalization:
    """Mean and standard deviation of the input, unless given: for 8-bit RGB what the encoder was pre-trained with, which is
    ImageNet's for most and for networks that start from nothing; else those of the images.

    Args:
        config: of the model.
        kind: of the images.
        statistics: of the images, where they may be needed.

    Raises:
        ValueError: a list is not as long as there are channels, or a number is out of range.
    """
    from protoseg.engine.evaluate import Normalization

    usual: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD)
    if not kind.is_photograph and statistics is not None:
        usual = statistics
    elif (config.mean is None or config.std is None) and config.weights != "none" and config.arch not in OWN_NETWORKS:
        from protoseg.nn.segmenter import encoder_statistics

        usual = encoder_statistics(config.encoder) or usual
    mean, std = tuple(config.mean or usual[0]), tuple(config.std or usual[1])
    mean, std = (values * kind.channels if len(values) == 1 else values for values in (mean, std))
    if len(mean) != kind.channels or len(std) != kind.channels or min(std) <= 0:
        raise ValueError(
            f"model.mean and model.std take {kind.channels} numbers, one for each channel, std above 0; "
            f"got {list(mean)} and {list(std)}"
        )
    if kind.dtype != "float32" and (min(mean) < 0 or max(mean) > 1 or max(std) > 1):
        raise ValueError(
            f"model.mean and model.std are for pixels in [0, 1], got {list(mean)} and {list(std)}; divide by {kind.full_scale}"
        )
    return Normalization(mean, std, kind.dtype)


def build_views(config: TrainConfig, normalization: Normalization) -> BatchViews:
    """The device-side half of augmentation."""
    from protoseg.data.batch import BatchViews

    views = config.views
    return BatchViews(
        mean=normalization.mean,
        std=normalization.std,
        clamp=normalization.dtype == "uint8",
        num_strong=method_class(config.method).num_strong,
        color=views.color,
        color_style=_color_style(config),
        color_labeled=views.color_labeled,
        cutmix_probability=views.cutmix_probability,
        cutmix_area=None if views.cutmix_area is None else (views.cutmix_area[0], views.cutmix_area[1]),
        cutmix_per=views.cutmix_per,
        seed=config.seed,
    )


def build_rare_crops(config: ViewsConfig, found: LabelReport) -> RareCrops | None:
    """Which labelled crops are drawn around rare classes; None where none is."""
    from protoseg.data.rare import RareCrops

    if not config.rare_crops:
        return None
    held = [fact.pixels(found.classes) for fact in found.facts if fact.role == "labeled"]
    return RareCrops(held, len(found.classes), probability=config.rare_crops)


def build_inference(config: InferenceConfig) -> Inference:
    """How the trained network sees an image.

    Raises:
        ValueError: a number is out of range.
    """
    from protoseg.engine.inference import Inference

    return Inference(config.window, config.stride, tuple(config.scales), config.flip)


def build_geometry(config: TrainConfig, normalization: Normalization) -> Geometry:
    """The worker-side half of augmentation. Padding has the mean colour, which normalises to zero."""
    from protoseg.data.loader import Geometry

    low, high = config.views.scale
    assert config.crop is not None
    return Geometry(
        config.crop,
        scale=(low, high),
        flip=config.views.flip,
        fill=normalization.mean,
        label_padding=config.views.label_padding,
        kind=normalization.kind,
    )
