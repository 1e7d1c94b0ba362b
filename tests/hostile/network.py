"""Programs that talk to anyone: ports and sockets of this host, other hosts, inherited connections."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.hostile.model import ALLOWED, ENDS, Hostile

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="network", expect=ENDS)

PROGRAMS: Final = (
    _one(
        name="connects-to-localhost",
        what="TCP to a service that listens on the host",
        shows="tried",
        code="""
        import socket
        for address in ("127.0.0.1", "localhost", "0.0.0.0", "127.1.2.3"):
            refused(f"tcp {address}", lambda: socket.create_connection((address, host.tcp), 0.3).send(b"hx"))
        print("tried")
        """,
    ),
    _one(
        name="sends-a-datagram",
        what="UDP to a service on the host",
        shows="tried",
        code="""
        import socket
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b"hx", ("127.0.0.1", host.udp))
        except OSError as error: print(error)
        print("tried")
        """,
    ),
    _one(
        name="abstract-socket",
        what="a socket in the abstract name space, which no file permission guards",
        shows="tried",
        code="""
        import socket
        refused("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0" + host.abstract))
        print("tried")
        """,
    ),
    _one(
        name="path-socket",
        what="a unix socket in the file system that everyone may connect to",
        shows="tried",
        code="""
        import socket
        refused("path socket", lambda: socket.socket(socket.AF_UNIX).connect(host.path))
        print("tried")
        """,
    ),
    _one(
        name="abstract-socket-from-child",
        what="the same from a process of its own, started by another program",
        limits=ALLOWED,
        shows="tried",
        code="""
        import subprocess
        text = "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + " + repr(host.abstract) + ")"
        try: print(subprocess.run([sys.executable, "-c", text], capture_output=True, text=True).stdout)
        except OSError as error: print(error)
        print("tried")
        """,
    ),
    _one(
        name="connects-from-shell",
        what="bash's own network redirections, from a child process",
        limits=ALLOWED,
        shows="tried",
        code="""
        import subprocess
        for kind, port in (("tcp", host.tcp), ("udp", host.udp)):
            command = ["bash", "-c", f"echo hx > /dev/{kind}/127.0.0.1/{port}"]
            try: subprocess.run(command, capture_output=True, timeout=3)
            except (OSError, subprocess.TimeoutExpired) as error: print(error)
        print("tried")
        """,
    ),
    _one(
        name="phones-home",
        what="reaches other hosts: by address, by name, the cloud's metadata service, by broadcast",
        shows="tried",
        code="""
        import socket
        socket.setdefaulttimeout(0.3)
        for address in (("1.1.1.1", 53), ("169.254.169.254", 80), ("example.com", 80)):
            refused(address, socket.create_connection, address)
        def shout():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                s.sendto(b"hx", ("255.255.255.255", 9))
        refused("broadcast", shout)
        print("tried")
        """,
    ),
    _one(
        name="asks-a-name-server",
        what="carries a secret out in the name it asks for",
        shows="tried",
        code="""
        import socket
        def ask():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect(("192.0.2.53", 53))
                s.send(b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\2hx\\7invalid\\0\\0\\1\\0\\1")
        refused("a question to a name server", ask)
        print("tried")
        """,
    ),
    _one(
        name="opens-a-door",
        what="listens on every interface for half a second",
        knock=True,
        shows="tried",
        code="""
        import socket
        try:
            door = socket.create_server(("0.0.0.0", host.door))
            time.sleep(0.4)
        except OSError as error: print(error)
        print("tried")
        """,
    ),
    _one(
        name="raw-sockets",
        what="raw, packet, ICMP and netlink sockets, which see or change what is not theirs",
        shows="tried",
        code="""
        import socket
        refused("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, 255)
        refused("packet", socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0x300)
        def interfaces():
            names = [name for _, name in socket.if_nameindex() if name != "lo"]
            if not names: raise OSError("only loopback")
        refused("interfaces of the host", interfaces)
        def audit(): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15).bind((0, 1))
        refused("kernel events", audit)
        print("tried")
        """,
    ),
    _one(
        name="exotic-families",
        what="address families whose only use here is the bugs in them; AF_VSOCK passes network namespaces",
        shows="tried",
        code="""
        import socket
        ordinary = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
        for family in range(1, 46):
            if family in ordinary: continue
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
                refused(f"family {family}", lambda: socket.socket(family, kind))
        print("tried")
        """,
    ),
    _one(
        name="host-services",
        what="sockets through which a host is ruled: docker, dbus, systemd, journal, ssh and display servers",
        shows="tried",
        code="""
        import glob, socket
        places = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/systemd/private",
                  "/run/dbus/system_bus_socket", "/run/systemd/notify", "/dev/log", *glob.glob("/tmp/ssh-*/agent.*"),
                  *glob.glob("/tmp/.X11-unix/*"), *glob.glob("/run/user/*/bus")]
        for place in places:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                refused(place, lambda: socket.socket(socket.AF_UNIX, kind).connect(place))
        print("tried")
        """,
    ),
    _one(
        name="inherited-connections",
        what="speaks on every socket it was forked with, and asks them for more",
        shows="tried",
        code="""
        import array, socket
        for fd in range(3, 256):
            try: channel = socket.socket(fileno=fd)
            except OSError: continue
            channel.setblocking(False)
            for act in (lambda: channel.recvmsg(4096, 4096), lambda: channel.send(b'{"started":true,"code":0}'),
                        lambda: socket.send_fds(channel, [b"x"], [0, 1])):
                try: print(fd, act())
                except OSError: pass
            breach(f"descriptor {fd} is a socket of the harness")
            channel.detach()
        print("tried")
        """,
    ),
    _one(
        name="network-interfaces",
        what="makes interfaces and devices: tun, a bridge, a new network name space",
        shows="tried",
        code="""
        import fcntl, socket
        refused("tun", os.open, "/dev/net/tun", os.O_RDWR)
        def bridge(): fcntl.ioctl(socket.socket(), 0x89A0, b"hx-bridge".ljust(16, b"\\0"))
        if refused("bridge", bridge) is None: fcntl.ioctl(socket.socket(), 0x89A1, b"hx-bridge".ljust(16, b"\\0"))
        refused("network name space", libcall, "unshare", 0x40000000)
        print("tried")
        """,
    ),
)
