"""The chain: a training that continues from stored states. See `chain`."""

import atexit
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, TypeVar, Union, overload

from . import _generators, _tree
from ._artifact import Inputs
from ._errors import Error
from ._numbers import number, to_log
from ._ranks import of_rank, rank, wait_for_all
from ._values import Values, like

T = TypeVar("T")

PROTOCOL = "1"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The file of the generators.
GENERATORS = "generators"


class _Missing:
    """The default of a value without one."""


_MISSING = _Missing()


def chain(
    epochs: Optional[int] = None,
    *,
    inputs: Optional[Mapping[str, Union[str, Path]]] = None,
    seed: Optional[int] = None,
) -> "Chain":
    """Puts a training script on the chain of states.

    Started by vadpipe, the script trains from one stored state to the next. Started by hand, it trains `epochs` epochs
    from the beginning, as an ordinary script, and `inputs` are the files and folders that `run.inputs` has. A `command`
    stage trains from the beginning, too.

    Started by vadpipe, this seeds the generators of `random`, numpy and torch, as far as they are imported, with the
    seed of the stage. By hand, it seeds them with `seed`, if that is given.

        run = vadpipe.chain(epochs=100)
        run.restore(model=model, optimizer=optimizer)
        for epoch in run.epochs():
            loss = train(model, optimizer, lr=run.value("lr", 1e-3))
            run.log(loss=loss)
    """
    protocol = os.environ.get("VADPIPE_PROTOCOL")
    if protocol is None:
        if epochs is None:
            message = "this script was not started by a `train-command` stage, so it needs a number of epochs"
            raise Error(f"{message}: chain(epochs=10)")
        # A `command` stage has inputs, values and outputs, but no states.
        is_command = "VADPIPE_INPUTS" in os.environ
        run = Chain(os.environ if is_command else None, 0, epochs, inputs or {})
        if seed is not None:
            run.seed = seed
            _generators.seed_all(seed)
        return run
    if protocol != PROTOCOL:
        message = f"vadpipe speaks protocol {protocol}, but this module only {PROTOCOL}"
        raise Error(f"{message}; install the same version of both: pip install --upgrade vadpipe")
    run = Chain(os.environ, int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"]), {})
    _generators.seed_all(run.seed)
    return run


class Chain:
    """A training on the chain. `vadpipe.chain` makes it."""

    def __init__(
        self, environment: Optional[Mapping[str, str]], first: int, last: int, inputs: Mapping[str, Union[str, Path]]
    ) -> None:
        self._environment = environment
        self._from, self._to = first, last
        segment = (environment or {}).get("VADPIPE_SEGMENT")
        self._segment = int(segment) if segment else None
        self._objects: dict[str, Any] = {}
        self._updated: dict[str, Optional[int]] = {}
        self._epoch: Optional[int] = None
        self._state = "before"  # the loop, "in" it, or "after" it
        self._line: dict[str, float] = {}
        self._metrics: dict[str, float] = {}
        self._values = Values(environment)
        self.seed = self._values.seed
        """The seed of the stage. By hand, that of `chain`, or 0."""
        self.inputs = self._inputs(inputs)
        """The inputs by role. Each is an `Artifact`, or a path if `paths` of the stage names it."""

    def _variable(self, name: str) -> Optional[Path]:
        text = (self._environment or {}).get(f"VADPIPE_{name}")
        return Path(text) if text else None

    def _inputs(self, given: Mapping[str, Union[str, Path]]) -> Inputs:
        if self._environment is None:
            return Inputs({role: Path(path) for role, path in given.items()}, by_hand=True)
        folder = self._variable("INPUTS")
        found = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
        return Inputs({path.name: path for path in found}, by_hand=False)

    @property
    def started_by_vadpipe(self) -> bool:
        """False if the script was started by hand."""
        return self._environment is not None

    @property
    def is_on_chain(self) -> bool:
        """Whether a `train-command` stage started the script: False by hand, and in a `command` stage."""
        return "VADPIPE_PROTOCOL" in (self._environment or {})

    @property
    def last_epoch(self) -> int:
        """The number of finished epochs at the end of this process."""
        return self._to

    @property
    def outputs_due(self) -> bool:
        """Whether to write the outputs: in the last process of a stage that has outputs, and always by hand."""
        return self._variable("STATE_OUT") is None

    @property
    def checkpoint(self) -> Optional[Path]:
        """A folder that survives a kill until the state at the end of this process is stored. None by hand."""
        return self._variable("CHECKPOINT")

    @overload
    def value(self, name: str) -> Any: ...
    @overload
    def value(self, name: str, default: T, *, optional: bool = False) -> T: ...
    def value(self, name: str, default: Any = _MISSING, *, optional: bool = False) -> Any:
        """A value of the stage: of `[stages.NAME.start]`, or of `[stages.NAME.epoch]` for the present epoch.

        Values of epochs can change during a training, so read them in the loop. The default serves by hand. In a
        stage, a value that the stage does not have is an error, so that a typing error can't choose the default; with
        `optional=True`, the default serves there, too.
        """
        values = self._values.at(self._now)
        self._values.note_read(name, self._state == "in")
        if name in values:
            return like(default, values[name])
        if isinstance(default, _Missing) or not (optional or self._values.is_by_hand):
            raise self._values.missing(name)
        return default

    def values(self, args: T) -> T:
        """Sets the options of a script to the values of the stage, and returns them. By hand, they stay as they are.

        `args` is a Namespace of argparse, a dataclass or a dict. A value that it does not have is an error. In a
        training, options such as `epochs` become unknown, unless the stage gives them.

            args = run.values(parser.parse_args())

        Values of epochs can change during a training: call this again in the loop.
        """
        self._values.override(args, self._now, self._state == "in")
        return args

    @property
    def _now(self) -> int:
        """The present epoch. Outside the loop, the first one of this process."""
        return self._from if self._epoch is None else self._epoch

    def restore(self, **objects: Any) -> Any:
        """Registers what a state is made of, and restores it if the training continues.

        Call it before the loop, with everything that the next epoch depends on: the model, the optimiser, the
        scheduler, a GradScaler, averaged weights, a DataLoader with a generator, random generators that the script
        made, arrays, lists and dicts. The generators of `random`, numpy and torch belong to it anyway.

        Objects are restored in place. Numbers, strings, tuples and trees of JAX can't be: take the returned value, and
        pass the new one to `update` in each epoch. One object is returned as it is, several as a tuple in their order.

            params, opt_state = run.restore(params=params, opt_state=opt_state)
        """
        if not objects:
            raise Error("restore() needs what the state is made of, by name: restore(model=model, optimizer=optimizer)")
        if self._state != "before":
            raise Error("call restore() before the loop over epochs()")
        for name, value in objects.items():
            if name in self._objects:
                raise Error(f"`{name}` was restored before; each name is given once")
            if name == GENERATORS or NAME.fullmatch(name) is None:
                raise Error(f"`{name}` can't be the name of a part of the state; choose another one")
            _tree.check(name, value)
            state_in = self._variable("STATE_IN")
            self._objects[name] = value if state_in is None else self._load(state_in, name, value)
            if not _tree.changes_in_place(value):
                self._updated[name] = None
        restored = tuple(self._objects[name] for name in objects)
        return restored[0] if len(restored) == 1 else restored

    def _load(self, state_in: Path, name: str, value: Any) -> Any:
        folder = self._own(state_in, value)
        if not (folder / f"{name}.json").exists():
            has = ", ".join(f"`{path.stem}`" for path in sorted(state_in.glob("*.json")) if path.stem != GENERATORS)
            raise Error(f"the state after epoch {self._from} has no `{name}`{of_rank(folder)}; it has {has}")
        return _tree.load(folder, name, value)

    def _own(self, folder: Path, value: Any) -> Path:
        """Where an object is saved. Each process has its own random generators; everything else is shared."""
        own = rank() if value is None or _generators.has_generator(value) else 0
        return folder / f"rank{own}" if own > 0 else folder

    def update(self, **values: Any) -> None:
        """Gives the new values of what can't change in place: numbers, strings, tuples, trees of JAX.

        Call it in each epoch.
        """
        for name, value in values.items():
            if name not in self._objects:
                raise Error(f"`{name}` is no part of the state; pass it to restore() before the loop")
            self._objects[name] = value
            if name in self._updated:
                self._updated[name] = self._epoch

    def epochs(self, start: int = 0) -> "Epochs":
        """The epochs to train, from 0, or from `start`, as for `enumerate`. At the end, the state is saved."""
        return Epochs(self, start)

    def fit(self, trainer: Any, *arguments: Any, **options: Any) -> None:
        """Trains with a Trainer of PyTorch Lightning.

            run.fit(trainer, model, loader)         # instead of trainer.fit(model, loader)

        It restores and saves all that a checkpoint of Lightning has, and the generators of data loaders, and logs the
        metrics of Lightning. The number of epochs is that of the stage, and by hand that of `chain`. In a stage,
        `ModelCheckpoint` does nothing, and the length of a schedule is a value of `start`, not `trainer.max_epochs`.
        """
        from ._lightning import fit

        if self._segment is not None:
            raise Error("Lightning trains one segment in each process: remove `warm = true` from the stage")
        fit(self, trainer, arguments, options)

    def log(self, **numbers: Any) -> None:
        """Logs numbers of the present epoch: they become metrics and curves, and a sweep can be pruned by them.

        Names that begin with `_` are only shown. By hand, each epoch is printed. After the loop, the numbers are
        metrics of the result, if the stage has outputs.
        """
        line = {name: to_log(name, value) for name, value in numbers.items()}
        if self._state == "in":
            self._line.update(line)
        elif self._state == "after":
            self._metrics.update(line)
            path = self._variable("METRICS")
            if path is not None and rank() == 0:
                path.write_text(json.dumps(self._metrics))
        else:
            raise Error("call log() in the loop over epochs(), or after it for metrics of the result")

    def step(self, step: int, **numbers: Any) -> None:
        """Shows progress within an epoch. Nothing of it is in the result."""
        self._append({"step": int(step), **{name: number(name, value) for name, value in numbers.items()}})

    def output(self, name: str) -> Path:
        """The path of an output: of a role in `outputs` of the stage, or of its file name.

        By hand, it is in the current folder. A name that ends in `/` is a folder, which is created.
        """
        if not self.outputs_due:
            raise Error("outputs are only written at the end of a training: put this below `if run.outputs_due:`")
        name = self._values.output(name)
        path = (self._variable("OUTPUTS") or Path()) / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        return path

    def _begin(self) -> None:
        if self._state != "before":
            raise Error("a script loops over epochs() once")
        if not self._objects:
            raise Error("call restore() before the loop: restore(model=model, optimizer=optimizer)")
        self._state = "in"
        state_in = self._variable("STATE_IN")
        if state_in is not None:
            lost = {path.stem for path in state_in.glob("*.json")} - {GENERATORS} - set(self._objects)
            if lost:
                names = ", ".join(f"`{name}`" for name in sorted(lost))
                raise Error(f"the state has {names}, which this process has not restored; pass it to restore()")
            folder = self._own(state_in, None)
            if not folder.is_dir():
                message = f"the state has no generators{of_rank(folder)}"
                raise Error(f"{message}; train with as many processes as before, or from the beginning")
            _generators.restore_all(_tree.load_plain(folder, GENERATORS))
        if self._variable("STATE_OUT") is not None:
            atexit.register(self._explain_missing_state)

    def _end_epoch(self) -> None:
        epoch = self._epoch
        assert epoch is not None
        old = [name for name, updated in self._updated.items() if updated != epoch]
        if old:
            kind, call = type(self._objects[old[0]]).__name__, ", ".join(f"{name}={name}" for name in old)
            message = f"`{old[0]}` is a {kind}, which can't change in place"
            raise Error(f"{message}; call run.update({call}) in each epoch")
        self._append({"epoch": epoch + 1, **self._line})
        self._print_epoch()

    def _print_epoch(self) -> None:
        if self._environment is None and self._line and rank() == 0:
            print(f"epoch {self._now + 1}:", ", ".join(f"{name} {value:.6g}" for name, value in self._line.items()))

    def _end_early(self) -> None:
        """Called when the script leaves the loop, which it may do if started by hand or by a `command` stage."""
        self._state = "after"
        if self.outputs_due and not sys.is_finalizing():
            self._print_epoch()
            self._epoch = None

    def _append(self, line: Mapping[str, Any]) -> None:
        log = self._variable("LOG")
        if log is not None and rank() == 0:
            with open(log, "a") as file:
                file.write(json.dumps(line) + "\n")

    def _finish(self) -> None:
        self._epoch, self._state = None, "after"
        state_out = self._variable("STATE_OUT")
        if state_out is None:
            return
        atexit.unregister(self._explain_missing_state)
        if self._segment is None:
            self._save(state_out)
        if rank() == 0 and self._from == 0:
            self._values.warn_of_unread()

    def _save(self, folder: Path) -> None:
        for name, value in self._objects.items():
            if rank() == 0 or _generators.has_generator(value):
                _tree.save(self._own(folder, value), name, value)
        _tree.save(self._own(folder, None), GENERATORS, _generators.state_of_all())
        # The state is complete, and the first process may exit, only when every process has written its part.
        wait_for_all()

    def _save_at_boundary(self, done: int) -> None:
        """Saves the state if the stage has `warm = true` and one is due after `done` epochs."""
        state_out = self._variable("STATE_OUT")
        if self._segment is None or state_out is None or (done % self._segment != 0 and done != self._to):
            return
        self._save(state_out / str(done))
        self._append({"saved": done})

    def _explain_missing_state(self) -> None:
        """Called at the exit of a process that has not saved its state."""
        if hasattr(sys, "last_value") or self._epoch is None or rank() != 0:
            return
        message = f"the loop ended in epoch {self._epoch + 1}, but vadpipe asked for the state after epoch {self._to}"
        help = "leave no epoch out: let those after an early stop do nothing, with `continue` instead of `break`"
        more = "`select` in the stage gives the best epoch, and `[matrix.prune]` stops the worst points of a sweep"
        print(f"vadpipe: {message}; {help}. {more}: docs/python.md, \"Stopping early\"", file=sys.stderr)


class Epochs:
    """The epochs that a process trains. `len` gives their number."""

    def __init__(self, run: Chain, start: int) -> None:
        self._run, self._start = run, start

    def __len__(self) -> int:
        return self._run._to - self._run._from

    def __iter__(self) -> Iterator[int]:
        run = self._run
        run._begin()
        for epoch in range(run._from, run._to):
            run._epoch, run._line = epoch, {}
            try:
                yield self._start + epoch
            except GeneratorExit:
                run._end_early()
                raise
            run._end_epoch()
            run._save_at_boundary(epoch + 1)
        run._finish()
