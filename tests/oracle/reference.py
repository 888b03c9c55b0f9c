"""What the reference readers find in a checkpoint: each tensor's name, type, shape and digest, and the metadata."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType
from safetensors import safe_open


@dataclass(frozen=True)
class Tensor:
    dtype: str
    """The name that safetensors has for it, or ggml; C32 and C128 beside."""
    shape: tuple[int, ...]
    """The outermost dimension first."""
    sha256: str


@dataclass
class Contents:
    tensors: dict[str, Tensor]
    metadata: dict[str, Any] | None = None
    """None where ckload may tell what it likes."""
    named: bool = True
    """False for the one tensor of a file that gives it no name."""
    more: Callable[[str], Tensor | None] = field(default=lambda _name: None)
    """Finds a tensor that is in the checkpoint though its reader does not list it."""


class Refused(Exception):
    """The checkpoint holds what has no bytes to compare, so that ckload must refuse it."""


def read(path: Path) -> Contents:
    """Reads a checkpoint as its reference reader does."""
    if path.is_dir():
        return read_sharded(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".gguf":
        return read_gguf(path)
    if path.suffix == ".npy":
        return Contents({"": array_tensor(load_array(path))}, named=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return Contents({name: array_tensor(array) for name, array in arrays.items()})
    return read_torch(path)


def read_sharded(folder: Path) -> Contents:
    """A folder with an index: each tensor from the file that the index names."""
    (index,) = folder.glob("*.index.json")
    weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    shards = {file: read(folder / file) for file in sorted(set(weight_map.values()))}
    return Contents({name: shards[file].tensors[name] for name, file in weight_map.items()})


# safetensors


def read_safetensors(path: Path) -> Contents:
    with safe_open(path, framework="pt") as file:
        tensors = {}
        for name in file.keys():  # noqa: SIM118, it is no dictionary
            part = file.get_slice(name)
            tensors[name] = Tensor(part.get_dtype(), tuple(part.get_shape()), digest(torch_bytes(file.get_tensor(name))))
        return Contents(tensors, file.metadata() or {})


# GGUF


class PlainReader(GGUFReader):
    """The reader, on a plain array in the place of its `numpy.memmap`, pieces of which take three times as long to make."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.view(np.ndarray) if name == "data" else value)


def read_gguf(path: Path) -> Contents:
    """All files of a split checkpoint, from the first one's path."""
    marker = "-00001-of-"
    if marker not in path.name:
        reader = PlainReader(path)
        return Contents(gguf_tensors(path, reader), gguf_metadata(reader))
    base, count = path.stem.split(marker)
    parts = [path.with_name(f"{base}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]
    return Contents({name: tensor for part in parts for name, tensor in gguf_tensors(part, PlainReader(part)).items()})


def gguf_tensors(path: Path, reader: GGUFReader) -> dict[str, Tensor]:
    tensors = {}
    with path.open("rb") as file:
        for tensor in reader.tensors:
            file.seek(tensor.data_offset)
            # Read anew: the reader shows numbers of the other byte order as what they are, not as the bytes in the file.
            data = file.read(tensor.n_bytes)
            shape = tuple(int(dimension) for dimension in reversed(tensor.shape))
            tensors[tensor.name] = Tensor(tensor.tensor_type.name, shape, digest(data))
    return tensors


def gguf_metadata(reader: GGUFReader) -> dict[str, Any]:
    """The values, less the three that are the reader's own and not the file's."""
    fields = {name: value for name, value in reader.fields.items() if not name.startswith("GGUF.")}
    return {name: single(value.contents(), value.types[-1]) for name, value in fields.items()}


def single(value: Any, kind: GGUFValueType) -> Any:
    """The value in single precision if it is of that; `None` for no finite number, as JSON has it."""
    if isinstance(value, list):
        return [single(item, kind) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return float(str(np.float32(value))) if kind == GGUFValueType.FLOAT32 else value


# NumPy

ARRAY_DTYPES = {
    "b1": "BOOL", "i1": "I8", "u1": "U8", "i2": "I16", "u2": "U16", "i4": "I32", "u4": "U32", "i8": "I64", "u8": "U64",
    "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}  # fmt: skip


def load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except ValueError as error:
        raise Refused(str(error)) from error


def array_tensor(array: np.ndarray) -> Tensor:
    """Row by row, in the file's byte order, whatever the order in the file."""
    if array.dtype.str[1:] not in ARRAY_DTYPES:
        raise Refused(f"an array of {array.dtype} is no rows of numbers")
    return Tensor(ARRAY_DTYPES[array.dtype.str[1:]], array.shape, digest(array.tobytes(order="C")))


# torch

TORCH_DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16", torch.int32: "I32",
    torch.uint32: "U32", torch.int64: "I64", torch.uint64: "U64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64", torch.complex32: "C32", torch.complex64: "C64", torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip

# What pickles may name beside torch and NumPy.
ALSO_KNOWN = {"collections": {"OrderedDict", "defaultdict"}, "builtins": {"set", "slice", "complex"}, "_codecs": {"encode"}}


class Unpickler(pickle.Unpickler):
    """Reads what torch's safe reader does not: any protocol, arrays of NumPy, modules saved whole.

    The classes that only the package of a checkpoint has become empty modules, so that no code of the package is run, or needed.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in ("torch", "numpy"):
            return super().find_class(module, name)
        module = {"__builtin__": "builtins"}.get(module, module)
        if module in ALSO_KNOWN:
            if name in ALSO_KNOWN[module]:
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return type(name, (torch.nn.Module,), {})


def read_torch(path: Path) -> Contents:
    """A file of torch's, in either form: with torch's safe reader, or with ours where that refuses."""
    zipped = zipfile.is_zipfile(path)
    if zipped and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        return read_script(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        ours = SimpleNamespace(Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load(), __name__=__name__)
        content = torch.load(path, map_location="cpu", weights_only=False, mmap=zipped, pickle_module=ours)
    if isinstance(content, torch.Tensor):
        return Contents({"": torch_tensor(content)}, named=False)
    return Contents({name: torch_tensor(tensor) for name, tensor in flatten(content)})


def read_script(path: Path) -> Contents:
    """A TorchScript archive: the state, and whatever other attribute is asked for by its path."""
    module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def attribute(name: str) -> Tensor | None:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        return torch_tensor(found) if isinstance(found, torch.Tensor) else None

    return Contents({name: torch_tensor(tensor) for name, tensor in module.state_dict().items()}, more=attribute)


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in nested dictionaries, lists and tuples, with dots between their keys and numbers."""
    if isinstance(value, torch.Tensor):
        yield prefix.removesuffix("."), value
    elif isinstance(value, torch.nn.Module):
        yield from flatten(value.state_dict(), prefix)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{prefix}{key}.")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from flatten(item, f"{prefix}{number}.")


def torch_tensor(tensor: torch.Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.dtype not in TORCH_DTYPES:
        raise Refused(f"a tensor of layout {tensor.layout} and type {tensor.dtype} is no rows of numbers")
    if tensor.is_conj() or tensor.is_neg():
        raise Refused("a tensor that has yet to be conjugated or negated has no bytes, and torch gives NumPy none")
    return Tensor(TORCH_DTYPES[tensor.dtype], tuple(tensor.shape), digest(torch_bytes(tensor)))


def torch_bytes(tensor: torch.Tensor) -> memoryview:
    """The values row by row, not as whichever view the storage has them in."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
