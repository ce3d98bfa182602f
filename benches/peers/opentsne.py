"""openTSNE on PCA-50 of Fashion-MNIST's first images: the peer of `cargo bench --bench tsne`.

usage: opentsne.py DATA_DIR N [--threads T]     one JSON line: seconds and KL as openTSNE reports it
       opentsne.py --serve                      as the bench's child: requests on stdin, see `serving.py`
"""
import argparse
import gzip
import json
import os
import time

from serving import missing, serve

try:
    import numpy as np
    import openTSNE
    import sklearn
    from sklearn.decomposition import PCA
except ImportError as error:
    missing(error)


def images(folder, n):
    for name in ('train-images-idx3-ubyte.gz', 'train-images-idx3-ubyte'):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            raw = (gzip.open if name.endswith('.gz') else open)(path, 'rb').read()
            return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784)[:n]
    raise FileNotFoundError(f'{folder} has no train-images-idx3-ubyte')


def principal(pixels):
    """The 50 principal components of the images, with grey levels from 0 to 1."""
    return np.ascontiguousarray(PCA(50, random_state=0).fit_transform(pixels / 255.).astype(np.float32))


def embed(x, threads, seed=0):
    begin = time.perf_counter()
    embedding = openTSNE.TSNE(n_jobs=threads, random_state=seed).fit(x)
    return embedding, time.perf_counter() - begin


class Served:
    """Arrays are passed in files that the bench names: pixels as bytes, all others as raw little-endian f32."""

    def pca(self, pixels, n, out):
        principal(np.fromfile(pixels, np.uint8).reshape(n, -1)).tofile(out)
        return {}

    def embed(self, points, n, threads, seed, out):
        x = np.fromfile(points, np.float32).reshape(n, -1)
        embedding, seconds = embed(x, threads, seed)
        np.asarray(embedding, np.float32).tofile(out)
        return dict(seconds=seconds, kl=float(embedding.kl_divergence))


def main():
    p = argparse.ArgumentParser()
    p.add_argument('data', nargs='?')
    p.add_argument('n', nargs='?', type=int, default=1000)
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--serve', action='store_true')
    a = p.parse_args()
    if a.serve:
        served = Served()
        name = f'openTSNE {openTSNE.__version__} (scikit-learn {sklearn.__version__})'
        return serve(name, dict(pca=served.pca, embed=served.embed))
    embedding, seconds = embed(principal(images(a.data, a.n)), a.threads)
    print(json.dumps(dict(peer='openTSNE', n=a.n, s=round(seconds, 2), kl=float(embedding.kl_divergence))))


if __name__ == "__main__":
    main()
