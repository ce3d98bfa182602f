"""Draws points of ten overlapping classes: `data.py OUT TRAIN VALIDATION`."""

import json
import random
import sys

CLASSES, SIZE = 10, 16

draw = random.Random(5)
# Each class has two centres, so that a linear model does not suffice.
centres = [[draw.gauss(0, 1) for _ in range(SIZE)] for _ in range(2 * CLASSES)]
data = {}
for split, count in zip(("train", "validation"), map(int, sys.argv[2:])):
    chosen = [draw.randrange(len(centres)) for _ in range(count)]
    data[split] = {
        "points": [[round(draw.gauss(value, 1.3), 3) for value in centres[index]] for index in chosen],
        "labels": [index % CLASSES for index in chosen],
    }
with open(sys.argv[1], "w") as file:
    json.dump(data, file)
