"""The walls one by one: the filter against an interpreter of its own, and what a program can see and reach."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.sandbox import Limits, LocalSandbox, RunStatus
from retool_env.sandbox.box import memory, parcel, seccomp, syscalls
from retool_env.sandbox.box.syscall_numbers import AARCH64, X86_64
from retool_env.sandbox.box.syscalls import ARCHITECTURE

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux"),
    pytest.mark.skipif(not seccomp.supported(), reason="no system call table for this processor"),
]

NUMBERS = {"x86_64": X86_64, "aarch64": AARCH64}.get(ARCHITECTURE, {})
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(ARCHITECTURE, 0)
ALLOW, KILL, DENY, UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def decide(program: bytes, number: int, *args: int, arch: int = ARCH) -> int:
    """What the kernel would do, by classic BPF's own rules."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(args + (0,) * (6 - len(args))))
    code = list(struct.iter_unpack("=HBBI", program))
    loaded, at = 0, 0
    while True:
        operation, yes, no, operand = code[at]
        at += 1
        if operation == 0x20:
            loaded = struct.unpack_from("=I", data, operand)[0]
        elif operation == 0x06:
            return operand
        else:
            truth = {
                0x15: loaded == operand,
                0x25: loaded > operand,
                0x35: loaded >= operand,
                0x45: bool(loaded & operand),
            }[operation]
            at += yes if truth else no


FILTERS = {
    (power, leashed): seccomp.for_process(seccomp.build(power, leashed=leashed), 4242)
    for power in seccomp.POWERS
    for leashed in (False, True)
} if seccomp.supported() else {}  # fmt: skip

DEPENDENT = {
    "clone", "clone3", "io_uring_setup", "memfd_create", "socketpair", "ioctl", "prctl", "prlimit64",
    "sched_setaffinity", "setpriority", "kill", "tgkill", "fcntl",
}  # fmt: skip
DANGEROUS = {
    "x86_64": {
        "ptrace": 101, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308, "pivot_root": 155, "chroot": 161,
        "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "add_key": 248, "socket": 41,
        "connect": 42, "bind": 49, "shmget": 29, "msgget": 68, "semget": 64, "init_module": 175, "reboot": 169,
        "process_vm_readv": 310, "open_by_handle_at": 304, "mknod": 133, "mlock": 149, "setuid": 105, "swapon": 167,
        "settimeofday": 164, "sched_setscheduler": 144, "pidfd_getfd": 438, "inotify_init1": 294, "personality": 135,
        "seccomp": 317, "kexec_load": 246, "quotactl": 179, "sync": 162,
        "setsockopt": 54,
    },
}.get(ARCHITECTURE, {})  # fmt: skip


@pytest.mark.parametrize(("power", "leashed"), list(FILTERS))
def test_filter_allows_its_table_and_nothing_else(power: seccomp.Power, leashed: bool) -> None:
    program = FILTERS[power, leashed]
    starts = {"fork", "vfork", "execve", "execveat", "pidfd_open", "pidfd_send_signal"}
    left_out = {"alone": starts, "forks": {"execve", "execveat"}, "processes": set()}[power]
    if leashed:
        left_out = left_out | {"setsid", "setpgid", "tkill", "pidfd_send_signal"}
        left_out |= {"chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat"}
    allowed = {number for name, number in NUMBERS.items() if name not in left_out and name not in DEPENDENT}
    dependent = {NUMBERS[name] for name in DEPENDENT if name in NUMBERS}
    for number in range(600):
        if number in dependent:
            continue
        expected = ALLOW if number in allowed else UNKNOWN if number >= 463 else DENY
        assert decide(program, number) == expected, number


@pytest.mark.parametrize("name", list(DANGEROUS))
def test_dangerous_calls_are_refused(name: str) -> None:
    assert {decide(program, DANGEROUS[name]) for program in FILTERS.values()} == {DENY}


@pytest.mark.parametrize("program", list(FILTERS.values()))
def test_foreign_architectures_are_killed(program: bytes) -> None:
    assert decide(program, 1, arch=0x40000003) == KILL
    assert decide(program, 0x40000001) == KILL


def test_calls_that_depend_on_their_arguments() -> None:
    alone, processes = FILTERS["alone", False], FILTERS["processes", False]
    leashed = FILTERS["alone", True]
    clone = NUMBERS["clone"]
    thread = 0x3D0F00
    assert decide(alone, clone, thread) == ALLOW
    assert decide(alone, clone, 17) == DENY
    assert decide(processes, clone, 17) == ALLOW
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x8000):
        assert decide(processes, clone, thread | flag) == DENY
    assert decide(alone, NUMBERS["clone3"]) == UNKNOWN
    assert decide(alone, NUMBERS["socketpair"], 1) == ALLOW
    assert decide(alone, NUMBERS["socketpair"], 2) == DENY
    assert decide(alone, NUMBERS["fcntl"], 1, 3) == ALLOW
    assert decide(alone, NUMBERS["fcntl"], 1, 1031, 1 << 20) == DENY
    assert decide(alone, NUMBERS["prlimit64"], 0) == ALLOW
    assert decide(alone, NUMBERS["prlimit64"], 77) == DENY
    assert decide(alone, NUMBERS["prctl"], 15) == ALLOW
    assert decide(alone, NUMBERS["prctl"], 1) == DENY
    assert decide(alone, NUMBERS["setpriority"], 0, 0, 5) == ALLOW
    assert decide(alone, NUMBERS["setpriority"], 0, 9, 5) == DENY
    assert decide(alone, NUMBERS["setpriority"], 2, 0, 5) == DENY
    assert decide(alone, NUMBERS["ioctl"], 1, 0x5401) == ALLOW
    assert decide(alone, NUMBERS["ioctl"], 1, 0x5412) == 0x00050000 | errno.ENOTTY
    assert decide(alone, NUMBERS["kill"], 1, 9) == decide(alone, NUMBERS["kill"], 0, 9) == KILL
    assert decide(alone, NUMBERS["kill"], 1, 15) == decide(alone, NUMBERS["kill"], 7, 9) == ALLOW
    assert decide(leashed, NUMBERS["kill"], 4242, 9) == ALLOW
    assert decide(leashed, NUMBERS["kill"], 4243, 9) == DENY
    assert decide(leashed, NUMBERS["tgkill"], 1, 1, 9) == DENY


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(image="light") as opened:
        if not opened.health().tier.startswith("T1"):
            pytest.skip(f"this host allows only tier {opened.health().tier}")
        yield opened


def printed(sandbox: LocalSandbox, code: str, limits: Limits | None = None) -> str:
    result = sandbox.run(code, limits=limits)
    assert result.status is RunStatus.OK, result
    return result.stdout.strip()


def test_file_system_holds_the_interpreter_and_nothing_of_the_host(sandbox: LocalSandbox) -> None:
    assert printed(sandbox, "import os; print(os.path.exists('/proc'), os.path.exists('/sys'), os.getcwd())") == (
        "False False /box/work"
    )
    here = os.path.realpath(__file__)
    for path in (here, "/etc/shadow", "/etc/hostname", "/var/log", "/home", f"{Path.home()}/.ssh"):
        assert printed(sandbox, f"import os; print(os.path.exists({path!r}))") == "False"
    users = printed(sandbox, "print(open('/etc/passwd').read())")
    assert users.split(":")[0] == "sandbox"
    assert "\n" not in users


def test_only_the_own_directory_can_be_written(sandbox: LocalSandbox) -> None:
    code = """
import os, tempfile
for path in ('/x', '/etc/x', '/usr/x', '/dev/x', os.path.dirname(os.__file__) + '/x'):
    try: open(path, 'w')
    except OSError as error: print(type(error).__name__ in ('PermissionError', 'OSError'))
for path in ('x', '/tmp/x', '/dev/shm/x', tempfile.mktemp(), os.path.expanduser('~/y')):
    open(path, 'w').write('1')
"""
    assert printed(sandbox, code).split() == ["True"] * 5


def test_no_network_no_processes_no_capabilities(sandbox: LocalSandbox) -> None:
    code = """
import os, socket, subprocess
for attempt in (lambda: socket.socket(), lambda: subprocess.run(['true']), lambda: os.fork(), lambda: os.setuid(0),
                lambda: os.mknod('dev', 0o20666, os.makedev(1, 1)), lambda: os.chroot('.')):
    try: attempt()
    except PermissionError: print('refused')
a, b = socket.socketpair(); a.send(b'fine'); print(b.recv(9).decode())
"""
    assert printed(sandbox, code).split() == ["refused"] * 6 + ["fine"]


def test_processes_on_request(sandbox: LocalSandbox) -> None:
    code = "import subprocess; print(subprocess.run(['/bin/echo', 'hi'], capture_output=True, text=True).stdout)"
    assert printed(sandbox, code, Limits(subprocesses=True)) == "hi"


FAMILY = """
import os, time
for _ in range({count}):
    if os.fork() == 0:
        block = bytearray({size} << 20)
        for page in range(0, len(block), 4096): block[page] = 1
        time.sleep({seconds}); os._exit(0)
for _ in range({count}): os.wait()
print('all')
"""


def test_processes_together_keep_to_the_memory_limit(sandbox: LocalSandbox) -> None:
    limits = Limits(memory_mb=200, subprocesses=True)
    within = sandbox.run(FAMILY.format(count=3, size=40, seconds=0.2), limits=limits)
    beyond = sandbox.run(FAMILY.format(count=3, size=120, seconds=60), limits=limits)
    assert (within.status, within.stdout) == (RunStatus.OK, "all\n")
    assert (beyond.status, beyond.stdout) == (RunStatus.MEMORY, "")


def test_memory_shared_with_a_child_counts_once(sandbox: LocalSandbox) -> None:
    code = "big = bytes(120 << 20)\nbig = bytearray(big)\n" + FAMILY.format(count=4, size=1, seconds=0.3)
    assert printed(sandbox, code, Limits(memory_mb=300, subprocesses=True)) == "all"


def test_threads_and_usual_libraries_work(sandbox: LocalSandbox) -> None:
    code = """
import asyncio, concurrent.futures, decimal, fractions, sqlite3, tempfile, threading, zoneinfo, datetime
with concurrent.futures.ThreadPoolExecutor(8) as pool: assert sum(pool.map(lambda i: i * i, range(10))) == 285
async def main(): await asyncio.sleep(0.01); return 5
assert asyncio.run(main()) == 5
assert sqlite3.connect(':memory:').execute('select 6 * 7').fetchone() == (42,)
with tempfile.TemporaryDirectory() as folder: open(folder + '/x', 'w').close()
print(fractions.Fraction(1, 3) + 1)
"""
    assert printed(sandbox, code) == "4/3"


def test_disk_is_limited(sandbox: LocalSandbox) -> None:
    code = """
try:
    for name in range(100): open(str(name), 'wb').write(bytes(1 << 20))
except OSError as error: print(error.strerror, name < 30)
"""
    assert printed(sandbox, code, Limits(disk_mb=20)) == "No space left on device True"


def test_tier_is_told(sandbox: LocalSandbox) -> None:
    assert sandbox.run("").tier in ("T1", "T1'")


@given(files=st.dictionaries(st.text(max_size=10), st.binary(max_size=50), max_size=6))
def test_parcels_carry_what_was_put_in(files: dict[str, bytes]) -> None:
    assert parcel.parse(parcel.serialise(files)) == (files, [])
    assert parcel.parse(parcel.serialise(files, ["large", "larger"])) == (files, ["large", "larger"])


@given(stream=st.binary(max_size=200))
def test_broken_parcels_are_refused_and_never_invent(stream: bytes) -> None:
    try:
        files, _ = parcel.parse(stream)
    except (ValueError, TypeError):
        return
    assert sum(map(len, files.values())) <= len(stream)


STREAMS = "import sys\nfor s in (sys.stdin, sys.stdout, sys.stderr): print(s.seekable(), s.isatty(), s.fileno())"


@pytest.mark.parametrize("spares", [0, 2])
def test_streams_are_what_the_program_was_given(spares: int) -> None:
    with LocalSandbox(image="light", spares=spares, unsafe=True) as opened:
        opened.health()
        time.sleep(0.2)  # for the spares
        for stdin in ("", "some text"):
            result = opened.run(STREAMS, stdin=stdin)
            assert result.stdout == "True False 0\nFalse False 1\nFalse False 2\n", result
        assert opened.run("print(input(), input())", stdin="a\nb\n").stdout == "a b\n"


def test_written_pages_are_told_from_shared_ones() -> None:
    size = mmap.PAGESIZE
    proc = os.open("/proc", os.O_PATH)
    with mmap.mmap(-1, 8 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area[:] = bytes([1]) * len(area)
        first = ctypes.addressof(ctypes.c_char.from_buffer(area)) // size
        alone = memory.unshared_pages(proc)
        pid = os.fork()
        if pid == 0:
            signal.pause()
        area[3 * size] = 2
        beside = memory.unshared_pages(proc)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(proc)
    assert set(range(first, first + 8)) <= alone
    assert beside & set(range(first, first + 8)) == {first + 3}


def test_memory_that_every_program_writes_to_is_copied_by_the_fork(sandbox: LocalSandbox) -> None:
    try:
        syscalls.pin([])
    except OSError as error:
        if error.errno != errno.EINVAL:
            pytest.skip(f"this host pins no memory: {error}")
    faults = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    with LocalSandbox(image="light", tier="T3", unsafe=True) as plain:  # it has no rehearsal
        shared = int(printed(plain, faults))
    assert int(printed(sandbox, faults)) < shared / 2
