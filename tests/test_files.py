"""Files are there whole or not at all, and a folder is held by one process at a time."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Barrier
from typing import Any, NoReturn

import pytest
import torch
from make_folder import TINY, make_folder
from safetensors.torch import load_file

from protoseg import files, rescore, run, trained
from protoseg.cli import main
from protoseg.engine.resumable import load_state
from protoseg.files import CannotWriteError, append_text, locked, replacing, write_text
from protoseg.settings import TrainConfig


def full(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_at(patch: pytest.MonkeyPatch, path: Path) -> None:
    """The disk is full when that file is brought to it."""
    fsync = os.fsync

    def fill(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == path:
            full()
        fsync(descriptor)

    patch.setattr(files.os, "fsync", fill)


def write_then(path: Path, then: Callable[[], Any]) -> None:
    with replacing(path) as partial:
        partial.write_text("aft")
        then()


def test_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    write_text(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with pytest.raises(ZeroDivisionError):
        write_then(tmp_path / "a", lambda: 1 / 0)
    assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, then the rename, then the folder."""
    done: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(files, "_to_disk", lambda path: done.append(f"sync {path.name}"))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append(f"{self.name} -> {to.name}"), replace(self, to))[1])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/a").write_text("before")
    with replacing(tmp_path / "run/a", keep=tmp_path / "run/b") as partial:
        partial.write_text("after")
    assert done == ["sync a.partial", "a -> b", "a.partial -> a", "sync run"]
    assert [(tmp_path / "run" / name).read_text() for name in "ab"] == ["after", "before"]


@pytest.mark.parametrize("where", ["write", "sync"])
def test_a_full_disk_names_the_folder_and_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    write_text(tmp_path / "a", "before")
    if where == "sync":  # where delayed allocation notices it
        monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CannotWriteError, match=f"{tmp_path} cannot be written to .No space left"):
        write_then(tmp_path / "a", full if where == "write" else lambda: None)
    assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
@pytest.mark.parametrize("refuses", ["folders", "files"])
def test_a_drive_may_know_no_sync_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, refuses: str) -> None:
    """As some drives of networks and virtual machines; what it refuses of a file is an error."""
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (refuses == "folders"):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse)
    with nullcontext() if refuses == "folders" else pytest.raises(CannotWriteError, match=re.escape(os.strerror(code))):
        write_text(tmp_path / "a", "text")
    assert [path.name for path in tmp_path.iterdir()] == (["a"] if refuses == "folders" else [])


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_any_other_error_of_a_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(CannotWriteError, match=re.escape(os.strerror(code))):
        write_text(tmp_path / "a", "text")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWriteError, match=f"{tmp_path / 'nothing'} cannot be written to"):
        append_text(tmp_path / "nothing/a", "text")


HOLD = """
import sys
from pathlib import Path
from protoseg.files import locked
with locked(Path(sys.argv[1]), warn=print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_is_held_by_one_process(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(FileExistsError, match=f"{tmp_path} is in use by process {holder.pid} on "),
        locked(tmp_path, warn=print),
    ):
        pass


@pytest.mark.parametrize("signum", [signal.SIGKILL, None])
def test_a_dead_process_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str], signum: int | None) -> None:
    if signum is None:
        holder.communicate("")
        assert (tmp_path / files.LOCK).read_text() == ""
    else:
        holder.send_signal(signum)
        holder.wait()
        assert str(holder.pid) in (tmp_path / files.LOCK).read_text()
    with locked(tmp_path, warn=print):
        assert str(os.getpid()) in (tmp_path / files.LOCK).read_text()


def test_a_process_that_it_has_started_does_not_hold_on(tmp_path: Path) -> None:
    """As the workers of a run that is killed alone: they notice that after some seconds."""
    child = (
        "import os, time\nif os.fork() == 0:\n    time.sleep(30)\nelse:\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    code = HOLD.replace('    print("held", flush=True)\n    sys.stdin.read()\n', "    " + child.replace("\n", "\n    "))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        with locked(tmp_path, warn=print):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "lockf", none)
    told: list[str] = []
    with locked(tmp_path, warn=told.append):
        assert str(tmp_path) in told[0]


NEW_RUN = """
import sys
from protoseg import run
from protoseg.cli import main

new_folder = run._new_folder

def wait(word):
    print(word, flush=True)
    sys.stdin.readline()

def look(config):
    out = new_folder(config)
    wait("looked")
    return out

run._new_folder, run.train_one = look, lambda *_, **__: wait("trains")
sys.exit(main(sys.argv[1:]))
"""
"""A run that waits for a word after it has looked for its folder, and another one instead of training."""


@contextmanager
def new_run(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", NEW_RUN, *words], text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def until(word: str, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    lines = list[str]()
    while not lines or lines[-1] != f"{word}\n":
        lines.append(process.stdout.readline())
        assert lines[-1], f"it ended before it said {word}: {process.communicate()}"


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def without_lock(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != files.LOCK}


class TestRun:
    @pytest.fixture
    def words(self, tmp_path: Path) -> list[str]:
        data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        return ["train", str(data), *TINY, "--steps", "4", "--checkpoint-every", "1", "--log-every", "1"]

    @pytest.mark.parametrize(
        "what",
        [
            "last.ckpt.partial",
            "metrics.csv",
            "health.jsonl",
            "model.safetensors.partial",
            "evaluation.npz.partial",
            "examples/0-image.jpg.partial",
            "examples/0-1.png.partial",
            "examples/examples.json.partial",
            "result.json.partial",
            "report.html.partial",
        ],
    )
    def test_a_full_disk_stops_and_the_run_goes_on(
        self, words: list[str], tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, mid_run = tmp_path / "out", ("last.ckpt.partial", "metrics.csv", "health.jsonl")
        with monkeypatch.context() as patch:
            fsync, writes = os.fsync, [0]

            def fill(descriptor: int) -> None:
                path = Path(f"/proc/self/fd/{descriptor}").readlink()
                writes[0] += path == out / what
                if path == out / what and writes[0] == (3 if what in mid_run else 1):
                    full()
                fsync(descriptor)

            patch.setattr(files.os, "fsync", fill)
            assert main([*words, "--out", str(out)]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert f"protoseg train: {(out / what).parent} cannot be written to (No space left on device)" in message
        assert message.endswith(f"go on with protoseg train --resume {out}\n")
        assert (out / "result.json").exists() == what.startswith("report")
        assert not (out / what.removesuffix(".partial")).exists() or what in mid_run
        assert not list(out.rglob("*.partial"))
        assert load_state(out / "last.ckpt")["global_step"] == (2 if what in mid_run else 4)
        assert main(["train", "--resume", str(out)]) == 0
        assert all((out / name).is_file() for name in ("result.json", what.removesuffix(".partial")))

    @pytest.mark.parametrize("what", ["last.ckpt.partial", "health.jsonl", "model.safetensors.partial", "result.json.partial"])
    def test_a_folder_that_becomes_read_only_stops_and_the_run_goes_on(
        self, words: list[str], tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As Linux makes one of a disk with errors: nothing is opened to write any more."""
        out, mid_run = tmp_path / "out", what in ("last.ckpt.partial", "health.jsonl")
        with monkeypatch.context() as patch:
            opened, seen = Path.open, [0]

            def refuse(self: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
                seen[0] += self == out / what and mode[0] != "r"
                if mode[0] != "r" and out in self.parents and seen[0] >= (3 if mid_run else 1):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                return opened(self, mode, *args, **more)

            patch.setattr(Path, "open", refuse)
            assert main([*words, "--out", str(out)]) == 1
        message = capsys.readouterr().err
        assert message.startswith(
            f"protoseg train: {out} cannot be written to (Read-only file system); once it can, go on with"
        )
        assert message.count("\n") == 1
        assert not (out / "result.json").exists()
        assert load_state(out / "last.ckpt")["global_step"] == (2 if mid_run else 4)
        assert main(["train", "--resume", str(out)]) == 0
        assert (out / "result.json").is_file()

    @pytest.mark.parametrize(
        ("what", "more", "left"),
        [
            ("previous.ckpt", (), {"last.ckpt": 1}),
            ("last.ckpt", (), {"previous.ckpt": 2}),  # between both renames
            ("waiting.ckpt", ("--on-collapse", "rollback"), {"last.ckpt": 3, "previous.ckpt": 2}),  # 2 is vouched for
        ],
    )
    def test_a_rename_that_fails_leaves_a_whole_checkpoint(
        self,
        words: list[str],
        tmp_path: Path,
        what: str,
        more: tuple[str, ...],
        left: dict[str, int],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            replace, seen = Path.replace, [0]

            def refuse(self: Path, target: Path) -> Path:
                seen[0] += target == out / what
                if target == out / what and seen[0] == (3 if what == "last.ckpt" else 1):
                    full()
                return replace(self, target)

            patch.setattr(Path, "replace", refuse)
            assert main([*words, *more, "--out", str(out)]) == 1
        assert f"{out} cannot be written to (No space left on device); once it can, go on with" in capsys.readouterr().err
        assert {path.name: load_state(path)["global_step"] for path in out.glob("*.ckpt*")} == left
        assert main(["train", "--resume", str(out)]) == 0
        assert [path.name for path in out.glob("*.ckpt*")] == ["last.ckpt"]

    @pytest.mark.parametrize(
        ("what", "more"),
        [
            ("previous.ckpt.partial", ("--on-collapse", "rollback")),
            ("first/snapshot-1.safetensors.partial", ("--method", "self_training", "--consistency.reliable_first", "true")),
        ],
    )
    def test_a_disk_that_is_full_before_the_first_checkpoint(
        self,
        words: list[str],
        tmp_path: Path,
        what: str,
        more: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The run starts again."""
        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            fill_at(patch, out / what)
            assert main([*words, *more, "--out", str(out)]) == 1
        said = capsys.readouterr().err
        assert f"{(out / what).parent} cannot be written to (No space left on device); once it can, go on with" in said
        assert not list(out.rglob("*.ckpt*"))
        assert main(["train", "--resume", str(out)]) == 0
        assert (out / "result.json").is_file()

    @pytest.mark.parametrize("what", ["split.json.partial", "config.yaml.partial"])
    def test_a_disk_that_is_full_at_once_leaves_a_folder_to_start_in(
        self, words: list[str], tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            fill_at(patch, out / what)
            assert main([*words, "--out", str(out)]) in (1, 2)
        message = capsys.readouterr().err
        assert f"{out} cannot be written to (No space left on device)" in message
        assert "go on with" not in message
        assert main([*words, "--out", str(out)]) == 0

    @pytest.mark.parametrize("what", ["split.json.partial", "config.yaml.partial"])
    def test_a_run_that_is_killed_at_once_leaves_a_folder_to_start_in(
        self, words: list[str], tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Before there are settings to go on with; what is not its own keeps the folder from being used all the same."""
        out = tmp_path / "out"
        kill = f"""
import os, signal, sys
from protoseg import files
from protoseg.cli import main
to_disk = files._to_disk
files._to_disk = lambda path: os.kill(os.getpid(), signal.SIGKILL) if path.name == {what!r} else to_disk(path)
main(sys.argv[1:])
"""
        killed = subprocess.run([sys.executable, "-c", kill, *words, "--out", str(out)], check=False)
        assert killed.returncode == -signal.SIGKILL
        left = {path.name: path.read_bytes() for path in out.iterdir()}
        assert left.keys() == {files.LOCK, what, *(["split.json"] if what.startswith("config") else [])}
        for foreign, content in (
            ("notes.txt", b"mine"),
            ("config.yaml", b"steps: 7"),
            ("split.json", b"{}"),
            ("x.partial", b""),
        ):
            (out / foreign).write_bytes(content)
            assert main([*words, "--out", str(out)]) == 2
            assert f"{out} exists and is not empty" in capsys.readouterr().err
            assert (out / foreign).read_bytes() == content
            (out / foreign).unlink()
            if foreign in left:
                (out / foreign).write_bytes(left[foreign])
        assert main([*words, "--out", str(out)]) == 0
        assert not list(out.glob("*.partial"))

    def test_a_folder_in_use_is_left_alone(self, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = tmp_path / "other"
        assert main([*words, "--out", str(other)]) == 0
        (other / "result.json").unlink()
        before = without_lock(other)
        with subprocess.Popen([sys.executable, "-c", HOLD, str(other)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
            assert held.stdout is not None
            held.stdout.readline()
            assert main(["train", "--resume", str(other)]) == 2
        assert f"{other} is in use by process {held.pid}" in capsys.readouterr().err
        assert without_lock(other) == before

    @pytest.mark.parametrize("command", ["evaluate", "report"])
    def test_two_commands_never_write_into_a_folder(
        self,
        words: list[str],
        tmp_path: Path,
        command: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The second one stops before it scores; the first one holds the folder until its page is written."""
        out = tmp_path / "out"
        assert main([*words, "--out", str(out)]) == 0
        again = [command, str(out), words[1], *(["--out", str(tmp_path / "scored")] if command == "evaluate" else [])]
        folder, module = (tmp_path / "scored", trained) if command == "evaluate" else (out, rescore)
        folder.mkdir(exist_ok=True)
        before = without_lock(folder)
        with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
            assert held.stdout is not None
            held.stdout.readline()
            capsys.readouterr()
            assert main(again) == 2
            said = capsys.readouterr().err
            assert main(["report", str(out)]) == 0  # what one can look at a run with while it trains
        assert re.fullmatch(rf"protoseg {command}: {folder} is in use by process {held.pid} on .*; wait for its end.*\n", said)
        assert ("--out" in said) == (command == "evaluate")
        assert without_lock(folder) == before
        write, others = module.write_report, list[str]()

        def look(*given: Any, **named: Any) -> Path:
            other = [sys.executable, "-c", HOLD, str(folder)]
            others.append(subprocess.run(other, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stderr)
            return write(*given, **named)

        monkeypatch.setattr(module, "write_report", look)
        assert main(again) == 0
        assert f"{folder} is in use by process {os.getpid()}" in others[0]

    def test_two_new_runs_never_share_a_folder(self, words: list[str], tmp_path: Path) -> None:
        """Both find it empty, at the same time; one trains, the other one says why it does not."""
        out = tmp_path / "out"
        words = [*words, "--out", str(out)]
        with new_run(words) as first, new_run(words) as second:
            until("looked", first)
            until("looked", second)
            go_on(first)
            until("trains", first)
            before = {path: path.read_bytes() for path in out.iterdir() if path.name != files.LOCK}
            message = second.communicate("\n")[1]  # while the first one trains
            assert second.returncode == 2
            assert message.startswith(f"protoseg train: {out} is in use by process {first.pid} on ")
            assert message.endswith("; wait for its end, or give another folder with --out\n")
            assert message.count("\n") == 1
            first.communicate("\n")
            assert first.returncode == 0
        assert {path: path.read_bytes() for path in out.iterdir() if path.name != files.LOCK} == before

    def test_a_run_that_came_first_is_left_alone(
        self, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And has ended, between the look at a folder and the moment in which it is held."""
        out, make = tmp_path / "out", run.make_folder

        def lose(path: Path) -> bool:
            made = make(path)
            (path / "config.yaml").write_text("steps: 7\n")
            return made

        monkeypatch.setattr(run, "make_folder", lose)
        assert main([*words, "--out", str(out)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said == [
            f"protoseg train: {out} exists and is not empty; give another folder with --out, or go on with it: "
            f"protoseg train --resume {out}"
        ]
        assert [path.name for path in out.iterdir() if path.name != files.LOCK] == ["config.yaml"]
        assert (out / "config.yaml").read_text() == "steps: 7\n"

    def test_runs_without_a_name_get_folders_of_their_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many ask at the same time, `runs` itself not being there yet."""
        rounds, number = 20, 8
        barrier = Barrier(number)

        def ask(_: int) -> Path:
            barrier.wait()
            return run._new_folder(TrainConfig(data="data"))

        with ThreadPoolExecutor(number) as pool:
            for i in range(rounds):
                (tmp_path / str(i)).mkdir()
                monkeypatch.chdir(tmp_path / str(i))
                found = list(pool.map(ask, range(number)))
                assert len(set(found)) == number
                assert sorted(found) == sorted(Path("runs").iterdir())

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make a small disk")
    def test_a_disk_that_is_really_full(
        self, words: list[str], tmp_path: Path, small_disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It has room for two checkpoints and a half: the third stops the run. Then it cannot be written to at all."""
        assert main([*words, "--out", str(tmp_path / "whole")]) == 0
        checkpoint = (tmp_path / "whole/last.ckpt").stat().st_size
        out = small_disk(f"size={5 * checkpoint // 2}") / "out"
        capsys.readouterr()
        assert main([*words, "--out", str(out)]) == 1
        assert f"{out} cannot be written to (No space left on device); once it can, go on with" in capsys.readouterr().err
        assert load_state(out / "last.ckpt")["global_step"] == 2
        small_disk("remount,ro,size=1g")
        assert main(["train", "--resume", str(out)]) == 1
        assert f"{out} cannot be written to (Read-only file system); once it can, go on with" in capsys.readouterr().err
        small_disk("remount,rw,size=1g")
        assert main(["train", "--resume", str(out)]) == 0
        ours, theirs = (load_file(run / "model.safetensors") for run in (out, tmp_path / "whole"))
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory, or changes it."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], check=True)
