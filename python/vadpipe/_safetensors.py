"""Reads and writes safetensors files with the standard library.

A file is the length of the header (u64, little endian), the header (JSON), and the bytes of all tensors.
"""

import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Union

from ._errors import Error

Buffer = Union[bytes, bytearray, memoryview]

# The bits of an element.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip

# The longest header that is read, in bytes: the limit of the format.
MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """A tensor to write. `data` is called when its bytes are written, so only one tensor is in memory at a time."""

    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], Buffer]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return size_of(self.dtype, self.shape)


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    """The number of bytes of a tensor."""
    return prod(shape) * BITS[dtype] // 8


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a file. Wide elements come first, so that each tensor is aligned."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    names = sorted(tensors, key=lambda name: (-BITS[tensors[name].dtype], name))
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.size
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in names:
            file.write(tensors[name].data())


class Reader:
    """Reads a file, one tensor at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
            if length > MAX_HEADER:
                raise self._damaged(f"its header would have {length} bytes")
            try:
                header = json.loads(file.read(length))
            except ValueError as error:
                raise self._damaged(str(error)) from error
            size = os.fstat(file.fileno()).st_size
        if not isinstance(header, dict):
            raise self._damaged("its header is not an object")
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._start = 8 + length
        self._tensors: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        try:
            for name, info in header.items():
                begin, end = info["data_offsets"]
                dtype, shape = info["dtype"], tuple(info["shape"])
                if end - begin != size_of(dtype, shape) or begin < 0 or self._start + end > size:
                    raise self._damaged(f"the tensor `{name}` does not have the size of its shape")
                self._tensors[name] = (dtype, shape, begin, end)
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"its header has no valid tensor at {error}") from error
        self._map: Union[memoryview, None] = None

    def _damaged(self, why: str) -> Error:
        return Error(f"{self.path} is not a valid safetensors file: {why}")

    def names(self) -> list[str]:
        """The names of the tensors, in the order of the file."""
        return list(self._tensors)

    def kind(self, name: str) -> tuple[str, tuple[int, ...]]:
        """The type of the elements, and the shape."""
        if name not in self._tensors:
            raise Error(f"{self.path} has no tensor `{name}`")
        return self._tensors[name][:2]

    def read(self, name: str) -> bytearray:
        """The bytes of a tensor, which the caller may change."""
        self.kind(name)
        _, _, begin, end = self._tensors[name]
        data = bytearray(end - begin)
        with open(self.path, "rb") as file:
            file.seek(self._start + begin)
            if file.readinto(data) != len(data):
                raise self._damaged(f"the tensor `{name}` ends early")
        return data

    def map(self, name: str) -> memoryview:
        """The bytes of a tensor, which are read when they are used and can't be changed."""
        self.kind(name)
        _, _, begin, end = self._tensors[name]
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self._map[self._start + begin : self._start + end]
