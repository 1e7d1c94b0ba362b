"""Where a zygote's memory lies, so that forking it is cheap: hot pages pinned, cold ones huge.

After a fork, parent and child share every page until one of them writes to it; each such first write is a trap that
costs several times the copying, and Python writes to whatever it looks at (reference counts). A trivial program is
hundreds of them, and the zygote as many again after every fork. Pages that are pinned, as for a device, the kernel
copies in the fork itself (Linux 5.9), and the parent keeps its own. The way to pin that needs no privilege is a
buffer registered with io_uring. Pages that nobody writes to are better huge: a fork then copies 512 times fewer
entries. Where the kernel refuses, a fork is slower and nothing else.

Left out: finding out which pages are hot (``rehearsal``).
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterable
from typing import Final

from . import syscalls

__all__ = ["Pages", "settle", "unshared_pages"]

Pages = frozenset[int]
"""Addresses, each divided by the size of a page."""

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PAGES_PER_HUGE: Final = (2 << 20) // _PAGE
_MOST_HOT: Final = 4096
_FEW: Final = 128
_PRESENT, _FILE_BACKED, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56


def _read(proc: int, name: str) -> bytes:
    with open(os.open(f"self/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "rb") as file:
        return file.read()


def _private(proc: int, pattern: bytes) -> list[range]:
    """The pages of this process's writable private mappings whose line in ``maps`` goes on like ``pattern``."""
    found = re.findall(rb"^(\w+)-(\w+) rw-p " + pattern, _read(proc, "maps"), re.MULTILINE)
    return [range(int(low, 16) // _PAGE, int(high, 16) // _PAGE) for low, high in found]


def unshared_pages(proc: int) -> Pages:
    """Private memory that no other process has too: with a child alive, what either of them wrote to since the fork.

    Args:
        proc: the host's ``/proc``, as a descriptor.
    """
    found: set[int] = set()
    entries = os.open("self/pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with contextlib.closing(open(entries, "rb", buffering=0)) as file:
        for pages in _private(proc, b""):
            data = os.pread(file.fileno(), 8 * len(pages), 8 * pages.start)
            for page, (entry,) in zip(pages, struct.iter_unpack("=Q", data), strict=False):
                if entry & _PRESENT and entry & _EXCLUSIVE and not entry & _FILE_BACKED:
                    found.add(page)
    return frozenset(found)


def _stretches(pages: Iterable[int]) -> list[range]:
    found: list[range] = []
    for page in sorted(pages):
        if found and page == found[-1].stop:
            found[-1] = range(found[-1].start, page + 1)
        else:
            found.append(range(page, page + 1))
    return found


def _hold(pages: Pages) -> None:
    """Pin them for as long as this process lives. Raises ``OSError``."""
    stretches = _stretches(sorted(pages)[:_MOST_HOT])
    syscalls.pin([(stretch.start * _PAGE, len(stretch) * _PAGE) for stretch in stretches])


def _make_huge(proc: int, hot: Pages) -> Pages:
    """Put this process's anonymous memory on huge pages where it is mostly cold; the hot pages of the rest."""
    rest = set(hot)
    for pages in _private(proc, rb"\w+ 00:00 0 *(?:\[heap\])?$"):
        first = -(-pages.start // _PAGES_PER_HUGE) * _PAGES_PER_HUGE
        for start in range(first, pages.stop - _PAGES_PER_HUGE + 1, _PAGES_PER_HUGE):
            few = hot.intersection(range(start, start + _PAGES_PER_HUGE))
            if len(few) < _FEW and syscalls.collapse(start * _PAGE, _PAGES_PER_HUGE * _PAGE):
                rest -= few
    return frozenset(rest)


def settle(proc: int, hot: Pages) -> None:
    """Arrange this process's memory, in which every program writes to the pages ``hot``."""
    if rest := _make_huge(proc, hot):
        with contextlib.suppress(OSError):
            _hold(rest)
