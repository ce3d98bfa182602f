"""Trainings with PyTorch Lightning. See `Chain.fit`.

Lightning loops itself, and its checkpoint has the state: model, optimisers, schedulers, loops, callbacks. It saves and
loads the checkpoint as usual, but into a dict, which is a part of the state like any other.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from . import _generators
from ._errors import Error
from ._values import unknown_length

if TYPE_CHECKING:
    from ._chain import Chain

# Only `load_from_checkpoint` needs them, and they may be objects of any kind.
HYPERPARAMETERS = ("hyper_parameters", "hparams_name", "hparams_type", "datamodule_hyper_parameters",
                   "datamodule_hparams_name", "datamodule_hparams_type")  # fmt: skip

# These strategies, and those derived from them, don't save through the plugin.
OWN_CHECKPOINTS = {"DeepSpeedStrategy", "FSDPStrategy", "ModelParallelStrategy"}


def fit(run: "Chain", trainer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Trains the epochs of `run` with `trainer.fit`."""
    is_older = any(base.__module__.startswith("pytorch_lightning") for base in type(trainer).__mro__)
    package = "pytorch_lightning" if is_older else "lightning.pytorch"
    callbacks = importlib.import_module(f"{package}.callbacks")
    checkpoint = run.restore(lightning={})
    _restore_loaders(run, [*arguments[1:3], *(options.get(f"{kind}_dataloaders") for kind in ("train", "val"))])
    epochs: Any = iter(run.epochs())
    if run.is_on_chain:
        if any(base.__name__ in OWN_CHECKPOINTS for base in type(trainer.strategy).__mro__):
            raise _writes_its_own(trainer.strategy)
        trainer.strategy.checkpoint_io = _in_memory(package, checkpoint)
        # The chain of states replaces these. Their files would be lost with the folder of the process.
        kept = [callback for callback in trainer.callbacks if not isinstance(callback, callbacks.ModelCheckpoint)]
        trainer.callbacks = kept
        _hide_length(package, trainer)
    log = _log(callbacks, run, epochs)
    trainer.callbacks = [_begin(callbacks, log), *trainer.callbacks, log]
    trainer.fit_loop.max_epochs = run.last_epoch
    trainer.fit(*arguments, **options, **({} if run._from == 0 else {"ckpt_path": "state"}))
    if not run.outputs_due:
        trainer.save_checkpoint("state")
        if trainer.is_global_zero and not checkpoint:
            raise _writes_its_own(trainer.strategy)
    if (epoch := next(epochs, None)) is None:
        return
    if run.is_on_chain:
        message = f"Lightning stopped after {epoch} of {run.last_epoch} epochs, as with EarlyStopping"
        raise Error(f"{message}; the stage needs all: use `select` in it for the best epoch")
    epochs.close()


def _writes_its_own(strategy: Any) -> Error:
    return Error(f"the strategy {type(strategy).__name__} writes checkpoints of its own; use DDP: strategy=\"ddp\"")


def _restore_loaders(run: "Chain", loaders: list[Any]) -> None:
    """Restores the generators of the data loaders, which a checkpoint of Lightning does not have."""
    # A CombinedLoader has its loaders in `iterables`.
    lost = _generators_to_restore(run, [getattr(loader, "iterables", loader) for loader in loaders])
    if lost:
        run.restore(lightning_loaders=lost)


def _generators_to_restore(run: "Chain", loaders: Any) -> list[Any]:
    """The generators of data loaders that are not yet part of the state, each once."""
    known = {id(generator) for generator in _generators.all_of(run._objects)}
    return list({id(own): own for own in _generators.all_of(loaders) if id(own) not in known}.values())


def _hide_length(package: str, trainer: Any) -> None:
    """Makes the length of the training an error, except for Lightning's loop and progress bars.

    Lightning knows only the end of the segment. A schedule of that length would differ from one segment to the next.
    """
    own: Any = type(trainer)

    class Trainer(own):  # type: ignore[misc]
        @property
        def max_epochs(self) -> Any:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith((f"{package}.trainer.", f"{package}.callbacks.progress.")):
                return super().max_epochs
            raise unknown_length("trainer.max_epochs")

        @property
        def estimated_stepping_batches(self) -> Any:
            raise unknown_length("trainer.estimated_stepping_batches")

    Trainer.__name__, Trainer.__qualname__, Trainer.__module__ = own.__name__, own.__qualname__, own.__module__
    trainer.__class__ = Trainer


def _in_memory(package: str, checkpoint: dict[str, Any]) -> Any:
    """A plugin that keeps the checkpoint in a dict instead of a file."""
    base = importlib.import_module(f"{package}.plugins.io").CheckpointIO

    class InMemory(base):  # type: ignore[misc, valid-type]
        def save_checkpoint(self, new: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            checkpoint.clear()
            checkpoint.update({name: value for name, value in new.items() if name not in HYPERPARAMETERS})

        def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
            return dict(checkpoint)

        def remove_checkpoint(self, path: Any) -> None:
            pass

    return InMemory()


def _log(callbacks: Any, run: "Chain", epochs: Any) -> Any:
    """Logs what the module has logged in the epoch."""

    # As a `Checkpoint`, it is called behind the module, which may log at the end of an epoch.
    class Log(callbacks.Checkpoint):  # type: ignore[misc]
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            # Before Lightning makes the iterator of the data loader, which draws random numbers.
            self.is_begun = next(epochs, None) is not None

        def on_train_start(self, trainer: Any, module: Any) -> None:
            # A loader that is made for each epoch begins again in each, whatever process trains it.
            is_kept = trainer.reload_dataloaders_every_n_epochs != 1
            if run.is_on_chain and is_kept and _generators_to_restore(run, trainer.train_dataloader):
                message = "the DataLoader of `train_dataloader` has a generator, which begins again in each process"
                raise Error(f"{message}; make the generator before, and pass it on: run.restore(order=generator)")

        def begin_epoch(self, trainer: Any) -> None:
            if not self.is_begun:
                next(epochs)
            self.is_begun = False
            self.old = dict(trainer.callback_metrics)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            # Lightning keeps the values of earlier epochs, as those of a validation that does not run in each epoch.
            new = {name: value for name, value in trainer.callback_metrics.items() if value is not self.old.get(name)}
            run.log(**{name: value for name, value in new.items() if name not in ("epoch", "step")})

    return Log()


def _begin(callbacks: Any, log: Any) -> Any:
    """Goes on to the next epoch before any other callback sees it."""

    class Begin(callbacks.Callback):  # type: ignore[misc]
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            log.begin_epoch(trainer)

    return Begin()
