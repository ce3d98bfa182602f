"""Reading results, the program, and `python3 -m vadpipe exec`."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vadpipe

ROOT = Path(__file__).parents[2]

TRAIN = """
    import vadpipe
    run = vadpipe.chain(epochs=3)
    total = {"sum": 0.0}
    run.restore(total=total)
    for epoch in run.epochs():
        total["sum"] += run.value("lr", 1.0)
        run.log(sum=total["sum"], **({"even": 1} if epoch % 2 == 0 else {}))
    if run.outputs_due:
        run.output("table").write_text("a,b")
        run.log(bad=float("nan"))
"""


@pytest.fixture
def sweep(project, monkeypatch):
    project.write("train.py", TRAIN)
    more = """
        [matrix]
        lr = [0.5, 2.0]
        [stages.report]
        kind = "report"
        inputs = { shown = ["net@*"] }
        [stages.data]
        kind = "load-data"
        source = "synthetic"
        train = 20
        test = 5
    """
    project.pipeline('outputs = { table = "table.csv" }', epoch='lr = "${matrix.lr}"', more=more)
    project.run()
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("VADPIPE", project.program)
    monkeypatch.delenv("VADPIPE_CACHE", raising=False)
    return project


def test_read_gives_tensors_files_metrics_and_the_state(sweep):
    artifact = vadpipe.read("p.toml", "net@lr=2")
    assert artifact.metrics["sum"] == 8.0
    assert artifact.files["table.csv"].read_text() == "a,b"
    assert artifact.history == {"sum": [2.0, 4.0, 6.0, 8.0], "even": [1.0, None, 1.0, None]}
    assert artifact.restore(total={"sum": 0.0}) == {"sum": 8.0}
    with pytest.raises(vadpipe.Error, match="has no `model`; it has `generators`, `total`"):
        artifact.restore(model={})
    folder = artifact.folder
    assert folder.exists()
    del artifact
    assert not folder.exists()


def test_read_gives_arrays(sweep):
    pytest.importorskip("numpy")
    data = vadpipe.read("p.toml", "data", cache="cache")
    assert data["train.images"].shape[0] == 20 and data["test.labels"].shape == (5,)
    with pytest.raises(KeyError, match="no tensor `images`"):
        data["images"]


def test_metrics_are_rows(sweep):
    rows = vadpipe.metrics("p.toml", "net", table="rows")
    assert [(row["stage"], row["lr"], row["sum"]) for row in rows] == [("net", 0.5, 2.0), ("net", 2.0, 8.0)]
    assert math.isnan(rows[0]["bad"])
    assert {row["stage"] for row in vadpipe.metrics("p.toml", table="rows")} == {"net", "data"}


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_metrics_are_a_table(sweep, library):
    pytest.importorskip(library)
    table = vadpipe.metrics("p.toml", "net", table=library)
    assert list(table["sum"]) == [2.0, 8.0]


def test_history_is_a_row_for_each_epoch(sweep):
    rows = vadpipe.history("p.toml", "net@lr=0.5", table="rows")
    assert rows[1] == {"epoch": 2, "sum": 1.0, "even": None}


def test_report_is_shown_in_a_notebook(sweep):
    report = vadpipe.report("p.toml")
    assert "<!doctype html>" in report.html.lower() and "net@lr=0.5" in report.html
    assert 'srcdoc="&lt;!' in report._repr_html_()
    report.save("report.html")
    assert Path("report.html").read_text() == report.html


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vadpipe.read("q.toml", "net"), "there is no pipeline file q.toml"),
        (lambda: vadpipe.read("p.toml", "nett"), "no stage and no point matches `nett`"),
        (lambda: vadpipe.read("p.toml", "net"), "`net` matches 2 results; name one of: net@lr=0.5, net@lr=2"),
        (lambda: vadpipe.read("p.toml", "net@lr=2", set={"params.epochs": 99}), "net@lr=2"),
        (lambda: vadpipe.history("p.toml", "data"), "`data` has no curves"),
        (lambda: vadpipe.report("p.toml", "data"), "`data` is not a report"),
        (lambda: vadpipe.metrics("p.toml", table="excel"), "there are no tables `excel`"),
    ],
)
def test_mistakes_are_explained(sweep, call, message):
    with pytest.raises(vadpipe.Error, match=re.escape(message)):
        call()


def test_import_is_light():
    code = "import sys, vadpipe; print(sorted(set(sys.modules) & {'numpy', 'torch', 'jax', 'subprocess', 'pandas'}))"
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'python')!r}); {code}"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"



def test_exec_lists_what_an_isolated_script_reads(project):
    project.write("train.py", """
        import sys
        assert __name__ == "__main__" and sys.argv[1:] == ["a", "b"], sys.argv
        import helper
        import vadpipe
        run = vadpipe.chain(epochs=1)
        run.restore(seen=[])
        for epoch in run.epochs():
            run.log(value=helper.VALUE)
    """)
    project.write("helper.py", "VALUE = 1")
    site = project.environment["PYTHONPATH"]
    start = f"import sys; sys.path.insert(0, {site!r}); sys.argv[1:1] = ['exec']"
    start += "; from vadpipe.__main__ import main; main()"
    # As `python3 -I -m vadpipe exec train.py a b` of an installed package.
    project.pipeline(argv=["python3", "-I", "-c", start, "train.py", "a", "b"])
    project.run()
    project.write("helper.py", "VALUE = 2")
    assert "helper.py" in project.call("plan", "p.toml")
    project.run()
    assert project.result()["manifest"]["metrics"] == {"value": 2.0}


def test_module_runs_the_program(project):
    environment = {**project.environment, "VADPIPE": project.program}
    words = [sys.executable, "-m", "vadpipe"]
    done = subprocess.run([*words, "--version"], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("vadpipe ")
    done = subprocess.run([*words, "exec", "none.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "vadpipe: there is no script none.py\n"


def test_safetensors_files_are_checked(tmp_path):
    from vadpipe import Artifact

    for content in [b"", b"\xff" * 20, b"\2\0\0\0\0\0\0\0[]", b"\4\0\0\0\0\0\0\0nope"]:
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(vadpipe.Error, match="is not a valid safetensors file"):
            Artifact(tmp_path)
    for tensor in [{"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, {"dtype": "F32"}, 3,
                   {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}]:  # fmt: skip
        text = json.dumps({"a": tensor}).encode()
        (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        with pytest.raises(vadpipe.Error, match="is not a valid safetensors file"):
            Artifact(tmp_path)


def test_program_and_module_have_the_same_version(program):
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert shown == f"vadpipe {vadpipe.__version__}\n"
