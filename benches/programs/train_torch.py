"""Trains a classifier with PyTorch, from one state to the next.

Its state is the model, AdamW's moments, a scheduler, the data loader's position and PyTorch's random generator, which
dropout and the loader's order use.
"""

import itertools
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

START, END = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
STEPS = 12  # batches of an epoch: it ends in the middle of the data
values = json.loads(Path(os.environ["VADPIPE_VALUES"]).read_text())
data = json.loads((Path(os.environ["VADPIPE_INPUTS"]) / "data" / "data.json").read_text())


class Shuffled(torch.utils.data.Sampler):
    """Goes through the items again and again, each time in a new order."""

    def __init__(self, count):
        self.order, self.position = torch.randperm(count), 0

    def __iter__(self):
        while True:
            if self.position == len(self.order):
                self.order, self.position = torch.randperm(len(self.order)), 0
            self.position += 1
            yield int(self.order[self.position - 1])

    def state_dict(self):
        return {"order": self.order.tolist(), "position": self.position}

    def load_state_dict(self, state):
        self.order, self.position = torch.tensor(state["order"]), state["position"]


torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
torch.manual_seed(values["seed"])
width = values["start"]["width"]
points, labels = (torch.tensor(data["train"][name]) for name in ("points", "labels"))
validation, expected = (torch.tensor(data["validation"][name]) for name in ("points", "labels"))
model = torch.nn.Sequential(
    torch.nn.Linear(points.shape[1], width), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(width, 10)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)  # each epoch sets the rate
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.98**epoch)
sampler = Shuffled(len(points))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(points, labels), batch_size=64, sampler=sampler)


def save(folder):
    save_file(model.state_dict(), folder / "model.safetensors")
    state = optimizer.state_dict()
    moments = {f"{at}.{name}": tensor for at, own in state["state"].items() for name, tensor in own.items()}
    save_file(moments, folder / "optimizer.safetensors")
    save_file({"torch": torch.get_rng_state()}, folder / "generators.safetensors")
    saved = {"groups": state["param_groups"], "scheduler": scheduler.state_dict(), "sampler": sampler.state_dict()}
    (folder / "state.json").write_text(json.dumps(saved))


def restore(folder):
    saved = json.loads((folder / "state.json").read_text())
    model.load_state_dict(load_file(folder / "model.safetensors"))
    moments = {}
    for name, tensor in load_file(folder / "optimizer.safetensors").items():
        at, name = name.split(".")
        moments.setdefault(int(at), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": saved["groups"]})
    scheduler.load_state_dict(saved["scheduler"])
    sampler.load_state_dict(saved["sampler"])
    torch.set_rng_state(load_file(folder / "generators.safetensors")["torch"])


if START > 0:
    restore(Path(os.environ["VADPIPE_STATE_IN"]))

for epoch in range(START, END):
    here = next(part["values"] for part in values["epoch"] if part["from"] <= epoch < part["to"])
    lr = here["lr"] * scheduler.get_last_lr()[0]
    for group in optimizer.param_groups:
        group["lr"] = lr
    model.train()
    total = 0.0
    for batch, target in itertools.islice(loader, STEPS):
        loss = torch.nn.functional.cross_entropy(model(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    scheduler.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(validation).argmax(1) == expected).float().mean().item()
    with open(os.environ["VADPIPE_LOG"], "a") as log:
        log.write(json.dumps({"epoch": epoch + 1, "loss": total / STEPS, "val_acc": accuracy}) + "\n")

save(Path(os.environ["VADPIPE_STATE_OUT"]))
