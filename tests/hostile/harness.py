"""Programs that break the interpreter itself, or its way to the end, under the harness that runs in it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from retool_env.sandbox import RunStatus
from tests.hostile.model import BRISK, DEFAULT, ENDS, FAILS, NOT_OK, SHORT, SURVIVES, Hostile

__all__ = ["PROGRAMS"]

KILLED: Final = frozenset({RunStatus.KILLED})
_one = partial(Hostile, category="interpreter", expect=SURVIVES)

PROGRAMS: Final = (
    _one(
        name="trace-and-profile",
        what="trace and profile functions that raise inside the harness",
        expect=SURVIVES,
        code="""
        def trace(frame, event, argument):
            if frame.f_code.co_filename != "<code>": raise SystemExit(0)
            return trace
        threading.settrace(trace); sys.setprofile(trace); sys.settrace(trace)
        """,
    ),
    _one(
        name="pending-signal",
        what="handlers that raise, for signals that arrive while the harness ends",
        code="""
        def handler(number, frame): raise SystemExit(0)
        for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
        """,
        limits=BRISK,
    ),
    _one(
        name="null-pointer",
        what="reads address 0",
        expect=KILLED,
        code="ctypes.string_at(0)",
    ),
    _one(
        name="null-pointer-ignored",
        what="ignores SIGSEGV, or handles it by doing it again",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        signal.signal(signal.SIGSEGV, lambda *a: ctypes.string_at(0))
        ctypes.string_at(0)
        """,
    ),
    _one(name="aborts", what="abort(3), whatever handles it", expect=KILLED, code="os.abort()"),
    _one(
        name="kills-itself",
        what="ends itself by signals",
        expect=SURVIVES,
        code="""
        for number in (signal.SIGTERM, signal.SIGXCPU, signal.SIGHUP, signal.SIGKILL): os.kill(os.getpid(), number)
        """,
    ),
    _one(
        name="corrupts-objects",
        what="overwrites None, small integers and its own type objects",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        for thing in (None, 0, 1, type, dict, str):
            ctypes.memset(id(thing), 0xFF, 16)
        print(1 + 1)
        """,
    ),
    _one(
        name="deep-recursion",
        what="recurses without limit on a big stack of its own",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        sys.setrecursionlimit(1 << 30)
        def down(n): return down(n + 1) + 1 if n < 2_000_000 else 0
        down(0)
        """,
    ),
    _one(
        name="deep-recursion-in-c",
        what="recurses inside C code: nested lists compared and printed",
        expect=SURVIVES,
        code="""
        sys.setrecursionlimit(1 << 30)
        nest = []
        for _ in range(500_000): nest = [nest]
        repr(nest)
        """,
    ),
    _one(
        name="deep-destruction",
        what="a chain of objects so long that destroying it overflows the stack",
        expect=SURVIVES,
        code="""
        class Link:
            def __init__(self, next): self.next = next
            def __del__(self): self.next = None
        chain = None
        for _ in range(200_000): chain = Link(chain)
        """,
    ),
    _one(
        name="resurrection",
        what="objects that come back from the dead in every collection",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        import gc
        class Undead:
            def __init__(self): self.me = self
            def __del__(self): Undead(); graves.append(self)
        graves = [Undead()]
        gc.callbacks.append(lambda *a: Undead())
        graves.clear()
        """,
    ),
    _one(
        name="exit-in-finalizer",
        what="exits with success from a finalizer while its failure is dealt with",
        expect=ENDS,
        code="""
        class Last:
            def __del__(self): sys.exit(0)
        def fail():
            last = Last()
            raise ValueError(last)
        fail()
        """,
    ),
    _one(
        name="handles-in-heap",
        what="closes and shuts every file and socket object that it finds in the heap, then fails",
        expect=NOT_OK,
        code="""
        import gc
        for thing in gc.get_objects():
            for name in ("close", "shutdown", "detach"):
                try: getattr(thing, name)()
                except BaseException: pass
        1 / 0
        """,
    ),
    _one(
        name="filtered-exit",
        what="installs a filter of its own that refuses to let the process exit",
        expect=SURVIVES,
        limits=replace(DEFAULT, cpu_seconds=0.4, wall_seconds=1.0),
        code="""
        number = {"x86_64": 231, "aarch64": 94}[platform.machine()]
        steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x00050001), (6, 0, 0, 0x7FFF0000)]
        import struct
        text = b"".join(struct.pack("HBBI", *step) for step in steps)
        buffer = ctypes.create_string_buffer(text)
        class Program(ctypes.Structure): _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
        program = Program(len(steps), ctypes.addressof(buffer))
        libc.prctl(38, 1, 0, 0, 0)
        print(libc.prctl(22, 2, ctypes.byref(program), 0, 0), flush=True)
        """,
    ),
    _one(
        name="dump-later",
        what="faulthandler's own thread ends the process with its own code",
        expect=SURVIVES,
        code="""
        import faulthandler
        faulthandler.dump_traceback_later(0.05, exit=True, file=open("hx-dump", "w"))
        time.sleep(0.3)
        """,
    ),
    _one(
        name="threads-at-the-end",
        what="threads that start threads while the interpreter shuts down",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        def again():
            time.sleep(0.001)
            try: threading.Thread(target=again, daemon=bool(time.time_ns() & 1)).start()
            except BaseException: pass
        for _ in range(8): again()
        """,
    ),
    _one(
        name="shutdown-patched",
        what="replaces what joins threads at the end, and holds the import lock",
        expect=SURVIVES,
        limits=SHORT,
        code="""
        import _imp
        threading._shutdown = threading.active_count = lambda *a: 1 / 0
        threading.Thread(target=lambda: (_imp.acquire_lock(), time.sleep(20)), daemon=True).start()
        time.sleep(0.05)
        """,
    ),
    _one(
        name="wears-the-harness-name",
        what="code whose file name is that of the harness, so that its frames look like the harness's",
        expect=FAILS,
        code="""
        name = sys._getframe().f_back.f_code.co_filename if sys._getframe().f_back else "guest.py"
        exec(compile("def f(): raise ValueError('inside')\\nf()", name, "exec"))
        """,
    ),
    _one(
        name="becomes-python",
        what="replaces itself by a fresh interpreter without any of the harness's hooks",
        expect=SURVIVES,
        code="os.execv(sys.executable, [sys.executable, '-I', '-c', 'import os; print(os.getpid()); os._exit(5)'])",
    ),
    _one(
        name="raises-base-exceptions",
        what="ends with exceptions that are no Exception, one inside the other",
        expect=FAILS,
        code="""
        class Odd(BaseException): pass
        try: raise GeneratorExit
        except GeneratorExit:
            try: raise KeyboardInterrupt
            finally: raise Odd
        """,
    ),
    _one(
        name="exception-groups",
        what="groups of groups of exceptions, deeper than a printer can recurse",
        expect=FAILS,
        code="""
        error = ValueError()
        for _ in range(3000): error = ExceptionGroup("g", [error])
        raise error
        """,
    ),
)
