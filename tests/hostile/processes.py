"""Programs that try to leave processes behind, or to be too many."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.hostile.model import ALLOWED, DEFAULT, ENDS, FAILS, SHORT, SURVIVES, TIMEOUT, Hostile, both

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="processes")

PROGRAMS: Final = (
    *both(
        _one(
            name="fork-doubling",
            what="doubles six times, everyone sleeps",
            limits=SHORT,
            expect=SURVIVES,
            code="for _ in range(6): spread()\ntime.sleep(15)",
        ),
        allowed=TIMEOUT,
    ),
    *both(
        _one(
            name="daemon",
            what="forks twice with a session of its own in between",
            expect=ENDS,
            shows="done",
            code="""
            if spread() == 0:
                os.setsid()
                if spread() == 0: time.sleep(15)
                os._exit(0)
            print("done")
            """,
        )
    ),
    *both(
        _one(
            name="background-command",
            what="leaves a shell command running in the background",
            expect=ENDS,
            code="os.system(f'sh -c \"sleep 15; : {host.mark}\" &'); time.sleep(0.1)",
        )
    ),
    *both(
        _one(
            name="popen-detached",
            what="Popen in a new session, its output thrown away, never waited for",
            expect=ENDS,
            code="""
            import subprocess
            subprocess.Popen(["sh", "-c", "sleep 15; : " + host.mark], start_new_session=True, close_fds=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            """,
        )
    ),
    *both(
        _one(
            name="raw-clone",
            what="forks by system call, asking to become a child of the harness (CLONE_PARENT)",
            expect=SURVIVES,
            code="""
            number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
            print(pid := libc.syscall(number, ctypes.c_ulong(0x8000 | 17), None, None, None, None), flush=True)
            if pid == 0:
                signal.alarm(20); time.sleep(15)
            if pid == -1: libc.fork() or time.sleep(15)
            """,
        )
    ),
    *both(
        _one(
            name="posix-spawn",
            what="spawns without fork in user code",
            expect=ENDS,
            code="""
            os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 15; : " + host.mark], {})
            """,
        )
    ),
    *both(
        _one(
            name="vfork",
            what="the third way to a process: vfork(2)",
            expect=SURVIVES,
            code="""
            pid = libc.vfork()
            if pid == 0: os.execv("/bin/sh", ["sh", "-c", "sleep 15; : " + host.mark])
            """,
        )
    ),
    *both(
        _one(
            name="multiprocessing-abandoned",
            what="a pool that is never closed, by spawn with its resource tracker",
            expect=SURVIVES,
            limits=DEFAULT,
            code="""
            import multiprocessing
            context = multiprocessing.get_context("fork")
            workers = [context.Process(target=time.sleep, args=(15,)) for _ in range(4)]
            for worker in workers: worker.start()
            os._exit(0)
            """,
        )
    ),
    _one(
        name="deaf-orphan",
        what="an orphan that ignores signals and holds nothing open",
        limits=ALLOWED,
        code="""
        if spread() == 0:
            os.setsid()
            for number in set(range(1, 65)) - {9, 14, 19, 32, 33}: signal.signal(number, signal.SIG_IGN)
            os.closerange(0, 256)
            time.sleep(15)
        """,
    ),
    _one(
        name="orphan-keeps-stdout",
        what="an orphan that keeps the pipe open: no end of file for the reader",
        limits=ALLOWED,
        shows="done",
        code="""
        if spread() == 0:
            os.setsid(); time.sleep(15)
        print("done")
        """,
    ),
    _one(
        name="running-chain",
        what="each process forks the next and dies: no process id lives long enough to be killed",
        limits=ALLOWED,
        code="""
        start = time.monotonic()
        for generation in range(3000):
            pid = spread()
            if pid or pid is None or time.monotonic() > start + 10: os._exit(0)
        """,
    ),
    _one(
        name="zombie-army",
        what="sixty children that nobody waits for",
        limits=ALLOWED,
        code="""
        for _ in range(60):
            if spread() == 0: os._exit(0)
        """,
    ),
    _one(
        name="child-kills-parent",
        what="the child kills the program and lives on",
        limits=ALLOWED,
        expect=SURVIVES,
        code="""
        parent = os.getpid()
        if spread() == 0:
            os.kill(parent, signal.SIGKILL); time.sleep(15)
        time.sleep(1)
        """,
    ),
    _one(
        name="stopped-child",
        what="leaves a child that is stopped and cannot react",
        limits=ALLOWED,
        code="""
        if spread() == 0:
            os.setsid(); os.kill(os.getpid(), signal.SIGSTOP); time.sleep(15)
        time.sleep(0.05)
        """,
    ),
    _one(
        name="own-reaper",
        what="an orphan that clears its death signal and adopts orphans itself",
        limits=ALLOWED,
        code="""
        if spread() == 0:
            libc.prctl(36, 1, 0, 0, 0); libc.prctl(1, 0, 0, 0, 0); os.setsid()
            if spread() == 0:
                spread(); time.sleep(15)
            time.sleep(15)
        time.sleep(0.05)
        """,
    ),
    _one(
        name="group-hopper",
        what="leaves its process group and session before it hangs",
        limits=SHORT,
        expect=TIMEOUT,
        code="""
        for leave in (os.setsid, lambda: os.setpgid(0, 0)):
            try: leave()
            except OSError: pass
        time.sleep(15)
        """,
    ),
    _one(
        name="becomes-a-shell",
        what="replaces the interpreter by another program",
        limits=SHORT,
        expect=SURVIVES,
        code="""
        os.execv("/bin/sh", ["sh", "-c", "echo done; sleep 15; : " + host.mark])
        """,
    ),
    _one(
        name="becomes-a-shell-allowed",
        what="the same where programs may be started",
        limits=ALLOWED,
        expect=SURVIVES,
        code="""
        os.execv("/bin/sh", ["sh", "-c", "sleep 15 & exec sleep 0.1; : " + host.mark])
        """,
    ),
    _one(
        name="thread-crowd",
        what="as many threads as it gets, up to 400",
        expect=SURVIVES,
        code="""
        started = 0
        threading.stack_size(64 << 10)
        try:
            for started in range(400): threading.Thread(target=time.sleep, args=(0.3,), daemon=True).start()
        except (RuntimeError, MemoryError) as error: print(error)
        print("threads", started)
        """,
        shows="threads",
    ),
    *both(
        _one(
            name="forks-at-exit",
            what="forks in an atexit handler; both copies walk through the harness's end",
            expect=SURVIVES,
            code="""
            import atexit
            @atexit.register
            def late():
                for _ in range(3): spread()
            """,
        )
    ),
    _one(
        name="both-copies-return",
        what="forks and lets both copies end as if each were the program",
        limits=ALLOWED,
        expect=FAILS,
        exit_code=7,
        code="""
        if spread() == 0: sys.exit(0)
        time.sleep(0.1)
        sys.exit(7)
        """,
    ),
    _one(
        name="pty-session",
        what="a session leader on a pseudo terminal",
        limits=ALLOWED,
        expect=SURVIVES,
        code="""
        import pty
        pid, fd = pty.fork()
        if pid == 0: signal.alarm(20); time.sleep(15)
        """,
    ),
)
