"""Trains a classifier with numpy, from one state to the next.

Its state is the weights with their momentum, a scheduler, the position in the data and numpy's random generator, which
dropout and the order of the data use.
"""

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

START, END = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
STEPS, BATCH = 12, 64  # an epoch ends in the middle of the data
values = json.loads(Path(os.environ["VADPIPE_VALUES"]).read_text())
data = json.loads((Path(os.environ["VADPIPE_INPUTS"]) / "data" / "data.json").read_text())


class Scheduler:
    """Multiplies the learning rate by 0.98 after each epoch."""

    def __init__(self):
        self.factor = 1.0

    def step(self):
        self.factor *= 0.98

    def state_dict(self):
        return {"factor": self.factor}

    def load_state_dict(self, state):
        self.factor = state["factor"]


class Sampler:
    """Goes through the items again and again, each time in a new order."""

    def __init__(self, count):
        self.order, self.position = generator.permutation(count), 0

    def batch(self):
        rest = self.order[self.position : self.position + BATCH]
        self.position += len(rest)
        if len(rest) < BATCH:
            self.order, self.position = generator.permutation(self.order), 0
        return rest

    def state_dict(self):
        return {"order": self.order.tolist(), "position": self.position}

    def load_state_dict(self, state):
        self.order, self.position = np.array(state["order"]), state["position"]


generator = np.random.default_rng(values["seed"])
width = values["start"]["width"]
points, validation = (np.array(data[split]["points"]) for split in ("train", "validation"))
labels, expected = (np.array(data[split]["labels"]) for split in ("train", "validation"))
sizes = {"hidden": (points.shape[1], width), "out": (width, 10)}
weights = {name: generator.normal(0, 0.2, shape) for name, shape in sizes.items()}
momentum = {name: np.zeros(shape) for name, shape in sizes.items()}
scheduler, sampler = Scheduler(), Sampler(len(points))


def save(folder):
    save_file(weights, folder / "model.safetensors")
    save_file(momentum, folder / "momentum.safetensors")
    saved = {"scheduler": scheduler.state_dict(), "sampler": sampler.state_dict()}
    (folder / "state.json").write_text(json.dumps(saved | {"generator": generator.bit_generator.state}))


def restore(folder):
    saved = json.loads((folder / "state.json").read_text())
    weights.update(load_file(folder / "model.safetensors"))
    momentum.update(load_file(folder / "momentum.safetensors"))
    scheduler.load_state_dict(saved["scheduler"])
    sampler.load_state_dict(saved["sampler"])
    generator.bit_generator.state = saved["generator"]


def step(x, target, lr):
    """One step of gradient descent with momentum. Returns the loss."""
    kept = generator.random((len(x), width)) < 0.9
    hidden = np.maximum(x @ weights["hidden"], 0) * kept
    logits = hidden @ weights["out"]
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    loss = -np.log(chances[np.arange(len(x)), target]).mean()
    error = (chances - np.eye(10)[target]) / len(x)
    gradients = {"hidden": x.T @ (error @ weights["out"].T * (hidden > 0)), "out": hidden.T @ error}
    for name, gradient in gradients.items():
        momentum[name] = 0.9 * momentum[name] + gradient
        weights[name] -= lr * momentum[name]
    return loss


if START > 0:
    restore(Path(os.environ["VADPIPE_STATE_IN"]))

for epoch in range(START, END):
    here = next(part["values"] for part in values["epoch"] if part["from"] <= epoch < part["to"])
    lr = here["lr"] * scheduler.factor
    batches = [sampler.batch() for _ in range(STEPS)]
    loss = sum(step(points[batch], labels[batch], lr) for batch in batches) / STEPS
    scheduler.step()
    found = (np.maximum(validation @ weights["hidden"], 0) @ weights["out"]).argmax(1)
    line = {"epoch": epoch + 1, "loss": loss, "val_acc": (found == expected).mean()}
    with open(os.environ["VADPIPE_LOG"], "a") as log:
        log.write(json.dumps(line) + "\n")

save(Path(os.environ["VADPIPE_STATE_OUT"]))
