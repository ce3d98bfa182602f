"""Mean brightness of every class of a data stage.

usage: brightness.py INPUT_FOLDER TABLE_CSV METRICS_JSON

Reads safetensors with the standard library alone: eight bytes of header length, a JSON header, then the tensors.
"""
import json
import struct
import sys
from pathlib import Path


def read_tensors(path):
    raw = Path(path).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    body = raw[8 + size :]
    return {name: (t["shape"], body[slice(*t["data_offsets"])]) for name, t in header.items() if name != "__metadata__"}


def main(folder, table, metrics):
    tensors = read_tensors(Path(folder) / "artifact.safetensors")
    classes = json.loads((Path(folder) / "facts.json").read_text())["classes"]
    (count, height, width), images = tensors["train.images"]
    _, labels = tensors["train.labels"]
    sums, counts = [0] * len(classes), [0] * len(classes)
    for i in range(count):
        pixels = images[i * height * width : (i + 1) * height * width]
        sums[labels[i]] += sum(pixels) / len(pixels)
        counts[labels[i]] += 1
    means = [s / max(c, 1) for s, c in zip(sums, counts)]
    lines = ["class,mean_brightness"] + [f"{name},{mean:.3f}" for name, mean in zip(classes, means)]
    Path(table).write_text("\n".join(lines) + "\n")
    Path(metrics).write_text(json.dumps({"brightest": max(means), "darkest": min(means)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
