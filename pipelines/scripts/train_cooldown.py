"""Trains an autoencoder at a constant rate that falls to zero in the last epochs. See cooldown.toml."""

import torch
from torch import nn

import vadpipe

run = vadpipe.chain(epochs=10, inputs={"data": "out/data"})
torch.set_num_threads(1)  # the same bytes on any number of cores
torch.manual_seed(run.seed)
images, test = (run.inputs["data"].torch(f"{split}.images").flatten(1) / 255 for split in ("train", "test"))
encoder = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 16))
decoder = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid())
model = nn.Sequential(encoder, decoder)
optimizer = torch.optim.AdamW(model.parameters())
run.restore(model=model, optimizer=optimizer)


def loss_of(batch):
    return nn.functional.mse_loss(model(batch), batch)


for epoch in run.epochs():
    start, length = run.value("decay_start", 0), run.value("decay_epochs", 0)
    batches = torch.randperm(len(images)).split(32)
    for step, batch in enumerate(batches):
        cooled = (epoch + step / len(batches) - start) / length if length > 0 else 0.0
        lr = optimizer.param_groups[0]["lr"] = run.value("lr", 3e-3) * (1 - cooled)
        loss = loss_of(images[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        run.log(loss=loss_of(images), test_loss=loss_of(test), lr=lr)
