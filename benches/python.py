"""Measures the Python module: its import, reading a result of 80 MB, and the metrics of 10,000 points as a table.

    benches/python.py path/to/vadpipe [--points N]

Each figure is the median of ten, with a floor from the same run: a bare interpreter, a plain copy of the file, and a
plain CSV file that is parsed into the same table. Needs Python 3.10; with pandas or polars the table is theirs.
"""

import argparse
import csv
import importlib.util
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIG = """
[pipeline]
name = "big"

[stages.big]
kind = "command"
argv = ["python3", "make.py", "{outputs.tensors}"]
outputs = { tensors = "tensors.safetensors" }
"""
MAKE = """
import json, os, struct, sys

count = 20_000_000
head = json.dumps({"x": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
head += b" " * (-len(head) % 8)
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<Q", len(head)) + head)
    for _ in range(80):
        file.write(os.urandom(1_000_000))
"""
SWEEP = """
[pipeline]
name = "sweep"

[matrix]
limit = POINTS
i = { from = 1, to = POINTS, steps = POINTS, integer = true }

[stages.x]
kind = "command"
argv = ["sh", "-c", "echo '{\\"loss\\": 0.'$0', \\"accuracy\\": 0.75, \\"steps\\": '$0'}' > $1",
        "${matrix.i}", "{metrics}"]
"""


def median(action, count=10):
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def row(what, seconds, floor, floor_name):
    print(f"| {what} | {seconds:.3f} s | {floor:.3f} s ({floor_name}) | {seconds / floor:.1f} × |")


def import_time(folder):
    environment = dict(os.environ, PYTHONPATH=str(folder))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(code):
        return lambda: subprocess.run([sys.executable, "-c", code], env=environment, check=True)

    run("import vadpipe")()
    bare = median(run("pass"))
    imported = median(run("import vadpipe"))
    row("`import vadpipe`, with the start of the interpreter", imported, bare, "a bare interpreter")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("vadpipe", type=pathlib.Path)
    arguments.add_argument("--points", type=int, default=10_000)
    given = arguments.parse_args()
    os.environ["VADPIPE"] = str(given.vadpipe.resolve())
    with tempfile.TemporaryDirectory() as folder:
        # A copy, so that its compiled files are not those of the checkout.
        shutil.copytree(ROOT / "python" / "vadpipe", f"{folder}/module/vadpipe")
        sys.path.insert(0, f"{folder}/module")
        import vadpipe

        os.chdir(folder)
        sweep = SWEEP.replace("POINTS", str(given.points))
        for name, text in (("big.toml", BIG), ("make.py", MAKE), ("sweep.toml", sweep)):
            pathlib.Path(name).write_text(text)
        for pipeline in ("big.toml", "sweep.toml"):
            subprocess.run([os.environ["VADPIPE"], "run", pipeline, "--quiet"], check=True)
        print("| what | vadpipe | floor | ratio |\n|---|---|---|---|")
        import_time(f"{folder}/module")

        big = vadpipe.read("big.toml", "big")
        source = next(path for path in big.folder.iterdir() if path.suffix == ".safetensors")
        copied = median(lambda: shutil.copyfile(source, "copy"))
        row("`read` of 80 MB", median(lambda: vadpipe.read("big.toml", "big")), copied, "a plain copy")

        command = [os.environ["VADPIPE"], "metrics", "sweep.toml", "--csv"]
        with open("plain.csv", "wb") as file:
            subprocess.run(command, stdout=file, check=True)
        tables = [name for name in ("polars", "pandas") if importlib.util.find_spec(name)]
        parse = (lambda: importlib.import_module(tables[0]).read_csv("plain.csv")) if tables else read_plain
        parse()
        what = f"`metrics` of {given.points:,} points, with {tables[0] if tables else 'lists'}"
        row(what, median(lambda: vadpipe.metrics("sweep.toml")), median(parse), "a CSV file")


def read_plain():
    with open("plain.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
