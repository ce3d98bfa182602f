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
