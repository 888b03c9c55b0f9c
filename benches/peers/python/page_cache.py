"""The page cache, brought into a known state; the kernel is asked whether it is."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import numpy as np

SLACK = 1 << 20
"""So many bytes of a file may be otherwise: headers that were read, and what the kernel counts at a file's end."""

WARM_SHARE = 0.995
"""A file counts as cached from this share on: a kernel that reclaims ahead of need may evict a piece while the next one is read."""

ATTEMPTS = 3
"""A file is read so many times at most to have it cached: a kernel that reclaims ahead of need evicts a piece here and there."""

libc = ctypes.CDLL(None, use_errno=True)


class State(StrEnum):
    """What the page cache has of a checkpoint before it is loaded."""

    WARM = "warm"
    """All of it."""
    COLD = "cold"
    """Nothing."""


class StateError(Exception):
    """The page cache is not as it should be, so that nothing may be measured."""


def prepare(state: State, files: Iterable[Path]) -> None:
    """Brings the page cache into this state as far as these files go."""
    for file in files:
        if state is State.COLD:
            drop(file)
        else:
            complete(file)
        if not holds(state, file):
            raise StateError(f"the page cache is not {state}: it has {cached_bytes(file)} of {file.stat().st_size} bytes of {file}")


def holds(state: State, file: Path) -> bool:
    cached = cached_bytes(file)
    if state is State.COLD:
        return cached <= SLACK
    size = file.stat().st_size
    return cached >= min(size - SLACK, WARM_SHARE * size)


def complete(file: Path) -> None:
    """Reads the file if any of it is missing."""
    for _ in range(ATTEMPTS):
        if holds(State.WARM, file):
            return
        read(file)


def drop(file: Path) -> None:
    with file.open("rb") as opened:
        # What is not written yet does not go.
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(file: Path) -> None:
    piece = bytearray(1 << 20)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(piece):
            pass


def cached_bytes(file: Path) -> int:
    """How much of a file the page cache has. Of files that are neither ours nor ours to write, the kernel says that it has all."""
    size = file.stat().st_size
    if size == 0:
        return 0
    pages = np.empty(-(-size // mmap.PAGESIZE), np.uint8)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        start = np.frombuffer(mapped, np.uint8)
        arguments = (ctypes.c_void_p(start.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data))
        failed = libc.mincore(*arguments)
        # Else the map cannot be closed.
        del start
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(file))
    return min(int(np.count_nonzero(pages & 1)) * mmap.PAGESIZE, size)
