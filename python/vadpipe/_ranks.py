"""The processes that train together, with torch.distributed: started by torchrun, or by Lightning."""

import os
import sys
from pathlib import Path
from typing import Any


def _distributed() -> Any:
    """The module torch.distributed, if the script has initialised it."""
    distributed = sys.modules.get("torch.distributed")
    is_ready = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if is_ready else None


def rank() -> int:
    """The number of this process among those that train together: of torch.distributed, or of what started it."""
    distributed = _distributed()
    if distributed is not None:
        return int(distributed.get_rank())
    # Of torchrun, or of Lightning, which starts the processes of one machine.
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0)))


def wait_for_all() -> None:
    """Returns when every process has called this."""
    distributed = _distributed()
    if distributed is not None:
        distributed.barrier()


def of_rank(folder: Path) -> str:
    """Which process a folder of a state belongs to, for messages."""
    return f" of process {folder.name[4:]}" if folder.name.startswith("rank") else ""
