"""Cross pseudo supervision: two networks, and who teaches whom."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from test_conformance import labeled_batch, make, unlabeled_batch

from protoseg.functional.mixing import paste
from protoseg.methods.cps import drawn_anew
from protoseg.nn.small_unet import SmallUNet
from protoseg.types import IGNORE_INDEX


def test_each_learns_from_the_other() -> None:
    """L = CE_1 + CE_2 + CE(f_1(mix), argmax f_2) + CE(f_2(mix), argmax f_1), every valid pixel counts."""
    method = make("cps")
    for module in method.modules():  # the same output in every pass
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
            module.forward = lambda x, module=module: F.batch_norm(  # type: ignore[method-assign]
                x, module.running_mean, module.running_var, module.weight, module.bias
            )
    labeled, unlabeled = labeled_batch(), unlabeled_batch(method)
    box, networks = unlabeled.box[0], (method.student, method.peer)
    image, valid = paste(unlabeled.strong[0], box), paste(unlabeled.valid, box)
    expected = 0.0
    for network, teacher in (networks, networks[::-1]):
        expected += F.cross_entropy(network(labeled.image).logits, labeled.mask, ignore_index=IGNORE_INDEX)
        label = paste(teacher(unlabeled.weak).logits.argmax(dim=1), box)
        expected += F.cross_entropy(network(image).logits, label, reduction="none")[valid].mean()
    torch.testing.assert_close(method(labeled, unlabeled, step=0).loss, expected)


def test_the_second_network_starts_elsewhere_but_for_the_encoder() -> None:
    torch.manual_seed(0)
    network = SmallUNet(3, width=4)
    before = torch.random.get_rng_state()
    peer, again, other = drawn_anew(network, seed=1), drawn_anew(network, seed=1), drawn_anew(network, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, own), second, same, third in zip(
        network.named_parameters(), peer.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(second, same)
        if name.startswith("encoder"):
            assert torch.equal(own, second)
        elif own.ndim > 1:
            assert not torch.equal(own, second)
            assert not torch.equal(second, third)


def test_the_labels_of_both_networks_are_watched() -> None:
    method = make("cps")
    for network, named in ((method.student, 0), (method.peer, 2)):  # each calls everything the same
        torch.nn.init.zeros_(network.head.weight)
        network.head.bias.data.copy_(10 * F.one_hot(torch.tensor(named), 3).float())
    vitals = method(labeled_batch(), unlabeled_batch(method), step=0).vitals
    assert vitals is not None
    first, second, third = vitals.pseudo.tolist()
    assert first == third > 0 == second
    assert int(vitals.agreeing) == 0 < int(vitals.compared)


def test_both_networks_keep_prototypes_of_their_own() -> None:
    method = make("cps", prototypes=True)
    method.after_step([method(labeled_batch(), unlabeled_batch(method), step=0).carry], step=0)
    first, second = (part.prototypes.head.prototype for part in method.trained())
    assert not torch.equal(first, second)
    assert {"prototype"} <= set(method.prototype_state())
