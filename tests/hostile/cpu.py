"""Programs that burn processor time or never end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from tests.hostile.model import BRISK, DEFAULT, ENDS, SHORT, SURVIVES, TIMEOUT, Hostile

__all__ = ["PROGRAMS"]

_cpu = partial(Hostile, category="cpu", expect=TIMEOUT, limits=BRISK)
_time = partial(Hostile, category="time", expect=TIMEOUT, limits=SHORT)

PROGRAMS: Final = (
    _cpu(name="busy-loop", what="loops for ever", code="while True: pass"),
    _cpu(name="native-arithmetic", what="one C call that never looks at signals", code="pow(3, 1 << 22, 10**400_000)"),
    _cpu(
        name="regex-backtracking",
        what="exponential matching inside the regex engine",
        code="import re; re.match(r'(a|a)+$', 'a' * 60 + 'b')",
    ),
    _cpu(
        name="hashing-threads",
        what="four threads that release the GIL, each below the limit alone",
        code="""
        from hashlib import pbkdf2_hmac
        for _ in range(4):
            threading.Thread(target=pbkdf2_hmac, args=("sha256", b"x", b"y", 20_000_000)).start()
        """,
    ),
    _cpu(
        name="swallows-everything",
        what="catches whatever a limit could raise",
        code="""
        while True:
            try:
                while True: pass
            except BaseException: pass
        """,
    ),
    _cpu(
        name="signals-blocked",
        what="blocks and ignores every signal that may be blocked",
        code="""
        for number in set(range(1, 65)) - {9, 14, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 65)) - {14})
        while True: pass
        """,
    ),
    _cpu(
        name="raises-its-limit",
        what="lifts RLIMIT_CPU",
        code="""
        import resource
        for value in ((-1, -1), (3600, 3600)):
            try: resource.setrlimit(resource.RLIMIT_CPU, value)
            except (ValueError, OSError): pass
        while True: pass
        """,
    ),
    _cpu(
        name="timers-disarmed",
        what="clears every timer a harness might have set in its process",
        code="""
        signal.alarm(0)
        for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            signal.setitimer(which, 0)
        for number in range(64): libc.timer_delete(ctypes.c_void_p(number))
        end = time.monotonic() + 20
        while time.monotonic() < end: pass
        """,
    ),
    _cpu(
        name="children-burn",
        what="four children burn at once, the parent only waits",
        limits=replace(DEFAULT, cpu_seconds=0.5, wall_seconds=1.0, subprocesses=True),
        code="""
        for _ in range(4):
            if spread() == 0:
                while True: pass
        while True:
            try: os.wait()
            except ChildProcessError: time.sleep(20)
        """,
    ),
    _cpu(
        name="burns-at-exit",
        what="spends its time in an atexit handler",
        code="""
        import atexit
        @atexit.register
        def burn():
            while True: pass
        """,
    ),
    _cpu(
        name="burns-in-finalizer",
        what="spends its time in __del__ while globals are destroyed",
        code="""
        class Last:
            def __del__(self):
                while True: pass
        kept = Last()
        """,
    ),
    _cpu(
        name="burns-in-thread-after-main",
        what="the main thread ends, another one loops",
        code="""
        def burn():
            while True: pass
        threading.Thread(target=burn).start()
        """,
    ),
    _cpu(
        name="burns-in-hook",
        what="an excepthook that never returns",
        code="""
        def hook(*_):
            while True: pass
        sys.excepthook = hook
        1 / 0
        """,
    ),
    _cpu(
        name="compile-bomb",
        what="keeps the compiler busy, which looks at no signal",
        code="for _ in range(10_000): compile('[' + '1.5, x, ' * 50_000 + ']', 'x', 'eval')",
    ),
    _cpu(
        name="kernel-time",
        what="burns in the kernel, not in user mode",
        code="""
        null = os.open("/dev/zero", os.O_RDONLY)
        block = bytearray(1 << 20)
        while True: os.readv(null, [block])
        """,
    ),
    _time(name="sleeps", what="sleeps for ever, having printed", shows="part", code="print('part'); time.sleep(20)"),
    _time(
        name="sleeps-on",
        what="goes back to sleep whatever wakes it",
        code="""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try: time.sleep(1)
            except BaseException: pass
        """,
    ),
    _time(name="reads-empty-pipe", what="blocks in read(2)", code="os.read(os.pipe()[0], 1)"),
    _time(name="pauses", what="waits for a signal that never comes", code="while True: signal.pause()"),
    _time(
        name="deadlocks",
        what="takes a lock twice, at exit too",
        code="""
        import atexit
        lock = threading.Lock()
        atexit.register(lock.acquire)
        lock.acquire()
        """,
    ),
    _time(
        name="ignores-polite-signals",
        what="ignores every signal that may be ignored, then sleeps",
        code="""
        for number in set(range(1, 65)) - {9, 14, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(20)
        """,
    ),
    _time(
        name="stops-itself",
        what="SIGSTOP: neither running nor dead",
        expect=SURVIVES,
        code="os.kill(os.getpid(), signal.SIGSTOP); print('done')",
    ),
    _time(
        name="sleeps-at-exit",
        what="an atexit handler that sleeps",
        code="import atexit; atexit.register(time.sleep, 20)",
    ),
    _time(
        name="thread-outlives-main",
        what="a thread that sleeps keeps the interpreter open",
        code="threading.Thread(target=time.sleep, args=(20,)).start()",
    ),
    Hostile(
        name="daemon-thread-does-not-hold",
        category="time",
        what="a daemon thread asleep must not keep the run open",
        shows="done",
        code="threading.Thread(target=time.sleep, args=(20,), daemon=True).start(); print('done')",
    ),
    _time(
        name="opens-fifo",
        what="blocks in open(2), where no signal handler of Python runs",
        expect=TIMEOUT | ENDS,
        code="os.mkfifo('hx-fifo'); open('hx-fifo')",
    ),
    _time(
        name="silent-runner",
        what="closes its streams, so that whoever waits for end of file returns early",
        code="os.closerange(0, 256); time.sleep(20)",
    ),
    _time(
        name="clocks-patched",
        what="makes every clock of the interpreter stand still",
        code="""
        nap = time.sleep
        for name in dir(time):
            if name not in ("struct_time",) and callable(getattr(time, name)): setattr(time, name, lambda *a, **k: 0)
        while True: nap(1)
        """,
    ),
    _time(
        name="asyncio-never-ends",
        what="an event loop that waits for itself, its executor busy",
        code="""
        import asyncio
        async def main():
            await asyncio.to_thread(time.sleep, 20)
        asyncio.run(main())
        """,
    ),
    Hostile(
        name="interrupts-main",
        category="time",
        what="a thread that interrupts the main thread after it ended",
        expect=ENDS,
        code="""
        import _thread, atexit
        atexit.register(_thread.interrupt_main)
        print("done")
        """,
        shows="done",
    ),
)
