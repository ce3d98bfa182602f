"""Scripts with PyTorch on the chain."""

import os

import pytest

torch = pytest.importorskip("torch")

TRAIN = """
    import copy, os, random
    import numpy as np
    import torch
    from torch import nn
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR
    import vadpipe

    torch.set_num_threads(1)
    run = vadpipe.chain(epochs=4)
    torch.manual_seed(run.seed)
    data = torch.randn(48, 6)
    target = data @ torch.randn(6, 2)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2, amsgrad=True)
    sched = SequentialLR(opt, [LinearLR(opt, total_iters=3), CosineAnnealingLR(opt, 9)], milestones=[3])
    plateau = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
    slower = ReduceLROnPlateau(plateau, patience=0)
    cycle = OneCycleLR(torch.optim.Adam([nn.Parameter(torch.zeros(1))]), 0.1, 100)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=5)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    shadow = {name: own.detach().clone() for name, own in model.named_parameters()}
    half = torch.ones(3, dtype=torch.bfloat16)
    pair = torch.ones(2, dtype=torch.complex128)
    order = torch.Generator().manual_seed(run.seed)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data, target), batch_size=16, shuffle=True, generator=order
    )
    run.restore(model=model, opts=[opt, plateau], sched=sched, slower=slower, cycle=cycle, scaler=scaler, ema=ema)
    run.restore(shadow=shadow, half=half, pair=pair, loader=loader)

    for epoch in run.epochs():
        for inputs, wanted in loader:
            opt.zero_grad()
            noise = torch.randn_like(inputs) + random.random() + np.random.rand()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = ((model(inputs + 0.1 * noise) - wanted) ** 2).mean()
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            ema.update_parameters(model)
            with torch.no_grad():
                for name, own in model.named_parameters():
                    shadow[name].lerp_(own, 0.1)
        half *= 1.25
        pair *= 1.5 + 0.5j
        sched.step()
        cycle.optimizer.step()
        cycle.step()
        slower.step(float(loss))
        run.log(loss=loss, lr=sched.get_last_lr()[0], scale=scaler.get_scale(), cycle=cycle.get_last_lr()[0])

    if run.outputs_due:
        with torch.no_grad():
            np.save(run.output("predictions.npy"), model.eval()(data).numpy())
"""


def test_everything_of_pytorch_is_restored(project):
    project.write("train.py", TRAIN)
    project.pipeline('outputs = { predictions = "predictions.npy" }', epoch="")
    project.run(4)
    project.run(6)
    project.run(6, cache="other")
    assert project.result(6)["digest"] == project.result(6, cache="other")["digest"]
    metrics = project.result(6)["manifest"]["metrics"]
    assert metrics["scale"] > 16.0, "the state of the scaler is restored: it grows after 5 steps"
    project.run(4)
    found = project.verified()
    assert found["same"] and found["program"]["incomplete"] is None
    project.by_hand()


@pytest.mark.parametrize("lost", ["scaler=scaler, ", ", loader=loader"])
def test_what_is_not_restored_is_found_by_verify(project, lost):
    assert lost in TRAIN
    # Its value must reach the state that is compared.
    seen = TRAIN.replace("half *= 1.25", "half += float(loss) + sched.get_last_lr()[0] + scaler.get_scale()")
    seen = seen.replace("pair *= 1.5", "pair += float(shadow['0.bias'].sum() + ema.module[0].bias.sum())")
    project.write("train.py", seen.replace(lost, ""))
    project.pipeline(epoch="")
    project.run(4)
    assert project.verified()["program"]["incomplete"] is not None


def test_weights_are_a_file_of_safetensors_with_pytorch_names(project):
    project.write("train.py", TRAIN)
    project.pipeline(epoch="", segment=1)
    project.run(1)
    project.call("export", "p.toml", "net", "--to", "out", "-S", "params.epochs=1")
    safetensors = pytest.importorskip("safetensors.torch")
    weights = safetensors.load_file(project.folder / "out" / "net" / "state" / "model.safetensors")
    assert weights["0.weight"].shape == (8, 6) and weights["1.num_batches_tracked"] == 3


DISTRIBUTED = """
    import os, torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    import vadpipe

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    run = vadpipe.chain(epochs=4)
    torch.manual_seed(run.seed)
    model = torch.nn.Linear(4, 1)
    torch.manual_seed(run.seed + rank)
    model = DistributedDataParallel(model)
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    own = torch.Generator().manual_seed(100 + rank)
    others = [{"noise": torch.Generator().manual_seed(200 + rank)}, (torch.Generator().manual_seed(rank), 1)]
    run.restore(model=model, opt=opt, own=own, others=others)
    for epoch in run.epochs():
        inputs = torch.randn(8, 4) + torch.randn(8, 4, generator=own)
        inputs += torch.randn(8, 4, generator=others[0]["noise"]) + torch.randn(8, 4, generator=others[1][0])
        loss = ((model(inputs) - inputs.sum(1, keepdim=True)) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        dist.all_reduce(loss)
        run.log(loss=loss)
    dist.destroy_process_group()
"""


def test_two_processes_of_torchrun(project):
    assert torch.distributed.is_available()
    project.write("train.py", DISTRIBUTED)
    argv = ["python3", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    project.pipeline(argv=argv, epoch="")
    project.run(2)
    project.run(4)
    project.run(4, cache="other")
    result = project.result(4)
    assert result["digest"] == project.result(4, cache="other")["digest"]
    files, tensor_files = (result["manifest"]["state"][name] for name in ("files", "tensor_files"))
    assert {"model.json", "opt.json", "own.json", "rank1/own.json", "rank1/others.json",
            "rank1/generators.json"} <= set(files)
    own = [tensor_files[f"{folder}own.safetensors"]["tensors"]["own"]["blob"] for folder in ("", "rank1/")]
    assert own[0] != own[1]
    assert "rank1/model.json" not in files
    assert project.verified()["program"]["incomplete"] is None


def test_state_of_another_optimizer_is_explained(project):
    project.write("train.py", """
        import os, torch, vadpipe
        run = vadpipe.chain(epochs=2)
        model = torch.nn.Linear(2, 2)
        value = model if os.environ.get("VADPIPE_FROM", "0") == "0" else torch.zeros(2)
        run.restore(model=value)
        for epoch in run.epochs():
            pass
    """)
    project.pipeline(epoch="")
    project.run(4, expect=1)
    log = project.call("log", "last", "--stage", "net")
    assert "`model` is a Tensor, but the state has an object with `state_dict` there" in log


def test_types_of_pytorch_survive(tmp_path):
    from vadpipe import _tree

    names = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64",
             "complex64", "complex128", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]  # fmt: skip
    values = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in names}
    values.update(scalar=torch.tensor(1.5), empty=torch.empty(0, 3), turned=torch.arange(6.0).reshape(2, 3).T)
    values.update(plain=(1, 2.5, None), names={"a": 1, 2: torch.float32}, conjugate=torch.ones(2) * 1j)
    values["conjugate"] = torch.complex(torch.ones(2), torch.ones(2)).conj()
    _tree.save(tmp_path, "values", values)
    found = _tree.load_plain(tmp_path, "values")
    assert list(found) == list(values)
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype and found[name].shape == value.shape
            same = found[name].float() if name.startswith("float8") else found[name]
            assert torch.equal(same, value.to(same.dtype).resolve_conj())
        else:
            assert found[name] == value


@pytest.mark.parametrize("make", ["torch.eye(2).to_sparse()", "torch.nn.Linear", "object()"])
def test_what_can_not_be_saved_is_named(make):
    from vadpipe import Error, _tree

    with pytest.raises(Error, match=r"`best\.at` is a"):
        _tree.check("best", {"at": eval(make)})


def test_tensors_are_written_one_at_a_time(tmp_path):
    from vadpipe import _tree

    size = 1 << 26
    before = int(open("/proc/self/statm").read().split()[1]) if os.path.exists("/proc/self/statm") else 0
    value = torch.zeros(size, dtype=torch.uint8)
    _tree.save(tmp_path, "value", value)
    assert (tmp_path / "value.safetensors").stat().st_size > size
    if before:
        after = int(open("/proc/self/statm").read().split()[1])
        assert (after - before) * os.sysconf("SC_PAGE_SIZE") < 1.5 * size
