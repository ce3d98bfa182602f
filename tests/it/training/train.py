"""A training program of the standard library: a small model, an optimiser with momentum, and a random generator."""

import json
import os
import random
import shutil
import struct
import sys
from pathlib import Path

START, END = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
values = json.loads(Path(os.environ["VADPIPE_VALUES"]).read_text())


def read_tensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    tensors = {}
    for name, info in header.items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            tensors[name] = list(struct.unpack(f"<{(end - begin) // 8}d", body[begin:end]))
    return tensors


def write_tensors(path, tensors):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, numbers in tensors.items():
        data = struct.pack(f"<{len(numbers)}d", *numbers)
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F64", "shape": [len(numbers)], "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


def value_of(epoch, name):
    return next(part["values"][name] for part in values["epoch"] if part["from"] <= epoch < part["to"])


generator = random.Random(values["seed"])
if START == 0:
    weights = [generator.random() for _ in range(values["start"]["width"])]
    momentum = [0.0] * len(weights)
else:
    state = Path(os.environ["VADPIPE_STATE_IN"])
    tensors = read_tensors(state / "model.safetensors")
    weights, momentum = tensors["weights"], tensors["momentum"]
    version, internal, gauss = json.loads((state / "generators" / "python.json").read_text())
    generator.setstate((version, tuple(internal), gauss))

for epoch in range(START, END):
    if "HOOK" in globals():
        HOOK(epoch)
    lr = value_of(epoch, "lr")
    for i, weight in enumerate(weights):
        momentum[i] = 0.9 * momentum[i] + (weight - 0.5) + generator.gauss(0, 0.1)
        weights[i] = weight - lr * momentum[i]
    line = {"epoch": epoch + 1, "loss": sum((w - 0.5) ** 2 for w in weights), "_seconds": 0.5}
    if epoch % 2 == 1:
        line["accuracy"] = 1.0 / (1.0 + line["loss"])
    with open(os.environ["VADPIPE_LOG"], "a") as log:
        print(json.dumps({"step": 1}), json.dumps(line), sep="\n", file=log)

if START == END:
    Path("weights.txt").write_text("\n".join(map(repr, weights)))
    Path(os.environ["VADPIPE_METRICS"]).write_text(json.dumps({"norm": sum(w * w for w in weights)}))
else:
    state = Path(os.environ["VADPIPE_STATE_OUT"])
    write_tensors(state / "model.safetensors", {"weights": weights, "momentum": momentum})
    (state / "generators").mkdir()
    (state / "generators" / "python.json").write_text(json.dumps(generator.getstate()))
