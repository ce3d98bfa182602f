"""Reads results with the program `vadpipe`."""

import csv
import importlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Optional, Union

from ._artifact import Artifact
from ._errors import Error

Pipeline = Union[str, Path]
Settings = Optional[Mapping[str, Any]]


def program() -> str:
    """The path of the program: the one of the environment variable VADPIPE, of this package, or in PATH."""
    if given := os.environ.get("VADPIPE"):
        return given
    name = "vadpipe" + (sysconfig.get_config_var("EXE") or "")
    user = sysconfig.get_path("scripts", f"{os.name}_user") if os.name in ("posix", "nt") else None
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), user]
    for folder in folders:
        if folder and os.access(path := os.path.join(folder, name), os.X_OK):
            return path
    if found := shutil.which(name):
        return found
    raise Error("there is no program `vadpipe`: pip install vadpipe, or put its folder into PATH")


def _call(command: str, pipeline: Pipeline, *arguments: str, set: Settings, cache: Optional[Pipeline]) -> str:
    if not Path(pipeline).exists():
        raise Error(f"there is no pipeline file {pipeline}")
    settings = [word for name, value in (set or {}).items() for word in ("-S", f"{name}={_toml(value)}")]
    where = ["--cache", str(cache)] if cache is not None else []
    words = [program(), command, str(pipeline), *arguments, *settings, *where]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Error(done.stderr.strip().removeprefix("error: ") or f"vadpipe exited with {done.returncode}")
    return done.stdout


def _toml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _export(pipeline: Pipeline, target: str, set: Settings, cache: Optional[Pipeline]) -> Artifact:
    temporary = tempfile.TemporaryDirectory(prefix="vadpipe-")
    _call("export", pipeline, target, "--to", temporary.name, "--json", set=set, cache=cache)
    # A point's name may contain a `/`, so its folder is the one with these files.
    folders = [path.parent for path in sorted(Path(temporary.name).rglob("facts.json"))]
    names = [str(folder.relative_to(temporary.name)) for folder in folders]
    if len(folders) != 1:
        raise Error(f"`{target}` matches {len(folders)} results; name one of: {', '.join(names)}")
    return Artifact(folders[0], temporary)


def read(pipeline: Pipeline, target: str, *, set: Settings = None, cache: Optional[Pipeline] = None) -> Artifact:
    """The result of a stage or a point, such as `read("p.toml", "net@lr=0.01")`.

    `set` has values as for `vadpipe run -S`: `{"params.epochs": 200}`. `cache` is the cache folder. The files are
    copied out of the cache, and removed when the result is no longer used.
    """
    return _export(pipeline, target, set, cache)


def metrics(
    pipeline: Pipeline, *targets: str, table: str = "auto", set: Settings = None, cache: Optional[Pipeline] = None
) -> Any:
    """The axes and metrics of cached results: a row for each point.

    `table` is "polars", "pandas", "rows" (a list of dicts), or "auto": polars or pandas if one of them is imported or
    installed, else rows. `targets`, `set` and `cache` are as for `read`; without targets, all results.
    """
    if table not in ("auto", "polars", "pandas", "rows"):
        raise Error(f"there are no tables `{table}`; choose \"polars\", \"pandas\", \"rows\" or \"auto\"")
    text = _call("metrics", pipeline, *targets, "--csv", set=set, cache=cache)
    head, *lines = csv.reader(io.StringIO(text))
    columns = {name: _column(name, texts) for name, texts in zip(head, zip(*lines) if lines else [[]] * len(head))}
    return _table(columns, table)


def _column(name: str, texts: Sequence[str]) -> Sequence[Any]:
    if name == "stage":
        return list(texts)
    # Most columns are numbers only, which is fast to find out.
    return _numbers(texts) or [_cell(text) for text in texts]


def _numbers(texts: Sequence[str]) -> list[Any]:
    for kind in (int, float):
        try:
            return list(map(kind, texts))
        except ValueError:
            pass
    return []


def _cell(text: str) -> Any:
    if text == "":
        return None
    return (_numbers([text]) or [{"true": True, "false": False}.get(text, text)])[0]


def _table(columns: Mapping[str, Sequence[Any]], table: str) -> Any:
    if table == "auto":
        known = ("polars", "pandas")
        found = [name for name in known if name in sys.modules]
        found = found or [name for name in known if importlib.util.find_spec(name) is not None]
        table = found[0] if found else "rows"
    if table == "rows":
        return [dict(zip(columns, row)) for row in zip(*columns.values())]
    try:
        library = importlib.import_module(table)
    except ImportError as error:
        raise Error(f"{table} is not installed: pip install {table}, or table=\"rows\"") from error
    # Integers and floats of a column become floats, as NaN and numbers of an axis may be mixed.
    columns = {name: _uniform(values) for name, values in columns.items()}
    return library.DataFrame(columns, strict=False) if table == "polars" else library.DataFrame(columns)


def _uniform(values: Sequence[Any]) -> list[Any]:
    is_float = any(isinstance(value, float) for value in values)
    is_int = [isinstance(value, int) and not isinstance(value, bool) for value in values]
    return [float(value) if is_float and whole else value for value, whole in zip(values, is_int)]


def history(
    pipeline: Pipeline, target: str, *, table: str = "auto", set: Settings = None, cache: Optional[Pipeline] = None
) -> Any:
    """The curves of a training: a row for each epoch, from 1. The arguments are as for `metrics`."""
    curves = _export(pipeline, target, set, cache).history
    if not curves:
        raise Error(f"`{target}` has no curves; only trainings have")
    longest = max(map(len, curves.values()))
    columns: dict[str, Sequence[Any]] = {"epoch": list(range(1, longest + 1)), **curves}
    return _table(columns, table)


class Report:
    """A report, which Jupyter shows."""

    def __init__(self, html: str) -> None:
        self.html = html
        """The whole page."""

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 700px; border: 0; background: white"
        return f'<iframe srcdoc="{escape(self.html)}" style="{style}"></iframe>'

    def save(self, path: Union[str, Path]) -> None:
        """Writes the page to a file."""
        Path(path).write_text(self.html, encoding="utf-8")


def report(
    pipeline: Pipeline, target: str = "report", *, set: Settings = None, cache: Optional[Pipeline] = None
) -> Report:
    """The report that a stage of kind `report` made. In a notebook, it is shown below the cell."""
    artifact = _export(pipeline, target, set, cache)
    pages = [path for name, path in artifact.files.items() if name.endswith(".html")]
    if len(pages) != 1:
        raise Error(f"`{target}` is not a report; name a stage of kind `report`")
    return Report(pages[0].read_text(encoding="utf-8"))
