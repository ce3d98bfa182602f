"""Trains a small classifier with PyTorch, from one state to the next. See docs/training-programs.md."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

START, END = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
values = json.loads(Path(os.environ["VADPIPE_VALUES"]).read_text())

torch.set_num_threads(1)  # the same bytes on any number of cores, and faster for a small model
torch.manual_seed(values["seed"])
torch.use_deterministic_algorithms(True)

data = load_file(Path(os.environ["VADPIPE_INPUTS"]) / "data" / "artifact.safetensors")
images = {split: data[f"{split}.images"].flatten(1).float() / 255 for split in ("train", "test")}
labels = {split: data[f"{split}.labels"].long() for split in ("train", "test")}

width = values["start"]["width"]
model = torch.nn.Sequential(torch.nn.Linear(784, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
optimizer = torch.optim.AdamW(model.parameters())


def save(folder):
    save_file(model.state_dict(), folder / "model.safetensors")
    state = optimizer.state_dict()
    moments = {f"{at}.{name}": tensor for at, own in state["state"].items() for name, tensor in own.items()}
    save_file(moments, folder / "optimizer.safetensors")
    (folder / "optimizer.json").write_text(json.dumps(state["param_groups"]))
    save_file({"torch": torch.get_rng_state()}, folder / "generators.safetensors")


def restore(folder):
    model.load_state_dict(load_file(folder / "model.safetensors"))
    state = {}
    for name, tensor in load_file(folder / "optimizer.safetensors").items():
        at, name = name.split(".")
        state.setdefault(int(at), {})[name] = tensor
    groups = json.loads((folder / "optimizer.json").read_text())
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    torch.set_rng_state(load_file(folder / "generators.safetensors")["torch"])


def log(**line):
    with open(os.environ["VADPIPE_LOG"], "a") as file:
        file.write(json.dumps(line) + "\n")


if START > 0:
    restore(Path(os.environ["VADPIPE_STATE_IN"]))

for epoch in range(START, END):
    here = next(part["values"] for part in values["epoch"] if part["from"] <= epoch < part["to"])
    for group in optimizer.param_groups:
        group["lr"] = here["lr"]
    total = 0.0
    for batch in torch.randperm(len(images["train"])).split(64):
        loss = torch.nn.functional.cross_entropy(model(images["train"][batch]), labels["train"][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    with torch.no_grad():
        correct = (model(images["test"]).argmax(1) == labels["test"]).float().mean().item()
    log(epoch=epoch + 1, loss=total / len(images["train"]), val_accuracy=correct)

if START < END:
    save(Path(os.environ["VADPIPE_STATE_OUT"]))
else:
    with torch.no_grad():
        save_file({"predictions": model(images["test"]).argmax(1)}, "predictions.safetensors")
