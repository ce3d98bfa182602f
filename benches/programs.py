"""Measures `train-command` with real training programs: what is trained, whether the bytes agree, and what it costs.

    benches/programs.py path/to/vadpipe [PART...] [--library torch|numpy|std|all] [--quick] [--seed N] [--gigabytes N]

PARTs: overhead, memory, longer, kill, branches, faults, prune (default: all). Needs Python 3. Trains with PyTorch if it
and safetensors are installed, else with numpy and safetensors, else with the standard library; `--library all` trains
with each of them that is installed. Exit code 1 if a result is wrong.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
NEEDS = {"torch": ("torch", "safetensors"), "numpy": ("numpy", "safetensors"), "std": ()}
NAMES = {"torch": "PyTorch", "numpy": "numpy", "std": "Python's standard library"}
PIPELINE = """
[pipeline]
name = "bench"
seed = 7

{matrix}
[stages.data]
kind = "command"
argv = ["python3", "data.py", "{{outputs.data}}", "1000", "500"]
outputs = {{ data = "data.json" }}

[stages.net]
kind = "train-command"
inputs = {{ data = "data" }}
argv = ["python3", "train.py"]
{net}

[stages.net.start]
width = 32

[stages.net.epoch]
lr = {lr}
"""

# What a part found to be wrong.
WRONG = []


def row(what, measured, right):
    """Prints a line of the table."""
    print(f"| {what} | {' '.join(measured.split())} | {'yes' if right else '**NO**'} |", flush=True)
    if not right:
        WRONG.append(what)


class Project:
    """A folder with a pipeline, the training program and a cache."""

    def __init__(self, folder, net, lr="0.01", matrix=""):
        self.folder = folder
        folder.mkdir()
        shutil.copy(PROGRAMS / "data.py", folder / "data.py")
        shutil.copy(PROGRAMS / f"train_{OPTIONS.library}.py", folder / "train.py")
        (folder / "p.toml").write_text(PIPELINE.format(matrix=matrix, net=net, lr=lr))

    def start(self, *words):
        return subprocess.Popen(
            [OPTIONS.vadpipe, *words], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def vadpipe(self, *words, expected=(0,)):
        process = self.start(*words)
        out, error = process.communicate()
        if process.returncode not in expected:
            sys.exit(f"`vadpipe {' '.join(words)}` exited with {process.returncode}:\n{out}{error}")
        return out + (error if words[0] == "verify" else "")

    def run(self, *words):
        """Runs the pipeline. Returns the (point, epoch) that were trained, in order."""
        events = map(json.loads, self.vadpipe("run", "p.toml", "--json", *words).splitlines())
        return [(event["stage"], event["epoch"]) for event in events if event["event"] == "epoch"]

    def digest(self, *words):
        return json.loads(self.vadpipe("show", "p.toml", "net", "--json", *words))["net"]["digest"]


def longer(folder):
    net = "segment_epochs = 10\nepochs = 100"
    more = ("-S", "stages.net.epochs=200")
    grown, whole = (Project(folder / name, net) for name in ("grown", "whole"))
    grown.run()
    trained = grown.run(*more)
    whole.run(*more)
    same = grown.digest(*more) == whole.digest(*more)
    exact = [epoch for _, epoch in trained] == list(range(101, 201))
    text = f"trains {len(trained)}; {'the bytes of' if same else 'other bytes than'} 200 in one go"
    row("100 → 200 epochs", text, exact and same)


def kill(folder):
    count = 5 if OPTIONS.quick else 100
    # PyTorch takes seconds to start.
    segment, epochs = (2, 6) if OPTIONS.library == "torch" else (5, 60)
    net = f"segment_epochs = {segment}\nepochs = {epochs}"
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def undisturbed(number):
        whole, begun = Project(folder / f"whole-{number}", net), time.monotonic()
        whole.run()
        return time.monotonic() - begun, whole.digest()

    # As many at a time as attempts below, so that they take as long.
    seconds, expected = min(pool.map(undisturbed, range(os.cpu_count())))
    draw = random.Random(OPTIONS.seed)
    # By finished epochs and not by the clock, so that a busy machine does not move all kills to the first epoch.
    moments = [(draw.randrange(epochs), draw.uniform(0, 2 * seconds / epochs)) for _ in range(count)]

    def attempt(number):
        """Kills a training at a random moment and runs it to its end. Returns whether the bytes are right."""
        finished, delay = moments[number]
        while True:
            project = Project(folder / f"killed-{number}", net)
            process = project.start("run", "p.toml", "--json")
            reached = (line for line in process.stdout if json.loads(line)["event"] == "epoch")
            all(next(reached, None) for _ in range(finished))
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                break
            # It was already finished.
            process.communicate()
            shutil.rmtree(project.folder)
            delay *= 0.5
        trained = project.run()
        right = project.digest() == expected
        print(f"kill {number + 1} of {count}: {'the same' if right else 'ANOTHER'} digest", file=sys.stderr)
        shutil.rmtree(project.folder)
        return right, len(trained)

    results = list(pool.map(attempt, range(count)))
    right = sum(result for result, _ in results)
    kept = epochs - sum(trained for _, trained in results) / count
    text = f"{right} of {count} the digest of one go; {kept:.1f} of {epochs} epochs were kept on average"
    row(f"`kill -9` at {count} random moments", text, right == count)


def branches(folder):
    rates = [round(0.001 * (n + 1), 3) for n in range(8)]
    net = 'segment_epochs = 20\nsegments = [{ epochs = 100 }, { epochs = 20, lr = "${matrix.late}" }]'
    project = Project(folder / "tree", net, matrix=f"[matrix]\nlate = {rates}\n")
    trained = project.run()
    trunk = sorted(epoch for _, epoch in trained if epoch <= 100)
    late = {(point, epoch) for point, epoch in trained if epoch > 100}
    twice = len(trained) - len(set(trunk)) - len(late)
    right = trunk == list(range(1, 101)) and len(late) == 8 * 20 and twice == 0
    text = f"{len(trained)} epochs trained ({100 + 8 * 20}), {twice} twice; one by one they are {8 * 120}"
    row("a trunk of 100, eight branches of 20", text, right)


RATE = 'lr = here["lr"]'
FAULTS = {
    "generator not restored": (("torch.set_rng_state", "generator.bit_generator.state", "generator.setstate"), None),
    "scheduler not in the state": (("scheduler.load_state_dict(",), None),
    "loader's position not in the state": (("sampler.load_state_dict(",), None),
    "a clock": ((RATE,), f"{RATE} * (1 + __import__('time').time_ns() % 997 / 997)"),
    "noise of the operating system": ((RATE,), f"{RATE} * (1 + os.urandom(1)[0] / 256)"),
}


def faults(folder):
    for index, (fault, (old, new)) in enumerate(FAULTS.items()):
        project = Project(folder / str(index), "segment_epochs = 2\nepochs = 4")
        path = project.folder / "train.py"
        lines = path.read_text().splitlines()
        # The line of `restore` or of the rate: dropped, or with a factor.
        (at,) = [at for at, line in enumerate(lines) if line.strip().startswith(old)]
        lines[at] = lines[at].replace(old[0], new) if new else ""
        path.write_text("\n".join(lines) + "\n")
        project.run()
        verdict = project.vadpipe("verify", "p.toml", "net", expected=(0, 3))
        kind = "not reproducible" if new else "incomplete"
        tensor = verdict.partition("tensor state/")[2].partition(" differs")[0]
        text = f"{kind}; names {tensor or 'no tensor'}" if kind in verdict else "not found"
        row(f"fault: {fault}", text, kind in verdict and bool(tensor))
    sound = Project(folder / "sound", "segment_epochs = 2\nepochs = 4")
    sound.run()
    verdict = sound.vadpipe("verify", "p.toml", "net")
    quiet = "incomplete" not in verdict and "not reproducible" not in verdict
    row("no fault", "`verify` finds none" if quiet else f"`verify` reports: {verdict}", quiet)


# Writes a state of some megabytes.
TRIVIAL = """
import json, os
start, end = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
megabytes = json.load(open(os.environ["VADPIPE_VALUES"]))["start"]["megabytes"]
with open(os.environ["VADPIPE_LOG"], "a") as log:
    for epoch in range(start, end):
        log.write(json.dumps({"epoch": epoch + 1, "loss": 1 / (epoch + 1)}) + "\\n")
with open(os.environ["VADPIPE_STATE_OUT"] + "/state.bin", "wb") as file:
    for number in range(megabytes):
        file.write((end * 1000003 + number).to_bytes(8, "little") * (1 << 17))
"""
TRIVIAL_PIPELINE = """
[pipeline]
name = "trivial"
[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
segment_epochs = 1
epochs = {epochs}
[stages.net.start]
megabytes = {megabytes}
"""


def trivial(folder, epochs, megabytes, more=""):
    folder.mkdir()
    (folder / "train.py").write_text(TRIVIAL)
    (folder / "p.toml").write_text(TRIVIAL_PIPELINE.format(epochs=epochs, megabytes=megabytes) + more)
    return folder


def overhead(folder):
    count = 10 if OPTIONS.quick else 40
    folder = trivial(folder / "overhead", count, 0)
    begun = time.monotonic()
    subprocess.run([OPTIONS.vadpipe, "run", "p.toml", "-q"], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    ours = time.monotonic() - begun
    (folder / "values.json").write_text('{"start": {"megabytes": 0}}')
    (folder / "state-0").mkdir()
    begun = time.monotonic()
    for epoch in range(count):
        new = folder / f"state-{epoch + 1}"
        new.mkdir()
        variables = {"FROM": epoch, "TO": epoch + 1, "VALUES": "values.json", "LOG": "log"}
        variables |= {"STATE_IN": f"state-{epoch}", "STATE_OUT": new}
        environment = os.environ | {f"VADPIPE_{name}": str(value) for name, value in variables.items()}
        subprocess.run(["python3", "train.py"], cwd=folder, env=environment, check=True)
    hand = time.monotonic() - begun
    more = (ours - hand) / count
    text = f"{ours:.2f} s, by hand {hand:.2f} s: {more:.3f} s more a segment (at most 0.3)"
    # The quick form also runs on busy machines.
    row(f"{count} segments of a trivial program", text, more < 0.3 or OPTIONS.quick)


def memory(folder):
    gigabytes = 0.25 if OPTIONS.quick else OPTIONS.gigabytes
    reader = """
[stages.reader]
kind = "command"
inputs = { net = "net" }
argv = ["sh", "-c", "wc -c {inputs.net}/state/state.bin > size.txt"]
outputs = { size = "size.txt" }
"""
    folder = trivial(folder / "memory", 2, int(1024 * gigabytes), reader)
    begun = time.monotonic()
    # A process of its own, since the peak is that of the largest process below it.
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-c", code, OPTIONS.vadpipe, "run", "p.toml", "-q"]
    peak = int(subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout) / 1024
    text = f"{time.monotonic() - begun:.1f} s, peak {peak:.0f} MB (at most 300)"
    row(f"two states of {gigabytes:g} GB, and a stage that reads one", text, peak < 300)


def prune(folder):
    points, epochs, rungs = (6, 18, [2, 6]) if OPTIONS.quick else (30, 45, [5, 15])
    matrix = f"""[matrix]
lr = {{ log_uniform = [1e-4, 1], samples = {points}, seed = 1 }}
[matrix.prune]
metric = "net.val_acc"
mode = "max"
rungs = {rungs}
reduction = 3
"""
    project = Project(folder / "sweep", f"segment_epochs = {rungs[0]}\nepochs = {epochs}", '"${matrix.lr}"', matrix)

    def sweep(*words):
        begun = time.monotonic()
        trained = project.run(*words)
        shown = json.loads(project.vadpipe("metrics", "p.toml", "net", "--json", *words))
        scores = {point: metrics["val_acc"] for point, metrics in shown.items() if "val_acc" in metrics}
        return trained, scores, time.monotonic() - begun

    some, scores, seconds = sweep()
    pruned = project.vadpipe("metrics", "p.toml")
    # Without pruning, the stopped points continue from their states.
    rest, all_scores, more = sweep("-S", "matrix.prune.rungs=[]")
    found, best = max(scores, key=scores.get), max(all_scores, key=all_scores.get)
    rank = sorted(all_scores.values(), reverse=True).index(scores[found]) + 1
    whole = points * epochs
    text = f"{len(some)} of {whole} epochs in {seconds:.1f} s; then {len(rest)} for all in {more:.1f} s more; "
    text += f"found {found} with {scores[found]:.3f}, the best of {len(scores)} that were not stopped"
    if scores[found] == all_scores[best]:
        text += f": the best of all {points}"
    else:
        (line,) = [line for line in pruned.splitlines() if best.partition("=")[2] in line.split()]
        why = line[line.index("after epoch") :]
        text += f", number {rank} of all {points}. The best, {best} with {all_scores[best]:.3f}, was stopped {why}"
    same = all(all_scores[point] == score for point, score in scores.items())
    right = same and len(some) + len(rest) == whole and len(some) < whole / 2
    row(f"{points} points by ASHA on `val_acc`", text, right)


PARTS = {part.__name__: part for part in (overhead, memory, longer, kill, branches, faults, prune)}
# They train with none of the libraries.
ALONE = ("overhead", "memory")


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vadpipe", help="the program, built with --release")
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to measure (default: everything)")
    parser.add_argument("--library", choices=[*NEEDS, "all"], help="the library of the training program")
    parser.add_argument("--quick", action="store_true", help="fewer kills and points, and a small state")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--gigabytes", type=float, default=4, help="of the large state; needs four times as much disk")
    found = parser.parse_intermixed_args()
    if unknown := set(found.parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(sorted(unknown))}. Known: {', '.join(PARTS)}")
    if not shutil.which(found.vadpipe):
        parser.error(f"there is no program {found.vadpipe}")
    found.vadpipe = str(pathlib.Path(shutil.which(found.vadpipe)).resolve())
    installed = [name for name, needs in NEEDS.items() if all(map(importlib.util.find_spec, needs))]
    if found.library not in (None, "all", *installed):
        parser.error(f"{' and '.join(NEEDS[found.library])} are not installed for {sys.executable}")
    found.libraries = installed if found.library == "all" else [found.library or installed[0]]
    return found


def measure(heading, names):
    """Prints the table of these parts."""
    if not names:
        return
    print(f"{heading}\n\n| what | measured | as promised |\n|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            PARTS[name](pathlib.Path(folder))
    print()


def main():
    parts = OPTIONS.parts or PARTS
    measure(f"{os.cpu_count()} cores", [part for part in parts if part in ALONE])
    for library in OPTIONS.libraries:
        OPTIONS.library = library
        measure(f"Training with {NAMES[OPTIONS.library]}", [part for part in parts if part not in ALONE])
    sys.exit(f"wrong: {', '.join(WRONG)}" if WRONG else 0)


if __name__ == "__main__":
    OPTIONS = options()
    # The programs are started as `python3`: the interpreter that runs the bench.
    os.environ["PATH"] = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    main()
