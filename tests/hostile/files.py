"""Programs that write where they should not, fill the disk, or make their own files dangerous to fetch."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.hostile.model import ENDS, SURVIVES, Hostile

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="files", expect=ENDS)

PROGRAMS: Final = (
    _one(
        name="litters-the-system",
        what="makes a file in every directory of the system worth having",
        shows="tried",
        code="""
        import site
        folders = {"/", "/etc", "/etc/cron.d", "/usr", "/usr/bin", "/usr/local/bin", "/opt", "/var", "/var/lib", "/run",
                   "/root", "/home", "/srv", "/mnt", "/dev", "/sys/fs/cgroup", os.path.expanduser("~"), sys.prefix,
                   sys.base_prefix, os.path.dirname(os.__file__), site.getusersitepackages(), *sys.path}
        for folder in folders:
            try: open(os.path.join(folder, host.mark), "x").close()
            except OSError: pass
        print("tried")
        """,
    ),
    _one(
        name="litters-temporary-places",
        what="leaves files and directories in every temporary place",
        shows="tried",
        code="""
        import tempfile
        for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue", tempfile.gettempdir(), os.getcwd()):
            try:
                os.mkdir(f"{folder}/{host.mark}")
                open(f"{folder}/{host.mark}/hx-file", "x").close()
                tempfile.NamedTemporaryFile(prefix=host.mark, dir=folder, delete=False)
            except OSError: pass
        print("tried")
        """,
    ),
    _one(
        name="writes-a-host-file",
        what="appends to a file that everyone may write",
        code="refused('a host file', lambda: open(f'{host.folder}/writable-666', 'a').write('spoiled'))",
    ),
    _one(
        name="writes-into-a-host-directory",
        what="makes a file in a directory that everyone may write to",
        code="refused('a host directory', lambda: open(f'{host.folder}/open-777/hx-new', 'x'))",
    ),
    _one(
        name="writes-through-links",
        what="reaches host files through symbolic and hard links of its own",
        code="""
        for name, make in (("hx-symbolic", os.symlink), ("hx-hard", os.link)):
            try: make(f"{host.folder}/writable-666", name)
            except OSError: continue
            refused(name, lambda: open(name, "a").write("spoiled"))
        """,
    ),
    _one(
        name="removes-host-files",
        what="unlinks, renames and truncates what everyone may",
        code="""
        place = f"{host.folder}/open-777/victim"
        for act in (lambda: os.truncate(place, 0), lambda: os.rename(place, place + "-hx"), lambda: os.unlink(place)):
            refused("a host file changed", act)
        """,
    ),
    _one(
        name="changes-attributes",
        what="changes modes, owners and times, which Landlock does not guard",
        code="""
        place = f"{host.folder}/writable-666"
        for act in (lambda: os.chmod(place, 0o4777), lambda: os.utime(place, (1, 1)),
                    lambda: os.chown(place, 1, 1), lambda: os.setxattr(place, "user.hx", b"1")):
            refused("attributes", act)
        """,
    ),
    _one(
        name="climbs-out",
        what="leaves its directory by dots, chroot tricks and inherited directory descriptors",
        code="""
        target = f"{host.folder}/open-777/victim".lstrip("/")
        climbs = ["../" * 40 + target, f"/proc/self/root/{target}", f"/proc/1/root/{target}"]
        climbs += [f"/proc/{pid}/root/{target}" for pid in (host.runner, host.canary, os.getppid())]
        for path in climbs: refused(path, open, path, "r+")
        for fd in range(3, 256): refused(f"from {fd}", lambda: os.open("../" * 40 + target, os.O_RDWR, dir_fd=fd))
        os.mkdir("hx-root")
        top = os.open(".", os.O_RDONLY)
        try: os.chroot("hx-root")
        except OSError: pass
        else:
            os.fchdir(top)
            for _ in range(40): os.chdir("..")
            os.chroot(".")
            refused("after chroot", open, "/" + target, "r+")
        """,
    ),
    _one(
        name="edits-the-interpreter",
        what="opens the interpreter's own files, and the harness's, for writing",
        code="""
        import json
        files = {os.__file__, json.__file__, os.path.realpath(sys.executable), libc._name or "/bin/sh", "/bin/sh"}
        files |= {m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
        for path in files:
            if os.path.isabs(path): refused(path, os.open, path, os.O_RDWR)
        """,
    ),
    _one(
        name="plants-bytecode",
        what="plants start-up hooks and byte code for the next run",
        code="""
        import importlib.util, site
        text = "import os; os.environ['HX'] = 'planted'"
        for folder in {*sys.path, site.getusersitepackages(), os.path.dirname(os.__file__)}:
            for name in (f"{host.mark}.pth", f"__pycache__/{host.mark}.pyc"):
                try: open(os.path.join(folder, name), "x").write(text)
                except OSError: pass
        """,
    ),
    _one(
        name="fills-the-disk",
        what="writes 100 MB where 16 MiB are allowed",
        expect=SURVIVES,
        code="""
        total, files = 0, 0
        try:
            for files in range(10):
                with open(f"hx-{files}", "wb", buffering=0) as file:
                    for _ in range(10): total += file.write(bytes(1 << 20))
        except OSError as error: print(error)
        if total > 48 << 20: breach(f"{total >> 20} MiB on disk")
        """,
    ),
    _one(
        name="uses-up-inodes",
        what="makes empty files until it is stopped, up to 60 000",
        expect=SURVIVES,
        code="""
        count = 0
        try:
            for count in range(60_000): os.close(os.open(f"hx-{count}", os.O_CREAT | os.O_WRONLY))
        except OSError as error: print(error)
        else: breach("60 000 files")
        """,
    ),
    _one(
        name="deep-locked-tree",
        what="a tree deeper than a path can say, locked from the inside",
        code="""
        for _ in range(1200):
            os.mkdir("hx-d"); os.chdir("hx-d")
        open("hx-f", "w").close()
        try: os.chmod("hx-f", 0); os.chmod(".", 0)
        except OSError as error: print(error)
        """,
    ),
    _one(
        name="odd-names",
        what="names that no text can hold: bad bytes, line ends, options, 255 bytes",
        code="""
        for name in (b"hx-\\xff\\xfe", b"hx-\\n\\r\\x1b[2J", b"-rf", b"hx-" + b"n" * 252, b" ", "hx-\\u202e".encode()):
            open(name, "w").close()
        """,
    ),
    _one(
        name="bombs-the-archive",
        what="a sparse file of a tebibyte, offered for fetching",
        expect=SURVIVES,
        fetch=("hx-sparse",),
        code="""
        with open("hx-sparse", "wb") as file: file.truncate(1 << 40)
        """,
    ),
    _one(
        name="fetch-through-link",
        what="offers a link to a secret for fetching",
        fetch=("hx-link", "hx-600", "hx-up/secret-644", "hx-zero"),
        code="""
        os.symlink(f"{host.folder}/secret-644", "hx-link"); os.symlink(f"{host.folder}/secret-600", "hx-600")
        os.symlink(host.folder, "hx-up"); os.symlink("/dev/zero", "hx-zero")
        """,
    ),
    _one(
        name="fetch-special-files",
        what="offers a pipe, a directory and a socket for fetching: reading them blocks or fails",
        fetch=("hx-pipe", "hx-folder", "hx-socket"),
        code="""
        import socket
        try: os.mkfifo("hx-pipe")
        except OSError: pass
        os.mkdir("hx-folder")
        try: socket.socket(socket.AF_UNIX).bind("hx-socket")
        except OSError: pass
        """,
    ),
    _one(
        name="fetch-race",
        what="exchanges the fetched file for a link again and again until its end",
        fetch=("hx-swap",),
        expect=SURVIVES,
        code="""
        def swap():
            while True:
                try:
                    open("hx-a", "w").close(); os.replace("hx-a", "hx-swap")
                    os.symlink(f"{host.folder}/secret-644", "hx-b"); os.replace("hx-b", "hx-swap")
                except OSError: pass
        threading.Thread(target=swap, daemon=True).start()
        time.sleep(0.1)
        """,
    ),
    _one(
        name="core-in-the-way",
        what="asks for a core file and aborts in a shared place",
        expect=SURVIVES,
        code="""
        import resource
        try: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
        except (ValueError, OSError): pass
        libc.prctl(4, 1, 0, 0, 0)
        for folder in ("/tmp", host.folder + "/open-777"):
            try: os.chdir(folder)
            except OSError: pass
        os.abort()
        """,
    ),
    _one(
        name="working-directory-gone",
        what="removes the directory it stands in",
        code="""
        here = os.getcwd()
        os.chdir("/")
        try: os.rmdir(here)
        except OSError: os.rename(here, here + "-hx") if os.access(os.path.dirname(here), os.W_OK) else None
        """,
    ),
)
