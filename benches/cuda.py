"""Called by cuda.sh: compares the results of vadpipe on a GPU with those on the CPU, then its speed with PyTorch's."""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median

arguments = argparse.ArgumentParser()
arguments.add_argument('binary')
arguments.add_argument('--rehearse', action='store_true')
arguments.add_argument('--only', choices=('cpu', 'correctness', 'speed'))
arguments.add_argument('--cpu-figures', type=pathlib.Path)
arguments.add_argument('--columns', type=lambda text: text.split(','))
arguments.add_argument('--batches', type=lambda text: tuple(map(int, text.split(','))))
ARGUMENTS = arguments.parse_args()
BINARY, REHEARSE = ARGUMENTS.binary, ARGUMENTS.rehearse
HERE = pathlib.Path(__file__).resolve().parent
GPU = 'cpu' if REHEARSE else 'cuda:0'
# The largest relative difference of a GPU's figures from the CPU's: rounding errors grow over a few hundred Adam steps.
TOLERANCE = dict(f32=0.02, tf32=0.05)
# The same for a training's first epoch, in which rounding errors have grown less.
FIRST = dict(f32=0.003, tf32=0.02)
CHANNELS, LATENT = ([16, 16, 16, 16], 16) if REHEARSE else ([2048, 512, 256, 128], 128)
IMAGES, SPEED_IMAGES, TIMED_EPOCHS = (64, 128, 2) if REHEARSE else (1024, 60000, 3)
BATCHES = ARGUMENTS.batches or ((16, 64, 128) if REHEARSE else (16, 64, 128, 1024))
# Images that PyTorch trains on in a round: less than an epoch, because its epochs take long at batch 16.
ROUND_IMAGES = 8192
# Time limit of one program in seconds, so that a hang does not use up the time on somebody else's GPU.
LIMIT = 240
FAILED = []

PIPELINE = f'''
[pipeline]
name = "cuda"
seed = 11
checkpoint_seconds = 3600
precision = "f32"

[params]
epochs = 3
batch = 16
images = {IMAGES}

[stages.data]
kind = "load-data"
source = "synthetic"
train = "${{params.images}}"
test = 64

[stages.ad]
kind = "train-ad"
inputs = {{ data = "data" }}
epochs = "${{params.epochs}}"
batch = "${{params.batch}}"
latent_dim = {LATENT}
channels = {CHANNELS}

[stages.vad]
kind = "train-vad"
inputs = {{ data = "data" }}
matrix = {{ distribution = ["gaussian", "exponential", "uniform"] }}
distribution = "${{matrix.distribution}}"
epochs = "${{params.epochs}}"
batch = "${{params.batch}}"
kl_weight = 0.05
latent_dim = {LATENT}
channels = {CHANNELS}
'''
for model in ('ad', 'vad'):
    for statistics in ('running', 'batch'):
        PIPELINE += f'''
[stages.fit-{model}-{statistics}]
kind = "fit-latents"
inputs = {{ data = "data", model = "{model}" }}
statistics = "{statistics}"
epochs = "${{params.epochs}}"
batch = "${{params.batch}}"
'''

FOLDER = tempfile.TemporaryDirectory()
ROOT = pathlib.Path(FOLDER.name)
(ROOT / 'cuda.toml').write_text(PIPELINE)


def fail(message):
    """Ends the script with an error."""
    sys.exit(f'cuda.sh: FAILED: {message}')


def wrong(message):
    """Reports an error and continues, because the remaining results are still useful."""
    FAILED.append(message)
    print(f'BAD {message}', flush=True)


def command(cache, device, sets, targets):
    words = [BINARY, 'run', str(ROOT / 'cuda.toml'), *targets, '--json', '--cache', str(ROOT / cache), '--device', device]
    for name, value in sets.items():
        words += ['-S', f'{name}={value}']
    return words


def run(cache, device, targets=(), graph=True, **sets):
    """Runs the pipeline. Returns the event with which each stage ended."""
    sets = {name.replace('__', '.'): value for name, value in sets.items()}
    environment = dict(os.environ, VADPIPE_CUDA_GRAPH='1' if graph else '0')
    words = command(cache, device, sets, targets)
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        fail(f'vadpipe on {device} takes longer than {LIMIT} s: {words}')
    if done.returncode != 0:
        fail(f'vadpipe on {device}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}')
    events = [json.loads(line) for line in done.stdout.splitlines()]
    if not REHEARSE and device != 'cpu' and not events[0]['numerics'].startswith('cuda'):
        fail(f'it did not run on a GPU: {events[0]}')
    return {e['stage']: e for e in events if e['event'] in ('stage-finished', 'stage-cached')}


def compare(name, found, wanted, precision):
    """Compares the metrics of trainings and fits, and prints the largest relative difference."""
    worst = 0.
    for stage, event in wanted.items():
        if stage == 'data' or 'metrics' not in event:
            continue
        for metric, value in event['metrics'].items():
            difference = abs(found[stage]['metrics'][metric] - value) / max(abs(value), 1e-9)
            # A fit starts with a decoder that was trained for hundreds of steps.
            early = metric == 'loss_first' and not stage.startswith('fit-')
            limit = (FIRST if early else TOLERANCE)[precision]
            if metric == 'kl':
                limit *= 2
            if not difference <= limit:
                wrong(f'{name}: {metric} of {stage} is {found[stage]["metrics"][metric]}, the CPU has {value}')
            worst = max(worst, difference)
    print(f'    {name}: figures within {worst:.1e} of the CPU\'s', flush=True)


def same(name, one, other):
    # The events of cached stages have no digest.
    made = [s for s in one if 'digest' in one[s] and 'digest' in other[s]]
    others = [s for s in made if one[s]['digest'] != other[s]['digest']]
    if others or not made:
        wrong(f'{name}: other bytes of {", ".join(others)}')
    else:
        print(f'    {name}: the same bytes', flush=True)


def cpu_figures():
    """The events of the run on the CPU, from the file if there is one: the CPU's results are the same on every machine."""
    file = ARGUMENTS.cpu_figures
    if file and file.exists():
        return json.loads(file.read_text())
    begin = time.perf_counter()
    cpu = run('cpu', 'cpu')
    print(f'    the CPU took {time.perf_counter() - begin:.0f} s', flush=True)
    if file:
        file.write_text(json.dumps(cpu))
    return cpu


def correctness():
    # First check that it trains on the GPU at all, because the run on the CPU takes a while.
    tiny = dict(params__epochs=1, params__images=64, stages__ad__channels='[16,16,16,16]')
    run('tiny', GPU, ('ad',), **tiny)
    cpu = cpu_figures()
    if len(cpu) != 13:
        fail(f'stages are missing: {sorted(cpu)}')
    # All at the same time: these results do not depend on the time, and a GPU's time is dear.
    runs = {'gpu': {}, 'gpu-again': {}, 'gpu-kernels': dict(graph=False), 'gpu-resumed': {}}
    if not REHEARSE:
        tf32 = dict(pipeline__precision='tf32')
        runs.update({'tf32': tf32, 'tf32-again': tf32})
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # Continues what has ended after an epoch.
        run('gpu-resumed', GPU, ('ad', 'vad'), params__epochs=1)
        done = {name: pool.submit(run, name, GPU, **sets) for name, sets in runs.items()}
        done = {name: future.result() for name, future in done.items()}
    print(f'    {len(runs)} runs on the GPU took {time.perf_counter() - begin:.0f} s', flush=True)
    compare('f32 on the GPU', done['gpu'], cpu, 'f32')
    if not REHEARSE:
        if done['gpu']['ad']['digest'] == cpu['ad']['digest']:
            wrong('the GPU gave the same bytes as the CPU: was the GPU used?')
        compare('tf32 on the GPU', done['tf32'], cpu, 'tf32')
        same('tf32, a second time', done['tf32'], done['tf32-again'])
    same('f32, a second time', done['gpu'], done['gpu-again'])
    same('f32 without CUDA graphs', done['gpu'], done['gpu-kernels'])
    same('f32, continued after an epoch', done['gpu'], done['gpu-resumed'])
    for name in runs:
        # Each cache holds about 2 GB of states.
        shutil.rmtree(ROOT / name, ignore_errors=True)


def ours(batch, precision, graph):
    """Samples per second: the median over the epochs after the second, timed by this process as it reads the events."""
    sets = {'params.batch': batch, 'params.images': SPEED_IMAGES, 'params.epochs': 1000, 'pipeline.precision': precision}
    environment = dict(os.environ, VADPIPE_CUDA_GRAPH='1' if graph else '0')
    words = command('speed', GPU, sets, ('ad',))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as program:
        times = []
        timer = threading.Timer(LIMIT, program.kill)
        timer.start()
        for line in program.stdout:
            if json.loads(line)['event'] == 'epoch':
                times.append(time.perf_counter())
            if len(times) == TIMED_EPOCHS + 2:
                break
        timer.cancel()
        program.kill()
        if len(times) < TIMED_EPOCHS + 2:
            fail(f'no {TIMED_EPOCHS + 2} epochs at batch {batch}: {program.stderr.read()[-3000:]}')
    return SPEED_IMAGES / median(b - a for a, b in zip(times[1:], times[2:]))


class Torch:
    """PyTorch with one set of settings, in a process of its own that measures all cases."""

    def __init__(self, **settings):
        words = [sys.executable, str(HERE / 'peers' / 'torch_train.py'), '--serve']
        self.settings = dict(settings, device='cuda', fused=True, n=SPEED_IMAGES)
        # PyTorch 2.11 compiles this model wrongly if it may change the layout of convolutions.
        environment = dict(os.environ, TORCHINDUCTOR_LAYOUT_OPTIMIZATION='0')
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.reply()

    def reply(self):
        timer = threading.Timer(LIMIT, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        return json.loads(line) if line else {'error': f'no reply in {LIMIT} s'}

    def ask(self, **request):
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return {'error': 'it has ended'}
        return self.reply()

    def __call__(self, batch, precision):
        """Samples per second: the median over rounds."""
        opened = self.ask(command='open', name='case', batch=batch, tf32=precision == 'tf32', **self.settings)
        rounds = [self.ask(command='round', name='case', images=ROUND_IMAGES) for _ in range(TIMED_EPOCHS)]
        if errors := [reply['error'] for reply in [opened, *rounds] if 'error' in reply]:
            print(f'cuda.sh: PyTorch with {self.settings}: {errors[0]}', file=sys.stderr)
            return None
        self.ask(command='close', name='case')
        return ROUND_IMAGES / median(reply['seconds'] for reply in rounds)


def speed():
    """PyTorch's compiler starts most slowly and comes last: if time runs out, all other results have been printed."""
    precisions = ('f32',) if REHEARSE else ('f32', 'tf32')
    cases = [(batch, precision) for precision in precisions for batch in BATCHES]
    peers = {} if REHEARSE else {'torch': {}, 'torch channels-last': dict(channels_last=True),
                                 'torch cudagraphs': dict(compiled='cudagraphs'),
                                 'torch compiled': dict(compiled='reduce-overhead'),
                                 'torch max-autotune': dict(compiled='max-autotune')}
    print('\nAD training, samples/s (median over epochs):', flush=True)
    rates = {case: {} for case in cases}
    columns = {'vadpipe': lambda *case: ours(*case, True), 'vadpipe without graphs': lambda *case: ours(*case, False)}
    if ARGUMENTS.columns:
        columns, peers = ({name: row[name] for name in row if name in ARGUMENTS.columns} for row in (columns, peers))
    for name in [*columns, *peers]:
        # A peer starts when its turn comes, so that it takes no memory and no time from the others.
        measure = columns.get(name) or Torch(**peers[name])
        for batch, precision in cases:
            rates[batch, precision][name] = rate = measure(batch, precision)
            print(f'    {name:<22} {precision:<4} {batch:4} {rate and round(rate)}', flush=True)
    heads = ['batch', 'precision', *columns, *peers, 'ours / best torch']
    print(f'\n| {" | ".join(heads)} |\n|{"---|" * len(heads)}')
    for (batch, precision), row in rates.items():
        mine = max((rate for name, rate in row.items() if name.startswith('vadpipe')), default=None)
        theirs = max((row[name] for name in peers if row[name]), default=None)
        cells = [batch, precision, *(round(rate) if rate else '-' for rate in row.values())]
        ratio = f'{mine / theirs:.2f}' if mine and theirs else '-'
        print('| ' + ' | '.join(map(str, [*cells, ratio])) + ' |', flush=True)


if ARGUMENTS.only == 'cpu':
    cpu_figures()
if ARGUMENTS.only in (None, 'correctness'):
    correctness()
if ARGUMENTS.only in (None, 'speed'):
    speed()
if FAILED:
    fail('; '.join(FAILED))
if ARGUMENTS.only != 'cpu':
    print('\nall checks passed')
