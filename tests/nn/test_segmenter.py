"""Every smp architecture as image -> (logits, features), and one clear sentence for what cannot work."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import save_file
from torch import Tensor, nn

from protoseg.data.images import read_image
from protoseg.data.masks import read_mask
from protoseg.functional.points import read_features, sample_points
from protoseg.nn.segmenter import Segmenter, create_segmenter, encoder_statistics, named_state
from protoseg.nn.vit import create_dino_dpt

ARCHITECTURES = sorted(smp.MODEL_ARCHITECTURES_MAPPING)
CLASSES = 3
NARROW_DPT = {"decoder_fusion_channels": 32, "decoder_intermediate_channels": (16, 16, 16, 16)}


def size_of(arch: str) -> tuple[int, int]:
    """An image that needs padding. PAN halves its deepest features three times, so it needs a larger one."""
    return (138, 150) if arch == "pan" else (70, 90)


def encoder_of(arch: str) -> str:
    return "tu-test_vit" if arch == "dpt" else "resnet18"  # timm's small ViT of the usual build


@functools.cache
def build(arch: str, in_channels: int = 3) -> Segmenter:
    torch.manual_seed(0)
    options = NARROW_DPT if arch == "dpt" else {}
    return create_segmenter(arch, encoder_of(arch), num_classes=CLASSES, in_channels=in_channels, **options)


def image_for(arch: str, *, batch: int = 1, in_channels: int = 3) -> Tensor:
    return torch.randn(batch, in_channels, *size_of(arch), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_shapes_are_what_the_attributes_say(arch: str) -> None:
    network, image = build(arch).eval(), image_for(arch)
    with torch.no_grad():
        out = network(image)
    assert out.logits.shape == (1, CLASSES, *size_of(arch))
    assert (network.num_classes, network.in_channels) == (CLASSES, 3)
    height, width = out.covers
    assert all(0 <= c - s < network.divisor for c, s in zip(out.covers, size_of(arch), strict=True))
    assert out.covers != size_of(arch)
    assert out.features.shape == (1, network.feature_channels, height // network.stride, width // network.stride)
    assert out.logits.isfinite().all()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_logits_are_the_head_up_sampled_as_it_says(arch: str) -> None:
    network, image = build(arch).eval(), image_for(arch)
    with torch.no_grad():
        out = network(image)
        low = network.head.head(out.features) if arch == "dpt" else network.head[0](out.features)
    assert low.shape[-2:] == out.features.shape[-2:]
    dense = F.interpolate(low, out.covers, mode="bilinear", align_corners=out.align_corners)
    height, width = size_of(arch)
    torch.testing.assert_close(out.logits, dense[..., :height, :width], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["deeplabv3plus", "deeplabv3", "fpn"])  # strides 4, 8, 4
def test_features_are_read_where_the_logits_have_them(arch: str) -> None:
    """The heads of these networks look at one feature at a time."""
    network, image = build(arch).eval(), image_for(arch)
    with torch.no_grad():
        out = network(image)
    points = sample_points(torch.rand(1, 256, 2), size_of(arch), grid=16)
    read = read_features(out.features, points, out.covers, align_corners=out.align_corners)
    y, x = points[0].T
    with torch.no_grad():
        logits = network.head[0](read[0].T[None, :, :, None])  # (1, C, points, 1)
    torch.testing.assert_close(logits[0, :, :, 0], out.logits[0, :, y, x], atol=1e-5, rtol=1e-4)


def test_padding_is_at_the_bottom_and_right() -> None:
    network, image = build("fpn").eval(), image_for("fpn")
    by_hand = F.pad(image, (0, 6, 0, 26), mode="replicate")
    with torch.no_grad():
        out, whole = network(image), network(by_hand)
    assert out.covers == whole.covers == (96, 96)
    assert torch.equal(out.features, whole.features)
    assert torch.equal(out.logits, whole.logits[..., :70, :90])


@pytest.mark.parametrize(("arch", "covers"), [("unet", (32, 64)), ("deeplabv3plus", (32, 48)), ("pan", (128, 128))])
def test_small_images_are_padded_as_far_as_the_decoder_needs(arch: str, covers: tuple[int, int]) -> None:
    network = build(arch).eval()
    with torch.no_grad():
        out = network(torch.randn(1, 3, 32, 40))
    assert out.covers == covers
    assert out.logits.shape == (1, CLASSES, 32, 40)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_perturbing_the_encoder(arch: str) -> None:
    """What leaves the maps as they are changes nothing, what doubles them doubles the batch, and all maps count."""
    model, image, seen = build(arch).eval(), image_for(arch), []
    plain = model(image)

    def doubled(maps: list[Tensor]) -> list[Tensor]:
        seen.extend(x.shape[1] for x in maps)
        return [torch.cat([x, 0 * x]) for x in maps]

    with torch.no_grad():
        torch.testing.assert_close(model(image, perturb=lambda maps: maps).logits, plain.logits)
        both = model(image, perturb=doubled)
    torch.testing.assert_close(both.logits[:1], plain.logits, atol=1e-4, rtol=1e-4)
    assert both.logits.shape == (2, *plain.logits.shape[1:])
    assert not torch.allclose(both.logits[1:], plain.logits, atol=1e-4)
    assert 3 not in seen, "the image itself is not among the maps"
    assert len(seen) > 1


@pytest.mark.parametrize("arch", ["unet", "fpn", "deeplabv3plus", "dpt"])
def test_tapping_the_features_changes_no_logit(arch: str) -> None:
    options = {"dynamic_img_size": True, **NARROW_DPT} if arch == "dpt" else {}
    network = smp.create_model(arch, encoder_name=encoder_of(arch), encoder_weights=None, classes=2, **options).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(image)
        assert torch.equal(Segmenter(network).eval()(image).logits, expected)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_gradient_reaches_encoder_and_head(arch: str) -> None:
    network = build(arch).train()
    network.zero_grad()
    network(image_for(arch, batch=2)).logits.square().mean().backward()
    convolution = next(m for m in network.encoder.modules() if isinstance(m, nn.Conv2d))
    assert convolution.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in network.head.parameters())
    encoder = {id(parameter) for parameter in network.encoder_parameters()}
    assert encoder == {id(parameter) for parameter in network.network.encoder.parameters()}
    assert not encoder & {id(parameter) for parameter in network.head.parameters()}
    network.zero_grad()


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("arch", ["unet", "deeplabv3plus", "dpt"])
def test_other_numbers_of_channels(arch: str, in_channels: int) -> None:
    network = build(arch, in_channels).eval()
    assert network.in_channels == in_channels
    size = (64, 96)
    with torch.no_grad():
        assert network(torch.randn(1, in_channels, *size)).logits.shape == (1, CLASSES, *size)


def test_channels_of_a_depthwise_first_layer() -> None:
    network = smp.FPN("resnet18", encoder_weights=None)
    network.encoder.conv1 = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), network.encoder.conv1)
    assert Segmenter(network).in_channels == 3


def test_timm_encoder() -> None:
    network = create_segmenter("fpn", "tu-test_resnet", num_classes=CLASSES, in_channels=4).eval()
    with torch.no_grad():
        out = network(torch.randn(1, 4, 70, 90))
    assert (network.in_channels, network.stride, network.feature_channels) == (4, 4, 128)
    assert out.logits.shape == (1, CLASSES, 70, 90)


def test_a_dry_run_leaves_no_trace() -> None:
    network = smp.Unet("resnet18", encoder_weights=None)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    wrapped = Segmenter(network)
    assert wrapped.training
    assert wrapped.encoder.training
    after = {**wrapped.network.state_dict(), **{f"segmentation_head.{k}": v for k, v in wrapped.head.state_dict().items()}}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("arch", ["unet", "deeplabv3plus"])
def test_frozen_batchnorm_keeps_its_statistics(arch: str) -> None:
    network = create_segmenter(arch, "resnet18", num_classes=CLASSES, freeze_bn=True).train()
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(image_for(arch, batch=2)).logits.sum().backward()
    changed = {name for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert changed, "the decoder is not frozen"
    assert not any(".encoder." in name for name in changed)
    assert network.encoder.bn1.weight.grad is not None, "scale and shift still learn"
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network).train()
    assert not synchronised.encoder.bn1.training


@pytest.mark.parametrize("arch", ["deeplabv3plus", "deeplabv3", "upernet"])
def test_batch_of_one_in_training_names_a_way_out(arch: str) -> None:
    network, image = build(arch), image_for(arch)
    with pytest.raises(ValueError, match=r"batch of at least 2.*without such pooling"):
        network.train()(image)
    with torch.no_grad():
        assert network.eval()(image).logits.isfinite().all()


@pytest.mark.parametrize("arch", ["unet", "fpn", "pspnet"])
def test_batch_of_one_trains_where_the_message_says_so(arch: str) -> None:
    assert build(arch).train()(image_for(arch)).logits.isfinite().all()


def one_sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_weights_that_do_not_exist_by_name() -> None:
    with pytest.raises(ValueError, match="resnet18 has no weights named 'imagnet'") as error:
        create_segmenter("unet", "resnet18", num_classes=2, weights="imagnet")
    assert "imagenet, ssl, swsl, a FILE, or none" in one_sentence(error)


def test_weights_that_look_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that can only be a file is not asked of a hub, and a file needs no suffix."""
    with pytest.raises(FileNotFoundError, match=r"no weights file w\.pth\.tar"):
        create_segmenter("unet", "resnet18", num_classes=2, weights="w.pth.tar")
    monkeypatch.chdir(tmp_path)
    Path("start").write_text("not weights")
    with pytest.raises(ValueError, match="start cannot be read as a file of weights"):
        create_segmenter("unet", "resnet18", num_classes=2, weights="start")


def test_unknown_architecture_lists_all() -> None:
    with pytest.raises(ValueError, match="no architecture 'unnet'") as error:
        create_segmenter("unnet", "resnet18", num_classes=2)
    assert all(arch in one_sentence(error) for arch in ARCHITECTURES)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-convnext_atto"])
def test_what_is_no_vit_under_dpt(encoder: str) -> None:
    with pytest.raises(ValueError, match=f"dpt is for plain ViTs, and {encoder} is none; choose --model.arch unet") as error:
        create_segmenter("dpt", encoder, num_classes=2)
    one_sentence(error)


@pytest.mark.parametrize("encoder", ["vgg11", "tu-edgenext_xx_small"])
def test_an_encoder_without_finer_maps_names_architectures_that_take_it(encoder: str) -> None:
    with pytest.raises(ValueError, match=f"{encoder} cannot keep .* as deeplabv3plus needs .*; .* unet or fpn") as error:
        create_segmenter("deeplabv3plus", encoder, num_classes=2)
    one_sentence(error)
    assert create_segmenter("unet", encoder, num_classes=2).num_classes == 2


@pytest.mark.parametrize("encoder", ["tu-test_vit", "tu-deit_tiny_patch16_224", "tu-vit_small_patch14_dinov2", "dinov3_small"])
def test_plain_vit_elsewhere_names_its_architecture(encoder: str) -> None:
    with pytest.raises(ValueError, match=f"{encoder} is a plain ViT.* use --model.arch dino_dpt") as error:
        create_segmenter("unet", encoder, num_classes=2)
    one_sentence(error)


def test_patches_that_smps_dpt_cannot_take_name_ours() -> None:
    with pytest.raises(ValueError, match=r"dpt cannot be built on .*Use --model.arch dino_dpt") as error:
        create_segmenter("dpt", "tu-vit_small_patch14_dinov2", num_classes=2, **NARROW_DPT)
    one_sentence(error)


@pytest.mark.parametrize(
    ("encoder", "hint"),
    [
        ("resnet17", "near it are resnet1"),
        ("zzz", "'zzz'; give one of"),
        ("tu-resnet17", "near it are tu-resnet1"),
        ("tu-ResNet18", "near it are tu-resnet18"),
    ],
)
def test_an_encoder_that_does_not_exist(encoder: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"there is no encoder '{encoder}'") as error:
        create_segmenter("unet", encoder, num_classes=2)
    assert hint in one_sentence(error)
    assert "Error" not in str(error.value)


@pytest.mark.parametrize("weights", [None, "imagenet"])
def test_a_tag_that_timm_does_not_have(weights: str | None) -> None:
    assert encoder_statistics("tu-resnet18.nonsense") is None
    said = r"timm has no resnet18\.nonsense; give --model\.encoder tu-resnet18, or with one of a1_in1k, "
    with pytest.raises(ValueError, match=said) as error:
        create_segmenter("unet", "tu-resnet18.nonsense", num_classes=2, weights=weights)
    one_sentence(error)


def test_an_encoder_that_is_more_than_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm would fetch or read what such a name says, before it is asked for any weights."""
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    touched: list[str] = []
    for outside in ("timm.models._hub.hf_hub_download", "timm.models._hub.load_cfg_from_json", "socket.socket.connect"):

        def note(*args: object, of: str = outside, **options: object) -> None:
            touched.append(of)
            raise AssertionError(of)

        monkeypatch.setattr(outside, note)
    for name in ("tu-hf_hub:evil/x", "tu-hf-hub:evil", f"tu-local-dir:{tmp_path}", "tu-../x", "C:\\x", "timm-regnet:x", "a/b"):
        with pytest.raises(ValueError, match="is no plain name") as error:
            create_segmenter("unet", name, num_classes=2)
        one_sentence(error)
        with pytest.raises(ValueError, match="is no plain name"):
            create_segmenter("dpt", name, num_classes=2, weights="imagenet")
        with pytest.raises(ValueError, match="is no plain name"):
            create_dino_dpt(name, num_classes=2)
    assert not touched
    monkeypatch.setattr("protoseg.nn.segmenter.check_encoder_name", lambda name: None)  # else the patches would prove nothing
    with pytest.raises(ValueError, match="unet cannot be built on"):
        create_segmenter("unet", f"tu-local-dir:{tmp_path}", num_classes=2)
    assert set(touched) == {"timm.models._hub.load_cfg_from_json"}


def test_a_tag_is_part_of_a_plain_name() -> None:
    assert create_segmenter("unet", "tu-test_resnet.r160_in1k", num_classes=2).num_classes == 2


def test_weights_of_timm_by_their_tag(offline: Exception) -> None:
    """smp would take any word for the usual ones."""
    with pytest.raises(ConnectionError, match="the r160_in1k weights of tu-test_resnet could not be downloaded"):
        create_segmenter("unet", "tu-test_resnet", num_classes=2, weights="r160_in1k")
    with pytest.raises(ValueError, match=r"tu-test_resnet has no weights named 'imagnet'; give .* imagenet, .*, or none"):
        create_segmenter("unet", "tu-test_resnet", num_classes=2, weights="imagnet")


def test_a_network_of_which_nobody_has_published_weights() -> None:
    """It never starts from random without being told to."""
    published = {name.partition(".")[0] for name in timm.list_pretrained("convnext*")}
    name = next(name for name in timm.list_models("convnext*") if name not in published)
    with pytest.raises(ValueError, match=f"no weights of tu-{name}; .*--model.weights FILE, .*--model.weights none") as error:
        create_segmenter("unet", f"tu-{name}", num_classes=2, weights="imagenet")
    one_sentence(error)


@pytest.mark.parametrize("encoder", ["tu-levit_128", "tu-xcit_nano_12_p16_224", "tu-beit_base_patch16_224"])
def test_transformers_that_no_architecture_takes(encoder: str) -> None:
    """Neither smp's DPT nor ours can be built on them, so neither is advised."""
    with pytest.raises(ValueError, match=f"{encoder} has no feature pyramid.*another --model.encoder") as error:
        create_segmenter("unet", encoder, num_classes=2)
    one_sentence(error)
    assert "use --model.arch" not in str(error.value)


@pytest.mark.parametrize("encoder", ["tu-mobilevit_xxs", "tu-efficientvit_b0"])
def test_names_with_vit_are_not_always_plain_vits(encoder: str) -> None:
    """These have a feature pyramid like any convolutional network."""
    network = create_segmenter("fpn", encoder, num_classes=CLASSES).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 70, 90)).logits.shape == (1, CLASSES, 70, 90)


@pytest.mark.parametrize(
    ("encoder", "side"),
    [("tu-coat_lite_tiny", 224), ("tu-swin_tiny_patch4_window7_224", 224), ("tu-maxvit_nano_rw_256", 256)],
)
def test_encoder_of_one_image_size_is_refused_in_words(encoder: str, side: int) -> None:
    """Also where its size is one of those that are tried, as for the last one."""
    with pytest.raises(ValueError, match=f"{encoder} takes images of {side} px alone.*choose another --model.encoder") as error:
        create_segmenter("fpn", encoder, num_classes=2)
    one_sentence(error)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: smp.Unet("resnet18", encoder_weights=None, activation="sigmoid"), "activation=None"),
        (lambda: smp.Unet("resnet18", encoder_weights=None, activation="softmax2d"), "activation=None"),
        (lambda: smp.Unet("resnet18", encoder_weights=None, aux_params={"classes": 2}), "aux_params=None"),
        (lambda: smp.FPN("resnet18", encoder_weights=None, upsampling=2), "full-size logits"),
        (lambda: nn.Conv2d(3, 2, 1), "segmentation_models_pytorch model, got Conv2d"),
    ],
)
def test_networks_that_cannot_be_tapped(network, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Segmenter(network())
    one_sentence(error)


def random_encoder_state(in_channels: int = 3) -> dict[str, Tensor]:
    """Weights of smp's resnet18, none of which is an initial value."""
    encoder = smp.encoders.get_encoder("resnet18", in_channels=in_channels, weights=None)
    gen = torch.Generator().manual_seed(2)
    return {k: torch.rand(v.shape, generator=gen) if v.is_floating_point() else v + 7 for k, v in encoder.state_dict().items()}


def assert_loaded(network: Segmenter, state: dict[str, Tensor]) -> None:
    loaded = network.encoder.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(("arch", "prefix"), [("unet", ""), ("fpn", "module."), ("deeplabv3plus", "encoder.")])
def test_weights_of_a_file_land_in_the_encoder(tmp_path: Path, arch: str, prefix: str) -> None:
    state = random_encoder_state()
    given = {prefix + name: value for name, value in state.items()} | {prefix + "fc.weight": torch.ones(10, 512)}
    save_file(given, tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors" if prefix else str(tmp_path / "w.safetensors")
    assert_loaded(create_segmenter(arch, "resnet18", num_classes=2, weights=weights), state)


@pytest.mark.parametrize("in_channels", [1, 4, 6])
def test_rgb_weights_for_other_channels(tmp_path: Path, in_channels: int) -> None:
    state = random_encoder_state()
    save_file(state, tmp_path / "w.safetensors")
    network = create_segmenter("unet", "resnet18", num_classes=2, in_channels=in_channels, weights=tmp_path / "w.safetensors")
    # As smp and timm do: the sum of the filters for one channel; else the filters in turn, at 3 / I of their size.
    rgb = state["conv1.weight"]
    turns = rgb[:, [i % 3 for i in range(in_channels)]] * 3 / in_channels
    expected = rgb.sum(dim=1, keepdim=True) if in_channels == 1 else turns
    torch.testing.assert_close(network.encoder.conv1.weight.detach(), expected)
    assert torch.equal(network.encoder.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_weights_that_have_the_channels_already(tmp_path: Path) -> None:
    state = random_encoder_state(4)
    save_file(state, tmp_path / "w.safetensors")
    network = create_segmenter("unet", "resnet18", num_classes=2, in_channels=4, weights=tmp_path / "w.safetensors")
    assert_loaded(network, state)


@pytest.mark.parametrize(
    ("name", "tensor", "place"),
    [
        ("test_resnet", "layer4.0.conv2.weight", "model.layer4.0.conv2.weight"),
        ("test_convnext", "stages.1.blocks.0.conv_dw.weight", "model.stages_1.blocks.0.conv_dw.weight"),
    ],
)
def test_timm_weights_land_in_a_timm_encoder(tmp_path: Path, name: str, tensor: str, place: str) -> None:
    """The file of timm's own network: what one downloads for a `tu-` encoder. Names differ by `model.` and flattened stages."""
    state = timm.create_model(name, pretrained=False).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    network = create_segmenter("fpn", f"tu-{name}", num_classes=2, weights=tmp_path / "w.safetensors")
    assert torch.equal(network.encoder.state_dict()[place], state[tensor])
    values = {float(value.sum()) for value in state.values()}
    assert all(float(value.sum()) in values for value in network.encoder.state_dict().values()), "every tensor is from the file"


def test_weights_of_another_encoder(tmp_path: Path) -> None:
    save_file(random_encoder_state(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors does not fit .*--model.encoder") as error:
        create_segmenter("unet", "resnet34", num_classes=2, weights=tmp_path / "w.safetensors")
    one_sentence(error)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "folder/w"])
def test_missing_weights_file(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"no weights file {name}") as error:
        create_segmenter("unet", "resnet18", num_classes=2, weights=name)
    one_sentence(error)


class TransportError(Exception):
    """Root of the errors of httpx, which is not imported: huggingface_hub has changed its HTTP library more than once."""


class NetworkError(TransportError): ...


class RemoteProtocolError(TransportError): ...


class RequestException(OSError):  # noqa: N818
    """Root of the errors of requests, whose ConnectionError is not Python's."""


RequestsConnectionError = type("ConnectionError", (RequestException,), {})


class ConnectError(NetworkError): ...


class TimeoutException(TransportError): ...  # noqa: N818


class ReadTimeout(TimeoutException): ...


OFFLINE = [
    LocalEntryNotFoundError("offline"),
    OfflineModeIsEnabled("offline"),
    ConnectError("no route"),
    ReadTimeout("slow"),
    RemoteProtocolError("server disconnected"),
    RequestsConnectionError("no route"),
    ConnectionResetError("reset"),
    TimeoutError("slow"),
]


@pytest.fixture(params=OFFLINE, ids=lambda error: type(error).__name__)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """Downloads fail as without a network; the test never touches it."""

    def fail(*args: object, **kwargs: object) -> None:
        raise type(request.param)(*request.param.args)

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", fail)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)
    return request.param


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet"])
def test_weights_that_cannot_be_downloaded(offline: Exception, encoder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # smp's, about names for timm's encoders
        with pytest.raises(ConnectionError, match=r"imagenet weights of .*--model.weights FILE.*--model.weights none") as error:
            create_segmenter("unet", encoder, num_classes=2, weights="imagenet")
    one_sentence(error)


def test_named_state_that_cannot_be_downloaded(offline: Exception) -> None:
    with pytest.raises(ConnectionError, match=r"test_resnet.*--model.weights FILE") as error:
        named_state("test_resnet")
    one_sentence(error)


def test_unknown_weights_name_the_known_ones() -> None:
    with pytest.raises(ValueError, match="imagenet") as error:
        create_segmenter("unet", "resnet18", num_classes=2, weights="imagnet")
    one_sentence(error)


@pytest.mark.data
def test_real_weights_give_real_features(mobilenet_weights: Path, camvid: Path) -> None:
    """The file loads whole, and what it brings tells sky from road: better than a random start, by a ridge regression."""
    images = sorted((camvid / "images/train").iterdir())[:40:10]
    rows = {}
    for weights in (None, mobilenet_weights):
        torch.manual_seed(0)
        network = create_segmenter("unet", "mobilenet_v2", num_classes=2, weights=weights).eval()
        features, labels = [], []
        for path in images:
            image = torch.from_numpy(read_image(path).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.no_grad():
                found = network.encoder(image[..., :352, :480])[3]  # stride 8
            mask = torch.from_numpy(read_mask(camvid / "masks/train" / f"{path.stem}.png").copy())[:352, :480]
            features.append(found[0].flatten(1).T)
            labels.append(mask[4::8, 4::8].flatten())
        x, y = torch.cat(features).double(), torch.cat(labels)
        x = torch.cat([(x - x.mean(0)) / (x.std(0) + 1e-6), torch.ones(len(x), 1)], dim=1)
        train, test = torch.arange(len(x)) < 3 * len(x) // 4, torch.arange(len(x)) >= 3 * len(x) // 4
        target = F.one_hot(y.clamp(max=11).long(), 12).double()
        solved = torch.linalg.solve(x[train].T @ x[train] + 10 * torch.eye(x.shape[1]), x[train].T @ target[train])
        rows[weights] = ((x[test] @ solved).argmax(1) == y[test])[y[test] != 255].double().mean().item()
    assert rows[mobilenet_weights] > rows[None] + 0.05
    assert rows[mobilenet_weights] > 0.6
