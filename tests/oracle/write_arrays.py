"""Checkpoints written by NumPy and by the Python package safetensors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import write_torch

RANDOM = np.random.default_rng(20240607)
SCALARS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]


def random(scalar: str, *shape: int) -> np.ndarray:
    """An array of any bits that the type has."""
    dtype = np.dtype(scalar)
    top = 2 if dtype.kind == "b" else 256
    size = int(np.prod(shape)) * dtype.itemsize
    return RANDOM.integers(0, top, size, dtype=np.uint8).view(dtype).reshape(shape)


def arrays() -> dict[str, Any]:
    found = {f"{order}{scalar}": random(order + scalar, 3, 5) for order in "<>" for scalar in SCALARS}
    return found | {
        "fortran": np.asfortranarray(random("f4", 5, 7)),
        "fortran, rank 3": np.asfortranarray(random("i2", 2, 3, 4)),
        "fortran, big-endian": np.asfortranarray(random(">f8", 4, 3)),
        "rank 0": np.array(2.5),
        "rank 0, bool": np.array(True),
        "empty": np.empty((0, 3), dtype=np.float32),
        "rank 5": random("u1", 2, 1, 3, 2, 2),
        "folder/weight": random("f4", 3),
        "größe": random("f2", 8),
        "large": random("f4", 300, 400),
    }


def save_npz(path: Path) -> None:
    np.savez(path, **arrays())


def save_npz_compressed(path: Path) -> None:
    np.savez_compressed(path, **arrays())


def save_npz_unnamed(path: Path) -> None:
    np.savez(path, random("f4", 3), random("i8", 2))


def save_npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.lib.format.write_array(file, array, version=version)

    return write


def save_safetensors(content: Callable[[], dict[str, torch.Tensor]], metadata: dict[str, str] | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        tensors: dict[str, Any] = {name: tensor.contiguous().clone() for name, tensor in content().items()}
        save_file(tensors, path, metadata)

    return write


def safetensors_dtypes() -> dict[str, torch.Tensor]:
    """All types but the two of torch's that the format does not know."""
    return {name: tensor for name, tensor in write_torch.dtypes().items() if name not in ("complex32", "complex128")}


def save_sharded_safetensors(folder: Path) -> None:
    folder.mkdir()
    state = {name: tensor.clone() for name, tensor in write_torch.state_dict().items()}
    weight_map = {name: f"model-{1 + number % 2:05}-of-00002.safetensors" for number, name in enumerate(state)}
    for file in set(weight_map.values()):
        save_file({name: state[name] for name in state if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


FIXTURES: dict[str, Callable[[Path], None]] = {
    "numpy/stored.npz": save_npz,
    "numpy/compressed.npz": save_npz_compressed,
    "numpy/unnamed.npz": save_npz_unnamed,
    "numpy/single.npy": save_npy(random("f4", 6, 5)),
    "numpy/fortran.npy": save_npy(np.asfortranarray(random("f8", 6, 5))),
    "numpy/big-endian.npy": save_npy(random(">i4", 9)),
    "numpy/rank-0.npy": save_npy(np.array(7)),
    "numpy/version-2.npy": save_npy(random("c16", 4), (2, 0)),
    "numpy/version-3.npy": save_npy(random("f2", 4, 2), (3, 0)),
    "numpy/texts.npy": save_npy(np.array(["a", "größe"])),
    "numpy/objects.npy": save_npy(np.array([{"a": 1}, None], dtype=object)),
    "numpy/records.npy": save_npy(np.zeros(3, dtype=[("x", "f4"), ("y", "i2")])),
    "safetensors/dtypes.safetensors": save_safetensors(safetensors_dtypes),
    "safetensors/metadata.safetensors": save_safetensors(write_torch.sizes, {"format": "pt", "größe": "\U0001f600\n"}),
    "safetensors/names.safetensors": save_safetensors(write_torch.names),
    "safetensors/sharded": save_sharded_safetensors,
}
