"""Pipelines in a folder of their own, run by the program that VADPIPE names, or by the one in PATH."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def program():
    found = os.environ.get("VADPIPE") or shutil.which("vadpipe")
    if found is None:
        pytest.fail("there is no program: VADPIPE=target/release/vadpipe pytest, or put it into PATH")
    return os.path.abspath(found)


class Project:
    """A folder with a pipeline and its scripts."""

    def __init__(self, folder, program):
        self.folder, self.program = folder, program
        self.trace = folder.parent / "trace"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PACKAGE), "TRACE": str(self.trace)}
        self.environment.pop("VADPIPE_CACHE", None)

    def write(self, name, text):
        (self.folder / name).write_text(textwrap.dedent(text))

    def pipeline(self, training="", argv=("python3", "train.py"), more="", segment=2, start="", epoch="lr = 0.1"):
        self.write("p.toml", f"""
            [pipeline]
            name = "p"
            seed = 7
            {'' if 'epochs' in training else '[params]'}
            {'' if 'epochs' in training else 'epochs = 4'}
            [stages.net]
            kind = "train-command"
            argv = {json.dumps(list(argv))}
            pass_env = ["PYTHONPATH", "TRACE", "STOP_AT"]
            segment_epochs = {segment}
            {training}
            {'' if 'epochs' in training else 'epochs = "${params.epochs}"'}
            [stages.net.start]
            {start}
            [stages.net.epoch]
            {epoch}
        """)
        with open(self.folder / "p.toml", "a") as file:
            file.write(textwrap.dedent(more))

    def call(self, *arguments, cache="cache", expect=0, **environment):
        words = [self.program, *arguments, "--cache", cache]
        environment = {**self.environment, **environment}
        done = subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *arguments, cache="cache", **environment):
        words, none = [self.program, *arguments, "--cache", cache], subprocess.DEVNULL
        environment = {**self.environment, **environment}
        return subprocess.Popen(words, cwd=self.folder, env=environment, stdout=none, stderr=none)

    def run(self, epochs=4, **options):
        return self.call("run", "p.toml", "-S", f"params.epochs={epochs}", **options)

    def by_hand(self, *arguments, expect=0, folder=None, script="train.py"):
        words = [sys.executable, str(self.folder / script), *arguments]
        done = subprocess.run(words, cwd=folder or self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def result(self, epochs=None, cache="cache", target="net"):
        """The record of the result, whose digest covers its state, curves, metrics and outputs."""
        setting = [] if epochs is None else ["-S", f"params.epochs={epochs}"]
        words = [self.program, "show", "p.toml", target, "--json", *setting, "--cache", cache]
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True)
        (record,) = json.loads(done.stdout).values()
        return record

    def trained(self):
        """The epochs that the script has trained, in order."""
        return [int(line) for line in self.trace.read_text().split()] if self.trace.exists() else []

    def verified(self):
        words = [self.program, "verify", "p.toml", "net", "--json", "--cache", "cache"]
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        return json.loads(done.stdout)["stages"][0]


@pytest.fixture
def project(tmp_path, program):
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder, program)
