"""The scripts, pipelines and commands of docs/python.md and README.md, and the pipelines that are shipped."""

import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"
PIPELINES = ROOT / "pipelines"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def sides_of_the_diff():
    """The script before and after, and the number of added lines."""
    lines = blocks("diff")[0].splitlines()
    before, after = ("".join(line[1:] + "\n" for line in lines if line[:1] in (" ", side)) for side in "-+")
    return before, after, sum(line.startswith("+") for line in lines)


def given_environment(project, pipeline):
    """The pipeline with the package of the tests, which a user needs not hand through."""
    project.environment["OMP_NUM_THREADS"] = "1"
    return re.sub("^python =", 'pass_env = ["PYTHONPATH", "OMP_NUM_THREADS"]\npython =', pipeline, flags=re.MULTILINE)


def write_shipped(project, name, *scripts):
    """Puts a shipped pipeline and its scripts into the project."""
    (project.folder / "scripts").mkdir()
    project.write("p.toml", given_environment(project, (PIPELINES / name).read_text()))
    for script in scripts:
        project.write(f"scripts/{script}", (PIPELINES / "scripts" / script).read_text())


def assert_in_one_go(project, *arguments, point):
    """Trains a point in another cache in one go, and compares its result with the one in `cache`."""
    project.call("run", *arguments, point, cache="other")
    shown = [project.call("show", *arguments, point, "--json", cache=cache) for cache in ("cache", "other")]
    records = [json.loads(text)[point] for text in shown]
    assert records[0]["digest"] == records[1]["digest"]
    return records[0]


def test_page_shows_the_shipped_pipeline_and_script():
    _, after, added = sides_of_the_diff()
    assert after == (PIPELINES / "scripts" / "train_pytorch.py").read_text()
    assert added <= 11
    comment, pipeline = (PIPELINES / "pytorch.toml").read_text().split("[pipeline]", 1)
    assert blocks("toml")[0] == "[pipeline]" + pipeline
    assert all(line.startswith("#") for line in comment.splitlines() if line)


def test_page_runs_as_written(project):
    pytest.importorskip("torch")
    pytest.importorskip("numpy")
    before, _, _ = sides_of_the_diff()
    write_shipped(project, "pytorch.toml", "train_pytorch.py")
    pipeline = (project.folder / "p.toml").read_text().replace("lr = [1e-3, 1e-2]", "lr = [1e-3]")
    project.write("pytorch.toml", pipeline)
    commands = [line.partition("#")[0] for block in blocks("sh")[1:3] for line in block.splitlines()]
    programs = []
    for command in commands:
        program, *arguments = shlex.split(command)
        programs.append((program, arguments[0]))
        if program == "vadpipe":
            output = project.call(*arguments)
            if arguments[0] == "verify":
                assert "incomplete" not in output and "not reproducible" not in output, output
        else:
            project.by_hand(script=arguments[0])
    script = "scripts/train_pytorch.py"
    verbs = [("vadpipe", verb) for verb in ("run", "run", "verify", "export")]
    assert programs == [*verbs, ("python3", script)]
    assert (project.folder / "model.pt").exists()
    assert_in_one_go(project, "pytorch.toml", "-S", "params.epochs=40", point="net@lr=0.001")
    if has_safetensors():
        project.write(script, before)
        project.by_hand(script=script)


def test_program_of_the_readme_runs_as_written(project):
    pytest.importorskip("torch")
    readme = (ROOT / "README.md").read_text()

    def block(name):
        return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", readme, re.DOTALL).group(1)

    project.write("train.py", block("train.py"))
    pipeline = given_environment(project, block("mine.toml"))
    # Fewer processes, each of which imports torch.
    project.write("mine.toml", pipeline.replace("segment_epochs = 10 ", "segment_epochs = 50 "))
    commands = [shlex.split(line.partition("#")[0]) for line in block("its commands").splitlines()]
    first, longer, verify, by_hand = commands
    outputs = [project.call(*command[1:], "net@lr=0.01", "--json") for command in (first, longer)]
    trained = [[json.loads(line)["epoch"] for line in output.splitlines() if '"epoch":' in line and '"loss"' in line]
               for output in outputs]  # fmt: skip
    assert trained == [list(range(1, 101)), list(range(101, 201))]
    output = project.call(*verify[1:-1], "net@lr=0.01")
    assert "incomplete" not in output and "not reproducible" not in output, output
    assert by_hand == ["python3", "train.py"]
    assert "epoch 100: loss " in project.by_hand()


def test_cooldowns_share_their_trunk(project):
    pytest.importorskip("torch")
    write_shipped(project, "cooldown.toml", "train_cooldown.py", "cooldown_figure.py")
    pipeline = (project.folder / "p.toml").read_text()
    branches = [(int(a), int(b)) for a, b in re.findall(r"start = (\d+), epochs = (\d+) }", pipeline)]
    together, alone = max(branches)[0] + sum(length for _, length in branches), sum(map(sum, branches))
    assert f"trains {together} epochs" in pipeline and f"have {alone}" in pipeline
    assert f"**{together} epochs** instead of {alone}" in PAGE.read_text()
    # Three short branches of few images.
    pipeline = re.sub(r"    \{ name = \"[4-8]0\".*\n", "", pipeline).replace("train = 2000", "train = 64")
    project.write("p.toml", re.sub(r"start = (\d+), epochs = \d+", r"start = \1, epochs = 2", pipeline))
    events = project.call("run", "p.toml", "--json").splitlines()
    events = [json.loads(line) for line in events if line.startswith("{")]
    trained = sorted(event["epoch"] for event in events if event["event"] == "epoch")
    assert trained == sorted([*range(1, 25), 9, 10, 17, 18, 25, 26]), "the trunk is trained once"
    project.call("export", "p.toml", "figure", "--to", "out")
    figure = (project.folder / "out" / "figure" / "cooldown.svg").read_text()
    assert figure.count("<polyline") == 4 and figure.count("<circle") == 3
    ElementTree.fromstring(figure)


def test_shipped_training_with_lightning_is_exact(project):
    pytest.importorskip("lightning")
    write_shipped(project, "lightning.toml", "train_lightning.py")
    point = "net@lr=0.001"
    project.call("run", "p.toml", point, "-S", "params.epochs=5")
    project.call("run", "p.toml", point)
    record = assert_in_one_go(project, "p.toml", point=point)
    assert record["manifest"]["metrics"]["val_accuracy"] > 0.5


def has_safetensors():
    try:
        import safetensors.torch  # noqa: F401
    except ImportError:
        return False
    return True


def test_manifest_for_kubernetes_is_valid():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    yaml = pytest.importorskip("yaml")
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    manifest = yaml.safe_load(re.search(r"<!-- the manifest -->\n```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1])
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    # Every option of the worker exists.
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    words = container["command"][1:] + container["args"]
    assert words[0] == "worker"
    options = {word for word in words if word.startswith("--")}
    assert options == {"--run", "--store", "--threads", "--memory", "--name"}
