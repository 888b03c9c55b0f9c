"""What one process does: load in one of Python's ways, several times, and print what each load took as JSON."""

import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import memory
import page_cache
import ways
from digest import digest
from page_cache import State

if TYPE_CHECKING:
    import torch


def main() -> None:
    name, state, repeated, size, *paths = sys.argv[1:]
    way = next(way for way in ways.ALL if way.name == name)
    files = [Path(path) for path in paths]
    assert way.prepare is not None, f"{name} is no way of Python's"
    load = way.prepare(files)
    loads: list[dict[str, float]] = []
    digests = set()
    peak_bytes = 0
    for _ in range(int(repeated) + 1):
        if not loads:
            memory.touch_and_free(int(size))
        page_cache.prepare(State(state), files)
        resident_before = memory.restart_peak()
        faults_before = page_faults()
        start = time.perf_counter()
        tensors = load()
        seconds = time.perf_counter() - start
        loads.append({"seconds": seconds, "page_faults": page_faults() - faults_before})
        if len(loads) == 1:
            peak_bytes = memory.peak_bytes() - resident_before
        if not memory.all_private(extent(tensor) for tensor in tensors.values()):
            sys.exit("error: tensors are left in pages of a file")
        digests.add(digest((name, tensor.shape, data(tensor)) for name, tensor in tensors.items()))
        del tensors
        gc.collect()
    if len(digests) > 1:
        sys.exit("error: a repeated load made other tensors")
    print(json.dumps({"first": loads[0], "repeated": loads[1:], "peak_bytes": peak_bytes, "digest": digests.pop()}))


def extent(tensor: "torch.Tensor") -> tuple[int, int]:
    """Where it lies in memory."""
    return tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()


def data(tensor: "torch.Tensor") -> memoryview:
    import torch

    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def page_faults() -> int:
    """Minor and major, of the whole process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


if __name__ == "__main__":
    main()
