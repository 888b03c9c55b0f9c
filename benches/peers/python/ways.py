"""The ways of loading: Python's loaders, and ckload beside them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Load = Callable[[], "dict[str, torch.Tensor]"]
"""From the files to all tensors in private memory."""


@dataclass(frozen=True)
class Way:
    name: str
    format: str = "safetensors"
    """Of the files that it reads: `safetensors`, or a key of `convert.WRITERS`."""
    prepare: Callable[[list[Path]], Load] | None = None
    """Imports what loading takes, and gives the function that loads; None for ckload."""
    options: tuple[str, ...] = ()
    """Of ckload."""
    uses_io_uring: bool = False


def safetensors_mmap(files: list[Path]) -> Load:
    from safetensors.torch import load_file

    return lambda: {name: tensor.clone() for file in files for name, tensor in load_file(file).items()}


def safetensors_pread(files: list[Path]) -> Load:
    from safetensors.torch import load_file

    return lambda: {name: tensor for file in files for name, tensor in load_file(file, backend="pread").items()}


def torch_mmap(files: list[Path]) -> Load:
    import torch
    import torch.utils.serialization  # which loading would import

    def load() -> dict[str, torch.Tensor]:
        loaded = (torch.load(file, map_location="cpu", weights_only=True, mmap=True) for file in files)
        return {name: tensor.clone() for tensors in loaded for name, tensor in tensors.items()}

    return load


def runai(strategy: str) -> Callable[[list[Path]], Load]:
    """With this one way of reading: where the machine does not offer it, the streamer has no other to fall back to."""

    def prepare(files: list[Path]) -> Load:
        os.environ["RUNAI_STREAMER_FS_STRATEGY"] = strategy
        from runai_model_streamer import SafetensorsStreamer

        def load() -> "dict[str, torch.Tensor]":
            with SafetensorsStreamer() as streamer:
                streamer.stream_files([str(file) for file in files])
                # Its tensors are the caller's own, by default.
                return dict(streamer.get_tensors())

        return load

    return prepare


def fastsafetensors(files: list[Path]) -> Load:
    import torch  # noqa: F401, which loading would import
    from fastsafetensors import SafeTensorsFileLoader

    def load() -> "dict[str, torch.Tensor]":
        loader = SafeTensorsFileLoader(None, "cpu", nogds=True)
        loader.add_filenames({0: [str(file) for file in files]})
        buffer = loader.copy_files_to_device()
        tensors = {name: buffer.get_tensor(name) for name in loader.get_keys()}
        # The tensors keep the memory.
        buffer.close()
        loader.close()
        return tensors

    return load


def tensorizer(files: list[Path]) -> Load:
    from tensorizer import TensorDeserializer

    def load() -> "dict[str, torch.Tensor]":
        tensors: dict[str, torch.Tensor] = {}
        for file in files:
            with TensorDeserializer(str(file), device="cpu") as deserializer:
                tensors |= deserializer.items()
        return tensors

    return load


RESIDENT = "ckload --resident"

ALL = (
    Way("safetensors: load_file + clone", prepare=safetensors_mmap),
    Way("safetensors: load_file, pread", prepare=safetensors_pread),
    Way("torch.load, mmap + clone", "torch", torch_mmap),
    Way("Run:ai streamer, threads", prepare=runai("sync_buffered")),
    Way("Run:ai streamer, io_uring buffered", prepare=runai("io_uring_buffered"), uses_io_uring=True),
    Way("Run:ai streamer, io_uring direct", prepare=runai("io_uring_direct"), uses_io_uring=True),
    Way("fastsafetensors", prepare=fastsafetensors),
    Way("tensorizer", "tensorizer", tensorizer),
    Way(RESIDENT, options=("--resident",)),
    Way("ckload, streamed"),
)
