"""Programs that go for privileges, devices, settings and schedules that only the host may use."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.hostile.model import ALLOWED, ENDS, SURVIVES, Hostile

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="kernel", shows="tried", expect=ENDS)

PROGRAMS: Final = (
    _one(
        name="takes-identities",
        what="becomes root or someone else, takes capabilities, drops the promise of no new ones",
        code="""
        refused("root", os.setresuid, 0, 0, 0) if os.getuid() else None
        refused("another user", os.setresuid, 12345, 12345, 12345)
        refused("another group", os.setresgid, 12345, 12345, 12345)
        refused("more groups", os.setgroups, [0, 4, 6, 27, 42])
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
        if libc.capset(ctypes.byref(header), ctypes.byref(sets)) == 0: breach("capabilities")
        if libc.prctl(39, 0, 0, 0, 0) == 0: breach("programs it starts may gain privileges")
        print("tried")
        """,
    ),
    _one(
        name="born-with-capabilities",
        what="looks whether it has privileges without asking for them",
        code="""
        header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if libc.capget(ctypes.byref(header), ctypes.byref(held)) == 0 and (held[0] or held[3]):
            breach(f"capabilities {held[3]:x} {held[0]:x}")
        if os.geteuid() != os.getuid() or os.getegid() != os.getgid(): breach("two identities")
        print("tried")
        """,
    ),
    _one(
        name="devices",
        what="opens devices, or makes them",
        code="""
        import stat
        for name in ("mem", "port", "kmsg", "kvm", "fuse", "loop-control", "loop0", "vhost-net", "vsock", "net/tun",
                     "vda", "nvidia0", "nvidiactl", "dri/card0", "input/event0", "ptmx", "console", "hpet", "rtc0"):
            refused(name, os.open, "/dev/" + name, os.O_RDWR)
        refused("device file", os.mknod, "hx-null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        refused("block device file", os.mknod, "hx-disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))
        print("tried")
        """,
    ),
    _one(
        name="kernel-settings",
        what="opens the kernel's settings for writing (and writes nothing)",
        code="""
        for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
                     "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/hostname", "/sys/kernel/uevent_helper",
                     "/proc/self/oom_score_adj", f"/proc/{host.runner}/oom_score_adj",
                     f"/proc/{host.canary}/comm", "/sys/power/state", "/proc/self/uid_map", "/proc/1/mem"):
            refused(path, os.open, path, os.O_WRONLY)
        print("tried")
        """,
    ),
    _one(
        name="control-groups",
        what="makes a control group and moves out of its own",
        code="""
        import glob
        for top in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*/")):
            refused(top, os.mkdir, os.path.join(top, host.mark))
            refused(top, os.open, os.path.join(top, "cgroup.procs"), os.O_WRONLY)
        print("tried")
        """,
    ),
    _one(
        name="real-time",
        what="real-time scheduling, negative nice, real-time disk priority: the host waits for it",
        code="""
        refused("fifo", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
        refused("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, -10))
        refused("disk", syscall, "ioprio_set", 1, 0, 1 << 13 | 4)
        attributes = (ctypes.c_uint32 * 12)(48, 6, 0, 0, 0, 0)
        refused("deadline", syscall, "sched_setattr", 0, ctypes.byref(attributes), 0)
        print("tried")
        """,
    ),
    _one(
        name="io-ports",
        what="x86's back doors: ports, local descriptor tables, virtual 8086 mode",
        code="""
        if platform.machine() == "x86_64":
            calls = (("iopl", 172, 3), ("ioperm", 173, 0x80, 1, 1), ("modify_ldt", 154, 17, None, 0))
            for name, number, *rest in calls:
                if libc.syscall(number, *rest) == 0: breach(name)
        print("tried")
        """,
    ),
    _one(
        name="other-calling-conventions",
        what="system calls by the 32-bit gate and the x32 table, whose numbers mean something else",
        shows="",
        expect=SURVIVES,
        code="""
        import mmap
        if platform.machine() == "x86_64":
            if libc.syscall(ctypes.c_long(0x40000000 | 39)) > 0: breach("x32")
            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            # mov eax, 20 (getpid); int 0x80; ret
            page.write(b"\\x53\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\x5b\\xc3")
            value = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
            if value > 0: breach("the 32-bit gate")
        """,
    ),
    _one(
        name="runs-from-nowhere",
        what="executes a program that no path names: memfd and execveat",
        limits=ALLOWED,
        shows="",
        expect=SURVIVES,
        code="""
        fd = os.memfd_create("hx-program")
        os.write(fd, b"#!/bin/sh\\necho BREACH from nowhere\\n")
        number = {"x86_64": 322, "aarch64": 281}[platform.machine()]
        arguments = (ctypes.c_char_p * 2)(b"x", None)
        libc.syscall(number, fd, b"", arguments, (ctypes.c_char_p * 1)(None), 0x1000)
        """,
    ),
    _one(
        name="secret-memory",
        what="memfd_secret and locked memory, which the host can neither see nor swap",
        code="""
        unserved("memfd_secret", syscall, "memfd_secret", 0)
        if libc.mlockall(3) == 0: breach("all its memory is locked")
        print("tried")
        """,
    ),
    _one(
        name="message-queues",
        what="queues and semaphores with names, which outlive their maker",
        code="""
        queues = ctypes.CDLL(None, use_errno=True)
        if queues.mq_open(b"/" + host.mark.encode(), os.O_CREAT | os.O_RDWR, 0o600, None) >= 0:
            breach("a POSIX queue"); queues.mq_unlink(b"/" + host.mark.encode())
        refused("semaphores", syscall, "semget", 0x68780002, 4, 0o1666)
        refused("a System V queue", syscall, "msgget", 0x68780003, 0o1666)
        print("tried")
        """,
    ),
    _one(
        name="sets-the-clock",
        what="changes the time of the host, by no more than it is wrong",
        code="""
        now = time.clock_gettime(time.CLOCK_REALTIME)
        refused("clock", time.clock_settime, time.CLOCK_REALTIME, now)
        print("tried")
        """,
    ),
    _one(
        name="watches-the-host",
        what="inotify, fanotify and quota calls on host files",
        code="""
        watcher = libc.inotify_init()
        if watcher >= 0 and libc.inotify_add_watch(watcher, host.folder.encode(), 0xFFF) >= 0:
            breach("inotify on a host directory")
        if libc.fanotify_init(0, 0) >= 0: breach("fanotify")
        unserved("quota", syscall, "quotactl", 0x800001 << 8, b"/hx-none", 0, 0)
        print("tried")
        """,
    ),
)
