"""Trains a small convolutional network with PyTorch Lightning. See lightning.toml."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vadpipe

run = vadpipe.chain(epochs=10, inputs={"data": "out/data"})


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        convolutions = [nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()]
        self.layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Dropout(0.2), nn.LazyLinear(10))
        self.layers(torch.zeros(1, 1, 28, 28))

    def training_step(self, batch, at):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.layers(images), labels)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, at):
        images, labels = batch
        self.log("val_accuracy", (self.layers(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=run.value("lr", 1e-3))
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.value("cosine_epochs", 20))]


def load(split, **options):
    data = run.inputs["data"]
    images, labels = data.torch(f"{split}.images"), data.torch(f"{split}.labels")
    return DataLoader(TensorDataset(images.unsqueeze(1) / 255, labels.long()), **options)


torch.manual_seed(run.seed)
trainer = L.Trainer(accelerator="cpu", logger=False)
run.fit(trainer, Classifier(), load("train", batch_size=32, shuffle=True), load("test", batch_size=100))
