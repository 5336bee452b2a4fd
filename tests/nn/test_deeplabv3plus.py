"""The paper's network to the letter of section 3 of the method."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoseg.nn.deeplabv3plus import DeepLabV3Plus, DilatedResNet
from protoseg.nn.weights import load_encoder

SHALLOW = (1, 1, 1, 3)


@pytest.fixture(scope="module")
def resnet101() -> DeepLabV3Plus:
    with torch.device("meta"):
        return DeepLabV3Plus(21, auxiliary=True)


@pytest.fixture(scope="module")
def shallow() -> DeepLabV3Plus:
    torch.manual_seed(0)
    return DeepLabV3Plus(3, layers=SHALLOW, auxiliary=True)


@pytest.mark.parametrize(("side", "quarter", "eighth"), [(513, 129, 65), (769, 193, 97)])
def test_sizes_of_the_papers_crops(resnet101: DeepLabV3Plus, side: int, quarter: int, eighth: int) -> None:
    low, middle, high = resnet101.encoder(torch.empty(2, 3, side, side, device="meta"))
    assert low.shape == (2, 256, quarter, quarter)
    assert middle.shape == (2, 1024, eighth, eighth)
    assert high.shape == (2, 2048, eighth, eighth)
    out = resnet101(torch.empty(2, 3, side, side, device="meta"))
    assert out.features.shape == (2, 512, quarter, quarter)
    assert out.logits.shape == (2, 21, side, side)
    assert out.covers == (side, side)
    assert (resnet101.feature_channels, resnet101.stride) == (512, 4)
    assert (side - 1) / (quarter - 1) == resnet101.stride


def test_dilations_and_strides(resnet101: DeepLabV3Plus) -> None:
    encoder = resnet101.encoder
    stages = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]
    expected = [[1] * 3, [1] * 4, [1] + [2] * 22, [4, 8, 16]]
    for stage, dilations in zip(stages, expected, strict=True):
        assert [block.conv2.dilation for block in stage] == [(d, d) for d in dilations]
        assert [block.conv2.padding for block in stage] == [(d, d) for d in dilations]
        assert [block.downsample is None for block in stage] == [False] + [True] * (len(stage) - 1)
    strides = [[block.conv2.stride[0] for block in stage] for stage in stages]
    assert strides == [[1] * 3, [2, 1, 1, 1], [1] * 23, [1] * 3]
    assert [stage[0].downsample[0].stride[0] for stage in stages] == [1, 2, 1, 1]


def test_deep_stem(resnet101: DeepLabV3Plus) -> None:
    stem = resnet101.encoder.conv1
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d]
    assert [type(layer) for layer in stem] == kinds
    convs = [stem[i] for i in (0, 3, 6)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride, c.bias) for c in convs] == [
        (3, 64, (3, 3), (2, 2), None),
        (64, 64, (3, 3), (1, 1), None),
        (64, 128, (3, 3), (1, 1), None),
    ]
    pool = resnet101.encoder.maxpool
    assert (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode) == (3, 2, 1, True)


def test_ceil_mode_keeps_one_more_row() -> None:
    """258 and 514 px reach the pool with an even side, where rounding up and down differ."""
    with torch.device("meta"):
        encoder = DilatedResNet(SHALLOW)
    assert encoder(torch.empty(1, 3, 512, 511, device="meta"))[0].shape[-2:] == (129, 129)


def test_decoder(resnet101: DeepLabV3Plus) -> None:
    def shape(conv: nn.Conv2d) -> tuple[int, int, int, int, int, bool]:
        return (
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size[0],
            conv.dilation[0],
            conv.padding[0],
            conv.bias is not None,
        )

    def convs(module: nn.Module) -> list[tuple[int, int, int, int, int, bool]]:
        return [shape(m) for m in module.modules() if isinstance(m, nn.Conv2d)]

    assert convs(resnet101.aspp.pool) == [(2048, 256, 1, 1, 0, False)]
    assert convs(resnet101.aspp.branches) == [
        (2048, 256, 1, 1, 0, False),
        (2048, 256, 3, 12, 12, False),
        (2048, 256, 3, 24, 24, False),
        (2048, 256, 3, 36, 36, False),
    ]
    assert convs(resnet101.project) == [(1280, 256, 3, 1, 1, False)]
    assert convs(resnet101.low) == [(256, 256, 1, 1, 0, True)]
    assert convs(resnet101.head) == [(512, 256, 3, 1, 1, True), (256, 256, 3, 1, 1, True), (256, 21, 1, 1, 0, True)]
    assert convs(resnet101.auxiliary) == [(1024, 256, 3, 1, 1, True), (256, 21, 1, 1, 0, True)]
    dropouts = [m.p for m in resnet101.modules() if isinstance(m, nn.Dropout2d)]
    assert dropouts == [0.1] * 4  # project, twice in the head, auxiliary
    norms = [m for m in resnet101.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}


def test_every_block_starts_as_its_shortcut(shallow: DeepLabV3Plus) -> None:
    encoder = DilatedResNet(SHALLOW)
    assert all((block.bn3.weight == 0).all() for block in [*encoder.layer1, *encoder.layer4])
    weight = encoder.layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)  # kaiming, fan out
    x = torch.rand(1, 2048, 5, 5)
    encoder.layer4[1].eval()
    torch.testing.assert_close(encoder.layer4[1](x), x)


def test_names_and_shapes_are_those_of_timm() -> None:
    with torch.device("meta"):
        theirs = timm.create_model("resnet101s", pretrained=False).state_dict()
        ours = DilatedResNet().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items() if not k.startswith("fc.")}


def test_timm_weights_load_and_mean_the_same() -> None:
    """Up to layer1 the networks agree in everything, also in where the stem's activations stand."""
    theirs = timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, list(SHALLOW), stem_width=64, stem_type="deep")
    ours = DilatedResNet(SHALLOW)
    load_encoder(ours, theirs.state_dict(), source="timm")
    for block in (theirs.layer1[0], ours.layer1[0]):
        nn.init.ones_(block.bn3.weight)
    image = torch.randn(2, 3, 65, 57, generator=torch.Generator().manual_seed(0))
    x = theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(image))))
    torch.testing.assert_close(ours(image)[0], theirs.layer1(x))


@pytest.mark.parametrize("size", [(65, 65), (64, 90), (33, 47)])
def test_any_size_without_padding(shallow: DeepLabV3Plus, size: tuple[int, int]) -> None:
    out = shallow.eval()(torch.randn(1, 3, *size))
    assert out.logits.shape == (1, 3, *size)
    assert out.covers == size
    assert out.align_corners is True


def test_logits_are_the_head_up_sampled_as_it_says(shallow: DeepLabV3Plus) -> None:
    out = shallow.eval()(torch.randn(1, 3, 49, 65))
    dense = F.interpolate(shallow.head(out.features), (49, 65), mode="bilinear", align_corners=out.align_corners)
    torch.testing.assert_close(out.logits, dense)


def test_features_are_low_level_then_context(shallow: DeepLabV3Plus) -> None:
    shallow.eval()
    image = torch.randn(1, 3, 49, 65)
    low, _, high = shallow.encoder(image)
    context = F.interpolate(shallow.project(shallow.aspp(high)), low.shape[-2:], mode="bilinear", align_corners=True)
    torch.testing.assert_close(shallow(image).features, torch.cat([shallow.low(low), context], dim=1))


def test_image_pooling_is_the_mean(shallow: DeepLabV3Plus) -> None:
    shallow.eval()
    x = torch.randn(1, 2048, 4, 5)
    pooled = shallow.aspp(x)[:, :256]
    assert shallow.aspp.out_channels == 1280
    same: Tensor = shallow.aspp(x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 4, 5))[:, :256]
    torch.testing.assert_close(pooled, same)
    torch.testing.assert_close(pooled, pooled[..., :1, :1].expand_as(pooled))


def test_auxiliary_head_in_training_only(shallow: DeepLabV3Plus) -> None:
    image = torch.randn(2, 3, 49, 65)
    assert shallow.eval()(image).auxiliary is None
    out = shallow.train()(image)
    assert out.auxiliary.shape == (2, 3, 49, 65)
    shallow.zero_grad()
    out.auxiliary.square().sum().backward()
    assert shallow.encoder.layer3[0].conv2.weight.grad is not None
    assert shallow.encoder.layer4[0].conv2.weight.grad is None, "it hangs on layer3"
    without = DeepLabV3Plus(3, layers=SHALLOW)
    assert without.auxiliary is None
    assert without.train()(image).auxiliary is None


def test_gradient_reaches_everything_but_the_auxiliary_head(shallow: DeepLabV3Plus) -> None:
    network = DeepLabV3Plus(3, layers=SHALLOW, in_channels=4)
    for block in [m for m in network.encoder.modules() if hasattr(m, "bn3")]:
        nn.init.ones_(block.bn3.weight)
    network(torch.randn(2, 4, 49, 65)).logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters() if parameter.ndim > 1)
    assert [id(p) for p in network.encoder_parameters()] == [id(p) for p in network.encoder.parameters()]


def norms(network: DeepLabV3Plus) -> list[nn.Module]:
    return [m for m in network.encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_frozen_batchnorm_keeps_its_statistics() -> None:
    network = DeepLabV3Plus(3, layers=SHALLOW, freeze_bn=True)
    before = {name: value.clone() for name, value in network.named_buffers()}
    out = network.train()(torch.randn(2, 3, 49, 65))
    after = dict(network.named_buffers())
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("encoder."))
    assert not torch.equal(after["head.1.running_mean"], before["head.1.running_mean"]), "the decoder is not frozen"
    out.logits.sum().backward()
    assert network.encoder.bn1.weight.grad is not None, "scale and shift still learn"


def test_frozen_batchnorm_stays_frozen_when_synchronised() -> None:
    """`sync_batchnorm=True` of the Trainer replaces the layers after construction."""
    network = nn.SyncBatchNorm.convert_sync_batchnorm(DeepLabV3Plus(3, layers=SHALLOW, freeze_bn=True)).train()
    assert len(norms(network)) > 10
    assert not any(module.training for module in norms(network))


def test_batch_of_one_in_training_names_a_way_out(shallow: DeepLabV3Plus) -> None:
    """The image pooling leaves one pixel: BatchNorm needs two. Same message as the Segmenter's."""
    with pytest.raises(ValueError, match="batch of at least 2"):
        shallow.train()(torch.randn(1, 3, 49, 65))


def test_perturbing_the_encoder() -> None:
    """UniMatch changes what the decoder sees: layer1 and layer4. The auxiliary head follows the batch."""
    torch.manual_seed(0)
    network, image = DeepLabV3Plus(3, layers=(1, 1, 1, 1), auxiliary=True, dropout=0.0).eval(), torch.randn(2, 3, 33, 33)
    plain, seen = network(image), []

    def doubled(maps: list[Tensor]) -> list[Tensor]:
        seen.extend(x.shape[1] for x in maps)
        return [torch.cat([x, 0 * x]) for x in maps]

    both = network(image, perturb=doubled)
    assert seen == [256, 2048]
    torch.testing.assert_close(both.logits[:2], plain.logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both.logits[2:], plain.logits, atol=1e-4)
    assert network.train()(image, perturb=doubled).auxiliary.shape == both.logits.shape
