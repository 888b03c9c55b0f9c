"""Checkpoints written by the Python package gguf: all types of tensors and of metadata, both byte orders, split files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFWriter

# gguf has 40 bytes for a block of Q8_1; ggml, whose type it is, has 36 (block_q8_1 in ggml-common.h), as it never is in a file.
DTYPES = [dtype for dtype in GGML_QUANT_SIZES if dtype != GGMLQuantizationType.Q8_1]

RANDOM = np.random.default_rng(20240607)


def random_tensor(dtype: GGMLQuantizationType, rows: tuple[int, ...], blocks: int) -> np.ndarray:
    """Random bytes for `rows` of so many blocks each; what they stand for does not matter to who copies them."""
    _elements, size = GGML_QUANT_SIZES[dtype]
    return RANDOM.integers(0, 256, (*rows, blocks * size), dtype=np.uint8)


def add_every_dtype(writer: GGUFWriter) -> None:
    for number, dtype in enumerate(DTYPES):
        data = random_tensor(dtype, (2, 3), 2 + number % 3)
        writer.add_tensor(f"blk.{number}.{dtype.name.lower()}.weight", data, raw_dtype=dtype)


def add_every_value(writer: GGUFWriter) -> None:
    writer.add_name("größe 层 \U0001f600")
    writer.add_uint8("test.uint8", 255)
    writer.add_int8("test.int8", -128)
    writer.add_uint16("test.uint16", 65535)
    writer.add_int16("test.int16", -32768)
    writer.add_uint32("test.uint32", 2**32 - 1)
    writer.add_int32("test.int32", -(2**31))
    writer.add_uint64("test.uint64", 2**64 - 1)
    writer.add_int64("test.int64", -(2**63))
    writer.add_float32("test.float32", 0.1)
    writer.add_float64("test.float64", 0.1)
    writer.add_float32("test.float32 infinite", float("inf"))
    writer.add_float64("test.float64 tiny", 5e-324)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "two\nlines")
    writer.add_array("test.strings", ["", "a", "<s>", "größe"])
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.floats", [0.5, 0.1, -3e38])
    writer.add_array("test.bools", [True, False, True])
    writer.add_array("test.many", list(range(5000)))


def write(endian: GGUFEndian, alignment: int | None = None) -> Callable[[Path], None]:
    def write_file(path: Path) -> None:
        writer = GGUFWriter(path, "llama", endianess=endian)
        if alignment is not None:
            writer.add_custom_alignment(alignment)
        add_every_value(writer)
        add_every_dtype(writer)
        add_shapes(writer)
        finish(writer)

    return write_file


def add_shapes(writer: GGUFWriter) -> None:
    """Numbers, of every rank, in the file's byte order."""
    for shape in [(1,), (7,), (5, 3), (2, 3, 4), (2, 1, 3, 5)]:
        tensor = RANDOM.standard_normal(shape, dtype=np.float32)
        writer.add_tensor("rank " + "x".join(map(str, shape)), tensor)
    writer.add_tensor("half", RANDOM.standard_normal((3, 9)).astype(np.float16))
    writer.add_tensor("integers", np.arange(11, dtype=np.int64))


def write_metadata_alone(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    add_every_value(writer)
    finish(writer)


def write_split(path: Path) -> None:
    """Three files of at most four tensors, named after `path` less its number."""
    writer = GGUFWriter(path.with_name(path.name.removesuffix("-00001-of-00003.gguf") + ".gguf"), "llama", split_max_tensors=4)
    writer.add_uint32("llama.block_count", 10)
    for number in range(10):
        writer.add_tensor(f"blk.{number}.weight", RANDOM.standard_normal((4, 32 + number), dtype=np.float32))
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


FIXTURES: dict[str, Callable[[Path], None]] = {
    "gguf/little.gguf": write(GGUFEndian.LITTLE),
    "gguf/big-endian.gguf": write(GGUFEndian.BIG),
    "gguf/aligned-to-4096.gguf": write(GGUFEndian.LITTLE, alignment=4096),
    "gguf/aligned-to-8.gguf": write(GGUFEndian.LITTLE, alignment=8),
    "gguf/metadata-alone.gguf": write_metadata_alone,
    "gguf/split-00001-of-00003.gguf": write_split,
}
