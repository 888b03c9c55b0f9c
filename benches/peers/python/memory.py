"""The memory of a process: made ready, measured, and asked whether it is private."""

import mmap
import re
from bisect import bisect
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np


def touch_and_free(size: int) -> None:
    """Has the machine ready to hand out memory for two copies of so many bytes, which is what some ways take.

    A virtual machine that gives free memory back to its host pays up to twenty times as much for the first touch.
    """
    with mmap.mmap(-1, max(2 * size, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        pages = np.frombuffer(memory, np.uint8)
        pages[:: mmap.PAGESIZE] = 1
        del pages


def restart_peak() -> int:
    """Has the kernel count the peak of resident memory anew, and gives it as it is now, in bytes."""
    # Where this is refused, the peak includes what came before.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) << 10 if match else 0


def all_private(ranges: Iterable[tuple[int, int]]) -> bool:
    """Whether all of these ranges of addresses are anonymous memory of this process, and no pages of a file."""
    anonymous: list[tuple[int, int]] = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _offset, _device, inode = line.split()[:5]
        start, end = (int(address, 16) for address in addresses.split("-"))
        if inode == "0" and permissions.endswith("p"):
            if anonymous and anonymous[-1][1] == start:
                start = anonymous.pop()[0]
            anonymous.append((start, end))
    starts = [start for start, _ in anonymous]

    def is_anonymous(start: int, end: int) -> bool:
        at = bisect(starts, start) - 1
        return start == end or (at >= 0 and end <= anonymous[at][1])

    return all(is_anonymous(start, end) for start, end in ranges)
