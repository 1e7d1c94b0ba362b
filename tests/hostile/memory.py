"""Programs that want more memory than they were given, from every account the kernel keeps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from retool_env.sandbox import RunStatus
from tests.hostile.model import ALLOWED, DEFAULT, ENDS, NOT_OK, SURVIVES, Hostile

__all__ = ["PROGRAMS"]

MEMORY: Final = frozenset({RunStatus.MEMORY})
_one = partial(Hostile, category="memory")

PROGRAMS: Final = (
    _one(
        name="one-big-block",
        what="1 GiB at once",
        expect=MEMORY,
        code="block = bytearray(1 << 30); breach(len(block))",
    ),
    _one(
        name="many-small-objects",
        what="grows a list of small objects",
        expect=MEMORY,
        code="""
        kept = []
        while len(kept) < 10_000_000: kept.append([None] * 4)
        breach("1 GiB in small objects")
        """,
    ),
    _one(
        name="takes-what-it-gets",
        what="catches MemoryError and halves the request until nothing is left",
        expect=SURVIVES,
        code="""
        kept, size = [], 256 << 20
        while size > 4096:
            try:
                kept.append(bytearray(size))
                if sum(map(len, kept)) > 192 << 20: breach("192 MiB"); break
            except MemoryError: size //= 2
        """,
    ),
    _one(
        name="shared-mapping",
        what="touches shared anonymous memory, which is nobody's heap",
        expect=SURVIVES,
        code="""
        import mmap
        area = mmap.mmap(-1, 384 << 20)
        for page in range(0, len(area), 4096): area[page] = 1
        breach("384 MiB of shared memory")
        """,
    ),
    _one(
        name="many-memfds",
        what="fills anonymous files",
        expect=SURVIVES,
        code="""
        kept, total, block = [], 0, bytes(1 << 20)
        try:
            while total < 320 << 20:
                kept.append(os.memfd_create("hx-"))
                for _ in range(32): total += os.write(kept[-1], block)
        except OSError as error: print(error)
        if total > 200 << 20: breach(f"{total >> 20} MiB in anonymous files")
        """,
    ),
    _one(
        name="sysv-segment",
        what="System V shared memory outlives whoever made it",
        code="""
        try: segment = syscall("shmget", 0x68780001, 300 << 20, 0o1666)
        except OSError as error: print(error)
        else: breach("a System V segment")
        """,
    ),
    _one(
        name="posix-segment",
        what="POSIX shared memory with a name",
        expect=SURVIVES,
        code="""
        from multiprocessing import shared_memory
        segment = shared_memory.SharedMemory(host.mark, create=True, size=300 << 20)
        for page in range(0, segment.size, 4096): segment.buf[page] = 1
        breach("300 MiB of POSIX shared memory")
        """,
    ),
    _one(
        name="thread-stacks",
        what="reserves and touches the stacks of threads",
        expect=SURVIVES,
        code="""
        threading.stack_size(128 << 20)
        def deep():
            area = (ctypes.c_char * 1)()
            time.sleep(0.2)
        alive = []
        try:
            for _ in range(8):
                alive.append(threading.Thread(target=deep, daemon=True)); alive[-1].start()
        except (RuntimeError, MemoryError) as error: print(error)
        else: breach("1 GiB of stacks")
        """,
    ),
    _one(
        name="long-string",
        what="a repetition that overflows any machine",
        expect=MEMORY,
        code="'a' * (1 << 45)",
    ),
    _one(
        name="raises-its-memory-limit",
        what="lifts RLIMIT_AS and RLIMIT_DATA, then allocates",
        expect=MEMORY,
        code="""
        import resource
        for what in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_RSS):
            for value in ((-1, -1), (1 << 40, 1 << 40)):
                try: resource.setrlimit(what, value)
                except (ValueError, OSError): pass
        breach(len(bytearray(512 << 20)))
        """,
    ),
    _one(
        name="sparse-mapping",
        what="maps a sparse file of 8 GiB and writes all over it",
        expect=SURVIVES,
        code="""
        import mmap
        with open("hx-sparse", "w+b") as file:
            file.truncate(8 << 30)
            area = mmap.mmap(file.fileno(), 0)
            for page in range(0, 320 << 20, 4096): area[page] = 1
        breach("320 MiB through a mapping")
        """,
    ),
    _one(
        name="pipe-buffers",
        what="keeps data in the kernel's pipes",
        expect=SURVIVES,
        code="""
        import fcntl
        kept, total = [], 0
        try:
            for _ in range(400):
                kept.append(os.pipe())
                writer = kept[-1][1]
                try: fcntl.fcntl(writer, 1031, 1 << 20)
                except OSError: pass
                os.set_blocking(writer, False)
                total += os.write(writer, bytes(1 << 20))
        except OSError as error: print(error)
        if total > 160 << 20: breach(f"{total >> 20} MiB in pipes")
        """,
    ),
    _one(
        name="socket-buffers",
        what="keeps data in socket buffers, and sockets inside of sockets",
        expect=SURVIVES,
        code="""
        import socket
        kept, total = [], 0
        try:
            for _ in range(400):
                kept.append(socket.socketpair())
                a, _b = kept[-1]
                for option in (socket.SO_SNDBUF, 32):
                    try: a.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
                    except OSError: pass
                a.setblocking(False)
                try:
                    for _ in range(8): total += a.send(bytes(512 << 10))
                except BlockingIOError: pass
        except OSError as error: print(error)
        if total > 160 << 20: breach(f"{total >> 20} MiB in sockets")
        """,
    ),
    _one(
        name="descriptors-in-flight",
        what="parks descriptors in a socket's queue, out of reach of the descriptor limit",
        expect=SURVIVES,
        code="""
        import socket
        a, b = socket.socketpair()
        a.setblocking(False)
        parked = 0
        try:
            while parked < 20_000:
                r, w = os.pipe()
                socket.send_fds(a, [b"x"], [r, w])
                os.close(r); os.close(w)
                parked += 2
        except OSError as error: print(error)
        if parked > 10_000: breach(f"{parked} descriptors in flight")
        """,
    ),
    _one(
        name="c-allocator",
        what="malloc and memset, past Python's accounting",
        expect=SURVIVES,
        code="""
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = (ctypes.c_size_t,)
        total = 0
        while total < 512 << 20 and (place := libc.malloc(8 << 20)):
            ctypes.memset(place, 1, 8 << 20); total += 8 << 20
        if total > 192 << 20: breach(f"{total >> 20} MiB from malloc")
        """,
    ),
    _one(
        name="decompression-bomb",
        what="a megabyte that inflates to a gigabyte",
        expect=MEMORY,
        code="""
        import zlib
        packer = zlib.compressobj(1)
        packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(768)) + packer.flush()
        breach(len(zlib.decompress(packed)))
        """,
    ),
    _one(
        name="long-integer",
        what="an integer of a gigabyte",
        expect=MEMORY,
        code="breach((1 << (8 << 30)).bit_length())",
    ),
    _one(
        name="no-memory-in-hook",
        what="is out of memory again while its error is shown",
        expect=NOT_OK,
        code="""
        kept = []
        def hook(*_):
            while len(kept) < 1000: kept.append(bytearray(1 << 20))
        sys.excepthook = hook
        while len(kept) < 1000: kept.append(bytearray(1 << 20))
        breach("1000 MiB")
        """,
    ),
    _one(
        name="starved-at-the-end",
        what="leaves no byte for the harness's own last steps",
        expect=SURVIVES,
        code="""
        kept, size = [], 64 << 20
        while size >= 64:
            try: kept.append(bytes(size))
            except MemoryError: size //= 2
            if size > 65536 and sum(map(len, kept)) > 512 << 20: breach("512 MiB"); break
        sys.kept = kept
        """,
    ),
    _one(
        name="forked-shares",
        what="four children, each just below the limit",
        expect=SURVIVES,
        limits=replace(ALLOWED, memory_mb=128),
        code="""
        gate, ready = os.pipe(), os.pipe()
        started = 0
        for _ in range(4):
            pid = spread()
            if pid == 0:
                kept = bytearray(96 << 20)
                for page in range(0, len(kept), 4096): kept[page] = 1
                os.write(ready[1], b"x"); os.read(gate[0], 1); os._exit(0)
            started += pid is not None
        os.close(ready[1])
        held = 0
        while held < started and os.read(ready[0], 1): held += 1
        if held > 1: breach(f"{held * 96} MiB in {held} processes")
        """,
    ),
    _one(
        name="large-descriptor-table",
        what="lifts RLIMIT_NOFILE and opens ten thousand descriptors",
        expect=ENDS,
        limits=DEFAULT,
        code="""
        import resource
        try: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
        except (ValueError, OSError): pass
        count = 0
        try:
            for count in range(10_000): os.dup(1)
        except OSError as error: print(error)
        else: breach("10 000 descriptors")
        """,
    ),
)
