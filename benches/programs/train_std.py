"""Trains a linear classifier with Python's standard library alone, from one state to the next.

Its state is the weights with their momentum, a scheduler, the position in the data and Python's random generator, which
dropout and the order of the data use.
"""

import json
import math
import os
import random
import struct
from pathlib import Path

START, END = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
STEPS, BATCH, CLASSES = 12, 16, 10  # an epoch ends in the middle of the data
values = json.loads(Path(os.environ["VADPIPE_VALUES"]).read_text())
data = json.loads((Path(os.environ["VADPIPE_INPUTS"]) / "data" / "data.json").read_text())


def save_file(tensors, path):
    """Writes lists of numbers as a safetensors file."""
    header = {}
    for index, (name, numbers) in enumerate(tensors.items()):
        begin = 8 * len(numbers) * index  # all have the same length
        header[name] = {"dtype": "F64", "shape": [len(numbers)], "data_offsets": [begin, begin + 8 * len(numbers)]}
    text = json.dumps(header).encode()
    body = b"".join(struct.pack(f"<{len(numbers)}d", *numbers) for numbers in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def load_file(path):
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    places = {name: info["data_offsets"] for name, info in json.loads(content[8:start]).items() if name[0] != "_"}
    doubles = {name: content[start + begin : start + end] for name, (begin, end) in places.items()}
    return {name: list(struct.unpack(f"<{len(raw) // 8}d", raw)) for name, raw in doubles.items()}


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
        self.order, self.position = generator.sample(range(count), count), 0

    def batch(self):
        rest = self.order[self.position : self.position + BATCH]
        self.position += len(rest)
        if len(rest) < BATCH:
            self.order, self.position = generator.sample(self.order, len(self.order)), 0
        return rest

    def state_dict(self):
        return {"order": self.order, "position": self.position}

    def load_state_dict(self, state):
        self.order, self.position = state["order"], state["position"]


generator = random.Random(values["seed"])
points, labels = data["train"]["points"], data["train"]["labels"]
size = len(points[0])
model = {"weights": [generator.gauss(0, 0.1) for _ in range(size * CLASSES)], "momentum": [0.0] * (size * CLASSES)}
scheduler, sampler = Scheduler(), Sampler(len(points))


def save(folder):
    save_file(model, folder / "model.safetensors")
    saved = {"scheduler": scheduler.state_dict(), "sampler": sampler.state_dict()}
    (folder / "state.json").write_text(json.dumps(saved | {"generator": generator.getstate()}))


def restore(folder):
    saved = json.loads((folder / "state.json").read_text())
    model.update(load_file(folder / "model.safetensors"))
    scheduler.load_state_dict(saved["scheduler"])
    sampler.load_state_dict(saved["sampler"])
    generator.setstate((saved["generator"][0], tuple(saved["generator"][1]), saved["generator"][2]))


def logits(x):
    rows = (model["weights"][at : at + size] for at in range(0, size * CLASSES, size))
    return [sum(a * b for a, b in zip(row, x)) for row in rows]


def step(batch, lr):
    """One step of gradient descent with momentum. Returns the loss."""
    loss, gradient = 0.0, [0.0] * (size * CLASSES)
    for index in batch:
        x = [value * (generator.random() < 0.9) for value in points[index]]
        found = logits(x)
        chances = [math.exp(value - max(found)) for value in found]
        chances = [chance / sum(chances) for chance in chances]
        loss -= math.log(chances[labels[index]] + 1e-12) / len(batch)
        for at, chance in enumerate(chances):
            error = (chance - (at == labels[index])) / len(batch)
            for column, value in enumerate(x):
                gradient[at * size + column] += error * value
    for at, slope in enumerate(gradient):
        model["momentum"][at] = 0.9 * model["momentum"][at] + slope
        model["weights"][at] -= lr * model["momentum"][at]
    return loss


if START > 0:
    restore(Path(os.environ["VADPIPE_STATE_IN"]))

for epoch in range(START, END):
    here = next(part["values"] for part in values["epoch"] if part["from"] <= epoch < part["to"])
    lr = here["lr"] * scheduler.factor
    loss = sum(step(sampler.batch(), lr) for _ in range(STEPS)) / STEPS
    scheduler.step()
    found = [max(range(CLASSES), key=logits(x).__getitem__) for x in data["validation"]["points"]]
    right = sum(a == b for a, b in zip(found, data["validation"]["labels"]))
    line = {"epoch": epoch + 1, "loss": loss, "val_acc": right / len(found)}
    with open(os.environ["VADPIPE_LOG"], "a") as log:
        log.write(json.dumps(line) + "\n")

save(Path(os.environ["VADPIPE_STATE_OUT"]))
