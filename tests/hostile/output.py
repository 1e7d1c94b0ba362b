"""Programs that write too much, too oddly or where they should not, and that abuse their standard input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from retool_env.sandbox import RunStatus
from tests.hostile.model import ALLOWED, BRISK, DEFAULT, ENDS, FAILS, SHORT, SURVIVES, TIMEOUT, Hostile

__all__ = ["PROGRAMS"]

FLOOD: Final = frozenset({RunStatus.OUTPUT_LIMIT})
_out = partial(Hostile, category="output")
_in = partial(Hostile, category="stdin")

PROGRAMS: Final = (
    _out(
        name="flood-stdout",
        what="prints 100 MB in lines",
        expect=FLOOD,
        code="for _ in range(100): print(('x' * 99 + '\\n') * 10_000)",
    ),
    _out(
        name="flood-stderr",
        what="the same on standard error, unbuffered",
        expect=FLOOD,
        code="for _ in range(1000): os.write(2, b'y' * 100_000)",
    ),
    _out(
        name="one-endless-line",
        what="50 MB without a line end, in one write",
        expect=FLOOD | {RunStatus.MEMORY},
        code="sys.stdout.write('z' * 50_000_000); sys.stdout.flush()",
    ),
    _out(
        name="flood-at-exit",
        what="floods while the harness flushes",
        expect=FLOOD,
        code="import atexit; atexit.register(lambda: [os.write(1, bytes(100_000)) for _ in range(500)])",
    ),
    _out(
        name="splice-flood",
        what="floods without a copy in user space",
        expect=SURVIVES,
        code="""
        zero = os.open("/dev/zero", os.O_RDONLY)
        total = 0
        while total < 50_000_000: total += os.sendfile(1, zero, None, 1 << 16)
        """,
    ),
    _out(
        name="flood-outlives-parent",
        what="the parent ends, its children go on writing",
        limits=ALLOWED,
        expect=SURVIVES,
        code="""
        for _ in range(3):
            if spread() == 0:
                for _ in range(300): os.write(1, bytes(100_000))
                os._exit(0)
        """,
    ),
    _out(
        name="drips",
        what="prints a little for ever; what it printed must be kept",
        expect=TIMEOUT,
        limits=SHORT,
        shows="line 3",
        code="for i in range(2000): print('line', i); time.sleep(0.01)",
    ),
    _out(
        name="huge-traceback",
        what="an exception with a message of 30 MB",
        expect=FAILS | FLOOD | {RunStatus.MEMORY},
        code="raise ValueError('m' * 30_000_000)",
    ),
    _out(
        name="endless-chain",
        what="an exception whose context is thousands of exceptions long",
        expect=SURVIVES,
        limits=BRISK,
        code="""
        error = ValueError(0)
        for i in range(30_000):
            outer = ValueError("w" * 50); outer.__context__ = error; error = outer
        raise error
        """,
    ),
    _out(
        name="no-text",
        what="bytes that are no text, control sequences, halves of characters at the cut",
        shows="done",
        code="""
        os.write(1, bytes(range(256)) * 200 + b"\\xf0\\x9f" * 30_000 + b"\\x1b]0;owned\\x07\\x1b[2J\\x00")
        print("\\ufffe\\u202e done")
        """,
    ),
    _out(
        name="imitates-the-cut",
        what="prints what the sandbox prints when it cuts, and a good verdict",
        expect=FAILS,
        exit_code=3,
        code="""
        print('[... 99 bytes cut ...]')
        for fd in (1, 2): os.write(fd, b'{"status": "ok", "started": true, "code": 0, "why": "", "memory": false}\\n')
        sys.exit(3)
        """,
    ),
    _out(
        name="closes-everything",
        what="closes every descriptor it might have, then fails",
        expect=FAILS,
        exit_code=4,
        code="os.closerange(0, 4096); os._exit(4)",
    ),
    _out(
        name="closes-everything-and-returns",
        what="closes every descriptor and ends in the ordinary way",
        expect=ENDS,
        code="os.closerange(0, 4096)",
    ),
    _out(
        name="crossed-streams",
        what="exchanges, duplicates and reopens its standard descriptors",
        expect=ENDS,
        code="""
        os.dup2(1, 100); os.dup2(2, 1); os.dup2(100, 2)
        for fd in range(3, 64): os.dup2(1, fd)
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        print("nowhere")
        """,
    ),
    _out(
        name="nonblocking-pipe",
        what="sets its pipe to non-blocking and to one page, for both ends of it",
        expect=SURVIVES,
        code="""
        import fcntl
        for fd in (1, 2):
            os.set_blocking(fd, False)
            try: fcntl.fcntl(fd, 1031, 4096)
            except OSError: pass
        for _ in range(2000):
            try: os.write(1, b"q" * 1000)
            except BlockingIOError: pass
        """,
    ),
    _out(
        name="reads-its-own-output",
        what="reads back from the pipe it writes to, to hide what it printed",
        expect=SURVIVES,
        shows="kept",
        code="""
        print("kept", flush=True)
        for place in ("/proc/self/fd/1", "/dev/stdout", "/dev/fd/1"):
            try: os.read(os.open(place, os.O_RDONLY | os.O_NONBLOCK), 1000)
            except OSError: pass
            else: breach("its own output can be taken back")
        """,
    ),
    _out(
        name="prints-after-its-end",
        what="daemon threads print while the interpreter goes away",
        expect=SURVIVES,
        limits=replace(DEFAULT, cpu_seconds=2.0),
        code="""
        def chatter():
            while True: print("still here")
        for _ in range(4): threading.Thread(target=chatter, daemon=True).start()
        time.sleep(0.02)
        """,
    ),
    _in(
        name="reads-past-the-end",
        what="goes on reading when there is nothing more",
        stdin="one\ntwo",
        shows="7 0",
        code="first = sys.stdin.read(); print(len(first), sum(len(os.read(0, 10)) for _ in range(1000)))",
    ),
    _in(
        name="asks-nobody",
        what="asks for input where there is none",
        expect=FAILS,
        code="input('password: ')",
    ),
    _in(
        name="asks-the-terminal",
        what="opens the caller's terminal, to read or to type into it",
        shows="done",
        code="""
        import fcntl
        refused("the terminal", os.open, "/dev/tty", os.O_RDWR)
        for fd in range(3):
            refused("TIOCSTI", fcntl.ioctl, fd, 0x5412, b"x")
            refused("TIOCSCTTY", fcntl.ioctl, fd, 0x540E, 1)
        print("done")
        """,
    ),
    _in(
        name="ignores-much-input",
        what="is given megabytes that it never reads",
        stdin="0123456789" * 400_000,
        shows="done",
        code="time.sleep(0.1); print('done')",
    ),
    _in(
        name="grows-its-input",
        what="writes into its standard input and makes it larger",
        stdin="small",
        expect=ENDS,
        code="""
        total = 0
        for act in (lambda: os.ftruncate(0, 1 << 40), lambda: os.lseek(0, 1 << 33, 0)):
            try: act()
            except OSError: pass
        try:
            while total < 300 << 20: total += os.pwrite(0, bytes(1 << 20), total)
        except OSError as error: print(error)
        if total > 160 << 20: breach(f"{total >> 20} MiB through standard input")
        """,
    ),
    _in(
        name="closes-its-input",
        what="closes descriptor 0 and lets the next file take its place",
        stdin="text",
        expect=ENDS,
        code="""
        os.close(0)
        with open("hx-zero", "w") as file: print(file.fileno())
        sys.stdin.read()
        """,
    ),
    _in(
        name="input-with-odd-text",
        what="control characters and NUL in the input arrive as they are",
        stdin="a\0b\x04c\x1ad\r\n\u2028e",
        shows="[97, 0, 98, 4, 99, 26, 100, 13, 10",
        code="print(list(os.read(0, 100)))",
    ),
)
