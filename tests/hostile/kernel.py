"""Programs that go for the kernel: privileges, name spaces, mounts, and the system calls with the most bugs."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.hostile.model import ALLOWED, ENDS, Hostile

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="kernel", shows="tried", expect=ENDS)

PROGRAMS: Final = (
    _one(
        name="new-name-spaces",
        what="unshare of every name space, alone and inside a user name space",
        code="""
        kinds = dict(mnt=0x20000, cgroup=0x02000000, uts=0x04000000, ipc=0x08000000, user=0x10000000, pid=0x20000000,
                     net=0x40000000, time=0x80)
        for name, flag in kinds.items():
            refused(f"unshare {name}", libcall, "unshare", flag)
            refused(f"unshare user+{name}", libcall, "unshare", flag | 0x10000000)
        print("tried")
        """,
    ),
    _one(
        name="clone-into-name-space",
        what="clone and clone3 with name space flags",
        limits=ALLOWED,
        code="""
        number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        pid = libc.syscall(number, ctypes.c_ulong(0x10000000 | 17), None, None, None, None)
        if pid == 0: os._exit(0)
        if pid > 0: breach("clone into a user name space")
        arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
        pid = libc.syscall(435, ctypes.byref(arguments), ctypes.c_size_t(64))
        if pid == 0: os._exit(0)
        if pid > 0: breach("clone3 into a user name space")
        print("tried")
        """,
    ),
    _one(
        name="joins-name-spaces",
        what="setns into the name spaces of others, by file and by pidfd",
        code="""
        for pid in (1, host.runner, host.canary, os.getppid() or 1):
            for name in ("mnt", "pid", "net", "user", "ipc"):
                place = f"/proc/{pid}/ns/{name}"
                refused(f"setns {place}", lambda: libcall("setns", os.open(place, os.O_RDONLY), 0))
            refused(f"setns by pidfd {pid}", lambda: libcall("setns", os.pidfd_open(pid), 0x20000))
        print("tried")
        """,
    ),
    _one(
        name="mounts",
        what="mounts over a host directory, itself, the process table; unmounts; changes the root",
        code="""
        folder = f"{host.folder}/open-777".encode()
        for kind, source, flags in ((b"tmpfs", b"hx-none", 0), (None, folder, 4096), (b"proc", b"proc", 0)):
            if refused(f"mount {kind}", libcall, "mount", source, folder, kind, flags, None) is None:
                libc.umount2(folder, 2)
        unserved("remount", libcall, "mount", None, folder, None, 32 | 4096, None)
        unserved("umount", libcall, "umount2", folder, 2)
        refused("chroot", os.chroot, ".")
        print("tried")
        """,
    ),
    _one(
        name="new-mount-calls",
        what="the newer family: fsopen, open_tree, move_mount, mount_setattr",
        code="""
        unserved("fsopen", syscall, "fsopen", b"tmpfs", 0)
        unserved("open_tree", syscall, "open_tree", -100, b"/", 1)
        unserved("move_mount", syscall, "move_mount", -100, b"/hx-none", -100, b"/hx-none", 0)
        unserved("mount_setattr", syscall, "mount_setattr", -100, b"/hx-none", 0, 0, 0)
        print("tried")
        """,
    ),
    _one(
        name="traced-by-itself",
        what="ptrace as a way to change a child's system calls after the filter saw them",
        limits=ALLOWED,
        code="""
        pid = spread()
        if pid == 0:
            libc.ptrace(0, 0, None, None); os.kill(os.getpid(), signal.SIGSTOP); os._exit(0)
        if pid:
            time.sleep(0.05)
            if libc.ptrace(0x4206, pid, None, None) == 0: breach("traces a child")
            try: os.kill(pid, signal.SIGKILL)
            except OSError: pass
        print("tried")
        """,
    ),
    _one(
        name="writes-foreign-memory",
        what="process_vm_writev on others, and moving their pages",
        code="""
        class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
        mine, nowhere = Vector(id(None), 0), Vector(8, 0)
        for pid in (host.canary, host.runner, os.getppid() or host.runner):
            for name in ("process_vm_writev", "process_vm_readv"):
                error = refused(name, syscall, name, pid, ctypes.byref(mine), 1, ctypes.byref(nowhere), 1, 0)
            refused("migrate_pages", syscall, "migrate_pages", pid, 0, 0, 0)
        print("tried")
        """,
    ),
    _one(
        name="steals-descriptors",
        what="pidfd_getfd: takes open files out of other processes",
        code="""
        for pid in {host.canary, host.runner, os.getppid() or host.runner, 1}:
            try: handle = os.pidfd_open(pid)
            except OSError: continue
            for fd in range(8): refused(f"descriptor {fd} of {pid}", syscall, "pidfd_getfd", handle, fd, 0)
        print("tried")
        """,
    ),
    _one(
        name="loads-bpf",
        what="bpf(2): programs inside the kernel",
        code="""
        attributes = (ctypes.c_uint32 * 32)(2, 4, 8, 1)
        unserved("a map", syscall, "bpf", 0, ctypes.byref(attributes), 72)
        unserved("a program", syscall, "bpf", 5, ctypes.byref(attributes), 72)
        print("tried")
        """,
    ),
    _one(
        name="perf-events",
        what="perf_event_open: counters that see other processes",
        code="""
        attributes = (ctypes.c_uint64 * 16)(1 | 112 << 32)
        for pid in (0, host.canary):
            unserved("perf", syscall, "perf_event_open", ctypes.byref(attributes), pid, -1, -1, 0)
        print("tried")
        """,
    ),
    _one(
        name="keyrings",
        what="keys stay in the kernel after the program and are shared by user",
        code="""
        unserved("add_key", syscall, "add_key", b"user", host.mark.encode(), b"payload", 7, -2)
        unserved("a session keyring", syscall, "keyctl", 1, 0, 0, 0, 0)
        unserved("a persistent keyring", syscall, "keyctl", 22, -1, -2, 0, 0)
        print("tried")
        """,
    ),
    _one(
        name="io-uring",
        what="io_uring: system calls that no filter sees",
        code="""
        parameters = (ctypes.c_uint32 * 30)()
        unserved("io_uring", syscall, "io_uring_setup", 8, ctypes.byref(parameters))
        print("tried")
        """,
    ),
    _one(
        name="userfaultfd",
        what="userfaultfd: stops the kernel in the middle of a copy",
        code="""
        unserved("userfaultfd", syscall, "userfaultfd", 0x80000)
        unserved("userfaultfd, user mode", syscall, "userfaultfd", 0x80001)
        refused("/dev/userfaultfd", os.open, "/dev/userfaultfd", os.O_RDWR)
        print("tried")
        """,
    ),
    _one(
        name="another-kernel",
        what="loads modules, another kernel, swaps, reboots; all with arguments that cannot work",
        code="""
        unserved("kexec", syscall, "kexec_load", 0, 17, 0, 0xFFFF0000)
        unserved("module", syscall, "init_module", 0, 0, 0)
        unserved("reboot", libcall, "reboot", 0x12345)
        unserved("swapon", libcall, "swapon", None, 0)
        unserved("host name", libcall, "sethostname", None, ctypes.c_size_t(-1))
        unserved("accounting", libcall, "acct", b"/hx-none/x")
        print("tried")
        """,
    ),
    _one(
        name="file-handles",
        what="open_by_handle_at: opens by inode number, past every path",
        code="""
        class Handle(ctypes.Structure):
            _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
        for place in ("/", os.__file__, sys.prefix, "."):
            handle, mount = Handle(128), ctypes.c_int()
            if libc.name_to_handle_at(-100, place.encode(), ctypes.byref(handle), ctypes.byref(mount), 0): continue
            top = os.open(place, os.O_RDONLY)
            refused(f"by handle {place}", syscall, "open_by_handle_at", top, ctypes.byref(handle), 0)
        print("tried")
        """,
    ),
)
