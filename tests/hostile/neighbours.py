"""Programs that go for whoever runs beside them, for the harness, and for what all runs of a user share.

Signals to many at once are SIGURG, which nobody dies of: the judge's canary and the neighbour count them. SIGKILL goes
only to the canary, to the program's own group and to its parent.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from tests.hostile.model import ALLOWED, DEFAULT, ENDS, SHORT, SURVIVES, Hostile

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="neighbours", expect=SURVIVES)

PROGRAMS: Final = (
    _one(name="kills-its-group", what="SIGKILL to its process group", code="os.kill(0, signal.SIGKILL)"),
    _one(
        name="kills-its-group-from-child",
        what="the same from a child that outlives it",
        limits=ALLOWED,
        code="""
        if spread() == 0: time.sleep(0.05); os.kill(0, signal.SIGKILL)
        """,
    ),
    _one(
        name="signals-everyone",
        what="one call that signals every process it may",
        code="""
        try: os.kill(-1, signal.SIGURG)
        except OSError as error: print(error)
        """,
    ),
    _one(
        name="signals-a-range",
        what="signals every process id around its own, the canary's and the caller's",
        shows="tried",
        code="""
        for middle in {os.getpid(), host.canary, host.runner}:
            for pid in range(max(2, middle - 300), middle + 300):
                if pid != os.getpid():
                    for send in (os.kill, os.killpg):
                        try: send(pid, signal.SIGURG)
                        except OSError: pass
        print("tried")
        """,
    ),
    _one(
        name="kills-the-canary",
        what="SIGKILL to a process of the host, by every call there is",
        shows="tried",
        code="""
        def by_handle(): signal.pidfd_send_signal(os.pidfd_open(host.canary), signal.SIGKILL)
        for act in (lambda: os.kill(host.canary, signal.SIGKILL), by_handle,
                    lambda: libcall("tgkill", host.canary, host.canary, 9),
                    lambda: libcall("sigqueue", host.canary, 9, None)):
            refused("kill", act)
        print("tried")
        """,
    ),
    _one(
        name="kills-its-parent",
        what="SIGKILL to the process that forked it",
        code="""
        if os.getppid() > 1: os.kill(os.getppid(), signal.SIGKILL)
        """,
    ),
    _one(
        name="kills-its-parent-from-thread",
        what="SIGTERM, SIGINT, SIGHUP and SIGUSR1 to its parent and the caller, some of which a harness handles",
        shows="tried",
        code="""
        def send():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                if os.getppid() > 1:
                    try: os.kill(os.getppid(), number)
                    except OSError: pass
        thread = threading.Thread(target=send); thread.start(); thread.join()
        print("tried")
        """,
    ),
    _one(
        name="stops-its-parent",
        what="SIGSTOP to its parent: the harness is neither dead nor alive",
        code="""
        if os.getppid() > 1: os.kill(os.getppid(), signal.SIGSTOP)
        """,
    ),
    _one(
        name="signals-by-descriptor",
        what="has the kernel send SIGIO for it, to the canary, when its pipe moves",
        shows="tried",
        code="""
        import fcntl
        ends = os.pipe()
        for fd in (*ends, 0, 1, 2):
            for owner in (host.canary, -host.canary):
                try:
                    fcntl.fcntl(fd, fcntl.F_SETOWN, owner); fcntl.fcntl(fd, 10, signal.SIGURG)
                    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
                except OSError: pass
        os.write(ends[1], b"x"); os.read(ends[0], 1)
        print("tried", flush=True)
        """,
    ),
    _one(
        name="slows-the-canary",
        what="changes another process's priority, processors, limits and score",
        shows="tried",
        code="""
        import resource
        for act in (lambda: os.setpriority(os.PRIO_PROCESS, host.canary, 15),
                    lambda: os.sched_setaffinity(host.canary, {0}),
                    lambda: resource.prlimit(host.canary, resource.RLIMIT_NOFILE, (64, 64)),
                    lambda: os.sched_setscheduler(host.canary, os.SCHED_IDLE, os.sched_param(0)),
                    lambda: syscall("ioprio_set", 1, host.canary, 3 << 13)):
            refused("another process", act)
        print("tried")
        """,
    ),
    _one(
        name="uses-up-tasks",
        what="uses up the number of tasks of its user, which others may share",
        limits=replace(ALLOWED, wall_seconds=1.0),
        code="""
        threading.stack_size(32 << 10)
        started = 0
        try:
            for started in range(400): threading.Thread(target=time.sleep, args=(0.5,)).start()
        except RuntimeError as error: print(error)
        for _ in range(40):
            if spread() == 0: time.sleep(5); os._exit(0)
        time.sleep(0.3); print("tasks", started)
        """,
    ),
    _one(
        name="uses-up-watches",
        what="uses up the inotify instances and epoll sets of its user",
        code="""
        count = 0
        while count < 140 and libc.inotify_init1(0x80000) >= 0: count += 1
        if count > 100: breach(f"{count} inotify instances")
        """,
    ),
    _one(
        name="uses-up-pending-signals",
        what="fills its user's queue of pending signals",
        code="""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
        for _ in range(20_000):
            if libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), None): break
        """,
    ),
    _one(
        name="leaves-notes-for-the-next",
        what="leaves files and locks wherever the next program might see them",
        shows="tried",
        code="""
        import fcntl, tempfile
        for folder in ("/tmp", "/dev/shm", "/var/tmp", tempfile.gettempdir(), os.path.expanduser("~"), "..", "/"):
            try:
                file = open(f"{folder}/{host.mark}", "w"); fcntl.flock(file, fcntl.LOCK_EX)
                os.chmod(f"{folder}/{host.mark}", 0o666)
            except OSError: pass
        time.sleep(0.1); print("tried")
        """,
    ),
    _one(
        name="squats-names",
        what="takes names that all runs share: abstract sockets, System V keys, POSIX shared memory",
        shows="tried",
        limits=DEFAULT,
        code="""
        import socket
        try: door = socket.socket(socket.AF_UNIX); door.bind("\\0" + host.family); door.listen()
        except OSError as error: print(error)
        for name, *rest in (("shmget", 4096, 0o1666), ("semget", 1, 0o1666), ("msgget", 0o1666)):
            refused(name, syscall, name, 0x68780004, *rest)
        shared = libc.shm_open(b"/" + host.mark.encode(), os.O_CREAT | os.O_RDWR, 0o666)
        if shared >= 0: print("a name in shared memory")
        time.sleep(0.15); print("tried")
        """,
    ),
    _one(
        name="writes-beside-itself",
        what="overwrites the files of the program beside it",
        shows="tried",
        code="""
        end = time.monotonic() + 0.25
        while time.monotonic() < end:
            for top in ("..", "/tmp", os.path.dirname(os.getcwd())):
                for folder, _, names in os.walk(top):
                    for name in names:
                        if name == "retool-witness":
                            try: open(os.path.join(folder, name), "w").write("spoiled")
                            except OSError: pass
            try: pids = [p for p in os.listdir("/proc") if p.isdigit()]
            except OSError: pids = []
            for pid in pids:
                try: open(f"/proc/{pid}/cwd/retool-witness", "r+").write("spoiled")
                except OSError: pass
        print("tried")
        """,
    ),
    _one(
        name="hogs-the-processors",
        what="keeps every processor busy at the highest priority it gets",
        limits=replace(ALLOWED, cpu_seconds=0.6, wall_seconds=2.0),
        code="""
        try: os.setpriority(os.PRIO_PROCESS, 0, -20)
        except OSError: pass
        for _ in range(8):
            if spread() == 0:
                while True: pass
        while True: pass
        """,
    ),
    _one(
        name="hogs-the-disk",
        what="fills the place that everyone writes to while others write",
        limits=DEFAULT,
        code="""
        import tempfile
        kept = []
        for folder in (os.getcwd(), tempfile.gettempdir(), "/tmp", "/dev/shm", "/var/tmp"):
            try:
                kept.append(open(f"{folder}/{host.mark}", "wb", buffering=0))
                for _ in range(20): kept[-1].write(bytes(1 << 20))
            except OSError: pass
        time.sleep(0.2)
        """,
    ),
    _one(
        name="hogs-the-pipe",
        what="writes as fast as it can to keep the caller busy, just below the limit",
        limits=replace(SHORT, stop_bytes=64 << 20),
        code="""
        for _ in range(50_000): os.write(2, b"x")
        """,
    ),
    _one(
        name="same-user",
        what="looks whether the caller is the same user as itself, and may therefore be signalled",
        expect=ENDS,
        shows="tried",
        code="""
        for pid in (host.canary, host.runner): refused(f"may signal {pid}", os.kill, pid, 0)
        print("tried")
        """,
    ),
)
