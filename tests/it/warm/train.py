"""A training program that saves its state after each segment if it is warm, and in the end otherwise."""

import json
import os
import random
import struct
from pathlib import Path

START, END = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
SEGMENT = int(os.environ.get("VADPIPE_SEGMENT", "0"))
OUT = Path(os.environ.get("VADPIPE_STATE_OUT", "none"))
values = json.loads(Path(os.environ["VADPIPE_VALUES"]).read_text())
print(f"process from {START} to {END}", flush=True)


def read_tensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    spans = {name: info["data_offsets"] for name, info in header.items() if name != "__metadata__"}
    return {name: list(struct.unpack(f"<{(end - begin) // 8}d", body[begin:end])) for name, (begin, end) in spans.items()}


def write_tensors(path, tensors):
    header, body = {}, b""
    for name, numbers in tensors.items():
        data = struct.pack(f"<{len(numbers)}d", *numbers)
        header[name] = {"dtype": "F64", "shape": [len(numbers)], "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


def log(**line):
    with open(os.environ["VADPIPE_LOG"], "a") as file:
        print(json.dumps(line), file=file)


def save(folder):
    folder.mkdir(exist_ok=True)
    write_tensors(folder / "model.safetensors", {"weights": weights, "momentum": momentum})
    (folder / "generator.json").write_text(json.dumps(generator.getstate()))


generator = random.Random(values["seed"])
if START == 0:
    weights = [generator.random() for _ in range(4)]
    momentum = [0.0] * 4
else:
    state = Path(os.environ["VADPIPE_STATE_IN"])
    tensors = read_tensors(state / "model.safetensors")
    weights, momentum = tensors["weights"], tensors["momentum"]
    version, internal, gauss = json.loads((state / "generator.json").read_text())
    generator.setstate((version, tuple(internal), gauss))

for epoch in range(START, END):
    if "HOOK" in globals():
        HOOK(epoch)
    lr = next(part["values"]["lr"] for part in values["epoch"] if part["from"] <= epoch < part["to"])
    for i, weight in enumerate(weights):
        momentum[i] = 0.9 * momentum[i] + (weight - 0.5) + generator.gauss(0, 0.1)
        weights[i] = weight - lr * momentum[i]
    log(epoch=epoch + 1, loss=sum((w - 0.5) ** 2 for w in weights))
    if SEGMENT and ((epoch + 1) % SEGMENT == 0 or epoch + 1 == END):
        save(OUT / str(epoch + 1))
        log(saved=epoch + 1)

if START == END:
    Path("weights.txt").write_text("\n".join(map(repr, weights)))
elif not SEGMENT:
    save(OUT)
