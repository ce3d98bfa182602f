"""Trainings with PyTorch Lightning. See `Chain.fit`.

Lightning loops itself, and knows best what its state is: model, optimisers, schedulers, loops, callbacks. So it saves
and loads a checkpoint as usual, but into a dict, which is a part of the state like any other.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._errors import Error

if TYPE_CHECKING:
    from ._chain import Chain

# Only `load_from_checkpoint` needs them, and they may be objects of any kind.
HYPERPARAMETERS = ("hyper_parameters", "hparams_name", "hparams_type", "datamodule_hyper_parameters",
                   "datamodule_hparams_name", "datamodule_hparams_type")  # fmt: skip


def fit(run: "Chain", trainer: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Trains the epochs of `run` with `trainer.fit`."""
    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_lightning") else "lightning.pytorch"
    callbacks = importlib.import_module(f"{package}.callbacks")
    checkpoint = run.restore(lightning={})
    is_new = not checkpoint
    epochs: Any = iter(run.epochs())
    if run.is_on_chain:
        trainer.strategy.checkpoint_io = _in_memory(package, checkpoint)
        # The chain of states replaces these. Their files would be lost with the folder of the process.
        kept = [callback for callback in trainer.callbacks if not isinstance(callback, callbacks.ModelCheckpoint)]
        trainer.callbacks = kept
    trainer.callbacks.append(_callback(callbacks, run, epochs))
    trainer.fit_loop.max_epochs = run.last_epoch
    trainer.fit(*arguments, **options, **({} if is_new else {"ckpt_path": "state"}))
    if not run.outputs_due:
        trainer.save_checkpoint("state")
    if (epoch := next(epochs, None)) is None:
        return
    if run.is_on_chain:
        message = f"Lightning stopped after {epoch} of {run.last_epoch} epochs, as with EarlyStopping"
        raise Error(f"{message}; the stage needs all: use `select` in it for the best epoch")
    epochs.close()


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


def _callback(callbacks: Any, run: "Chain", epochs: Any) -> Any:
    """Goes on to the next epoch, and logs the metrics of Lightning."""

    # As a `Checkpoint`, it is called behind the module, which may log at the end of an epoch.
    class Log(callbacks.Checkpoint):  # type: ignore[misc]
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            # Before Lightning makes the iterator of the data loader, which draws random numbers.
            self.is_begun = next(epochs, None) is not None

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if not self.is_begun:
                next(epochs)
            self.is_begun = False

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            metrics = trainer.callback_metrics
            run.log(**{name: metrics[name] for name in metrics if name not in ("epoch", "step")})

    return Log()
