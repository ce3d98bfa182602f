"""The state of a script's objects as JSON and tensors, and back.

JSON has what is plain: numbers, strings, lists, and dicts. Everything else is an object with the field `$`:

    {"$": "tensor", "name": "0.exp_avg", "of": "torch"}        in the safetensors file
    {"$": "tuple", "items": [0.9, 0.999]}
    {"$": "dict", "items": [[0, "a"], [1, "b"]]}               a dict whose keys are not all strings
    {"$": "object", "state": {…}}                              what `state_dict()` returned
    {"$": "generator", "state": {…}}
    {"$": "jax", "leaves": [["params.w", {…}], …]}             the structure comes from the script

Nothing is pickled, so a state can't run code.
"""

import base64
import functools
import json
import types
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional

from . import _generators
from ._arrays import (
    from_jax, from_numpy, from_torch, imported, is_jax, is_numpy, is_numpy_scalar, is_torch, to_jax, to_numpy, to_torch,
)  # fmt: skip
from ._errors import Error
from ._safetensors import Reader, Tensor
from ._safetensors import write as write_safetensors

SCALARS = (type(None), bool, int, float, str)


def has_state_dict(value: object) -> bool:
    """Whether this is an object of PyTorch's kind: a module, an optimiser, a scheduler, or a class of the script."""
    methods = ("state_dict", "load_state_dict")
    return not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in methods)


def _nnx() -> Any:
    return imported("flax.nnx")


def is_nnx(value: object) -> bool:
    """Whether this is a module or an optimiser of flax.nnx."""
    nnx = _nnx()
    return nnx is not None and isinstance(value, (nnx.Module, nnx.Optimizer, nnx.Rngs))


def is_jax_tree(value: object) -> bool:
    """Whether this is a tree with an array of JAX in it."""
    jax = imported("jax")
    return jax is not None and any(is_jax(leaf) for leaf in jax.tree_util.tree_leaves(value))


def changes_in_place(value: object) -> bool:
    """Whether a script changes this object, rather than make a new one in each epoch."""
    if has_state_dict(value) or is_nnx(value) or _generators.is_generator(value):
        return True
    if is_jax_tree(value) or is_numpy_scalar(value):
        return False
    if isinstance(value, tuple):
        return len(value) > 0 and all(map(changes_in_place, value))
    return not isinstance(value, (*SCALARS, complex, bytes, frozenset))


class _Encoder:
    """Turns values into JSON, and collects their tensors."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors: dict[str, Tensor] = {}
        self.is_torch = True

    def where(self, path: tuple[str, ...]) -> str:
        return f"`{'.'.join((self.name, *path))}`"

    def tensor(self, tensor: Tensor, path: tuple[str, ...], **note: Any) -> dict[str, Any]:
        base = name = ".".join(path) or self.name
        number = 2
        while name in self.tensors:
            name, number = f"{base}~{number}", number + 1
        self.tensors[name] = tensor
        return {"$": "tensor", "name": name, **note}

    def array(self, value: Any, path: tuple[str, ...]) -> Any:
        """A tensor of any library, or None."""
        if is_torch(value):
            tensor, dtype = from_torch(value, self.where(path))
            return self.tensor(tensor, path, of="torch", **_complex(dtype))
        if is_jax(value):
            tensor, note = from_jax(value, self.where(path))
            self.is_torch = False
            kept = {name: note[name] for name in ("key", "weak") if name in note}
            return self.tensor(tensor, path, of="jax", **_complex(note["dtype"]), **kept)
        if is_numpy(value) or is_numpy_scalar(value):
            numpy = imported("numpy")
            tensor, dtype = from_numpy(numpy.asarray(value), self.where(path))
            self.is_torch = False
            of = "numpy" if is_numpy(value) else "numpy scalar"
            return self.tensor(tensor, path, of=of, **_complex(dtype))
        return None

    def encode(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        if type(value) in SCALARS:
            return value
        if (tensor := self.array(value, path)) is not None:
            return tensor
        if is_nnx(value):
            return {"$": "nnx", "leaves": self.leaves(_nnx().state(value), path)}
        if has_state_dict(value):
            return {"$": "object", "state": self.encode(value.state_dict(), path)}
        if _generators.is_generator(value):
            return {"$": "generator", "state": self.encode(_generators.get_state(value), path)}
        if path == () and is_jax_tree(value):
            return {"$": "jax", "leaves": self.leaves(value, path)}
        return self.container(value, path)

    def container(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            # A function is code that the script has, as the function of a scheduler.
            items = [(key, self.encode(own, (*path, str(key)))) for key, own in value.items() if not _is_code(own)]
            if type(value) is dict and all(type(key) is str and key != "$" for key, _ in items):
                return dict(items)
            tag = {OrderedDict: "OrderedDict", Counter: "Counter"}.get(type(value), "dict")
            return {"$": tag, "items": [[self.encode(key), own] for key, own in items]}
        if type(value) is list:
            return self.items(value, path)
        if isinstance(value, tuple):
            tag = "namedtuple" if hasattr(value, "_fields") else "tuple"
            return {"$": tag, "items": self.items(value, path)}
        if isinstance(value, (set, frozenset)):
            return {"$": type(value).__name__, "items": self.items(sorted(value, key=repr), path)}
        if isinstance(value, deque):
            return {"$": "deque", "items": self.items(value, path), "maxlen": value.maxlen}
        if isinstance(value, (bytes, bytearray)):
            return {"$": type(value).__name__, "base64": base64.b64encode(value).decode()}
        if isinstance(value, complex):
            return {"$": "complex", "items": [value.real, value.imag]}
        torch = imported("torch")
        if torch is not None and isinstance(value, (torch.dtype, torch.device)):
            return {"$": f"torch.{type(value).__name__}", "name": str(value).removeprefix("torch.")}
        message = f"{self.where(path)} is a {type(value).__module__}.{type(value).__qualname__}, which can't be saved"
        help = "give it the methods `state_dict` and `load_state_dict`, or save the numbers and tensors in it instead"
        raise Error(f"{message}; {help}")

    def items(self, values: Iterable[Any], path: tuple[str, ...]) -> list[Any]:
        return [self.encode(value, (*path, str(at))) for at, value in enumerate(values)]

    def leaves(self, tree: Any, path: tuple[str, ...]) -> list[Any]:
        return [[name, self.encode(leaf, (*path, name))] for name, leaf in _flatten(tree)[0]]


def _is_code(value: object) -> bool:
    code = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
    return isinstance(value, code)


def _complex(dtype: str) -> dict[str, str]:
    """A complex tensor of f64, which safetensors does not have, is one of pairs."""
    return {"dtype": dtype} if dtype == "complex128" else {}


def _flatten(tree: Any) -> tuple[list[tuple[str, Any]], Any]:
    """The leaves of a tree of JAX with their names, and its structure."""
    util = imported("jax").tree_util

    def part(entry: Any) -> str:
        for field in ("key", "name", "idx"):
            if hasattr(entry, field):
                return str(getattr(entry, field))
        return str(entry).strip(".[]'")

    leaves, structure = util.tree_flatten_with_path(tree)
    return [(".".join(map(part, path)), leaf) for path, leaf in leaves], structure


class _Decoder:
    """Turns JSON and tensors back into values, in place where the script has an object."""

    def __init__(self, name: str, reader: Optional[Reader]) -> None:
        self.name = name
        self.reader = reader

    def tensor(self, stored: dict[str, Any], template: Any) -> Any:
        if self.reader is None:
            raise Error(f"the state of `{self.name}` has no safetensors file")
        of, name, dtype = stored["of"], stored["name"], stored.get("dtype", "")
        if of == "torch":
            return to_torch(self.reader, name, dtype)
        if of == "jax":
            return to_jax(self.reader, name, stored, template)
        array = to_numpy(self.reader, name, dtype)
        return array[()] if of == "numpy scalar" else array

    def decode(self, stored: Any) -> Any:
        """A value that does not depend on an object of the script."""
        if isinstance(stored, list):
            return [self.decode(item) for item in stored]
        if not isinstance(stored, dict):
            return stored
        tag = stored.get("$")
        if tag is None:
            return {name: self.decode(value) for name, value in stored.items()}
        if tag == "tensor":
            return self.tensor(stored, None)
        if tag in ("dict", "OrderedDict", "Counter"):
            pairs = [(self.decode(key), self.decode(value)) for key, value in stored["items"]]
            if tag == "Counter":
                return Counter(dict(pairs))
            return OrderedDict(pairs) if tag == "OrderedDict" else dict(pairs)
        if tag in ("bytes", "bytearray"):
            data = base64.b64decode(stored["base64"])
            return data if tag == "bytes" else bytearray(data)
        if tag in ("torch.dtype", "torch.device"):
            torch = imported("torch")
            return getattr(torch, stored["name"]) if tag == "torch.dtype" else torch.device(stored["name"])
        if tag in ("object", "generator", "namedtuple", "jax", "nnx"):
            message = f"`{self.name}` has {_described(tag)} in its state, but the script has nothing in its place"
            raise Error(f"{message}; make it before `restore`, as when the state was saved")
        items = self.decode(stored["items"])
        if tag == "deque":
            return deque(items, stored["maxlen"])
        if tag == "complex":
            return complex(*items)
        if tag == "tuple":
            return tuple(items)
        return set(items) if tag == "set" else frozenset(items)

    def load(self, template: Any, stored: Any, path: tuple[str, ...] = ()) -> Any:
        """The value, in the object `template` if it can be changed."""
        where = f"`{'.'.join((self.name, *path))}`"
        tag = stored.get("$") if isinstance(stored, dict) else None
        if tag == "object":
            self.check(has_state_dict(template), tag, template, where)
            template.load_state_dict(self.decode(stored["state"]))
            return template
        if tag == "generator":
            self.check(_generators.is_generator(template), tag, template, where)
            _generators.set_state(template, self.decode(stored["state"]), where)
            return template
        if tag == "jax":
            return self.leaves(template, stored["leaves"], where)
        if tag == "nnx":
            self.check(is_nnx(template), tag, template, where)
            _nnx().update(template, self.leaves(_nnx().state(template), stored["leaves"], where))
            return template
        if tag == "tensor":
            return self.array(template, self.tensor(stored, template), path)
        return self.container(template, stored, tag, path)

    def array(self, template: Any, value: Any, path: tuple[str, ...]) -> Any:
        if type(template) is type(value) or (is_torch(value) and is_torch(template)):
            if is_torch(value) and template.shape == value.shape and template.dtype == value.dtype:
                with imported("torch").no_grad():
                    return template.copy_(value)
            if is_numpy(value) and template.shape == value.shape and template.dtype == value.dtype:
                template[...] = value
                return template
        if path == () and changes_in_place(template):
            message = f"`{self.name}` is {_shaped(template)}, but its state is {_shaped(value)}"
            raise Error(f"{message}; make it with the same shape and type in each process")
        return value.to(template.device) if is_torch(value) and is_torch(template) else value

    def container(self, template: Any, stored: Any, tag: Any, path: tuple[str, ...]) -> Any:
        if isinstance(template, dict) and isinstance(stored, dict) and tag in (None, "dict", "OrderedDict", "Counter"):
            pairs = stored if tag is None else {self.decode(key): value for key, value in stored["items"]}
            self.check_missing({key: own for key, own in template.items() if key not in pairs}, path)
            loaded = {key: self.load(template.get(key), value, (*path, str(key))) for key, value in pairs.items()}
            code = {key: value for key, value in template.items() if _is_code(value) and key not in loaded}
            template.clear()
            template.update({**loaded, **code})
            return template
        if isinstance(template, list) and isinstance(stored, list):
            template[:] = self.elements(template, stored, path)
            return template
        if isinstance(template, tuple) and tag in ("tuple", "namedtuple"):
            items = self.elements(template, stored["items"], path)
            return type(template)(*items) if tag == "namedtuple" else tuple(items)
        value = self.decode(stored)
        if isinstance(template, (set, deque, bytearray)) and type(value) is type(template):
            template.clear()
            (template.update if isinstance(template, set) else template.extend)(value)
            return template
        if path == () and changes_in_place(template):
            raise Error(f"`{self.name}` is a {type(template).__name__}, but its state is a {type(value).__name__}")
        return value

    def elements(self, templates: Any, items: list[Any], path: tuple[str, ...]) -> list[Any]:
        self.check_missing(dict(list(enumerate(templates))[len(items) :]), path)
        missing = [None] * (len(items) - len(templates))
        pairs = zip([*templates, *missing], items)
        return [self.load(template, item, (*path, str(at))) for at, (template, item) in enumerate(pairs)]

    def leaves(self, template: Any, leaves: list[Any], where: str) -> Any:
        own, structure = _flatten(template)
        if [name for name, _ in own] != [name for name, _ in leaves]:
            differing = sorted({name for name, _ in own} ^ {name for name, _ in leaves})[:3]
            names = ", ".join(differing) or "another order"
            raise Error(f"{where} is a tree with other leaves than its state: {names}")
        values = []
        for (name, leaf), (_, stored) in zip(own, leaves):
            is_tensor = isinstance(stored, dict) and stored.get("$") == "tensor"
            value = self.tensor(stored, leaf) if is_tensor else self.decode(stored)
            if getattr(leaf, "shape", None) != getattr(value, "shape", None) and hasattr(leaf, "shape"):
                raise Error(f"{where}: `{name}` is {_shaped(leaf)}, but its state is {_shaped(value)}")
            values.append(value)
        return imported("jax").tree_util.tree_unflatten(structure, values)

    def check_missing(self, entries: Mapping[Any, Any], path: tuple[str, ...]) -> None:
        """Fails if the state lacks an entry that has more than plain values. A plain one is removed."""
        for key, entry in entries.items():
            if _is_restored(entry):
                where = f"`{'.'.join((self.name, *path, str(key)))}`"
                message = f"the state has no {where}, which is a {type(entry).__name__} in the script"
                raise Error(f"{message}; pass the same objects, tensors and arrays to `restore` in each process")

    def check(self, fits: bool, tag: str, template: Any, where: str) -> None:
        if not fits:
            message = f"{where} is a {type(template).__name__}, but the state has {_described(tag)} there"
            raise Error(f"{message}; make it before `restore`, as when the state was saved")


def _is_restored(value: object) -> bool:
    """Whether this is an object, a generator, a tensor or an array, or a container with one in it."""
    if isinstance(value, Mapping):
        return any(map(_is_restored, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_is_restored, value))
    is_array = is_torch(value) or is_numpy(value) or is_jax(value)
    return is_array or has_state_dict(value) or is_nnx(value) or _generators.is_generator(value)


def _described(tag: str) -> str:
    kinds = {
        "object": "an object with `state_dict`", "generator": "a random generator", "namedtuple": "a named tuple",
        "jax": "a tree of JAX", "nnx": "an object of flax.nnx",
    }  # fmt: skip
    return kinds[tag]


def _shaped(value: Any) -> str:
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"of shape {tuple(value.shape)} and type {value.dtype}"


def save(folder: Path, name: str, value: Any) -> None:
    """Writes `NAME.json`, and `NAME.safetensors` if there are tensors."""
    encoder = _Encoder(name)
    tree = encoder.encode(value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(tree, separators=(",", ":")))
    if encoder.tensors:
        metadata = {"format": "pt"} if encoder.is_torch else {}
        write_safetensors(folder / f"{name}.safetensors", encoder.tensors, metadata)


def check(name: str, value: Any) -> None:
    """Fails if a value can't be saved."""
    _Encoder(name).encode(value)


def load(folder: Path, name: str, template: Any) -> Any:
    """Reads what `save` wrote, into `template` if it can be changed. Returns the value."""
    decoder, tree = _opened(folder, name)
    return decoder.load(template, tree)


def load_plain(folder: Path, name: str) -> Any:
    """Reads what `save` wrote of a value without objects of the script."""
    decoder, tree = _opened(folder, name)
    return decoder.decode(tree)


def _opened(folder: Path, name: str) -> tuple[_Decoder, Any]:
    tensors = folder / f"{name}.safetensors"
    tree = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return _Decoder(name, Reader(tensors) if tensors.exists() else None), tree
