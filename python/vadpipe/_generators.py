"""Random generators: those that a library has for the whole process, and those that a script makes."""

import importlib
import random
import sys
from typing import Any

from ._arrays import imported
from ._errors import Error


def seed_all(seed: int) -> None:
    """Seeds the generators of the process."""
    random.seed(seed)
    if numpy := imported("numpy"):
        numpy.random.seed(seed % 2**32)
    if torch := imported("torch"):
        torch.manual_seed(seed)


def state_of_all() -> dict[str, Any]:
    """The state of the generators of the process, of the libraries that are imported."""
    state: dict[str, Any] = {"random": random.getstate()}
    if numpy := imported("numpy"):
        state["numpy"] = numpy.random.get_state(legacy=False)
    if torch := imported("torch"):
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        elif torch.backends.mps.is_available():
            state["mps"] = torch.mps.get_rng_state()
    return state


def restore_all(state: dict[str, Any]) -> None:
    """Sets the generators of the process. Imports a library that the script imports only later."""
    random.setstate(state["random"])
    if "numpy" in state:
        importlib.import_module("numpy").random.set_state(state["numpy"])
    if "torch" in state:
        torch = importlib.import_module("torch")
        torch.set_rng_state(state["torch"])
        if "cuda" in state:
            found = torch.cuda.device_count()
            if found < len(state["cuda"]):
                message = f"the state has generators of {len(state['cuda'])} GPUs, but this process sees {found}"
                raise Error(f"{message}; train with as many GPUs as before, or from the beginning")
            torch.cuda.set_rng_state_all(state["cuda"])
        if "mps" in state:
            torch.mps.set_rng_state(state["mps"])


def is_generator(value: object) -> bool:
    """Whether this is a random generator, or a DataLoader, which may have one."""
    if isinstance(value, random.Random):
        return True
    numpy = imported("numpy")
    if numpy is not None and isinstance(value, (numpy.random.Generator, numpy.random.RandomState)):
        return True
    torch = imported("torch")
    return torch is not None and (isinstance(value, torch.Generator) or is_loader(value))


def has_generator(value: object) -> bool:
    """Whether this is a random generator, or a list, a tuple or a dict with one in it."""
    if isinstance(value, dict):
        return any(map(has_generator, value.values()))
    return any(map(has_generator, value)) if isinstance(value, (list, tuple)) else is_generator(value)


def all_of(value: object) -> list[Any]:
    """The generators in a value: in lists, tuples and dicts, and of data loaders."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [generator for item in value for generator in all_of(item)]
    if is_loader(value):
        return _of_loader(value)
    return [value] if is_generator(value) else []


def is_loader(value: object) -> bool:
    """Whether this is a DataLoader without a state of its own."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and isinstance(value, data.DataLoader) and not hasattr(value, "state_dict")


def _of_loader(loader: Any) -> list[Any]:
    """The generators of a DataLoader and of its samplers, each once."""
    batches = getattr(loader, "batch_sampler", None)
    owners = [loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    generators: list[Any] = []
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if generator is not None and all(generator is not other for other in generators):
            generators.append(generator)
    return generators


def get_state(value: Any) -> Any:
    """The state of a generator, of plain values and tensors."""
    if isinstance(value, random.Random):
        return value.getstate()
    if is_loader(value):
        return [get_state(generator) for generator in _of_loader(value)]
    if hasattr(value, "bit_generator"):
        return value.bit_generator.state
    # Of torch, and RandomState of numpy.
    numpy = imported("numpy")
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        return value.get_state(legacy=False)
    return value.get_state()


def set_state(value: Any, state: Any, where: str) -> None:
    """Sets a generator to a state that `get_state` gave."""
    if isinstance(value, random.Random):
        value.setstate(state)
    elif is_loader(value):
        generators = _of_loader(value)
        if len(generators) != len(state):
            raise Error(f"{where} has {len(generators)} generators, but {len(state)} when its state was saved")
        for generator, own in zip(generators, state):
            set_state(generator, own, where)
    elif hasattr(value, "bit_generator"):
        value.bit_generator.state = state
    else:
        value.set_state(state)
