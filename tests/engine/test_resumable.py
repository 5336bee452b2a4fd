"""Checkpoints that are damaged are recognised, and the one before is used."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from make_folder import TINY, make_folder
from safetensors.torch import load_file

from protoseg.cli import main
from protoseg.engine.module import TrainingModule
from protoseg.engine.resumable import load_run, load_state, save_state
from protoseg.stored import DamagedError

TIMING = {"seconds", "images_per_second"}  # columns of metrics.csv
STATE: dict[str, Any] = {"state_dict": {"weight": torch.arange(300.0)}, "global_step": 7}

LIGHTNINGS = ("global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers", "pytorch-lightning_version")
PARTS = (
    *((name,) for name in ("protoseg", *LIGHTNINGS)),
    *(("protoseg", name) for name in ("meter", "health", "skipped", "events")),
    *(("protoseg", "meter", name) for name in ("total", "count", "images")),
    *(("protoseg", "health", name) for name in ("pseudo", "prototype_use", "agreeing", "images", "since", "alive", "raised")),
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_state(STATE, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_gives_back_what_was_saved(saved: Path) -> None:
    state = load_state(saved)
    assert torch.equal(state["state_dict"]["weight"], torch.arange(300.0))
    assert state["global_step"] == 7
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


def test_ends_with_the_checksum_of_the_rest(saved: Path) -> None:
    content, _, digest = saved.read_bytes().rpartition(b"\nprotoseg-sha256 ")
    assert digest.decode().strip() == hashlib.sha256(content).hexdigest()


def test_keeps_the_one_before(saved: Path) -> None:
    save_state({**STATE, "global_step": 8}, saved, keep=saved.with_name("previous.ckpt"))
    assert [load_state(saved.with_name(name))["global_step"] for name in ("last.ckpt", "previous.ckpt")] == [8, 7]


def test_one_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "last.ckpt")
    assert load_state(tmp_path / "last.ckpt")["global_step"] == 7


def test_every_altered_byte_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    mark = content.rindex(b"\nprotoseg-sha256 ")
    for place in [*range(0, mark, 41), *range(mark, len(content))]:
        spoilt = bytearray(content)
        spoilt[place] ^= 0x10
        saved.write_bytes(spoilt)
        with pytest.raises(DamagedError, match=str(saved)):
            load_state(saved)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content.replace(b"\nprotoseg-sha256 ", b"\nprotoseg-sha257 "),
        lambda content: content[:-100] + bytes(100),
        lambda content: content[:-82],
    ],
    ids=["a byte cut off", "a byte appended", "a byte of the mark changed", "the end zeroed", "the ending cut off"],
)
def test_a_flipped_weight_is_noticed_without_the_ending(saved: Path, spoil: Callable[[bytes], bytes]) -> None:
    """It is no file of an earlier version, which nothing can check."""
    content = bytearray(saved.read_bytes())
    content[content.index(STATE["state_dict"]["weight"].numpy().tobytes()) + 400] ^= 0x10
    saved.write_bytes(spoil(bytes(content)))
    assert not torch.equal(torch.load(saved, weights_only=True)["state_dict"]["weight"], torch.arange(300.0))
    with pytest.raises(DamagedError, match=str(saved)):
        load_state(saved)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97])
def test_a_truncated_file_is_noticed(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * (len(content) - 82))])
    with pytest.raises(DamagedError, match=str(saved)):
        load_state(saved)


@pytest.mark.parametrize("content", [{"weight": torch.ones(2)}, [1, 2], {"state_dict": 3}])
def test_another_file_is_no_checkpoint(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(DamagedError, match="no checkpoint"):
        load_state(tmp_path / "last.ckpt")


class TestRun:
    @pytest.fixture
    def words(self, tmp_path: Path) -> list[str]:
        data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        settings = ["--steps", "8", "--checkpoint-every", "2", "--log-every", "1", "--consistency.warmup_steps", "1"]
        return ["train", str(data), *TINY, *settings, "--no-evaluate"]

    @pytest.fixture
    def break_off(self, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
        """Makes a run that ends in its seventh step."""
        step = TrainingModule.training_step

        def die(self: TrainingModule, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
            if self.global_step == 7:
                raise RuntimeError("killed")
            return step(self, batch, batch_idx)

        def train(*more: str) -> Path:
            with monkeypatch.context() as patch:
                patch.setattr(TrainingModule, "training_step", die)
                with pytest.raises(RuntimeError, match="killed"):
                    main([*words, *more, "--out", str(tmp_path / "out")])
            return tmp_path / "out"

        return train

    @pytest.fixture
    def broken_off(self, break_off: Callable[..., Path]) -> Path:
        """A run with checkpoints of steps 4 and 6."""
        return break_off()

    def test_goes_on_from_the_one_before(
        self, words: list[str], broken_off: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        steps = [load_state(broken_off / name)["global_step"] for name in ("last.ckpt", "previous.ckpt")]
        assert steps == [6, 4]
        (broken_off / "last.ckpt").write_bytes((broken_off / "last.ckpt").read_bytes()[:-500])
        capsys.readouterr()
        assert main(["train", "--resume", str(broken_off)]) == 0
        (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
        assert str(broken_off / "last.ckpt") in warning
        assert warning.endswith("going on from the checkpoint before it, of step 4")
        assert load_state(broken_off / "last.ckpt")["global_step"] == 8
        assert not (broken_off / "previous.ckpt").exists()
        assert main([*words, "--out", str(tmp_path / "whole")]) == 0
        whole, resumed = (load_file(out / "model.safetensors") for out in (tmp_path / "whole", broken_off))
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())

    def test_goes_on_where_only_the_one_before_is_there(self, broken_off: Path) -> None:
        """As a run leaves it that is killed between the two renames."""
        (broken_off / "last.ckpt").unlink()
        assert main(["train", "--resume", str(broken_off)]) == 0
        assert load_state(broken_off / "last.ckpt")["global_step"] == 8

    def test_stops_where_none_is_whole(self, broken_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("last.ckpt", "previous.ckpt"):
            (broken_off / name).write_bytes((broken_off / name).read_bytes()[:-500])
        assert main(["train", "--resume", str(broken_off)]) == 2
        assert f"{broken_off / 'last.ckpt'} is damaged" in capsys.readouterr().err

    def test_goes_on_from_none_that_lacks_a_part(self, broken_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Its checksum is right: somebody has written it so, or it is the checkpoint of something else."""
        last = broken_off / "last.ckpt"
        whole = last.read_bytes()
        assert load_run(last)["global_step"] == 6
        for at in PARTS:
            last.write_bytes(whole)
            state = section = load_state(last)
            for part in at[:-1]:
                section = section[part]
            del section[at[-1]]
            save_state(state, last)
            with pytest.raises(
                DamagedError, match=rf"last.ckpt is damaged or no checkpoint of a run \('{at[-1]}' is missing\)"
            ):
                load_run(last)
        (broken_off / "previous.ckpt").unlink()
        capsys.readouterr()
        assert main(["train", "--resume", str(broken_off)]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{last} is damaged or no checkpoint of a run (" in said
        assert said.endswith("put a whole copy in its place, or start a new run")

    def test_goes_on_from_the_one_before_one_that_lacks_a_part(
        self, broken_off: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        state = load_state(broken_off / "last.ckpt")
        del state["protoseg"]
        save_state(state, broken_off / "last.ckpt")
        assert main(["train", "--resume", str(broken_off)]) == 0
        assert "going on from the checkpoint before it, of step 4" in capsys.readouterr().out

    @pytest.mark.parametrize("there", [False, True])
    def test_goes_on_from_the_one_that_waits(
        self,
        words: list[str],
        break_off: Callable[..., Path],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        there: bool,
    ) -> None:
        """It is newer than the one that the run may go back to."""
        out = break_off("--on-collapse", "rollback")
        steps = {path.name: load_state(path)["global_step"] for path in out.glob("*.ckpt")}
        assert steps == {"last.ckpt": 6, "waiting.ckpt": 2, "previous.ckpt": 0}
        content = (out / "last.ckpt").read_bytes()
        (out / "last.ckpt").unlink()  # as a run leaves it that is killed between two renames
        if there:
            (out / "last.ckpt").write_bytes(content[:-500])
        capsys.readouterr()
        assert main(["train", "--resume", str(out)]) == 0
        said = capsys.readouterr().out
        assert ("going on from the checkpoint before it, of step 2" in said) is there
        assert [path.name for path in out.glob("*.ckpt")] == ["last.ckpt"]
        assert main([*words, "--on-collapse", "rollback", "--out", str(tmp_path / "whole")]) == 0
        whole, resumed = (load_file(run / "model.safetensors") for run in (tmp_path / "whole", out))
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())

    @pytest.mark.parametrize(
        ("row", "shares"),
        [
            ("1", '{"step": 1'),
            ("12,", '{"step": 12, "labeled": [0.5, 0.2'),
            ("12,3.4,0.0", '{"step": 12, "labeled": [0.5, 0.2, 0.3], "pseudo": '),
            ("\0" * 9, "\0" * 30),
        ],
        ids=["a digit", "a number", "half of it", "room for it"],  # the last where a file system knows the length alone
    )
    def test_what_a_crash_leaves_of_a_line_is_dropped(
        self, words: list[str], broken_off: Path, tmp_path: Path, row: str, shares: str
    ) -> None:
        """Its step may look like an earlier one, which is not to be there twice."""
        for name, text in (("metrics.csv", row), ("health.jsonl", shares)):
            with (broken_off / name).open("a") as file:
                file.write(text)
        assert main(["train", "--resume", str(broken_off)]) == 0
        assert main([*words, "--out", str(tmp_path / "whole")]) == 0
        tables = [
            [[value for name, value in row.items() if name not in TIMING] for row in csv.DictReader(file.open(newline=""))]
            for file in (tmp_path / "whole/metrics.csv", broken_off / "metrics.csv")
        ]
        assert [row[0] for row in tables[0]] == [str(step) for step in range(1, 9)]
        assert tables[1] == tables[0]
        health = [(out / "health.jsonl").read_text() for out in (tmp_path / "whole", broken_off)]
        assert [json.loads(line)["step"] for line in health[0].splitlines()] == list(range(1, 9))
        assert health[1] == health[0]
