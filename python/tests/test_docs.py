"""The script, the pipeline and the commands of docs/python.md."""

import re
import shlex
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_page_runs_as_written(project):
    pytest.importorskip("torch")
    pytest.importorskip("numpy")
    (diff,) = blocks("diff")
    sides = {side: "".join(line[1:] + "\n" for line in diff.splitlines() if line[:1] in (" ", side)) for side in "-+"}
    assert sum(line.startswith("+") for line in diff.splitlines()) <= 12
    project.write("train.py", sides["+"])
    # The package comes from the environment, which a user needs not hand through.
    toml = blocks("toml")[0].replace("python =", 'pass_env = ["PYTHONPATH"]\npython =')
    project.write("p.toml", toml.replace("segment_epochs = 5", "segment_epochs = 10"))
    commands = [line.partition("#")[0] for block in blocks("sh")[1:] for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "vadpipe":
            output = project.call(*arguments)
            if arguments[0] == "verify":
                assert "incomplete" not in output and "not reproducible" not in output, output
        else:
            project.by_hand()
    assert (project.folder / "model.pt").exists()
    if (project.folder / "out" / "data" / "train.safetensors").exists() and has_safetensors():
        project.write("train.py", sides["-"])
        project.by_hand()


def has_safetensors():
    try:
        import safetensors.torch  # noqa: F401
    except ImportError:
        return False
    return True
