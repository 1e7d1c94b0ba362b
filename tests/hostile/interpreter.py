"""Programs that turn the interpreter against the harness that runs in it."""

from __future__ import annotations

from functools import partial
from typing import Final

from retool_env.sandbox import RunStatus
from tests.hostile.model import BRISK, ENDS, FAILS, NOT_OK, OK, SHORT, SURVIVES, TIMEOUT, Hostile

__all__ = ["PROGRAMS"]

KILLED: Final = frozenset({RunStatus.KILLED})
_one = partial(Hostile, category="interpreter", expect=SURVIVES)

PROGRAMS: Final = (
    _one(
        name="exit-patched",
        what="replaces every way to exit by nothing, then ends",
        expect=OK,
        shows="done",
        code="os._exit = sys.exit = exit = quit = lambda *a: None; print('done')",
    ),
    _one(
        name="returns-into-the-harness",
        what="takes _exit away from every module, so that the fork goes on as a copy of its parent",
        code="""
        def stay(*_): return None
        for module in list(sys.modules.values()):
            for name in ("_exit", "abort", "kill", "exit"):
                if hasattr(module, name):
                    try: setattr(module, name, stay)
                    except BaseException: pass
        frame = sys._getframe().f_back
        while frame:
            for name in list(frame.f_globals):
                if "exit" in name: frame.f_globals[name] = stay
            frame = frame.f_back
        """,
    ),
    _one(
        name="harness-modules-patched",
        what="replaces every function of every module that the harness brought, then fails",
        expect=NOT_OK,
        code="""
        frame = sys._getframe().f_back
        while frame:
            space = frame.f_globals
            for name, value in list(space.items()):
                if callable(value) and not isinstance(value, type): space[name] = lambda *a, **k: 0
            frame = frame.f_back
        1 / 0
        """,
    ),
    _one(
        name="harness-variables-set",
        what="sets what looks like a verdict in every frame above it",
        expect=FAILS,
        exit_code=6,
        code="""
        frame = sys._getframe().f_back
        while frame:
            for name in ("exit_code", "code", "status", "ok", "result", "verdict"):
                frame.f_locals[name] = 0
                ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
            frame = frame.f_back
        sys.exit(6)
        """,
    ),
    _one(
        name="forged-status",
        what="writes plausible reports to every descriptor, then fails",
        expect=FAILS,
        exit_code=7,
        code="""
        for fd in range(3, 256):
            for text in (b"+", b"!", b"M", b"ok", b'{"started":true,"code":0,"why":"","memory":false}', bytes(64)):
                try: os.write(fd, text)
                except OSError: pass
        sys.exit(7)
        """,
    ),
    _one(
        name="forged-set-up-failure",
        what="pretends that the sandbox failed, which callers would repeat",
        expect=FAILS,
        code="""
        for fd in range(3, 256):
            try: os.write(fd, b"!set-up failed"); os.close(fd)
            except OSError: pass
        for fd in (1, 2): os.write(fd, b"SandboxError: the zygote is gone\\n")
        os._exit(1)
        """,
    ),
    _one(
        name="stdout-replaced",
        what="a standard output whose every method fails",
        code="""
        class Evil:
            def __getattr__(self, name): raise SystemExit(0)
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Evil()
        1 / 0
        """,
        expect=FAILS,
    ),
    _one(
        name="stdout-hangs",
        what="a standard output whose flush never returns",
        expect=SURVIVES,
        limits=SHORT,
        code="""
        class Evil:
            def write(self, text): return len(text)
            def flush(self): time.sleep(20)
        sys.stdout = Evil(); print("x")
        """,
    ),
    _one(
        name="stdout-deleted", what="no sys.stdout at all", expect=OK, code="del sys.stdout, sys.stderr, sys.__stdout__"
    ),
    _one(
        name="stdout-detached",
        what="takes the buffer out of the stream",
        expect=ENDS,
        code="print('kept', flush=True); sys.stdout.detach(); sys.stderr.buffer.detach()",
        shows="kept",
    ),
    _one(
        name="excepthook-lies",
        what="an excepthook that exits with success",
        expect=ENDS,
        code="sys.excepthook = lambda *a: os._exit(0); 1 / 0",
    ),
    _one(
        name="excepthook-raises",
        what="an excepthook that raises, and a display hook that raises",
        expect=FAILS,
        code="""
        def hook(*_): raise BaseException("again")
        sys.excepthook = sys.displayhook = sys.unraisablehook = threading.excepthook = hook
        1 / 0
        """,
    ),
    _one(
        name="exit-handlers-fight",
        what="exit handlers that raise, exit and register more of themselves",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        import atexit
        def again():
            atexit.register(again); raise SystemExit(9)
        atexit.register(again)
        """,
    ),
    _one(
        name="evil-exception",
        what="an exception whose text, class name, notes and traceback all fail",
        expect=FAILS,
        code="""
        class Meta(type):
            @property
            def __name__(cls): raise KeyboardInterrupt
            def __repr__(cls): raise KeyboardInterrupt
        class Evil(Exception, metaclass=Meta):
            __notes__ = property(lambda self: 1 / 0)
            __cause__ = property(lambda self: 1 / 0)
            def __str__(self): raise SystemExit(0)
            __repr__ = __str__
            def __getattribute__(self, name): raise SystemExit(0)
        raise Evil
        """,
    ),
    _one(
        name="evil-exception-hangs",
        what="an exception that takes for ever to print",
        expect=TIMEOUT,
        limits=BRISK,
        code="""
        class Evil(Exception):
            def __str__(self):
                while True: pass
        raise Evil
        """,
    ),
    _one(
        name="evil-exit-code",
        what="SystemExit with objects for a code",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        class Code(int):
            def __and__(self, other): raise KeyboardInterrupt
            def __eq__(self, other): raise KeyboardInterrupt
            __hash__ = None
            def __str__(self): raise KeyboardInterrupt
            __index__ = __int__ = __repr__ = __str__
        raise SystemExit(Code(3))
        """,
    ),
    _one(
        name="huge-exit-code",
        what="an exit code beyond every integer type",
        expect=ENDS,
        code="sys.exit(10 ** 5000)",
    ),
    _one(
        name="evil-value",
        what="notebook mode: a last expression whose text is no text",
        expect=SURVIVES,
        mode="notebook",
        limits=BRISK,
        code="""
        class Evil(str):
            def __str__(self): return self
            def __repr__(self): return 5
            def __class_getitem__(cls, item): 1 / 0
            def __len__(self): return -1
            def encode(self, *a): while_ = 1 / 0
        class Worse:
            __class__ = property(lambda self: str)
            def __repr__(self): raise SystemExit(0)
        [Evil("x"), Worse()]
        """,
    ),
    _one(
        name="print-replaced",
        what="notebook mode: replaces what an echo needs",
        expect=ENDS,
        mode="notebook",
        code="""
        import builtins
        builtins.print = builtins.repr = builtins.isinstance = builtins.str = lambda *a, **k: 1 / 0
        40 + 2
        """,
    ),
    _one(
        name="builtins-removed",
        what="empties builtins",
        expect=SURVIVES,
        code="""
        import builtins
        for name in dir(builtins):
            if not name.startswith("__"): delattr(builtins, name)
        """,
    ),
    _one(
        name="modules-removed",
        what="empties sys.modules and the import system",
        expect=SURVIVES,
        code="sys.meta_path.clear(); sys.path.clear(); sys.path_hooks.clear(); sys.modules.clear()",
    ),
    _one(
        name="audit-hook",
        what="an audit hook, which cannot be removed, that refuses everything",
        code="""
        def refuse(event, arguments): raise RuntimeError(event)
        sys.addaudithook(refuse)
        """,
    ),
)
