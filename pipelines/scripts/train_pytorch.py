import torch
from torch import nn
import vadpipe

run = vadpipe.chain(epochs=20, inputs={"data": "out/data"})
torch.manual_seed(run.seed)


def load(split):
    data = run.inputs["data"]
    return data.torch(f"{split}.images").flatten(1) / 255, data.torch(f"{split}.labels").long()


images, labels = load("train")
test_images, test_labels = load("test")
model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters())
run.restore(model=model, optimizer=optimizer)

for epoch in run.epochs():
    optimizer.param_groups[0]["lr"] = run.value("lr", 1e-3)
    model.train()
    for batch in torch.randperm(len(images)).split(64):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean()
    run.log(loss=loss, accuracy=accuracy)

if run.outputs_due:
    torch.save(model.state_dict(), run.output("model.pt"))
