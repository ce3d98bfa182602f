"""The auto-decoder family in PyTorch: the peer of `cargo bench --bench train`.

usage: torch_train.py [DATA_DIR] [--n 1000] [--batch 64] [--epochs 2] [--mode ad|fit|gaussian|exponential|uniform]
                      [--fused] [--channels-last] [--compile] [--freeze] [--device cpu] [--tf32] [--threads T]
           one JSON line: first and last loss, seconds of an epoch (median), samples/s, peak memory
       torch_train.py --serve
           as the bench's child: requests on stdin, see `serving.py`

Without DATA_DIR the images are random: the speed does not depend on them. `--mode fit` repeats the course report's
evaluation: the decoder is in evaluation mode and its weights are not updated, but autograd still computes their gradients,
because the report's code does not freeze them. `--freeze` does.
"""
import argparse
import gzip
import json
import math
import os
import statistics
import sys
import time

from serving import missing, serve

try:
    import numpy as np
    import torch
    from torch import nn
except ImportError as error:
    missing(error)

LATENT = 128


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(LATENT, 8192)

        def up(i, o):
            return [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.net = nn.Sequential(*up(2048, 512), *up(512, 256), *up(256, 128),
                                 nn.ConvTranspose2d(128, 1, 4, 2, 1), nn.ConvTranspose2d(1, 1, 1, 1, 2), nn.Sigmoid())

    def forward(self, z):
        return self.net(self.fc(z).view(-1, 2048, 2, 2)).squeeze(1) * 255


def reconstruction(x, y):
    return torch.norm(x - y) / x.numel()


def images(folder, n):
    if folder is None:
        return torch.randint(0, 256, (n, 28, 28), generator=torch.Generator().manual_seed(0)).float()
    for name in ('train-images-idx3-ubyte.gz', 'train-images-idx3-ubyte'):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            raw = (gzip.open if name.endswith('.gz') else open)(path, 'rb').read()
            return torch.tensor(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:n].copy()).float()
    raise FileNotFoundError(f'{folder} has no train-images-idx3-ubyte')


# The posteriors of `src/model/posterior.rs`: z, and the KL to the prior, for the parameters of a batch. FAMILIES also has the
# standard deviation of each parameter's initial values.
def gaussian_z(u, v):
    return u + torch.randn_like(u) * torch.exp(.5 * v)


def gaussian_kl(u, v):
    return -.5 * torch.mean(1 + v - u ** 2 - v.exp())


def exponential_z(k):
    return -torch.log(1 - torch.rand_like(k)) * torch.exp(-k)


def exponential_kl(k):
    return torch.mean(k + torch.exp(-k) - 1)


def uniform_parts(u, v):
    centre = math.sqrt(3) * torch.tanh(u)
    return centre, (math.sqrt(3) - centre.abs()) * torch.sigmoid(v)


def uniform_z(u, v):
    centre, half = uniform_parts(u, v)
    return centre + half * (2 * torch.rand_like(u) - 1)


def uniform_kl(u, v):
    centre, half = uniform_parts(u, v)
    return torch.mean(math.log(math.sqrt(3)) - torch.log(half))


FAMILIES = dict(
    ad=((1.,), lambda z: z, lambda z: 0.),
    fit=((1.,), lambda z: z, lambda z: 0.),
    gaussian=((1., 0.), gaussian_z, gaussian_kl),
    exponential=((.1,), exponential_z, exponential_kl),
    uniform=((.1, .1), uniform_z, uniform_kl),
)


class Training:
    def __init__(self, mode='ad', batch=64, n=1000, data=None, lr=1e-3, fused=False, channels_last=False,
                 compiled=False, freeze=False, device='cpu', tf32=False, threads=None):
        if threads:
            torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.batch, self.n, self.device, self.fit = batch, n, device, mode == 'fit'
        self.x = images(data, n).to(device)
        decoder = Decoder().to(device)
        if channels_last:
            decoder = decoder.to(memory_format=torch.channels_last)
        decoder.train(not self.fit)
        if freeze:
            decoder.requires_grad_(False)
        self.net = self.compile(decoder, compiled) if compiled else decoder

        starts, self.z, self.kl = FAMILIES[mode]
        self.latents = [(start * torch.randn(n, LATENT, device=device)).requires_grad_() for start in starts]
        groups = [dict(params=self.latents, lr=lr if mode == 'ad' else 1e-2)]
        if not self.fit:
            groups.append(dict(params=list(decoder.parameters())))
        self.optimizer = torch.optim.Adam(groups, lr=lr, fused=fused or None)
        self.order = torch.arange(0)

    @staticmethod
    def compile(decoder, how):
        """`how`: a mode of `torch.compile`, or `cudagraphs` for its backend of that name, which generates no kernels."""
        if how == 'cudagraphs':
            return torch.compile(decoder, backend=how, dynamic=False)
        return torch.compile(decoder, mode='default' if how is True else how, dynamic=False)

    def step(self, i):
        latents = [latent[i] for latent in self.latents]
        loss = reconstruction(self.x[i], self.net(self.z(*latents))) + self.kl(*latents)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def synchronize(self):
        if self.device != 'cpu':
            torch.cuda.synchronize()

    def images(self, count):
        """Trains on `count` images, in a new order in each epoch. Returns the mean loss and the seconds."""
        self.synchronize()
        begin, cpu, total, steps = time.perf_counter(), time.process_time(), 0., 0
        while count > 0:
            if not len(self.order):
                self.order = torch.randperm(self.n, device=self.device)
            i, self.order = self.order[:min(self.batch, count)], self.order[min(self.batch, count):]
            total, steps, count = total + self.step(i), steps + 1, count - len(i)
        loss = float(total) / steps
        self.synchronize()
        return dict(loss=loss, seconds=time.perf_counter() - begin, cpu_seconds=time.process_time() - cpu)


def peak():
    """The peak memory of this process in bytes (Linux)."""
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmHWM'))


class Served:
    def __init__(self):
        self.trainings = {}

    def open(self, name, warm_up=2, **settings):
        """Starts a training under this name, and warms it up with a few steps."""
        self.trainings[name] = training = Training(**settings)
        begin = time.perf_counter()
        training.images(warm_up * training.batch)
        training.order = training.order[:0]
        return dict(seconds=time.perf_counter() - begin)

    def round(self, name, images):
        return self.trainings[name].images(images)

    def close(self, name):
        del self.trainings[name]
        return {}

    def peak(self):
        return dict(bytes=peak())


def main():
    p = argparse.ArgumentParser()
    p.add_argument('data', nargs='?')
    p.add_argument('--n', type=int, default=1000)
    p.add_argument('--batch', type=int, default=64)
    p.add_argument('--epochs', type=int, default=2)
    p.add_argument('--mode', default='ad', choices=list(FAMILIES))
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--device', default='cpu')
    p.add_argument('--threads', type=int)
    for flag in ('fused', 'channels-last', 'compile', 'freeze', 'tf32', 'serve'):
        p.add_argument('--' + flag, action='store_true')
    a = p.parse_args()
    if a.serve:
        served = Served()
        handlers = {name: getattr(served, name) for name in ('open', 'round', 'close', 'peak')}
        return serve(f'PyTorch {torch.__version__}', handlers)
    training = Training(a.mode, a.batch, a.n, a.data, a.lr, a.fused, a.channels_last, a.compile, a.freeze, a.device,
                        a.tf32, a.threads)
    epochs = [training.images(a.n) for _ in range(a.epochs)]
    seconds = statistics.median(e['seconds'] for e in epochs)
    print(json.dumps(dict(mode=a.mode, n=a.n, batch=a.batch, epochs=a.epochs, first=epochs[0]['loss'],
                          last=epochs[-1]['loss'], epoch_s_median=seconds, samples_per_s=a.n / seconds,
                          peak_bytes=peak())))
    return None


if __name__ == '__main__':
    sys.exit(main())
