"""Scripts with PyTorch Lightning on the chain."""

import pytest

pytest.importorskip("lightning")

TRAIN = """
    import logging, os, warnings
    import torch
    import lightning as L
    from torch import nn
    import vadpipe

    torch.set_num_threads(1)
    run = vadpipe.chain(epochs=3)

    class Net(L.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()
            inner = [nn.BatchNorm1d(width), nn.Dropout(0.3)]
            self.layers = nn.Sequential(nn.Linear(6, width), *inner, nn.Linear(width, 2))
        def training_step(self, batch, at):
            loss = ((self.layers(batch[0]) - batch[1]) ** 2).mean()
            self.log("loss", loss, on_epoch=True, on_step=False)
            return loss
        def validation_step(self, batch, at):
            self.log("val_loss", ((self.layers(batch[0]) - batch[1]) ** 2).mean())
        def on_train_epoch_start(self):
            for group in self.optimizers().param_groups:
                group["weight_decay"] = run.value("decay", 0.1)
        def on_train_epoch_end(self):
            self.log("lr", self.lr_schedulers()[0].get_last_lr()[0])
            with open(os.environ["TRACE"], "a") as trace:
                print(self.current_epoch, file=trace)
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return [optimizer], [cosine, {"scheduler": plateau, "monitor": "val_loss"}]

    torch.manual_seed(run.seed)
    data = torch.utils.data.TensorDataset(torch.randn(48, 6), torch.randn(48, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)
    model = Net(run.value("width", 8, optional=True))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    run.fit(trainer, model, loader, torch.utils.data.DataLoader(data, batch_size=48))
    if run.outputs_due:
        with torch.no_grad():
            run.log(last=model.eval().layers(data.tensors[0]).sum())
        run.output("done").write_text(str(trainer.current_epoch))
"""
OUTPUTS = 'outputs = { done = "done" }'


def test_training_of_lightning_extended_equals_one_go(project):
    project.write("train.py", TRAIN)
    project.pipeline(OUTPUTS, epoch="decay = 0.1")
    project.run(4)
    project.run(6)
    assert project.trained() == list(range(6))
    project.run(6, cache="other")
    assert project.result(6)["digest"] == project.result(6, cache="other")["digest"]
    metrics = project.result(6)["manifest"]["metrics"]
    assert set(metrics) == {"loss", "val_loss", "lr", "last"} and metrics["lr"] < 1e-2
    project.run(4)
    found = project.verified()
    assert found["same"] and found["program"]["incomplete"] is None


def test_lightning_by_hand(project):
    project.write("train.py", TRAIN)
    output = project.by_hand()
    assert project.trained() == [0, 1, 2] and "epoch 3: " in output and "val_loss" in output


def test_early_stopping_of_lightning_is_explained(project):
    stop = "L.pytorch.callbacks.EarlyStopping('val_loss', patience=0, min_delta=99.0)"
    project.write("train.py", TRAIN.replace("logger=False,", f"logger=False, callbacks=[{stop}],"))
    project.pipeline(epoch="decay = 0.1", segment=4)
    project.run(expect=1)
    log = project.call("log", "last", "--stage", "net")
    assert "Lightning stopped after 2 of 4 epochs, as with EarlyStopping; the stage needs all" in log
    project.trace.unlink()
    project.by_hand()
    assert project.trained() == [0, 1] and (project.folder / "done").read_text() == "2", "by hand it stops"


def test_warm_is_refused(project):
    project.write("train.py", TRAIN)
    project.pipeline("warm = true", epoch="decay = 0.1")
    project.run(expect=1)
    assert "remove `warm = true` from the stage" in project.call("log", "last", "--stage", "net")


@pytest.mark.parametrize("length", ["max_epochs", "estimated_stepping_batches"])
def test_length_of_training_is_unknown_in_a_stage(project, length):
    project.write("train.py", TRAIN.replace("(optimizer, 20)", f"(optimizer, self.trainer.{length})"))
    project.pipeline(epoch="decay = 0.1")
    project.run(expect=1)
    log = project.call("log", "last", "--stage", "net")
    assert f"`trainer.{length}` is unknown in a stage" in log and 'run.value("cosine_epochs", 100)' in log
    assert project.trained() == []
    project.by_hand()
    assert project.trained() == [0, 1, 2], "by hand it is known"


OWN = "shuffle=True, generator=torch.Generator().manual_seed(run.seed)"


def test_generator_of_a_loader_is_restored(project):
    project.write("train.py", TRAIN.replace("shuffle=True", OWN).replace("enable_progress_bar=False, ", ""))
    project.pipeline(epoch="decay = 0.1")
    project.run(4)
    assert "lightning_loaders.json" in project.result(4)["manifest"]["state"]["files"]
    assert project.verified()["program"]["incomplete"] is None


def test_generator_of_a_loader_is_restored_once(project):
    script = TRAIN.replace("shuffle=True", OWN)
    project.write("train.py", script.replace("run.fit(", "run.restore(own=loader)\n    run.fit("))
    project.pipeline(epoch="decay = 0.1")
    project.run(2)
    files = project.result(2)["manifest"]["state"]["files"]
    assert "own.json" in files and "lightning_loaders.json" not in files


def test_generator_of_a_loader_that_a_hook_makes_is_an_error(project):
    hook = "def train_dataloader(self):\n            return loader\n        def configure_optimizers"
    script = TRAIN.replace("shuffle=True", OWN).replace("def configure_optimizers", hook)
    script = script.replace("model, loader, ", "model, val_dataloaders=")
    project.write("train.py", script)
    project.pipeline(epoch="decay = 0.1")
    project.run(expect=1)
    log = project.call("log", "last", "--stage", "net")
    assert "run.restore(order=generator)" in log and project.trained() == []
    project.write("train.py", script.replace("run.fit(", "run.restore(order=loader.generator)\n    run.fit("))
    project.run(4)
    assert project.verified()["program"]["incomplete"] is None


def test_metric_of_validation_is_logged_only_in_epochs_that_validate(project):
    script = TRAIN.replace('"monitor": "val_loss"', '"monitor": "val_loss", "strict": False')
    project.write("train.py", script.replace("logger=False,", "logger=False, check_val_every_n_epoch=2,"))
    lines = [line for line in project.by_hand().splitlines() if line.startswith("epoch ")]
    assert ["val_loss" in line for line in lines] == [False, True, False]
    assert all(" loss " in line and "lr" in line for line in lines)


def test_callbacks_see_the_values_of_their_epoch(project):
    callback = """
    class Seen(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            print("seen", trainer.current_epoch, run.value("decay"))

    torch.manual_seed(run.seed)"""
    script = TRAIN.replace("\n    torch.manual_seed(run.seed)", callback)
    project.write("train.py", script.replace("logger=False,", "logger=False, callbacks=[Seen()],"))
    project.pipeline("segments = [{ epochs = 1, decay = 0.1 }, { epochs = 1, decay = 0.2 }]", epoch="")
    project.call("run", "p.toml")
    log = project.call("log", "last", "--stage", "net")
    assert "seen 0 0.1" in log and "seen 1 0.2" in log


@pytest.mark.parametrize("name", ["Own", "FSDPStrategy"])
def test_strategy_with_checkpoints_of_its_own_is_refused(project, name):
    strategy = f"""
    class {name}(L.pytorch.strategies.SingleDeviceStrategy):
        def save_checkpoint(self, *arguments, **options):
            pass

    torch.manual_seed(run.seed)"""
    script = TRAIN.replace("\n    torch.manual_seed(run.seed)", strategy)
    project.write("train.py", script.replace("logger=False,", f"logger=False, strategy={name}(),"))
    project.pipeline(epoch="decay = 0.1")
    project.run(expect=1)
    log = project.call("log", "last", "--stage", "net")
    assert f"the strategy {name} writes checkpoints of its own; use DDP" in log
    assert project.trained() == ([0, 1] if name == "Own" else []), "a known one is refused before the training"


def test_each_process_of_ddp_has_its_own_generators(project):
    own = "sampler=torch.utils.data.RandomSampler(data, generator=order), generator=order"
    script = TRAIN.replace("shuffle=True", own).replace("accelerator", "strategy='ddp', devices=2, accelerator")
    script = script.replace("logger=False,", "logger=False, use_distributed_sampler=False,")
    order = "order = torch.Generator().manual_seed(int(os.environ.get('LOCAL_RANK', 0)))"
    project.write("train.py", script.replace("    loader =", f"    {order}\n    loader ="))
    project.pipeline(epoch="decay = 0.1")
    project.run(4)
    files = project.result(4)["manifest"]["state"]["tensor_files"]
    first, second = (files[f"{folder}lightning_loaders.safetensors"]["tensors"] for folder in ("", "rank1/"))
    assert [tensor["blob"] for tensor in first.values()] != [tensor["blob"] for tensor in second.values()]
