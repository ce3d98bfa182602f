"""Results of stages as mappings of tensors that are read when they are used."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union

from . import _tree
from ._arrays import to_numpy, to_torch
from ._errors import Error
from ._safetensors import Reader

# The bits of the NaN that stands for an epoch in which a metric was not logged.
MISSING = 0x7FF8_0000_0000_07A2


class Artifact(Mapping[str, Any]):
    """A result: its tensors by name, as arrays of numpy that are read when they are used.

        data = run.inputs["data"]
        images = data["train.images"]                  # numpy
        images = data.torch("train.images")            # PyTorch
    """

    def __init__(self, folder: Path, keep: object = None) -> None:
        self.folder = folder
        """The folder that has everything."""
        self._keep = keep
        self._tensors: dict[str, tuple[Reader, str]] = {}
        for path in [folder] if folder.is_file() else sorted(folder.glob("*.safetensors")):
            reader = Reader(path)
            prefix = "" if path == folder or path.stem in ("artifact", "tensors") else f"{path.stem}."
            self._tensors.update({prefix + name: (reader, name) for name in reader.names()})

    def _find(self, name: str) -> tuple[Reader, str]:
        if name not in self._tensors:
            has = ", ".join(self._tensors) or "none"
            raise KeyError(f"no tensor `{name}` in {self.folder}; its tensors: {has}")
        return self._tensors[name]

    def __getitem__(self, name: str) -> Any:
        """A tensor as an array of numpy, which can't be changed."""
        reader, own = self._find(name)
        return to_numpy(reader, own, mapped=True)

    def torch(self, name: str) -> Any:
        """A tensor of PyTorch, on the CPU."""
        reader, own = self._find(name)
        return to_torch(reader, own)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        tensors = (f"{name} {list(reader.kind(own)[1])}" for name, (reader, own) in self._tensors.items())
        return f"<Artifact {self.folder.name}: {', '.join([*tensors, *self.files])}>"

    @property
    def files(self) -> dict[str, Path]:
        """The other files, by their path in the result: outputs, and the last state of a training program."""
        if self.folder.is_file():
            return {}
        own = {"metrics.json", "facts.json", "values.json"}
        names = {str(path.relative_to(self.folder)): path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        is_tensors = {name for name in names if "/" not in name and name.endswith(".safetensors")}
        members = {str(path.parent.relative_to(self.folder)) + "/" for path in self.folder.glob("*/facts.json")}
        return {name: path for name, path in names.items()
                if name not in own | is_tensors and not name.startswith(tuple(members))}  # fmt: skip

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the result."""
        return self._json("metrics.json")

    @property
    def facts(self) -> dict[str, Any]:
        """What else the stage has noted."""
        return self._json("facts.json")

    @property
    def axes(self) -> dict[str, Any]:
        """The values of the axes, if this is a member of a list."""
        return self._json("values.json")

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return content

    @property
    def members(self) -> dict[str, "Artifact"]:
        """The members of an input that is a list, by label."""
        folders = [path.parent for path in sorted(self.folder.glob("*/facts.json"))]
        return {folder.name: Artifact(folder, self._keep) for folder in folders}

    @property
    def history(self) -> dict[str, list[Union[float, None]]]:
        """The curves of a training by name: a number for each epoch, None where it was not logged."""
        import struct

        curves = {}
        for name, (reader, own) in self._tensors.items():
            dtype, shape = reader.kind(own)
            if name.startswith("history.") and dtype in ("F64", "F32") and len(shape) == 1:
                data, code = bytes(reader.map(own)), "d" if dtype == "F64" else "f"
                numbers = struct.unpack(f"<{shape[0]}{code}", data)
                bits = struct.unpack(f"<{shape[0]}Q", data) if dtype == "F64" else (0,) * len(numbers)
                curve = [None if raw == MISSING else number for number, raw in zip(numbers, bits)]
                curves[name.removeprefix("history.")] = curve
        return curves

    def restore(self, **objects: Any) -> Any:
        """Restores objects from the last state of a training program, as `Chain.restore` does.

            vadpipe.read("p.toml", "net@lr=0.01").restore(model=model)
        """
        state = self.folder / "state"
        for name in objects:
            if not (state / f"{name}.json").exists():
                has = ", ".join(f"`{path.stem}`" for path in sorted(state.glob("*.json"))) or "nothing of this module"
                raise Error(f"the state of {self.folder.name} has no `{name}`; it has {has}")
        restored = tuple(_tree.load(state, name, value) for name, value in objects.items())
        return restored[0] if len(restored) == 1 else restored


class Inputs(Mapping[str, Any]):
    """The inputs of a stage, by role: an `Artifact`, or the path of a file or a folder."""

    def __init__(self, paths: Mapping[str, Path], by_hand: bool) -> None:
        self._paths, self._by_hand = dict(paths), by_hand
        self._read: dict[str, Union[Artifact, Path]] = {}

    def __getitem__(self, role: str) -> Any:
        if role not in self._paths:
            if self._by_hand:
                message = f"there is no input `{role}` if the script is started by hand"
                help = f"name a folder that `vadpipe export` wrote: chain(inputs={{\"{role}\": \"FOLDER\"}})"
                raise KeyError(f"{message}; {help}")
            has = ", ".join(f"`{name}`" for name in self._paths) or "none"
            raise KeyError(f"the stage has no input `{role}`; its inputs: {has}")
        if role not in self._read:
            path = self._paths[role]
            is_artifact = path.suffix == ".safetensors" if path.is_file() else _is_artifact(path)
            self._read[role] = Artifact(path) if is_artifact else path
        return self._read[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def _is_artifact(folder: Path) -> bool:
    return (folder / "facts.json").exists() or any(folder.glob("*/facts.json"))
