"""Programs that look for what is not theirs: files, environment, memory, descriptors, other programs."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.hostile.model import ALLOWED, ENDS, SURVIVES, Hostile

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="secrets", expect=ENDS)

PROGRAMS: Final = (
    _one(
        name="own-environment",
        what="prints its environment, from Python, from C and from the kernel",
        shows="environment",
        code="""
        print("environment", *(value for value in os.environ.values() if "CANARY" in value))
        entries = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
        for i in range(1000):
            if not entries or not entries[i]: break
            if b"CANARY" in entries[i]: print(entries[i])
        """,
    ),
    _one(
        name="environment-of-others",
        what="reads the environment and command line of every process it can name",
        shows="looked",
        code="""
        pids = {"self", "1", str(os.getppid()), str(host.runner), str(host.canary)}
        try: pids |= {p for p in os.listdir("/proc") if p.isdigit()}
        except OSError: pass
        for pid in pids:
            for name in ("environ", "cmdline"):
                try:
                    text = open(f"/proc/{pid}/{name}", "rb").read()
                    if b"CANARY" in text: print(pid, text[text.index(b"CANARY"):][:60])
                except OSError: pass
        print("looked")
        """,
    ),
    _one(
        name="reads-canary-files",
        what="opens two secrets by name: one for the caller only, one for everyone on the host",
        shows="looked",
        code="""
        for name in ("secret-600", "secret-644"):
            try: print(open(f"{host.folder}/{name}").read())
            except OSError: pass
        print("looked")
        """,
    ),
    _one(
        name="walks-the-tree",
        what="walks the file system for the canary files, without being told where they are",
        shows="looked",
        code="""
        end = time.monotonic() + 2
        for top in ("/tmp", "/var/tmp", "/home", "/root", "/etc", "/opt", "/mnt", "/run", os.path.dirname(host.folder)):
            for folder, _, names in os.walk(top):
                for name in {"secret-600", "secret-644", "secret-open"}.intersection(names):
                    try: print(open(os.path.join(folder, name)).read(200))
                    except OSError: pass
                if time.monotonic() > end: break
        print("looked")
        """,
    ),
    _one(
        name="host-identity",
        what="reads what identifies the host and its users",
        shows="looked",
        code="""
        for path in ("/etc/passwd", "/etc/machine-id", "/var/lib/dbus/machine-id", "/proc/sys/kernel/random/boot_id"):
            try: print(open(path).read())
            except OSError: pass
        print("looked")
        """,
    ),
    _one(
        name="memory-by-proc",
        what="reads the memory of the caller and of a process beside it through /proc",
        shows="looked",
        code="""
        for pid in (host.canary, host.runner, os.getppid()):
            try:
                maps = [line.split()[0] for line in open(f"/proc/{pid}/maps") if " rw-p " in line]
                with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                    for area in maps[:200]:
                        low, high = (int(x, 16) for x in area.split("-"))
                        memory.seek(low)
                        try: text = memory.read(min(high - low, 8 << 20))
                        except OSError: continue
                        at = text.find(b"CANARY" + b"-memory")
                        while at >= 0:
                            print(text[at:at + 60]); at = text.find(b"CANARY" + b"-memory", at + 1)
            except OSError: pass
        print("looked")
        """,
    ),
    _one(
        name="memory-by-system-call",
        what="process_vm_readv on the caller and on a process beside it",
        shows="looked",
        code="""
        buffer = ctypes.create_string_buffer(4096)
        class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
        for pid in (host.canary, host.runner, os.getppid() or host.runner):
            mine, theirs = Vector(ctypes.addressof(buffer), 8), Vector(id(None), 8)
            vectors = ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0
            error = refused(f"memory of {pid}", syscall, "process_vm_readv", pid, *vectors)
            if error and error.errno == errno.EFAULT: breach(f"memory of {pid}: only the address was wrong")
        print("looked")
        """,
    ),
    _one(
        name="attaches",
        what="ptrace on the caller, its parent and a process beside them",
        shows="looked",
        code="""
        for pid in (host.canary, os.getppid() or host.canary, host.runner):
            ctypes.set_errno(0)
            if libc.ptrace(0x4206, pid, None, None) == 0:
                libc.ptrace(17, pid, None, None)
                breach(f"attached to {pid}")
        print("looked")
        """,
    ),
    _one(
        name="digs-in-its-own-heap",
        what="looks through every object and module it was forked with",
        shows="looked",
        code="""
        import gc
        for thing in [*gc.get_objects(), *map(vars, filter(None, list(sys.modules.values())))]:
            try:
                text = repr(thing) if isinstance(thing, (dict, list, tuple, set)) and len(thing) < 2000 else ""
                if "CANARY" in text: print(text[text.index("CANARY"):][:60])
            except BaseException: pass
        print("looked")
        """,
    ),
    _one(
        name="digs-in-its-own-memory",
        what="reads all its memory, blindly below the break where there is no /proc, for what the caller left there",
        expect=SURVIVES,
        code="""
        try:
            areas = [line.split()[0] for line in open("/proc/self/maps") if " rw-p " in line]
        except OSError: areas = []
        sbrk = libc.sbrk
        sbrk.restype, sbrk.argtypes = ctypes.c_size_t, (ctypes.c_ssize_t,)
        if not areas: areas = [f"{sbrk(0) - (2 << 20):x}-{sbrk(0):x}"]
        needle = b"CANARY" + b"-"
        for area in areas:
            low, high = (int(x, 16) for x in area.split("-"))
            if high - low > 64 << 20 or high > 1 << 47: continue
            text = ctypes.string_at(low, high - low)
            at = text.find(needle)
            while at >= 0:
                print(text[at:at + 60]); at = text.find(needle, at + 1)
        print("looked")
        """,
    ),
    _one(
        name="inherited-descriptors",
        what="reads whatever descriptors it inherited",
        shows="looked",
        code="""
        for fd in range(3, 1024):
            try: os.fstat(fd)
            except OSError: continue
            os.set_blocking(fd, False)
            for read in (lambda: os.pread(fd, 4000, 0), lambda: os.read(fd, 4000), lambda: os.listdir(fd)):
                try: print(fd, read())
                except OSError: pass
        print("looked")
        """,
    ),
    _one(
        name="neighbours-secrets",
        what="looks for the program that runs beside it: its files, its input, its memory",
        shows="looked",
        code="""
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            for folder, _, names in [*os.walk(".."), *os.walk("/tmp"), *os.walk("/dev/shm")]:
                for name in names:
                    if name == "retool-witness":
                        try: print(open(os.path.join(folder, name)).read())
                        except OSError: pass
            try: pids = [p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()]
            except OSError: pids = []
            for pid in pids:
                for name in ("fd/0", "cwd/retool-witness"):
                    try: print(os.pread(os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_NONBLOCK), 300, 0))
                    except OSError: pass
        print("looked")
        """,
    ),
    _one(
        name="kernel-log",
        what="reads kernel messages, symbols and memory",
        shows="looked",
        code="""
        buffer = ctypes.create_string_buffer(4096)
        if libc.klogctl(3, buffer, 4096) > 0: breach("the kernel log")
        for path in ("/dev/kmsg", "/proc/kcore", "/dev/mem", "/sys/kernel/debug", "/proc/kallsyms", "/dev/vda"):
            try: fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except OSError: continue
            breach(path)
        print("looked")
        """,
    ),
    _one(
        name="borrowed-privilege",
        what="asks programs with privileges of their own (su, sudo, pkexec)",
        limits=ALLOWED,
        expect=SURVIVES,
        shows="looked",
        code="""
        import subprocess
        for command in (["su", "-c", "id -u"], ["sudo", "-n", "id", "-u"], ["pkexec", "id", "-u"]):
            try: done = subprocess.run(command, capture_output=True, text=True, timeout=2, stdin=subprocess.DEVNULL)
            except (OSError, subprocess.TimeoutExpired): continue
            if done.stdout.strip() == "0": breach(command)
        print("looked")
        """,
    ),
    _one(
        name="secrets-by-child",
        what="the same searches from a shell, which no Python hook sees",
        limits=ALLOWED,
        shows="looked",
        code="""
        import subprocess
        script = 'cat "$1"/secret-*; (env; cat /proc/[0-9]*/environ | tr "[:cntrl:]" " "; ps auxww) | grep CANARY'
        try:
            done = subprocess.run(["sh", "-c", script, "sh", host.folder], stdout=-1, text=True, errors="replace")
            print(done.stdout)
        except OSError as error: print(error)
        print("looked")
        """,
    ),
    _one(
        name="harness-frames",
        what="walks the stack up into the harness and prints every variable there",
        shows="looked",
        code="""
        frame = sys._getframe()
        while frame:
            for space in (frame.f_locals, frame.f_globals):
                for name, value in list(space.items()):
                    try: print(name, repr(value)[:200])
                    except BaseException: pass
            frame = frame.f_back
        print("looked")
        """,
    ),
)
