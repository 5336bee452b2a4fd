"""All settings of a run, as plain data. Their docstrings are the text of --help."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

RUN_FOLDER = "PROTOSEG_RUN_FOLDER"
"""Environment variable in which a run keeps the name of its folder, for the processes that it starts."""


@dataclass
class ModelConfig:
    """The network.

    Attributes:
        arch: smp architecture, dino_dpt, paper_deeplabv3plus or small_unet
        encoder: of smp, tu-NAME of timm, or dinov2_small, dinov3_base, ... (dino_dpt)
        weights: of the encoder: FILE, imagenet or none
        mean, std: of each channel, in [0, 1]; default the encoder's for 8-bit RGB, else the images'
        freeze_bn, freeze_encoder: what of the encoder does not learn: BatchNorm's statistics; anything
        grad_checkpointing: less memory, more time: activations are computed twice (timm, DINO)
        auxiliary: second head (paper_deeplabv3plus only)
        projection: the prototypes see a projection of the features to so many channels; 0 = none
        width, features: channels of the first level (small_unet), of the features (small_unet, dino_dpt)
    """

    arch: str = "deeplabv3plus"
    encoder: str = "resnet50"
    weights: str = "imagenet"
    mean: list[float] | None = None
    std: list[float] | None = None
    freeze_bn: bool = False
    freeze_encoder: bool = False
    grad_checkpointing: bool = False
    auxiliary: bool = False
    projection: int = 0
    width: int = 24
    features: int | None = None


@dataclass
class ClassesConfig:
    """The classes.

    Attributes:
        names: default classes.txt, or what the masks hold
        ids, colors: of each name: its mask value; its R, G, B in masks and pictures
        ignore: classes that count as not labelled
        merge: classes made of others: {car: [car, truck]}
        background: class, ignore, or another class's name
    """

    names: list[str] | None = None
    ids: list[int] | None = None
    colors: list[list[int]] | None = None
    ignore: list[str] = field(default_factory=list)
    merge: dict[str, list[str]] = field(default_factory=dict)
    background: str = "class"


@dataclass
class PrototypesConfig:
    """The prototype term.

    Attributes:
        per_class: prototypes per class, 0 = term off; default 4 where the method has prototypes
        temperature: divides the cosine
        momentum: of the moving average
        weight: of the prototype losses
        delay: steps after the warm-up until prototypes start
        grid: random pixels of an image: one per cell of a grid x grid grid
        points_per_cell: random pixels in each of these cells
        emphasis: points that weigh more in the losses: even, uncertain or boundary
        balance: 0 to 1, how far points of rare classes weigh more
        images: with the prototype losses: both, labeled or unlabeled
        shared_points: the same pixels for all images of a batch
        start: kmeans, random, or FILE with a (C, K, D) tensor
        unit_features, class_prior: average unit features; rare classes get lower logits
        labels: pseudo-labels of: linear, agree (where both predictors do) or mean (of both)
        fit_points: most pixels per class for k-means
    """

    per_class: int | None = None
    temperature: float = 0.1
    momentum: float = 0.99
    weight: float = 1.0
    delay: int = 0
    grid: int = 32
    points_per_cell: int = 1
    emphasis: Literal["even", "uncertain", "boundary"] = "even"
    balance: float = 0.0
    images: Literal["both", "labeled", "unlabeled"] = "both"
    shared_points: bool = False
    start: str = "kmeans"
    unit_features: bool = False
    class_prior: bool = False
    labels: Literal["linear", "agree", "mean"] = "linear"
    fit_points: int = 4096


@dataclass
class ConsistencyConfig:
    """Teacher and pseudo-labels.

    Attributes:
        threshold: lowest teacher confidence that counts; default the method's
        selection: which pixels teach: threshold or entropy_drop (prototype)
        normalizer: unsupervised losses divide by valid or selected pixels (prototype)
        drop_percent: of pixels dropped by entropy at first (prototype, u2pl)
        labels_from: ema or self (fixmatch)
        rampup_steps: until the unsupervised loss has its weight (mean_teacher, cutmix_mt)
        reliable_first: true: learn from the more reliable half first (self_training)
        weight: of the unsupervised losses
        align_shares: pseudo-labels get the class shares of the labels
        class_thresholds: a lower threshold for classes that the teacher is less sure of
        ema_momentum: of the teacher; default the method's, by batch
        warmup_steps: steps on labels only; default steps / 20, at least 500, at most half
    """

    threshold: float | None = None
    selection: Literal["threshold", "entropy_drop"] | None = None
    normalizer: Literal["valid", "selected"] | None = None
    drop_percent: float | None = None
    labels_from: Literal["ema", "self"] | None = None
    rampup_steps: int | None = None
    reliable_first: bool | None = None
    weight: float = 1.0
    align_shares: bool = False
    class_thresholds: bool = False
    ema_momentum: float | None = None
    warmup_steps: int | None = None


@dataclass
class ViewsConfig:
    """Augmentation.

    Attributes:
        scale: range of the random scale
        flip, color: mirror left-right; change colours and blur in the strong view
        color_style: jitter, or random: one to three operations; default the method's
        color_labeled: the same for labelled images
        cutmix_probability: chance of CutMix
        cutmix_area: range of the box's share of the crop, e.g. [0.02, 0.4]; default half
        cutmix_per: one chance per batch or image
        label_padding: call padding class 0, as the paper's code base does
        rare_crops: share of labelled crops drawn around rare classes
    """

    scale: list[float] = field(default_factory=lambda: [0.5, 2.0])
    flip: bool = True
    color: bool = True
    color_style: Literal["jitter", "random"] | None = None
    color_labeled: bool = False
    cutmix_probability: float = 0.5
    cutmix_area: list[float] | None = None
    cutmix_per: Literal["batch", "image"] = "batch"
    label_padding: bool = False
    rare_crops: float = 0.0


@dataclass
class OptimizerConfig:
    """Optimizer, with a poly schedule.

    Attributes:
        name: adamw or sgd
        lr, baseline_lr: of the encoder, default by batch; of the labels-only run, default the same
        head_factor: the rest of the network learns this much faster
        layer_decay: each block of a ViT learns at this share of the next one's rate, 1 = off
        weight_decay: weight decay
        momentum: of SGD
        power: of the poly schedule
        warmup_steps: linear warm-up of the learning rate
        clip: largest gradient norm, 0 = off
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = None
    head_factor: float = 10.0
    layer_decay: float = 1.0
    baseline_lr: float | None = None
    weight_decay: float = 1e-4
    momentum: float = 0.9
    power: float = 0.9
    warmup_steps: int = 0
    clip: float = 0.0


@dataclass
class LossConfig:
    """Loss of the linear predictor on labelled images.

    Attributes:
        name: cross_entropy or ohem
        balance: 0 to 1, how far rare classes count more
        class_weights: of each class; default by balance
        ohem_threshold: probability above which a pixel is easy
        ohem_min_kept: pixels kept at least, per image
        auxiliary_weight: of the second head
    """

    name: Literal["cross_entropy", "ohem"] = "cross_entropy"
    balance: float = 0.0
    class_weights: list[float] | None = None
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 50_000
    auxiliary_weight: float = 0.4


@dataclass
class InferenceConfig:
    """Scoring and predicting.

    Attributes:
        window, stride: side of a sliding window, default the whole image; its step, default 2/3 of it
        scales: predictions at these sizes are averaged
        flip: average with the mirrored image
    """

    window: int | None = None
    stride: int | None = None
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False


@dataclass
class TrainConfig:
    """A training run.

    Attributes:
        data: folder with images/ and masks/
        format: layout of the folder; recognised when left out
        labels: masks to use: FILE, N, 1/8 or all; default all
        unlabeled: one more folder of unlabelled images
        holdout: labelled images kept back to score on: FILE, N or 1/5
        split: evaluation images: test or val; default test, else val
        method: prototype, supervised, fixmatch, ..., or METHOD+prototypes
        recipe: name or FILE of a YAML file of settings
        steps, crop: optimizer steps, default by number of images; side of the crops, default by image size
        batch: labelled and unlabelled images each; default by device
        accumulate: batches per optimizer step
        workers, cache: processes that decode images; folder that keeps small sets of them decoded
        seed: of everything random
        out: run folder; default runs/NAME
        resume: go on with the run in this folder
        checkpoint_every: steps between checkpoints
        log_every, logger: steps between log rows, default steps / 100; tensorboard, wandb or mlflow gets them
        evaluate: score the trained model
        evaluate_every: also score every so many steps, for a curve
        baseline: also train on labels only, and compare
        on_collapse: go on, skipping NaN (continue), stop, or rollback to where all was well
    """

    data: str = ""
    format: str | None = None
    labels: str | None = None
    unlabeled: str | None = None
    holdout: str | None = None
    split: Literal["test", "val"] | None = None
    method: str = "prototype"
    recipe: str = "prototype"
    steps: int | None = None
    crop: int | None = None
    batch: int | None = None
    accumulate: int = 1
    workers: int | None = None
    cache: str | None = None
    seed: int = 0
    out: str | None = None
    resume: str | None = None
    checkpoint_every: int = 500
    log_every: int | None = None
    logger: Literal["tensorboard", "wandb", "mlflow"] | None = None
    evaluate: bool = True
    evaluate_every: int = 0
    baseline: bool = False
    on_collapse: Literal["continue", "stop", "rollback"] = "continue"
    classes: ClassesConfig = field(default_factory=ClassesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    prototypes: PrototypesConfig = field(default_factory=PrototypesConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def full_method(self) -> str:
        """The method as --method takes it, with its prototypes."""
        return f"{self.method}+prototypes" if self.prototypes.per_class and self.method != "prototype" else self.method

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
