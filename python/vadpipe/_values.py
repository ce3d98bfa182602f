"""The values that a stage gives to its script. See `Chain.value` and `Chain.values`."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Optional

from ._errors import Error


# Options that are usually the number of epochs.
LENGTHS = ("epochs", "n_epochs", "num_epochs", "max_epochs")


def unknown_length(name: str) -> Error:
    """The error of a script that computes with the number of epochs in a stage."""
    message = f"`{name}` is unknown in a stage: a process trains one segment, and a training can be extended"
    return Error(f"{message}; give the length of a schedule as a value of `start`: run.value(\"cosine_epochs\", 100)")


class UnknownLength:
    """The number of epochs of a training in a stage. It is in no key, so a script can't compute with it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return "unknown"

    def _fail(self, *_: Any) -> Any:
        raise unknown_length(self._name)

    __int__ = __index__ = __float__ = __bool__ = __neg__ = _fail
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _fail
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _fail
    __lt__ = __le__ = __gt__ = __ge__ = _fail


class Values:
    """The values of `start` and of each epoch, and which of them the script has read."""

    def __init__(self, environment: Optional[Mapping[str, str]]) -> None:
        path = (environment or {}).get("VADPIPE_VALUES")
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        self.is_by_hand = environment is None
        self.is_command = "VADPIPE_PROTOCOL" not in (environment or {})
        if self.is_command:
            content = {"start": content}
        self.start: dict[str, Any] = content.get("start", {})
        self.parts: list[dict[str, Any]] = content.get("epoch", [])
        self.outputs: dict[str, str] = content.get("outputs", {})
        self.seed: int = content.get("seed", 0)
        self._read: dict[str, bool] = {}

    def at(self, epoch: int) -> dict[str, Any]:
        """All values in an epoch. A process that writes the outputs has those of the last one."""
        here = [part for part in self.parts if part["from"] <= epoch < part["to"]] or self.parts[-1:]
        return {**self.start, **(here[0]["values"] if here else {})}

    def note_read(self, name: str, in_loop: bool) -> None:
        """Notes that the script has read a value."""
        self._read[name] = self._read.get(name, False) or in_loop

    def missing(self, name: str) -> Error:
        """The error of a script that asks for a value that the stage does not have."""
        if self.is_by_hand:
            message = f"`{name}` has no value if the script is started by hand"
            return Error(f"{message}; give a default: value(\"{name}\", …)")
        has = {*self.start, *(name for part in self.parts for name in part["values"])}
        tables = "`values`" if self.is_command else "`start` or `epoch`"
        help = f"if some pipelines don't give it, write value(\"{name}\", …, optional=True)"
        return Error(f"the stage has no value `{name}`{_nearest(name, has)}; add it to its table {tables}, or, {help}")

    def output(self, name: str) -> str:
        """The path of an output, by its role or its path."""
        paths = self.outputs.values()
        is_known = not self.outputs or name in paths or any(p.endswith("/") and name.startswith(p) for p in paths)
        if name not in self.outputs and not is_known:
            raise Error(f"the stage has no output `{name}`{_nearest(name, self.outputs, 'outputs')}")
        return self.outputs.get(name, name)

    def override(self, args: Any, epoch: int, in_loop: bool) -> None:
        """Sets the options of a script to the values of the stage."""
        is_dict = isinstance(args, MutableMapping)
        options: Mapping[str, Any] = args if is_dict else _attributes(args)
        values = self.at(epoch)
        if not (self.is_by_hand or self.is_command):
            values = {**{name: UnknownLength(name) for name in LENGTHS if name in options}, **values}
        for name, value in values.items():
            if name not in options:
                message = f"the stage gives `{name}`, but the script has no option of this name"
                help = "correct the name in the stage or in the script"
                raise Error(f"{message}{_nearest(name, options, 'options')}; {help}")
            if not isinstance(value, UnknownLength):
                self.note_read(name, in_loop)
            value = like(options[name], value)
            if is_dict:
                args[name] = value
            else:
                setattr(args, name, value)

    def warn_of_unread(self) -> None:
        """Names the values that the script did not read, or not where they can change."""
        of_epochs = {name for part in self.parts for name in part["values"]}
        for name in sorted({*self.start, *of_epochs}):
            if name not in self._read:
                print(f"vadpipe: the script has not read the value `{name}` of the stage", file=sys.stderr)
            elif name in of_epochs and not self._read[name]:
                message = f"`{name}` is a value of epochs, but the script has read it only before the loop"
                help = "if it changes, the restored state wins; read it in the loop, or move it to `start`"
                print(f"vadpipe: {message}; {help}", file=sys.stderr)


def like(default: Any, value: Any) -> Any:
    """The value, as a float if the default is one: TOML has `lr = 1` for 1.0."""
    return float(value) if type(default) is float and type(value) is int else value


def _attributes(args: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(args) and not isinstance(args, type):
        return {field.name: getattr(args, field.name) for field in dataclasses.fields(args)}
    if not hasattr(args, "__dict__"):
        raise Error(f"values() takes a Namespace of argparse, a dataclass or a dict, not a {type(args).__name__}")
    return dict(vars(args))


def _nearest(name: str, names: Iterable[str], what: str = "values") -> str:
    """The names that there are, the nearest one first."""
    from difflib import get_close_matches

    known = sorted(names)
    near = get_close_matches(name, known, 1)
    has = ", ".join(f"`{own}`" for own in known) or "none"
    return f"; did you mean `{near[0]}`? Its {what}: {has}" if near else f"; its {what}: {has}"
