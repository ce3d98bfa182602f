"""Scripts with numpy on the chain: extended, killed, branched, by hand, and with mistakes."""

import json
import signal
import time

import pytest

pytest.importorskip("numpy")

# A model that depends on everything that a state can lose: momentum, four generators, a list, a dict and a number.
TRAIN = """
    import math, os, random, sys, time
    import numpy as np
    import vadpipe

    run = vadpipe.chain(epochs=4)
    weights = np.random.standard_normal(run.value("width", 3, optional=True))
    momentum = np.zeros_like(weights)
    rng, own = np.random.default_rng(run.seed), random.Random(run.seed)
    seen, totals = [], {1: (0.5, None)}
    run.restore(weights=weights, momentum=momentum, rng=rng, own=own, seen=seen, totals=totals)
    best = run.restore(best=math.inf)

    for epoch in run.epochs():
        if os.environ.get("STOP_AT") == str(epoch):
            open(os.environ["TRACE"] + ".stopped", "w").close()
            time.sleep(60)
        noise = rng.standard_normal() + own.random() + random.random() + np.random.rand()
        momentum *= 0.9
        momentum += weights - noise
        weights -= run.value("lr", 0.1) * momentum
        loss = float((weights**2).sum())
        best = min(best, loss)
        seen.append(loss)
        totals[epoch + 2] = (best, len(seen))
        run.update(best=best)
        run.log(loss=loss, best=best, _noise=noise)
        with open(os.environ["TRACE"], "a") as trace:
            print(epoch, file=trace)

    if run.outputs_due:
        np.save(run.output("weights.npy"), weights)
        run.log(norm=np.linalg.norm(weights), count=len(seen), totals=len(totals))
"""

OUTPUTS = """outputs = { weights = "weights.npy" }"""


@pytest.fixture
def training(project):
    project.write("train.py", TRAIN)
    project.pipeline(OUTPUTS, start="width = 5")
    return project


def test_extended_training_equals_one_go(training):
    training.run(4)
    training.run(8)
    assert training.trained() == list(range(8))
    training.run(8, cache="other")
    extended, once = training.result(8), training.result(8, cache="other")
    assert extended["digest"] == once["digest"]
    assert extended["manifest"]["metrics"]["count"] == 8.0
    assert extended["manifest"]["metrics"]["totals"] == 9.0


def test_warm_training_extended_equals_one_go(project):
    project.write("train.py", TRAIN)
    project.pipeline(f"warm = true\n{OUTPUTS}", start="width = 5")
    project.run(4)
    project.run(8)
    assert project.trained() == list(range(8))
    project.run(8, cache="other")
    assert project.result(8)["digest"] == project.result(8, cache="other")["digest"]
    assert project.verified()["finding"] == "exact"


def test_outputs_see_the_values_of_the_last_epoch(project):
    project.write(
        "train.py",
        """
        import vadpipe

        run = vadpipe.chain(epochs=4)
        run.restore(seen=[])
        for epoch in run.epochs():
            run.log(lr=run.value("lr"))
        if run.outputs_due:
            run.output("rate").write_text(str(run.value("lr")))
            run.log(last=run.value("lr"))
        """,
    )
    project.pipeline("outputs = { rate = 'rate.txt' }", epoch="lr = 0.25")
    project.run(4)
    assert project.result(4)["manifest"]["metrics"]["last"] == 0.25


def test_killed_training_continues_with_the_same_bytes(training):
    run = training.start("run", "p.toml", STOP_AT="3")
    stopped = training.trace.with_suffix(".stopped")
    deadline = time.monotonic() + 30
    while not stopped.exists():
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    training.run()
    assert training.trained() == [0, 1, 2, 2, 3]
    training.run(cache="other")
    assert training.result()["digest"] == training.result(cache="other")["digest"]


def test_branch_trains_only_its_own_epochs(project):
    project.write("train.py", TRAIN)
    trunk = "segments = [{ epochs = 4 }, { epochs = 2 }]"
    project.pipeline(trunk)
    project.call("run", "p.toml")
    trunk_result = project.result()
    project.pipeline("segments = [{ epochs = 4 }, { epochs = 2, lr = 0.01 }]")
    project.call("run", "p.toml")
    assert project.trained() == [0, 1, 2, 3, 4, 5, 4, 5]
    project.call("run", "p.toml", cache="other")
    assert project.result()["digest"] == project.result(cache="other")["digest"]
    assert project.result()["digest"] != trunk_result["digest"]


def test_state_is_complete(training):
    training.run()
    found = training.verified()
    assert found["same"] and found["program"]["incomplete"] is None


def test_state_without_a_generator_is_incomplete(project):
    project.write("train.py", TRAIN.replace("rng=rng, ", ""))
    project.pipeline()
    project.run()
    assert project.verified()["program"]["incomplete"] is not None


def test_state_has_no_pickle(training):
    training.run()
    training.call("export", "p.toml", "net", "--to", "out")
    state = training.folder / "out" / "net" / "state"
    names = sorted(path.name for path in state.iterdir())
    assert names == [
        "best.json", "generators.json", "generators.safetensors", "momentum.json", "momentum.safetensors", "own.json",
        "rng.json", "seen.json", "totals.json", "weights.json", "weights.safetensors",
    ]  # fmt: skip
    for path in state.glob("*.json"):
        json.loads(path.read_text())


def test_script_started_by_hand_trains_from_the_beginning(training):
    training.by_hand()
    assert training.trained() == [0, 1, 2, 3]
    names = {path.name for path in training.folder.iterdir()}
    assert names == {"p.toml", "train.py", "weights.npy"}


def test_values_of_segments_and_of_start(project):
    project.write("train.py", """
        import vadpipe
        run = vadpipe.chain()
        total = run.restore(total=0.0)
        for epoch in run.epochs():
            lr = run.value("lr")
            total += lr * run.value("scale", 1.0)
            assert type(run.value("whole", 1.0)) is float and run.value("other", "none", optional=True) == "none"
            run.update(total=total)
            run.log(total=total, lr=lr)
    """)
    project.pipeline("segments = [{ epochs = 3 }, { epochs = 2, lr = 0.5 }]", start="scale = 10.0\nwhole = 1")
    project.call("run", "p.toml")
    assert project.result()["manifest"]["metrics"] == {"lr": 0.5, "total": pytest.approx(13.0)}


OPTIONS = """
    import argparse, sys
    from dataclasses import dataclass, field
    import vadpipe
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.1)
    run = vadpipe.chain(epochs=2)
    args = run.values(parser.parse_args())
    width, total = run.restore(width=args.width, total=0.0)
    for epoch in run.epochs():
        run.values(args)
        assert type(args.lr) is float
        total += args.lr
        run.update(width=args.width, total=total)
        run.log(total=total, width=args.width)
"""
OF_DATACLASS = """
    @dataclass
    class Options:
        width: int = 3
        lr: float = 0.1
"""


@pytest.mark.parametrize("kind", ["argparse", "dict", "dataclass"])
def test_options_of_a_script_get_the_values_of_the_stage(project, kind):
    made = {"argparse": "parser.parse_args()", "dict": "vars(parser.parse_args())", "dataclass": "Options()"}[kind]
    script = OPTIONS.replace("parser.parse_args()", made).replace("    run =", OF_DATACLASS + "    run =")
    read = {"dict": "args['NAME']"}.get(kind, "args.NAME")
    for name in ("width", "lr"):
        script = script.replace(f"args.{name}", read.replace("NAME", name))
    project.write("train.py", script)
    project.pipeline("segments = [{ epochs = 3 }, { epochs = 2, lr = 1 }]", start="width = 5", epoch="lr = 0.5")
    project.call("run", "p.toml")
    assert project.result()["manifest"]["metrics"] == {"total": 3.5, "width": 5.0}
    assert "has read it only before" not in project.call("log", "last", "--stage", "net")
    assert "epoch 2: total 0.2, width 3" in project.by_hand()


def test_value_that_is_no_option_of_the_script_is_an_error(project):
    project.write("train.py", OPTIONS)
    project.pipeline(start="widht = 5")
    project.run(expect=1)
    message = "the stage gives `widht`, but the script has no option of this name; did you mean `width`? Its options: "
    assert message + "`lr`, `width`" in project.call("log", "last", "--stage", "net")


def test_values_take_only_what_has_names(project):
    project.write("train.py", "import vadpipe\nvadpipe.chain(epochs=1).values(3)")
    assert "values() takes a Namespace of argparse, a dataclass or a dict, not a int" in project.by_hand(expect=1)


def test_option_is_read_before_the_loop_only(project):
    project.write("train.py", OPTIONS.replace("        run.values(args)\n", ""))
    project.pipeline(start="width = 5")
    project.run()
    log = project.call("log", "last", "--stage", "net")
    assert "`lr` is a value of epochs, but the script has read it only before the loop" in log and "`width`" not in log


def test_loop_may_end_early_by_hand_and_in_a_command(project):
    project.write("train.py", """
        import vadpipe
        run = vadpipe.chain(epochs=5)
        run.restore(seen=[])
        for epoch in run.epochs():
            run.log(epoch_is=epoch)
            if epoch == 1:
                break
        run.log(last=run.value("last", 0))
        run.output("done.txt").write_text("done")
    """)
    assert project.by_hand() == "epoch 1: epoch_is 0\nepoch 2: epoch_is 1\n"
    project.write("p.toml", """
        [pipeline]
        name = "p"
        [stages.net]
        kind = "command"
        argv = ["python3", "train.py"]
        pass_env = ["PYTHONPATH"]
        values = { last = 3 }
        outputs = { done = "done.txt" }
    """)
    project.call("run", "p.toml")
    assert project.result()["manifest"]["metrics"]["last"] == 3.0
    project.write("p.toml", (project.folder / "p.toml").read_text().replace("last = 3", "lats = 3"))
    project.call("run", "p.toml", expect=1)
    log = project.call("log", "last", "--stage", "net")
    assert "the stage has no value `last`; did you mean `lats`? Its values: `lats`; add it to its table `values`" in log


def test_training_that_stops_early_equals_one_go(project):
    project.write("train.py", """
        import math, os, vadpipe
        run = vadpipe.chain(epochs=9)
        stop = {"best": math.inf, "epoch": 0}
        loss = run.restore(stop=stop, loss=5.0)[1]
        for epoch in run.epochs():
            if epoch - stop["epoch"] > 2:
                run.log(best=stop["best"])
                run.update(loss=loss)
                continue
            with open(os.environ["TRACE"], "a") as trace:
                print(epoch, file=trace)
            loss += -1.0 if epoch < 3 else 0.5
            if loss < stop["best"]:
                stop.update(best=loss, epoch=epoch)
            run.update(loss=loss)
            run.log(loss=loss, best=stop["best"])
    """)
    project.pipeline('select = { metric = "loss", mode = "min" }', epoch="")
    project.run(4)
    project.run(8)
    assert project.trained() == [0, 1, 2, 3, 4], "no epoch is trained after the stop"
    project.run(8, cache="other")
    result = project.result(8)
    assert result["digest"] == project.result(8, cache="other")["digest"]
    assert result["manifest"]["metrics"] == {"best": 2.0, "best_epoch": 3.0, "loss_best": 2.0}


def test_command_stage_trains_from_the_beginning(project):
    project.write("train.py", TRAIN.replace("own.random()", "len(run.inputs['data'])"))
    project.write("p.toml", """
        [pipeline]
        name = "p"
        [stages.data]
        kind = "load-data"
        source = "synthetic"
        train = 20
        test = 5
        [stages.net]
        kind = "command"
        inputs = { data = "data" }
        argv = ["python3", "train.py"]
        pass_env = ["PYTHONPATH", "TRACE"]
        values = { width = 6, lr = 0.1 }
        outputs = { weights = "weights.npy" }
    """)
    project.call("run", "p.toml")
    assert project.trained() == [0, 1, 2, 3]
    assert project.result()["manifest"]["metrics"]["count"] == 4.0


def test_epoch_without_a_log_and_epochs_from_one(project):
    project.write("train.py", """
        import vadpipe
        run = vadpipe.chain(epochs=2)
        seen = []
        run.restore(seen=seen)
        assert len(run.epochs()) == 2
        for epoch in run.epochs(1):
            seen.append(epoch)
            run.step(3, loss=0.5)
        print("seen", seen)
    """)
    project.pipeline()
    project.run()
    assert "seen [1, 2, 3, 4]" in project.call("log", "last", "--stage", "net")
    assert "seen [1, 2]" in project.by_hand()


def test_inputs_are_read_by_name(project):
    project.write("train.py", """
        import sys, vadpipe
        run = vadpipe.chain(epochs=1, inputs={"data": sys.argv[-1]})
        data = run.inputs["data"]
        labels = data["train.labels"]
        assert len(labels) == 20 and not labels.flags.writeable, labels
        counts = []
        run.restore(counts=counts)
        for epoch in run.epochs():
            counts.append(int(labels.sum()))
            run.log(sum=counts[-1], classes=data.metrics["classes"])
    """)
    project.pipeline('inputs = { data = "data" }\nepochs = 2', more="""
        [stages.data]
        kind = "load-data"
        source = "synthetic"
        train = 20
        test = 5
    """)
    project.call("run", "p.toml")
    assert project.result()["manifest"]["metrics"]["classes"] == 10.0
    project.call("export", "p.toml", "data", "--to", "out")
    project.by_hand(str(project.folder / "out" / "data"))


@pytest.mark.parametrize(
    "change, message",
    [
        (("run.update(best=best)", ""), "call run.update(best=best) in each epoch"),
        (("run.log(loss=loss,", "run.log(epoch=1,"), "`epoch` has a meaning of its own"),
        (("run.log(loss=loss,", "run.log(loss=weights,"), "`loss` has several elements"),
        (("run.log(loss=loss,", "run.log(loss='x',"), "`loss` is a str; only numbers can be logged"),
        (("seen=seen", "seen=open"), "which can't be saved; give it the methods `state_dict`"),
        (("seen=seen", "generators=seen"), "`generators` can't be the name"),
        (("best = run.restore", "best = run.restore(rng=rng), run.restore"), "`rng` was restored before"),
        (("run.update(best=best)", "run.update(other=best)"), "`other` is no part of the state"),
        (("epochs=4", ""), "chain(epochs=10)"),
        (('"width", 3, optional=True', '"width"'), 'give a default: value("width", …)'),
    ],
)
def test_mistakes_are_explained_by_hand(project, change, message):
    assert change[0] in TRAIN
    project.write("train.py", TRAIN.replace(*change))
    assert message in project.by_hand(expect=1)


@pytest.mark.parametrize(
    "change, message",
    [
        (('run.value("lr", 0.1)', "run.value('rate')"), "the stage has no value `rate`; its values: `lr`; add it to"),
        (('"lr", 0.1', '"lrr", 0.1'), "the stage has no value `lrr`; did you mean `lr`? Its values: `lr`; add it to "
         'its table `start` or `epoch`, or, if some pipelines don\'t give it, write value("lrr", …, optional=True)'),
        (("seen.append(loss)", "break"), "the loop ended in epoch 1, but vadpipe asked for the state after epoch 2; "
         "leave no epoch out: let those after an early stop do nothing, with `continue` instead of `break`"),
        (("weights = np.random.standard_normal(run.value(\"width\", 3, optional=True))",
          "weights = np.zeros(3 if 'VADPIPE_STATE_IN' not in os.environ else 4)"), "make it with the same shape"),
        (("seen=seen, ", "**({'seen': seen} if 'VADPIPE_STATE_IN' not in os.environ else {}), "),
         "the state has `seen`, which this process has not restored"),
        (("seen=seen, ", "**({'seen': seen} if 'VADPIPE_STATE_IN' in os.environ else {}), "),
         "the state after epoch 2 has no `seen`; it has `best`"),
    ],
)  # fmt: skip
def test_mistakes_are_explained_in_a_run(project, change, message):
    assert change[0] in TRAIN
    project.write("train.py", TRAIN.replace(*change))
    project.pipeline()
    project.run(expect=1)
    assert message in project.call("log", "last", "--stage", "net")


def test_unread_values_are_named(project):
    project.write("train.py", TRAIN.replace("for epoch in", "rate = run.value('rate')\n    for epoch in"))
    project.pipeline(start="widht = 5", epoch="lr = 0.1\nrate = 2")
    project.run()
    log = project.call("log", "last", "--stage", "net")
    assert log.count("the script has not read the value `widht` of the stage") == 1
    assert "`rate` is a value of epochs, but the script has read it only before the loop" in log
    assert "`lr`" not in log


def test_failed_state_keeps_the_last_good_one(project):
    project.write("train.py", TRAIN.replace("seen.append(loss)", "seen.append(loss if epoch < 3 else len)"))
    project.pipeline()
    project.run(expect=1)
    assert project.trained() == [0, 1, 2, 3]
    project.run(2)
    assert project.trained() == [0, 1, 2, 3]


def test_other_protocol_is_refused(project):
    project.write("train.py", TRAIN)
    project.environment["VADPIPE_PROTOCOL"] = "2"
    assert "pip install --upgrade vadpipe" in project.by_hand(expect=1)


def test_what_changes_in_place():
    import random

    import numpy as np

    from vadpipe._tree import changes_in_place

    for value in [[], {}, set(), np.zeros(2), random.Random(), (np.zeros(1), random.Random()), bytearray()]:
        assert changes_in_place(value), value
    for value in [1, 1.5, True, "x", None, (), (1, []), np.float32(1), frozenset(), b"", 1j]:
        assert not changes_in_place(value), value


def test_plain_values_survive(tmp_path):
    from collections import Counter, OrderedDict, deque

    from vadpipe import _tree

    value = {
        "numbers": [1, 2**70, 0.1, float("inf"), True, None], "tuple": (1, (2, "x")), "bytes": b"\0\xff",
        "keys": {1: "a", (2, 3): "b", None: "c"}, "dollar": {"$": "tuple"}, "sets": [{3, 1}, frozenset({"a"})],
        "ordered": OrderedDict(b=1, a=2), "counted": Counter(a=2), "complex": 1 + 2j, "last": deque([1, 2], maxlen=3),
    }  # fmt: skip
    _tree.save(tmp_path, "value", value)
    found = _tree.load_plain(tmp_path, "value")
    assert found == value and list(map(type, found.values())) == list(map(type, value.values()))
    assert found["last"].maxlen == 3 and list(found["ordered"]) == ["b", "a"]
    target = {"numbers": [], "more": 1, "last": deque()}
    inner = target["numbers"]
    assert _tree.load(tmp_path, "value", target) is target
    assert target == value and target["numbers"] is inner


def test_state_without_an_object_of_a_list_or_dict_is_an_error(tmp_path):
    import random

    import numpy as np

    from vadpipe import Error, _tree

    def state(value):
        _tree.save(tmp_path, "own", value)

    own = random.Random(1)
    for saved, script, message in [
        ([own], [own, np.zeros(2)], r"the state has no `own\.1`, which is a ndarray in the script"),
        ([(own,)], [(own, own)], r"the state has no `own\.0\.1`, which is a Random in the script"),
        ({"a": own}, {"a": own, "b": {"c": [own]}}, r"the state has no `own\.b`, which is a dict in the script"),
        ({1: own}, {1: own, 2: own}, r"the state has no `own\.2`, which is a Random in the script"),
    ]:
        state(saved)
        with pytest.raises(Error, match=message):
            _tree.load(tmp_path, "own", script)
    # Containers grow and shrink by design, as long as they have plain values.
    state({"weights": {"w": np.ones(2)}, "seen": [], "step": print})
    best = {"weights": {}, "seen": [1.5], "loss": 0.5, "step": print, "empty": {}}
    _tree.load(tmp_path, "own", best)
    assert best["weights"]["w"].tolist() == [1.0, 1.0] and (best["seen"], best["step"]) == ([], print)
    assert set(best) == {"weights", "seen", "step"}


def test_number_of_epochs_is_unknown_in_a_stage(project):
    project.write("train.py", """
        import argparse, vadpipe
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int, default=6)
        args = parser.parse_args()
        run = vadpipe.chain(epochs=args.epochs)
        args = run.values(args)
        total = run.restore(total=0.0)
        for epoch in run.epochs():
            print("of", args.epochs)
            total += 1 - epoch / args.epochs
            run.update(total=total)
            run.log(total=total)
    """)
    assert "of 6" in project.by_hand()
    project.pipeline(epoch="")
    message = "`epochs` is unknown in a stage: a process trains one segment, and a training can be extended; give"
    assert message in project.run(expect=1)
    # The stage may give it as a value.
    project.pipeline(epoch="", start="epochs = 6")
    project.run()


def test_seed_of_a_script_by_hand(project):
    project.write("train.py", """
        import random, sys, vadpipe
        run = vadpipe.chain(epochs=1, seed=int(sys.argv[1]))
        print("drew", run.seed, random.random())
    """)
    drew = [project.by_hand(seed).split("drew")[1] for seed in ("3", "3", "4")]
    assert drew[0] == drew[1] != drew[2] and drew[0].startswith(" 3 ")


def test_output_of_another_name_is_an_error(project):
    project.write("train.py", """
        import vadpipe
        run = vadpipe.chain(epochs=1)
        run.restore(seen=[])
        for epoch in run.epochs():
            run.log(loss=1.0)
        if run.outputs_due:
            run.output("figures/one.txt").write_text("1")
            run.output("curves").write_text("a")
    """)
    project.pipeline('outputs = { curve = "curve.csv", figures = "figures/" }', epoch="")
    project.run(expect=1)
    message = "the stage has no output `curves`; did you mean `curve`? Its outputs: `curve`, `figures`"
    assert message in project.call("log", "last", "--stage", "net")
