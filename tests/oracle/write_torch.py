"""Checkpoints written by torch: the shapes that tensors take in pickles, each in the zip form and in the legacy form."""

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.uint64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex32, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def random(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor of any bits that the type has, not only of what is a usual number."""
    size = torch.Size(shape).numel() * dtype.itemsize
    top = 2 if dtype == torch.bool else 256
    return torch.randint(0, top, (size,), dtype=torch.uint8).view(dtype).reshape(shape)


def dtypes() -> dict[str, torch.Tensor]:
    return {str(dtype).removeprefix("torch."): random(dtype, 3, 5) for dtype in DTYPES}


def dtypes_with_storages() -> dict[str, torch.Tensor]:
    """The types that torch has a class of storage for. It writes the others in the legacy form too, but fails to read them."""
    return {name: tensor for name, tensor in dtypes().items() if not name.startswith(("uint16", "uint32", "uint64", "float8", "complex32"))}


def views() -> dict[str, torch.Tensor]:
    base = torch.randn(7, 6, 5)
    half = torch.randn(40).to(torch.bfloat16)
    return {
        "base": base,
        "tail": base[4:],
        "one": base[2, 3, 1],
        "row": base[3],
        "transposed": base.transpose(0, 2),
        "permuted": base.permute(1, 2, 0),
        "stepped": base[::3, 1::2, ::4],
        "expanded": base[:1].expand(9, 6, 5),
        "expanded scalar": base[0, 0, 0].expand(2, 3),
        "diagonal": base.diagonal(dim1=0, dim2=1),
        "windows": half.as_strided((6, 4), (3, 2), 5),
        "half, strided": half[1::2],
        "matrix, transposed": torch.randn(64, 33).t(),
        "channels last": torch.randn(2, 3, 8, 9).to(memory_format=torch.channels_last),
        "dimension of one": torch.randn(4, 1, 6).transpose(0, 1),
    }


def shared() -> dict[str, Any]:
    embedding = torch.randn(30, 8)
    return {
        "embedding": embedding,
        "head": embedding,
        "nested": {"first half": embedding[:15], "again": embedding},
        "alone": torch.arange(10),
    }


def lone_slices() -> dict[str, torch.Tensor]:
    """Small views of storages that are saved whole, though no other name shows the rest."""
    return {"slice": torch.randn(100_000)[500:510], "column": torch.randn(300, 200)[:, 7]}


def sizes() -> dict[str, torch.Tensor]:
    return {
        "rank 0": torch.tensor(3.5),
        "rank 0 integer": torch.tensor(-7),
        "empty": torch.empty(0),
        "empty, rank 3": torch.empty(4, 0, 6, dtype=torch.int16),
        "one": torch.ones(1),
        "rank 8": torch.randn(1, 2, 1, 3, 1, 2, 1, 2),
    }


class Network(torch.nn.Module):
    """Parameters, buffers, a tied weight, and modules in modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 8)
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.BatchNorm1d(12), torch.nn.Linear(12, 8))
        self.head = torch.nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.arange(16))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(self.embedding(tokens)))
        return logits


def state_dict() -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(Network().state_dict())


def parameters() -> dict[str, Any]:
    network = Network()
    return {"parameters": dict(network.named_parameters()), "frozen": torch.nn.Parameter(torch.randn(3), requires_grad=False)}


def training() -> dict[str | int, Any]:
    """What a training run saves: tensors beside everything that is none."""
    model = Network().state_dict()
    return {
        "epoch": 7,
        "large": [2**31, -(2**40), 2**70, -1],
        "loss": 0.25,
        "best": None,
        "done": False,
        "name": "réseau\n\U0001f600",
        "history": [[1.0, 2.5], {"lr": [1e-3, 5e-4]}, (), []],
        "tuple": (1, torch.ones(2), ("a", torch.zeros(3))),
        "list": [torch.full((2, 2), 4.0), "x", torch.tensor([True, False])],
        3: {"integer key": torch.arange(4)},
        "bytes": b"\x00\x01\xff",
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "model": model,
        "optimizer": adam_state(model),
        "rng_state": torch.get_rng_state(),
    }


def adam_state(model: dict[str, torch.Tensor]) -> dict[str, Any]:
    """As torch's own AdamW saves it, after one step."""
    state = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.randn(weight.shape), "exp_avg_sq": torch.rand(weight.shape)}
        for number, weight in enumerate(model.values())
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "foreach": None, "params": list(state)}
    return {"state": state, "param_groups": [group]}


def arrays_beside() -> dict[str, Any]:
    """Arrays and numbers of NumPy, as configurations in checkpoints hold them, beside tensors."""
    return {"mean": np.arange(6.0).reshape(2, 3), "scale": np.float64(0.5), "dtype": np.dtype("f4"), "weight": torch.randn(4)}


def names() -> dict[str, torch.Tensor]:
    texts = ["a b", "größe", "层.权重", "\U0001f600", 'quote"', "back\\slash", "slash/slash", "tab\t", "x" * 300]
    return {name: torch.full((2,), number) for number, name in enumerate(texts)}


def list_at_the_top() -> list[Any]:
    return [torch.randn(2), (torch.arange(3), [torch.ones(1)]), {"a": torch.zeros(2)}]


def many() -> dict[str, torch.Tensor]:
    """More than 256 of everything that a pickle numbers, in one byte or in four."""
    return {f"layers.{layer}.{name}": torch.full((2, 3), float(layer)) for layer in range(400) for name in ("weight", "bias")}


def conjugated() -> dict[str, torch.Tensor]:
    """Tensors whose bytes in the file are not their values: a flag says that they are conjugated or negated."""
    return {
        "conjugated": random(torch.complex64, 4).conj(),
        "negated": torch._neg_view(torch.randn(5)),
        "plain": torch.randn(3),
    }


def sparse() -> dict[str, torch.Tensor]:
    return {"plain": torch.randn(3), "sparse": torch.eye(5).to_sparse()}


def quantised() -> dict[str, torch.Tensor]:
    return {"plain": torch.randn(3), "quantised": torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8)}


def whole_module() -> torch.nn.Module:
    """A module itself, not its state: the pickle names every class in it."""
    return Network()


CONTENTS: dict[str, Callable[[], Any]] = {
    "dtypes": dtypes,
    "views": views,
    "shared": shared,
    "lone-slices": lone_slices,
    "sizes": sizes,
    "state-dict": state_dict,
    "parameters": parameters,
    "training": training,
    "arrays-beside": arrays_beside,
    "names": names,
    "list": list_at_the_top,
    "single": lambda: torch.randn(3, 4),
    "nothing": lambda: {"epoch": 3, "tensors": {}},
    "many": many,
    "conjugated": conjugated,
    "sparse": sparse,
    "quantised": quantised,
    "module": whole_module,
}


def save(content: Callable[[], Any], legacy: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save(content(), path, _use_new_zipfile_serialization=not legacy)

    return write


def save_protocol(protocol: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save(training(), path, pickle_protocol=protocol)

    return write


def save_script(path: Path) -> None:
    torch.jit.save(torch.jit.script(Network()), str(path))


def save_sharded(legacy: bool) -> Callable[[Path], None]:
    """A folder as Hugging Face has them: three files, and an index that says which tensor is where."""

    def write(folder: Path) -> None:
        folder.mkdir()
        state = {name: tensor.clone() for name, tensor in Network().state_dict().items()}
        weight_map: dict[str, str] = {}
        for number, start in enumerate(range(0, len(state), 4), 1):
            file = f"pytorch_model-{number:05}-of-{(len(state) + 3) // 4:05}.bin"
            shard = dict(list(state.items())[start : start + 4])
            torch.save(shard, folder / file, _use_new_zipfile_serialization=not legacy)
            weight_map |= dict.fromkeys(shard, file)
        size = sum(tensor.nbytes for tensor in state.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    return write


def big() -> dict[str, torch.Tensor]:
    """A storage past 4 GiB, and two that begin past it. Nearly all zeros, which take neither memory here nor time to make."""
    large = torch.zeros(2**32 + 4099, dtype=torch.uint8)
    large[-4099:] = random(torch.uint8, 4099)
    return {"large": large, "after": torch.randn(100, 30), "last": torch.randn(20, 6).t()}


class SparseFile:
    """Writes a file with a hole for each long run of zeros, which costs neither disk nor time to speak of."""

    PIECE = 2**20

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        content = np.frombuffer(data, dtype=np.uint8)
        for start in range(0, len(content), self.PIECE):
            piece = content[start : start + self.PIECE]
            if piece.any():
                self.file.write(piece.data)
            else:
                self.file.seek(len(piece), os.SEEK_CUR)
        return len(content)

    def flush(self) -> None:
        self.file.flush()


def save_big(legacy: bool) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            torch.save(big(), cast(BinaryIO, SparseFile(file)), _use_new_zipfile_serialization=not legacy)

    return write


FIXTURES: dict[str, Callable[[Path], None]] = {}
for name, content in CONTENTS.items():
    FIXTURES[f"torch/{name}.pt"] = save(content, legacy=False)
    FIXTURES[f"torch/{name}-legacy.pt"] = save(content, legacy=True)
for protocol in (3, 4, 5):
    FIXTURES[f"torch/training-protocol-{protocol}.pt"] = save_protocol(protocol)
FIXTURES["torch/dtypes-legacy.pt"] = save(dtypes_with_storages, legacy=True)
FIXTURES["torch/script.pt"] = save_script
FIXTURES["torch/sharded"] = save_sharded(legacy=False)
FIXTURES["torch/sharded-legacy"] = save_sharded(legacy=True)
FIXTURES["torch/big.pt"] = save_big(legacy=False)
FIXTURES["torch/big-legacy.pt"] = save_big(legacy=True)
