"""Tensors of PyTorch, numpy and JAX, to and from bytes.

Nothing here imports a library that the script has not imported, except where a value of it was asked for.
"""

import ctypes
import importlib
import sys
from typing import Any

from ._errors import Error
from ._safetensors import Buffer, Reader, Tensor

# The names of element types in PyTorch, and in numpy with ml_dtypes.
TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in TORCH.items()}
# Types that numpy has only with this package, which JAX brings.
ML_DTYPES = ("BF16", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")


def imported(name: str) -> Any:
    """A module if the script has imported it, else None."""
    return sys.modules.get(name)


def is_torch(value: object) -> bool:
    """Whether this is a tensor of PyTorch."""
    torch = imported("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_numpy(value: object) -> bool:
    """Whether this is an array of numpy."""
    numpy = imported("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_numpy_scalar(value: object) -> bool:
    """Whether this is a number of numpy."""
    numpy = imported("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def is_jax(value: object) -> bool:
    """Whether this is an array of JAX."""
    jax = imported("jax")
    return jax is not None and isinstance(value, jax.Array)


def from_torch(value: Any, where: str) -> tuple[Tensor, str]:
    """A tensor to write, and the name of its own type."""
    torch = imported("torch")
    if type(value).__name__ == "DTensor":
        raise Error(f"{where} is a DTensor, of which each process has only a part; gather it to a full tensor first")
    if value.layout != torch.strided or value.is_quantized:
        raise Error(f"{where} is a sparse or quantised tensor; only dense ones can be saved")
    name = str(value.dtype).partition(".")[2]
    value = value.detach()
    if name == "complex128":
        value = torch.view_as_real(value)
    dtype = DTYPES.get(str(value.dtype).partition(".")[2])
    if dtype is None:
        raise Error(f"{where} has elements of the type {name}, which safetensors does not have")

    def data() -> Buffer:
        own = value.resolve_conj().resolve_neg().cpu().contiguous()
        if own.numel() == 0:
            return b""
        # Without a copy, and without numpy. The slice of the buffer keeps the tensor alive.
        buffer = (ctypes.c_char * (own.numel() * own.element_size())).from_address(own.data_ptr())
        buffer.tensor = own
        return memoryview(buffer)

    return Tensor(dtype, tuple(value.shape), data), name


def to_torch(reader: Reader, name: str, kind: str = "") -> Any:
    """A tensor of PyTorch on the CPU."""
    torch = imported("torch") or importlib.import_module("torch")
    dtype, shape = reader.kind(name)
    target = getattr(torch, TORCH.get(dtype, ""), None)
    if target is None:
        raise Error(f"PyTorch {torch.__version__} has no type for {dtype}, the type of `{name}` in {reader.path}")
    data = reader.read(name)
    flat = torch.frombuffer(data, dtype=torch.uint8).view(target) if data else torch.empty(0, dtype=target)
    tensor = flat.reshape(shape)
    return torch.view_as_complex(tensor) if kind == "complex128" else tensor


def from_numpy(value: Any, where: str) -> tuple[Tensor, str]:
    """An array to write, and the name of its own type."""
    numpy = imported("numpy")
    name = value.dtype.name
    if name == "complex128":
        value = numpy.ascontiguousarray(value)[..., None].view("float64")
    dtype = DTYPES.get(value.dtype.name)
    if dtype is None:
        raise Error(f"{where} has elements of the type {name}, which safetensors does not have")
    little = value.astype(value.dtype.newbyteorder("<")) if value.dtype.byteorder == ">" else value

    def data() -> Buffer:
        return memoryview(numpy.ascontiguousarray(little).reshape(-1).view("uint8"))

    return Tensor(dtype, tuple(value.shape), data), name


def to_numpy(reader: Reader, name: str, kind: str = "", mapped: bool = False) -> Any:
    """An array of numpy. If `mapped`, it is read when it is used, and can't be changed."""
    try:
        numpy = imported("numpy") or importlib.import_module("numpy")
    except ImportError as error:
        raise Error(f"numpy is not installed, so `{name}` can't be read as an array: `pip install numpy`") from error
    dtype, shape = reader.kind(name)
    if dtype in ML_DTYPES:
        try:
            target = getattr(importlib.import_module("ml_dtypes"), TORCH[dtype])
        except ImportError as error:
            raise Error(f"numpy has no {TORCH[dtype]}: `pip install ml_dtypes`, or use .torch(\"{name}\")") from error
    elif dtype in TORCH:
        target = TORCH[dtype]
    else:
        raise Error(f"numpy has no type for {dtype}, the type of `{name}` in {reader.path}")
    data = reader.map(name) if mapped else reader.read(name)
    array = numpy.frombuffer(data, dtype=target).reshape(shape)
    return array.view("complex128")[..., 0] if kind == "complex128" else array


def from_jax(value: Any, where: str) -> tuple[Tensor, dict[str, Any]]:
    """An array to write, and what the bytes don't tell."""
    jax, numpy = imported("jax"), imported("numpy")
    note: dict[str, Any] = {}
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        note["key"] = str(jax.random.key_impl(value))
        value = jax.random.key_data(value)
    if not value.is_fully_addressable:
        raise Error(f"{where} is spread over several hosts; gather it first")
    if getattr(value, "weak_type", False) and value.shape == ():
        note["weak"] = True
    name = numpy.dtype(value.dtype).name
    dtype, shape = (DTYPES.get(name), value.shape) if name != "complex128" else ("F64", (*value.shape, 2))
    if dtype is None:
        raise Error(f"{where} has elements of the type {name}, which safetensors does not have")

    def data() -> Buffer:
        # The copy to the host is made only when the bytes are written.
        return from_numpy(numpy.asarray(value), where)[0].data()

    return Tensor(dtype, tuple(shape), data), {**note, "dtype": name}


def to_jax(reader: Reader, name: str, note: dict[str, Any], template: Any) -> Any:
    """An array of JAX, on the devices of `template`."""
    jax = imported("jax") or importlib.import_module("jax")
    array = to_numpy(reader, name, note.get("dtype", ""))
    value = jax.numpy.asarray(array.item()) if note.get("weak") else jax.numpy.asarray(array)
    if "key" in note:
        value = jax.random.wrap_key_data(value, impl=note["key"])
    return jax.device_put(value, template.sharding) if is_jax(template) else value
