"""DPT on plain ViTs: DINOv2's patches of 14 pixels, DINOv3's rotary positions; trained whole, frozen or layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from protoseg.config import parameter_groups
from protoseg.doctor import saved_bytes
from protoseg.functional.points import read_features, sample_points
from protoseg.methods.cps import CrossPseudoSupervision
from protoseg.methods.supervised import Supervised
from protoseg.nn.deeplabv3plus import DeepLabV3Plus
from protoseg.nn.dpt import DinoDPT
from protoseg.nn.projection import Projected
from protoseg.nn.segmenter import create_segmenter
from protoseg.nn.small_unet import SmallUNet
from protoseg.nn.vit import DINO, create_dino_dpt
from protoseg.settings import OptimizerConfig

CLASSES, WIDTH, DEPTH = 3, 48, 4
TINY = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 3}
PATCH = {"dinov2_small": 14, "tu-vit_small_patch14_reg4_dinov2": 14, "dinov3_small": 16, "tu-vit_tiny_patch16_224": 16}
"""Families: without and with register tokens, learned and rotary positions, and no DINO at all."""
SIZE = (33, 47)


def noise(module: nn.Module, seed: int = 0) -> None:
    """Weights none of which is an initial value: LayerScale starts so small that a ViT is its patches."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=gen))


@functools.cache
def build(encoder: str, **options: Any) -> DinoDPT:
    torch.manual_seed(0)
    network = create_dino_dpt(encoder, num_classes=CLASSES, **TINY, **options)
    noise(network.encoder)
    return network.eval()


def image_of(*size: int, batch: int = 1, in_channels: int = 3) -> Tensor:
    return torch.randn(batch, in_channels, *size, generator=torch.Generator().manual_seed(1))


def seen_maps(network: DinoDPT, image: Tensor) -> list[Tensor]:
    """The ViT's four maps."""
    seen: list[Tensor] = []

    def look(maps: list[Tensor]) -> list[Tensor]:
        seen.extend(maps)
        return maps

    network(image, perturb=look)
    return seen


with_every_family = pytest.mark.parametrize("encoder", PATCH)


@with_every_family
@pytest.mark.parametrize("size", [SIZE, (28, 42), (5, 100)])
def test_shapes_are_what_the_attributes_say(encoder: str, size: tuple[int, int]) -> None:
    network, patch = build(encoder), PATCH[encoder]
    with torch.no_grad():
        out = network(image_of(*size))
    assert out.logits.shape == (1, CLASSES, *size)
    assert (network.num_classes, network.in_channels, network.divisor) == (CLASSES, 3, patch)
    assert out.covers == tuple(-(-side // patch) * patch for side in size)
    assert network.stride == patch / 8
    assert out.features.shape == (1, network.feature_channels, *(side * 8 // patch for side in out.covers))
    assert out.logits.isfinite().all()


@with_every_family
def test_logits_are_the_head_up_sampled_as_it_says(encoder: str) -> None:
    network = build(encoder)
    with torch.no_grad():
        out = network(image_of(*SIZE))
        dense = F.interpolate(network.head(out.features), out.covers, mode="bilinear", align_corners=out.align_corners)
    torch.testing.assert_close(out.logits, dense[..., : SIZE[0], : SIZE[1]])


@with_every_family
def test_features_are_read_where_the_padded_image_has_them(encoder: str) -> None:
    with torch.no_grad():
        out = build(encoder)(image_of(*SIZE))
    points = sample_points(torch.rand(1, 256, 2), SIZE, grid=16)
    read = read_features(out.features, points, out.covers, align_corners=out.align_corners)
    dense = F.interpolate(out.features, out.covers, mode="bilinear", align_corners=out.align_corners)
    y, x = points[0].T
    torch.testing.assert_close(read[0], dense[0, :, y, x].T, atol=1e-5 * float(out.features.abs().max()), rtol=0)


def test_padding_is_at_the_bottom_and_right() -> None:
    network, image = build("dinov2_small"), image_of(*SIZE)
    by_hand = F.pad(image, (0, 9, 0, 9), mode="replicate")
    with torch.no_grad():
        out, whole = network(image), network(by_hand)
    assert out.covers == whole.covers == (42, 56)
    assert torch.equal(out.logits, whole.logits[..., : SIZE[0], : SIZE[1]])


@with_every_family
def test_class_and_register_tokens_are_no_pixels(encoder: str) -> None:
    network, patch = build(encoder), PATCH[encoder]
    image = image_of(2 * patch, 3 * patch)
    with torch.no_grad():
        tokens, maps = network.encoder.forward_features(image), seen_maps(network, image)
    special = 5 if "reg4" in encoder or "dinov3" in encoder else 1
    assert tokens.shape == (1, special + 6, WIDTH)
    assert len(maps) == 4
    for i in range(6):
        torch.testing.assert_close(maps[-1][0, :, i // 3, i % 3], tokens[0, special + i])


@with_every_family
def test_every_size_has_its_positions(encoder: str) -> None:
    """The same patches in another order are another image to the ViT, at a size that it was not built for."""
    network, patch = build(encoder), PATCH[encoder]
    image = image_of(patch, 3 * patch)
    parts = image.split(patch, dim=-1)
    with torch.no_grad():
        plain, moved = (seen_maps(network, view)[-1] for view in (image, torch.cat([parts[2], parts[0], parts[1]], dim=-1)))
    assert not torch.allclose(moved[..., 1:], plain[..., :2], atol=1e-3)


@with_every_family
def test_perturbing_the_encoder(encoder: str) -> None:
    network, image = build(encoder), image_of(*SIZE)
    with torch.no_grad():
        plain = network(image)
        assert {x.shape[1] for x in seen_maps(network, image)} == {WIDTH}, "one mask of dropped channels is for all four"
        both = network(image, perturb=lambda maps: [torch.cat([x, 0 * x]) for x in maps])
        for i in range(4):
            one_less = network(image, perturb=lambda maps, i=i: [0 * x if j == i else x for j, x in enumerate(maps)])
            assert not torch.allclose(one_less.logits, plain.logits, atol=1e-4), i
    torch.testing.assert_close(both.logits[:1], plain.logits, atol=1e-4, rtol=1e-4)
    assert both.logits.shape == (2, *plain.logits.shape[1:])


@with_every_family
def test_every_parameter_learns(encoder: str) -> None:
    """Also with one image; a parameter that does not would stop a run on several devices."""
    network = build(encoder).train()
    network.zero_grad()
    network(image_of(*SIZE)).logits.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert [id(p) for p in network.encoder_parameters()] == [id(p) for p in network.encoder.parameters()]
    network.zero_grad()
    network.eval()


def test_the_decoder_is_the_papers() -> None:
    """Written down from the paper's figure 1: project behind the up-sampling, four levels from coarse to fine."""
    network = build("dinov2_small")
    decoder, maps = network.decoder, [image_of(3, 5, in_channels=WIDTH) + i for i in range(4)]

    def residual(unit: nn.Module, x: Tensor) -> Tensor:
        return x + unit.conv2(F.relu(unit.conv1(F.relu(x))))

    def up(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    with torch.no_grad():
        levels = [decoder.reassemble[i](maps[i]) for i in range(4)]
        assert [tuple(level.shape[-2:]) for level in levels] == [(12, 20), (6, 10), (3, 5), (2, 3)]
        path = levels[3]
        for i, size in ((3, (3, 5)), (2, (6, 10)), (1, (12, 20)), (0, (24, 40))):
            if i < 3:
                path = path + residual(decoder.fuse[i].beside, levels[i])
            path = decoder.fuse[i].project(up(residual(decoder.fuse[i].both, path), size))
        torch.testing.assert_close(decoder(maps), path, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("width", "depth", "layers", "channels", "widths"),
    [  # of UniMatch V2, for DINOv2 S, B, L and G
        (384, 12, (2, 5, 8, 11), 64, (48, 96, 192, 384)),
        (768, 12, (2, 5, 8, 11), 128, (96, 192, 384, 768)),
        (1024, 24, (4, 11, 17, 23), 256, (256, 512, 1024, 1024)),
        (1536, 40, (9, 19, 29, 39), 384, (1536, 1536, 1536, 1536)),
    ],
)
def test_layers_and_widths(width: int, depth: int, layers: Any, channels: int, widths: Any) -> None:
    vit = nn.Module()
    vit.embed_dim, vit.feature_info = width, [{"reduction": 14}]
    with torch.device("meta"):
        vit.patch = nn.Conv2d(3, width, 14)
        vit.blocks = nn.ModuleList(nn.Identity() for _ in range(depth))
        network = DinoDPT(vit, 2)
    assert tuple(network.layers) == layers
    assert network.feature_channels == channels
    assert tuple(level[0].out_channels for level in network.decoder.reassemble) == widths


def test_width_of_the_features_can_be_chosen() -> None:
    network = create_dino_dpt("dinov2_small", num_classes=2, feature_channels=7, **TINY)
    out = network(image_of(28, 28))
    assert network.feature_channels == out.features.shape[1] == 7


class TestFrozen:
    NETWORKS: dict[str, Callable[[], nn.Module]] = {  # noqa: RUF012
        "dino_dpt": lambda: create_dino_dpt("dinov2_small", num_classes=CLASSES, freeze_encoder=True, **TINY),
        "smp": lambda: create_segmenter("unet", "resnet18", num_classes=CLASSES, freeze_encoder=True),
        "paper": lambda: DeepLabV3Plus(CLASSES, layers=(1, 1, 1, 1), freeze_encoder=True),
    }

    @pytest.mark.parametrize("name", NETWORKS)
    def test_nothing_of_the_encoder_changes(self, name: str) -> None:
        network = self.NETWORKS[name]().train()
        before = {key: value.clone() for key, value in network.encoder.state_dict().items()}
        assert network.training
        assert not any(module.training for module in network.encoder.modules())
        method = Supervised(network)
        groups = parameter_groups(OptimizerConfig(lr=1e-4, weight_decay=0.5), method)
        assert len(groups) == 1
        optimizer = torch.optim.AdamW(groups)
        seen: list[Tensor] = []

        def doubled(maps: list[Tensor]) -> list[Tensor]:
            seen.extend(maps)
            return [torch.cat([x, 2 * x]) for x in maps]

        network(image_of(64, 64, batch=2), perturb=doubled).logits.square().mean().backward()
        assert not any(x.requires_grad for x in seen), "no graph is kept below the decoder"
        optimizer.step()
        assert all(parameter.grad is None for parameter in network.encoder.parameters())
        assert all(torch.equal(value, before[key]) for key, value in network.encoder.state_dict().items())
        encoder = {id(parameter) for parameter in network.encoder.parameters()}
        others = [parameter for parameter in network.parameters() if id(parameter) not in encoder]
        assert [id(p) for p in groups[0]["params"]] == [id(p) for p in others]
        assert any(p.grad is not None and p.grad.any() for p in others)

    def test_a_step_needs_less_memory(self) -> None:
        """Without numbers, on torch's meta device, as `protoseg doctor` counts it."""
        whole, frozen = (
            create_dino_dpt("dinov3_small", num_classes=CLASSES, freeze_encoder=freeze, **TINY).to("meta").train()
            for freeze in (False, True)
        )
        image = torch.zeros(2, 3, 64, 64, device="meta")
        assert saved_bytes(frozen, image) < saved_bytes(whole, image)


class TestLayerDecay:
    CONFIG = OptimizerConfig(lr=1.0, head_factor=40.0, layer_decay=0.5)

    @with_every_family
    def test_rates_written_by_hand(self, encoder: str) -> None:
        network = create_dino_dpt(encoder, num_classes=CLASSES, **TINY)
        groups = parameter_groups(self.CONFIG, Supervised(network))
        rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        assert len(rate) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
        expected = {"blocks.0": 0.125, "blocks.1": 0.25, "blocks.2": 0.5, "blocks.3": 1.0, "norm": 1.0}
        for name, parameter in network.encoder.named_parameters():
            place = ".".join(name.split(".")[:2]) if name.startswith("blocks") else name.split(".")[0]
            assert rate[id(parameter)] == expected.get(place, 0.0625), name  # cls_token, reg_token, pos_embed, patch_embed
        for part in (network.decoder, network.head):
            assert {rate[id(parameter)] for parameter in part.parameters()} == {40.0}

    def test_a_projection_learns_as_the_rest(self) -> None:
        network = create_dino_dpt("dinov2_small", num_classes=CLASSES, **TINY)
        projected = Projected(network, 4)
        groups, own = (parameter_groups(self.CONFIG, Supervised(one)) for one in (projected, network))
        assert [group["lr"] for group in groups] == [group["lr"] for group in own]
        added = {id(p) for p in groups[-1]["params"]} - {id(p) for p in own[-1]["params"]}
        assert added == {id(p) for p in projected.projection.parameters()}

    def test_one_is_off(self) -> None:
        network = create_dino_dpt("dinov2_small", num_classes=CLASSES, **TINY)
        groups = parameter_groups(OptimizerConfig(lr=1.0, head_factor=40.0), Supervised(network))
        assert [group["lr"] for group in groups] == [1.0, 40.0]
        assert [id(p) for p in groups[0]["params"]] == [id(p) for p in network.encoder_parameters()]

    def test_two_networks_share_their_rates(self) -> None:
        network = create_dino_dpt("dinov2_small", num_classes=CLASSES, **TINY)
        method = CrossPseudoSupervision(network)
        groups = parameter_groups(self.CONFIG, method)
        assert [group["lr"] for group in groups] == [0.0625, 0.125, 0.25, 0.5, 1.0, 40.0]
        own = parameter_groups(self.CONFIG, Supervised(network))
        assert [len(group["params"]) for group in groups] == [2 * len(group["params"]) for group in own]
        assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in method.trained_parameters()}

    def test_a_vit_below_another_decoder(self) -> None:
        narrow = {"decoder_fusion_channels": 16, "decoder_intermediate_channels": (8, 8, 8, 8)}
        network = create_segmenter("dpt", "tu-test_vit", num_classes=2, **narrow)  # of six blocks
        rates = [group["lr"] for group in parameter_groups(self.CONFIG, Supervised(network))]
        assert rates == [*(0.5**i for i in range(6, -1, -1)), 40.0]

    @pytest.mark.parametrize("arch", ["small_unet", "unet"])
    def test_networks_without_blocks(self, arch: str) -> None:
        network = SmallUNet(2, width=4) if arch == "small_unet" else create_segmenter(arch, "resnet18", num_classes=2)
        with pytest.raises(ValueError, match=r"optimizer\.layer_decay goes by the blocks of a plain ViT.*dino_dpt"):
            parameter_groups(self.CONFIG, Supervised(network))


def renamed(state: dict[str, Tensor], **pairs: str) -> dict[str, Tensor]:
    for ours, theirs in pairs.items():
        state = {name.replace(ours, theirs): value for name, value in state.items()}
    return state


def of_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the authors' file names timm's tensors; the giant's MLP has other names."""
    return renamed(state, fc1="w12", fc2="w3") if state["blocks.0.mlp.fc1.bias"].shape != (4 * WIDTH,) else dict(state)


def of_dinov2_with_registers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The class token has a position of its own there, which timm has added."""
    position = torch.full((1, 1, WIDTH), 0.7)
    state = renamed(state, reg_token="register_tokens")
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    return state


def of_dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = renamed(state, reg_token="storage_tokens", gamma_1="ls1.gamma", gamma_2="ls2.gamma", fc1_g="w1", fc1_x="w2")
    if "blocks.0.mlp.w1.weight" in state:
        state = renamed(state, fc2="w3")
    for i in range(DEPTH):
        attention = f"blocks.{i}.attn"
        state[f"{attention}.qkv.bias"] = torch.zeros(3 * WIDTH)
        state[f"{attention}.qkv.bias_mask"] = torch.ones(3 * WIDTH)
        if f"{attention}.q_bias" in state:
            parts = [state.pop(f"{attention}.q_bias"), torch.ones(WIDTH), state.pop(f"{attention}.v_bias")]
            state[f"{attention}.qkv.bias"] = torch.cat(parts)
    return state | {"rope_embed.periods": torch.ones(4)}


FILES = [
    ("dinov2_small", dict),  # timm's own names
    ("dinov3_small", dict),
    ("tu-vit_tiny_patch16_224", dict),
    ("dinov2_small", of_dinov2),
    ("dinov2_giant", of_dinov2),
    ("tu-vit_small_patch14_reg4_dinov2", of_dinov2_with_registers),
    ("dinov3_small", of_dinov3),
    ("tu-vit_small_plus_patch16_dinov3", of_dinov3),
    ("tu-vit_small_patch16_dinov3_qkvb", of_dinov3),
]


class TestWeights:
    @pytest.mark.parametrize(("encoder", "written"), FILES)
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_files_of_timm_and_of_the_authors(self, tmp_path: Path, encoder: str, written: Any, suffix: str) -> None:
        source = create_dino_dpt(encoder, num_classes=2, **TINY).encoder
        noise(source, seed=3)
        state = source.state_dict()
        given = {name: value.contiguous() for name, value in written(state).items()}
        given |= {"head.weight": torch.ones(5, WIDTH)} if written is dict else {"mask_token": torch.ones(1, WIDTH)}
        (save_file if suffix == ".safetensors" else torch.save)(given, tmp_path / f"w{suffix}")
        network = create_dino_dpt(encoder, num_classes=2, weights=tmp_path / f"w{suffix}", **TINY)
        loaded = network.encoder.state_dict()
        assert loaded.keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(loaded[name], value, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("in_channels", [1, 4])
    def test_rgb_weights_for_other_channels(self, tmp_path: Path, in_channels: int) -> None:
        state = build("dinov2_small").encoder.state_dict()
        save_file(state, tmp_path / "w.safetensors")
        network = create_dino_dpt(
            "dinov2_small", num_classes=2, in_channels=in_channels, weights=str(tmp_path / "w.safetensors"), **TINY
        ).eval()
        assert network.in_channels == in_channels
        rgb, loaded = state["patch_embed.proj.weight"], network.encoder.patch_embed.proj.weight.detach()
        torch.testing.assert_close(loaded.sum(dim=1), rgb.sum(dim=1) if in_channels == 1 else (rgb.sum(1) + rgb[:, 0]) * 3 / 4)
        with torch.no_grad():
            assert network(image_of(*SIZE, in_channels=in_channels)).logits.shape == (1, 2, *SIZE)

    def test_biases_that_would_be_lost(self, tmp_path: Path) -> None:
        state = of_dinov3(build("dinov3_small").encoder.state_dict()) | {"mask_token": torch.ones(1, WIDTH)}
        state["blocks.2.attn.qkv.bias"][0] = 1.0
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"w\.pth has biases of queries and values.*_qkvb"):
            create_dino_dpt("dinov3_small", num_classes=2, weights=tmp_path / "w.pth", **TINY)

    def test_weights_of_another_vit(self, tmp_path: Path) -> None:
        torch.save(build("dinov2_small").encoder.state_dict(), tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"w\.pth does not fit VisionTransformer: .*--model.encoder"):
            create_dino_dpt("dinov2_small", num_classes=2, weights=tmp_path / "w.pth", **{**TINY, "depth": 5})

    def test_missing_file(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"no weights file nowhere\.pth"):
            create_dino_dpt("dinov2_small", num_classes=2, weights="nowhere.pth", **TINY)

    @pytest.mark.parametrize(("weights", "said"), [("imagenet", "pre-trained"), ("lvd142m", "lvd142m")])
    def test_names_that_cannot_be_downloaded(self, monkeypatch: pytest.MonkeyPatch, weights: str, said: str) -> None:
        def fail(*args: object, **kwargs: object) -> None:
            raise ConnectionResetError("reset")

        monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)
        with pytest.raises(ConnectionError, match=f"the {said} weights of dinov2_small could not .*--model.weights FILE"):
            create_dino_dpt("dinov2_small", num_classes=2, weights=weights, **TINY)

    def test_a_name_that_does_not_exist(self) -> None:
        with pytest.raises(ValueError, match=r"dinov3_large has no weights named 'lvd'.*imagenet, lvd1689m, sat493m, a FILE"):
            create_dino_dpt("dinov3_large", num_classes=2, weights="lvd", **TINY)

    @pytest.mark.parametrize("weights", [None, "imagenet"])
    def test_a_tag_that_does_not_exist(self, weights: str | None) -> None:
        with pytest.raises(ValueError, match=r"timm has no test_vit\.nonsense; give --model\.encoder tu-test_vit, or with"):
            create_dino_dpt("tu-test_vit.nonsense", num_classes=2, weights=weights, **TINY)

    def test_nobody_has_published_any(self) -> None:
        name = next(n for n in timm.list_models("vit_*", module="vision_transformer") if not timm.list_pretrained(f"{n}.*"))
        with pytest.raises(ValueError, match=f"no weights of tu-{name}; .*--model.weights FILE.*--model.weights none"):
            create_dino_dpt(f"tu-{name}", num_classes=2, weights="imagenet", **TINY)


@pytest.mark.parametrize("encoder", ["resnet50", "tu-resnet18", "tu-levit_128", "tu-beit_base_patch16_224", "tu-nothing"])
def test_what_is_no_plain_vit_is_told_what_is(encoder: str) -> None:
    with pytest.raises(ValueError, match=f"{encoder} is none") as error:
        create_dino_dpt(encoder, num_classes=2)
    assert all(name in str(error.value) for name in DINO)


def test_what_timm_cannot_build_is_named() -> None:
    with pytest.raises(ValueError, match=r"dino_dpt cannot be built on tu-deit_tiny_distilled.*e\.g\. dinov2_small"):
        create_dino_dpt("tu-deit_tiny_distilled_patch16_224", num_classes=2)
