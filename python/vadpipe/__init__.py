"""vadpipe for Python: training scripts on the chain of states, and the results of pipelines.

    import vadpipe

    run = vadpipe.chain(epochs=100)
    run.restore(model=model, optimizer=optimizer)
    for epoch in run.epochs():
        run.log(loss=train(model, optimizer, lr=run.value("lr", 1e-3)))

`read`, `metrics`, `history` and `report` read results. This package imports only the standard library, and PyTorch,
numpy or JAX only if the script did.
"""

from typing import TYPE_CHECKING, Any

from ._artifact import Artifact
from ._chain import Chain, chain
from ._errors import Error

if TYPE_CHECKING:
    from ._results import Report, history, metrics, program, read, report

__version__ = "0.1.0"
__all__ = [
    "Artifact", "Chain", "Error", "Report", "chain", "history", "metrics", "program", "read", "report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # A training needs none of these, so that `import vadpipe` stays fast.
    if name in ("Report", "history", "metrics", "program", "read", "report"):
        from . import _results

        return getattr(_results, name)
    raise AttributeError(f"module 'vadpipe' has no attribute '{name}'")
