"""Self-training from the command line: which model labels for which, and which images are learned from first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from make_folder import TINY, cut_short, make_folder
from rich.console import Console
from safetensors.torch import save_file

from protoseg.cli import main
from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image
from protoseg.data.index import Sample
from protoseg.engine.evaluate import WHOLE, predict_image
from protoseg.self_training import more_reliable_half, stability
from protoseg.trained import evaluate_run, load_model

WORDS = [*TINY, "--steps", "6", "--method", "self_training", "--optimizer.lr", "1e-2"]


def part_of(checkpoint: Path, prefix: str) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_finished_model_of_labels_alone_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_folder(tmp_path / "data", train=6, labeled=3, test=1), tmp_path / "out"
    assert main(["train", str(data), *WORDS, "--out", str(out)]) == 0, capsys.readouterr().err
    assert_equal(part_of(out / "last.ckpt", "method.labeler.network."), load_model(out / "first").network.state_dict())
    result = json.loads((out / "result.json").read_text())
    first = json.loads((out / "first/result.json").read_text())
    assert (first["method"], first["steps"], result["method"], result["steps"]) == ("supervised", 6, "self_training", 6)
    assert "gain" not in result
    assert evaluate_run(out, data, split=None, console=Console(quiet=True)).mean == result["miou"]
    assert not list(out.rglob("snapshot-*"))


def test_the_baseline_is_the_first_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_folder(tmp_path / "data", train=6, labeled=3, test=1), tmp_path / "out"
    assert main(["train", str(data), *WORDS, "--baseline", "--out", str(out)]) == 0, capsys.readouterr().err
    assert not (out / "first").exists()
    assert_equal(part_of(out / "last.ckpt", "method.labeler.network."), load_model(out / "baseline").network.state_dict())
    assert "gain" in json.loads((out / "result.json").read_text())


def test_the_more_reliable_half_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_folder(tmp_path / "data", train=8, labeled=3), tmp_path / "out"
    cut_short(data / "images/img_05.png")
    words = [*WORDS, "--consistency.reliable_first", "true", "--prototypes.per_class", "2", "--prototypes.grid", "4"]
    assert main(["train", str(data), *words, "--out", str(out)]) == 0, capsys.readouterr().err
    agreement = json.loads((out / "agreement.json").read_text())
    assert agreement.keys() == {f"img_0{i}" for i in range(3, 8)}
    assert agreement["img_05"] == 0
    assert all(0 <= value <= 1 for value in agreement.values())
    half = json.loads((out / "reliable/result.json").read_text())
    whole = json.loads((out / "result.json").read_text())
    assert (half["unlabeled"], whole["unlabeled"]) == (3, 5)
    assert_equal(part_of(out / "reliable/last.ckpt", "method.labeler.network."), load_model(out / "first").network.state_dict())
    assert_equal(part_of(out / "last.ckpt", "method.labeler.network."), load_model(out / "reliable").network.state_dict())
    assert [path.name for path in sorted(out.rglob("snapshot-*"))] == ["snapshot-2.safetensors", "snapshot-4.safetensors"]


def test_the_baseline_is_the_first_model_of_the_ordered_kind_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_folder(tmp_path / "data", train=6, labeled=3, test=1), tmp_path / "out"
    words = [*WORDS, "--baseline", "--consistency.reliable_first", "true"]
    assert main(["train", str(data), *words, "--out", str(out)]) == 0, capsys.readouterr().err
    assert not (out / "first").exists()
    assert "gain" in json.loads((out / "result.json").read_text())
    assert_equal(
        part_of(out / "reliable/last.ckpt", "method.labeler.network."), load_model(out / "baseline").network.state_dict()
    )


def test_goes_on_between_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", train=6, labeled=3, test=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = [*WORDS, "--consistency.reliable_first", "true"]
    for out in (whole, broken):
        assert main(["train", str(data), *words, "--out", str(out)]) == 0, capsys.readouterr().err
    for name in ("result.json", "model.safetensors", "last.ckpt", "metrics.csv"):  # as if killed after the second model
        (broken / name).unlink()
    assert main(["train", "--resume", str(broken)]) == 0, capsys.readouterr().err
    assert_equal(load_model(whole).network.state_dict(), load_model(broken).network.state_dict())


@pytest.mark.parametrize("damage", ["gone", "cut off", "another network"])
def test_a_damaged_snapshot_is_named_with_the_way_out(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = make_folder(tmp_path / "data", train=6, labeled=3, test=1), tmp_path / "out"
    assert main(["train", str(data), *WORDS, "--consistency.reliable_first", "true", "--out", str(out)]) == 0
    whole = (out / "agreement.json").read_text()
    for name in ("result.json", "model.safetensors", "last.ckpt", "agreement.json"):  # as if killed after the first model
        (out / name).unlink()
    snapshot = out / "first/snapshot-2.safetensors"
    if damage == "another network":
        save_file({"weight": torch.zeros(2)}, snapshot)
    else:
        content = snapshot.read_bytes()[:-9]
        snapshot.unlink()
        if damage == "cut off":
            snapshot.write_bytes(content)
    capsys.readouterr()
    assert main(["train", "--resume", str(out)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{snapshot} is missing or damaged (" in said
    assert said.endswith(f"remove {out / 'first'}, and protoseg train --resume {out} trains the first model again")
    shutil.rmtree(out / "first")
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "agreement.json").read_text() == whole


def test_other_methods_have_no_such_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", train=6, labeled=3)
    assert main(["train", str(data), *TINY, "--method", "fixmatch", "--consistency.reliable_first", "true"]) == 2
    assert "fixmatch has no consistency.reliable_first" in capsys.readouterr().err


def test_half_of_the_images() -> None:
    samples = tuple(Sample(name, Path(name), None, "train") for name in "abcde")
    agreement = dict(zip("abcde", [0.5, 0.9, 0.1, 0.7, 0.5], strict=True))
    assert [sample.name for sample in more_reliable_half(samples, agreement)] == ["a", "b", "d"]  # ties: the first listed


def test_stability_against_a_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", train=4, labeled=2)
    for seed in (0, 1, 2):
        words = [*TINY, "--method", "supervised", "--seed", str(seed), "--optimizer.lr", "1e-2"]
        assert main(["train", str(data), *words, "--out", str(tmp_path / str(seed))]) == 0, capsys.readouterr().err
    models = [load_model(tmp_path / str(seed)) for seed in (0, 1, 2)]
    sample = open_dataset(data).of("train")[3]
    image, normalization = read_image(sample.image), models[0].normalization
    labels = [predict_image(model.network, image, normalization).label for model in models]
    expected = []
    for label in labels[1:]:
        ious = []
        for c in range(3):
            inside, other = labels[0] == c, label == c
            if (inside | other).any():
                ious.append(float((inside & other).sum() / (inside | other).sum()))
        expected.append(sum(ious) / len(ious))
    found = stability(models[0].network, [m.network for m in models[1:]], sample, normalization, WHOLE)
    assert found == pytest.approx(sum(expected) / 2)
