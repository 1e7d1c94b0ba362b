"""Whatever is killed, nothing is left behind and callers are told. Every test looks from the host's side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retool_env.errors import UsageError
from retool_env.sandbox import Limits, LocalSandbox, RunStatus, exchange, keeper, process
from retool_env.sandbox.box.scratch import remove_tree
from retool_env.sandbox.remedies import TierError
from tests.retool_env.sandbox_tools import eventually, family, skip_without_namespaces, temporary_folder, zygotes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")


@pytest.fixture(autouse=True, scope="module")
def _needs_namespaces() -> None:
    skip_without_namespaces()


SLEEPER = "import time\ntime.sleep(600)"
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
"""
FORKS = Limits(subprocesses=True)
STUB_AND_ZYGOTE = 2


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as path:
        yield path


def small(**changes: object) -> LocalSandbox:
    return LocalSandbox(image="light", spares=0, **changes)  # type: ignore[arg-type]


def test_nothing_is_on_disk_while_programs_run(folder: Path) -> None:
    with small() as opened, ThreadPoolExecutor() as pool:
        opened.health()
        run = pool.submit(opened.run, SLEEPER)
        assert eventually(lambda: len(family(folder)) > STUB_AND_ZYGOTE)
        assert list(folder.iterdir()) == []
        opened.close()
        assert run.result(20).status is RunStatus.CANCELLED


def test_daemon_dies_with_its_program(folder: Path) -> None:
    with small() as opened:
        assert opened.run(DAEMON, limits=FORKS).status is RunStatus.OK
        assert eventually(lambda: len(family(folder)) == STUB_AND_ZYGOTE)


def test_fork_bomb_is_bounded_and_swept(folder: Path) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    with small() as opened:
        result = opened.run(code, limits=Limits(cpu_seconds=0.2, wall_seconds=0.5, subprocesses=True))
        assert result.status is RunStatus.TIMEOUT
        assert eventually(lambda: len(family(folder)) == STUB_AND_ZYGOTE)
        assert opened.health().status is RunStatus.OK


def test_killing_everything_leaves_neighbours_alone(folder: Path) -> None:
    with small(max_running=4) as opened, ThreadPoolExecutor() as pool:
        result = pool.submit(opened.run, "import time; time.sleep(0.5); print('alive')")
        hostile = "import os\nfor target in (-1, 0):\n    os.kill(target, 9)"
        assert opened.run(hostile).status in (RunStatus.KILLED, RunStatus.ERROR)
        opened.run(hostile, limits=FORKS)
        assert result.result().stdout == "alive\n"


def test_zygote_killed_under_a_program(folder: Path) -> None:
    with small() as opened, ThreadPoolExecutor() as pool:
        opened.health()
        run = pool.submit(opened.run, DAEMON + SLEEPER, limits=FORKS)
        assert eventually(lambda: len(family(folder)) == STUB_AND_ZYGOTE + 2)
        os.kill(zygotes(folder)[0], signal.SIGKILL)
        result = run.result(20)
        assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, "lost")
        assert family(folder) == {}
        assert opened.health().status is RunStatus.OK
        assert opened.metrics().zygote_losses == 1


def test_stub_killed_under_a_program(folder: Path) -> None:
    with small() as opened, ThreadPoolExecutor() as pool:
        opened.health()
        run = pool.submit(opened.run, SLEEPER)
        assert eventually(lambda: len(family(folder)) == STUB_AND_ZYGOTE + 1)
        stub = family(folder)[zygotes(folder)[0]]
        os.kill(stub, signal.SIGKILL)
        assert run.result(20).status is RunStatus.SANDBOX_ERROR
        assert eventually(lambda: family(folder) == {})


def test_zygote_killed_while_idle_is_not_noticed(folder: Path) -> None:
    with small() as opened:
        opened.health()
        zygote = zygotes(folder)[0]
        os.kill(zygote, signal.SIGKILL)
        assert eventually(lambda: not Path(f"/proc/{zygote}").exists())
        assert opened.health().status is RunStatus.OK


def test_stuck_zygote_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(process, "_STOP_SECONDS", 0.1)
    with small() as opened:
        opened.health()
        os.kill(zygotes(folder)[0], signal.SIGSTOP)
        assert opened.run("print(1)", limits=Limits(wall_seconds=0.1)).status is RunStatus.SANDBOX_ERROR
        assert opened.health().status is RunStatus.OK


def test_killed_spares_are_not_missed(folder: Path) -> None:
    with LocalSandbox(image="light", spares=2) as opened:
        opened.health()
        assert eventually(lambda: len(family(folder)) == STUB_AND_ZYGOTE + 2)
        zygote = zygotes(folder)[0]
        for pid, parent in family(folder).items():
            if parent == zygote:
                os.kill(pid, signal.SIGKILL)
        assert [opened.health().status for _ in range(4)] == [RunStatus.OK] * 4


def test_interpreter_that_does_not_start_is_a_sandbox_error(folder: Path) -> None:
    with small(python="/no/such/python") as missing, small(python="/bin/false") as broken:
        assert "/no/such/python" in missing.health().stderr
        assert [opened.health().status for opened in (missing, broken)] == [RunStatus.SANDBOX_ERROR] * 2
    assert list(folder.iterdir()) == []


def test_circuit_opens_after_repeated_failures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_LONGEST_PAUSE", 0.01)
    with small(python="/bin/false") as broken:
        faults = [broken.health().fault for _ in range(keeper.PATIENCE + 3)]
        assert faults == ["lost"] * keeper.PATIENCE + ["unavailable"] * 3
        assert broken.metrics().zygote_starts == keeper.PATIENCE
        monkeypatch.setattr(keeper.time, "monotonic", lambda: 1e12)
        assert broken.health().fault == "lost"


def test_close_leaves_nothing_behind(folder: Path) -> None:
    opened = small()
    opened.health()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(opened.run, DAEMON + SLEEPER, limits=FORKS)
        assert eventually(lambda: len(family(folder)) == STUB_AND_ZYGOTE + 2)
        opened.close()
        assert run.result(20).status is RunStatus.CANCELLED
    assert (family(folder), list(folder.iterdir())) == ({}, [])
    opened.close()
    result = opened.run("print(1)")
    assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, "closed")


@pytest.mark.parametrize("tier", ["T1", "T2", "T3"])
def test_death_of_the_caller_ends_everything(folder: Path, tier: str) -> None:
    script = f"""
import tempfile; tempfile.tempdir = {str(folder)!r}
from retool_env.sandbox import Limits, LocalSandbox
sandbox = LocalSandbox(image="light", spares=0, tier={tier!r}, unsafe=True)
sandbox.run({DAEMON.replace("os.setsid()", "pass") + SLEEPER!r}, limits=Limits(subprocesses=True))
"""
    least = 4 if tier == "T1" else 3
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as caller:
        if not eventually(lambda: caller.poll() is not None or len(family(folder)) >= least, 30) or caller.poll():
            assert caller.stderr is not None
            pytest.skip(f"no tier {tier} here: {caller.stderr.read()[-300:]}")
        caller.kill()
    assert eventually(lambda: family(folder) == {} and list(folder.iterdir()) == [])


def test_caller_that_forgets_to_close_leaves_nothing(folder: Path) -> None:
    script = f"""
import tempfile; tempfile.tempdir = {str(folder)!r}
from retool_env.sandbox import LocalSandbox
sandbox = LocalSandbox()
print(sandbox.health().stdout)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("ok\n\n", "")
    assert (family(folder), list(folder.iterdir())) == ({}, [])


def test_forked_process_gets_a_zygote_of_its_own(folder: Path) -> None:
    script = f"""
import os, tempfile; tempfile.tempdir = {str(folder)!r}
from retool_env.sandbox import LocalSandbox
with LocalSandbox() as sandbox:
    assert sandbox.health().stdout == "ok\\n"
    if os.fork() == 0:
        fine = sandbox.health().stdout == "ok\\n" and sandbox.metrics().zygote_starts == 1
        sandbox.close()
        os._exit(0 if fine else 1)
    assert os.wait()[1] == 0
    assert sandbox.health().stdout == "ok\\n"
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
    assert (family(folder), list(folder.iterdir())) == ({}, [])


def test_scratch_directories_on_disk_are_removed_whatever_is_in_them(folder: Path) -> None:
    code = (
        "import os\nfor _ in range(1200):\n    os.mkdir('d'); os.chdir('d')\nopen('f', 'w').close(); os.chmod('.', 0)"
    )
    with small(tier="T3", unsafe=True) as opened:
        assert opened.run(code).status is RunStatus.OK
        assert list(folder.glob("*/*")) == []


def test_links_out_of_a_tree_are_not_followed(folder: Path) -> None:
    (folder / "precious").mkdir()
    (folder / "precious" / "file").touch()
    (folder / "tree" / "sub").mkdir(parents=True)
    (folder / "tree" / "sub" / "link").symlink_to(folder / "precious")
    remove_tree(folder / "tree")
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "precious"]


def test_weakest_tier_must_be_asked_for() -> None:
    with pytest.raises(UsageError, match="unsafe=True"):
        LocalSandbox(tier="T3")
    with pytest.raises(UsageError, match="unknown sandbox tier 'T9'"):
        LocalSandbox(tier="T9")


REFUSE_NAMESPACES = """
import sys
from retool_env.sandbox.box import seccomp, syscalls
# As a container engine's usual filter does: no new namespaces, no mounts.
import struct, errno
numbers = {"x86_64": (272, 165, 155), "aarch64": (97, 40, 41)}[syscalls.ARCHITECTURE]
program = [(0x20, 0, 0, 0)]
for number in numbers:
    program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
program += [(0x06, 0, 0, 0x7FFF0000)]
syscalls.prctl(38, 1)
syscalls.seccomp_install(b"".join(struct.pack("=HBBI", *row) for row in program))
"""


def test_host_that_refuses_namespaces_gets_the_next_tier_or_a_clear_error(folder: Path) -> None:
    script = f"""
import tempfile; tempfile.tempdir = {str(folder)!r}
{REFUSE_NAMESPACES}
from retool_env.sandbox import LocalSandbox
with LocalSandbox(image="light") as opened:
    print(opened.health().tier)
try:
    LocalSandbox(image="light", tier="T1").health()
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    lines = done.stdout.splitlines()
    assert lines[0] in ("T2", ""), done.stderr
    assert "T1: [Errno 1] Operation not permitted: unshare" in lines[1]
    assert "--security-opt seccomp=unconfined" in lines[1]


def test_refusals_are_told_with_a_remedy() -> None:
    error = TierError({"T1": "unshare(0x6c020000): Operation not permitted"})
    assert isinstance(error, UsageError)
    assert "docker" in str(error)
    assert "unsafe=True" in str(error)
    assert "\n" not in str(error)
