"""Plain vision transformers by name, from timm: how they are built, where their weights come from, which layers they have."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import timm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from protoseg.nn.dpt import DinoDPT
from protoseg.nn.weights import (
    adapt_first_layer,
    first_line,
    is_download_error,
    is_file_name,
    is_unpublished,
    load_encoder,
    quiet_hub,
    read_state,
    unpublished,
    unreachable,
)

DINO = {
    "dinov2_small": "vit_small_patch14_dinov2",
    "dinov2_base": "vit_base_patch14_dinov2",
    "dinov2_large": "vit_large_patch14_dinov2",
    "dinov2_giant": "vit_giant_patch14_dinov2",
    "dinov3_small": "vit_small_patch16_dinov3",
    "dinov3_base": "vit_base_patch16_dinov3",
    "dinov3_large": "vit_large_patch16_dinov3",
}
"""Short names -> timm's."""
_MOST_TAGS = 8  # in a message
_PLAIN = ("vision_transformer", "eva", "deit")
"""timm's files of ViTs that have one map of one size all through, and take images of any size."""


def timm_name(encoder: str) -> str | None:
    """timm's name of an encoder, None for one of another library."""
    return DINO.get(encoder) or (encoder.removeprefix("tu-") if encoder.startswith("tu-") else None)


def check_encoder_name(encoder: str) -> None:
    """Stop at what is more than a name: timm would ask a hub for it or read another folder, and model files name encoders too.

    Raises:
        ValueError: it has a colon or a slash in it.
    """
    if not {":", "/", "\\"}.isdisjoint(encoder):
        raise ValueError(
            f"the encoder {encoder!r} is no plain name, and none is fetched from a hub or a folder; give --model.encoder "
            "resnet50, dinov2_small or tu-NAME of timm, and a file of its weights with --model.weights FILE"
        )


def timm_config(name: str) -> Any:
    """What timm knows of a network's weights; None of one that it does not know, or by a tag that it does not have."""
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None


def no_such_tag(encoder: str, weights: str | None) -> ValueError:
    """What to say where timm has no weights by that tag: the end of the encoder's name, or the name of the weights."""
    name, _, tag = (timm_name(encoder) or "").partition(".")
    known = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")][:_MOST_TAGS]
    if weights in (None, "imagenet"):
        others = f", or with one of {', '.join(known)} in the place of {tag}" if known else ""
        return ValueError(f"timm has no {name}.{tag}; give --model.encoder tu-{name}{others}")
    return ValueError(
        f"{encoder} has no weights named {weights!r}; give --model.weights {', '.join(['imagenet', *known])}, a FILE, or none"
    )


def is_plain_vit(encoder: str) -> bool:
    """Whether an encoder is a ViT that `create_dino_dpt` takes."""
    name = timm_name(encoder)
    return name is not None and timm.models.is_model_in_modules(name.split(".")[0], _PLAIN)


def create_dino_dpt(
    encoder: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    weights: str | Path | None = None,
    feature_channels: int | None = None,
    freeze_encoder: bool = False,
    **options: Any,
) -> DinoDPT:
    """Build a DPT on a plain ViT by name.

    Args:
        encoder: `dinov2_small` ... `dinov3_large`, or `tu-NAME` of a plain ViT of timm.
        num_classes: C.
        in_channels: I. For another number than 3, pre-trained first-layer filters are repeated over the channels and scaled.
        weights: `imagenet` for the ViT's usual ones (DINO's own for a DINO), another name that timm has for it, the path of a
            file of timm or of DINO, or None for a random start.
        feature_channels, freeze_encoder: see DinoDPT.
        options: handed to timm.

    Raises:
        ValueError: there is no such ViT, or the weights do not fit it.
        FileNotFoundError: the weights file is not there.
        ConnectionError: named weights could not be downloaded.
    """
    check_encoder_name(encoder)
    name = timm_name(encoder)
    if name is None or not is_plain_vit(encoder):
        raise ValueError(
            f"dino_dpt is for plain ViTs, and {encoder} is none that is known here; give --model.encoder {', '.join(DINO)}, or "
            "tu-NAME of another one of timm"
        )
    state = None if weights is None or not is_file_name(weights) else read_state(Path(weights))
    named = weights is not None and state is None
    if named and weights != "imagenet":
        name = f"{name.split('.')[0]}.{weights}"
    try:
        with quiet_hub():
            vit = timm.create_model(
                name, pretrained=named, num_classes=0, global_pool="", in_chans=in_channels, dynamic_img_size=True, **options
            )
    except Exception as error:  # timm raises anything from AssertionError to TypeError for what does not fit together
        if named and is_download_error(error):
            raise unreachable(encoder, "pre-trained" if weights == "imagenet" else str(weights), error) from error
        if "pretrained tag" in str(error):
            raise no_such_tag(encoder, None if weights is None else str(weights)) from error
        if is_unpublished(error):
            raise unpublished(encoder) from error
        raise ValueError(
            f"dino_dpt cannot be built on {encoder}: {first_line(error)}. Choose another --model.encoder, e.g. dinov2_small"
        ) from error
    if state is not None:
        load_encoder(vit, adapt_first_layer(timm_state(state, vit, source=str(weights)), vit), source=str(weights))
    return DinoDPT(vit, num_classes, feature_channels=feature_channels, freeze_encoder=freeze_encoder)


_RENAMED = {
    "register_tokens": "reg_token",  # DINOv2
    "mlp.w12.": "mlp.fc1.",
    "mlp.w3.": "mlp.fc2.",
    "storage_tokens": "reg_token",  # DINOv3
    "mlp.w1.": "mlp.fc1_g.",
    "mlp.w2.": "mlp.fc1_x.",
    "ls1.gamma": "gamma_1",
    "ls2.gamma": "gamma_2",
}
"""Names in the files of DINO's authors -> timm's. LayerScale is renamed in DINOv3 alone."""


def timm_state(state: dict[str, Tensor], vit: nn.Module, *, source: str) -> dict[str, Tensor]:
    """Weights with timm's names, from a file of timm, or one of DINO's authors (as torch.hub downloads it).

    Args:
        state: names to tensors.
        vit: what they are for.
        source: how messages name them.

    Raises:
        ValueError: the file has biases that the ViT has not.
    """
    if "mask_token" not in state:
        return state
    is_eva = isinstance(vit, Eva)
    own: dict[str, Tensor] = {}
    for name, value in state.items():
        for before, after in _RENAMED.items():
            if is_eva or not before.startswith("ls"):
                name = name.replace(before, after)
        if is_eva and name.endswith("attn.qkv.bias"):  # timm keeps none for the keys, which are masked in training
            of_query, _, of_value = value.chunk(3)
            own |= {name.replace("qkv.bias", "q_bias"): of_query, name.replace("qkv.bias", "v_bias"): of_value}
        else:
            own[name] = value
    if "register_tokens" in state:  # timm adds no position to these tokens, so the class token brings its own
        own["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        own["pos_embed"] = state["pos_embed"][:, 1:]
    known = vit.state_dict()
    if any(name.endswith(("attn.q_bias", "attn.v_bias")) and name not in known and bool(own[name].any()) for name in own):
        raise ValueError(f"{source} has biases of queries and values; give the encoder of timm's with _qkvb in its name")
    return own


def vit_layers(network: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a network's ViT by depth: what comes before the blocks, then each block, the last with what follows it.

    Raises:
        ValueError: the encoder is no plain ViT.
    """
    vit = next((m for m in network.encoder.modules() if isinstance(m, (VisionTransformer, Eva))), None)  # type: ignore[union-attr]
    if vit is None:
        raise ValueError(
            "optimizer.layer_decay goes by the blocks of a plain ViT, which this encoder is not; leave it out, or give "
            "--model.arch dino_dpt"
        )
    blocks = [list(block.parameters()) for block in vit.blocks]
    behind = [m.parameters() for m in (vit.norm, vit.fc_norm)]
    blocks[-1] += chain.from_iterable(behind)
    inside = {id(p) for p in chain.from_iterable(blocks)}
    return [[p for p in vit.parameters() if id(p) not in inside], *blocks]
