// The kernels of a training step on a GPU, except the matrix products, which cuBLAS computes. All kernels are in one
// file because NVRTC compiles one source.
//
// NVRTC compiles this file for the GPU in use, without contraction into fused multiply-adds. Memory limits the speed of
// all kernels, so that costs nothing, and the rounding is the same when a C++ compiler builds the file for the tests.
// In the tests, a block is a function call, and EACH_THREAD is a loop over its threads. So no thread may keep a value
// in a register across a SYNC(); such values are in shared memory. Sums are trees or loops in a fixed order, without
// atomics, so the bytes are always the same.
//
// Layouts: activations are [pixel][sample][channel]. The arrays of the tail are [pixel][sample]. The products of a layer
// are [input pixel][sample][tap][channel]; `sources` has SOURCES pairs of (input pixel, tap) for each output pixel, and
// -1 after the last.

#ifndef EMULATED
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(256) name
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define EACH_THREAD(t) for (int t = threadIdx.x, todo = 1; todo; todo = 0)
#define SYNC() __syncthreads()
#endif

#define THREADS 256
#define CHANNELS 32
#define LANES (THREADS * 4 / CHANNELS)
#define FEW_CHANNELS 8
#define MANY_LANES (THREADS / FEW_CHANNELS)
#define SOURCES 4

#define PLAIN 0
#define GAUSSIAN 1
#define EXPONENTIAL 2
#define UNIFORM 3

#define SIDE 28
#define PIXELS (SIDE * SIDE)
#define INPUT_SIDE 16
#define TAPS 16
#define CROP 2
#define WHITE 255.0f

typedef long long i64;
typedef unsigned char u8;

// Divisions have 32 bits, because a 64-bit division takes longer than the rest of a kernel. In kernels over
// activations, a thread computes four channels of a sample: one load, one index and one division serve all four. They
// have a row of blocks for each pixel, with `size` threads in it.

// The length of a row of the epoch's table: Adam's rates, and the weight of the KL of one latent number.
#define RATES 5

DEVICE i64 global_index(int t) { return (i64)blockIdx.x * THREADS + t; }

// Adds up `sums` into sums[0]. Every thread must have written its number before the last SYNC().
DEVICE void block_sum(double *sums) {
    for (int half = THREADS / 2; half > 0; half /= 2) {
        EACH_THREAD(t) {
            if (t < half) sums[t] += sums[t + half];
        }
        SYNC();
    }
}

// Four numbers that a thread loads and stores at once.
struct alignas(16) Four {
    float at[4];
};

// The numbers of the channels c to c + 3, of which `from` is the first. Channels after the last are 0.
DEVICE Four load(const float *from, int c, int channels) {
    if (channels % 4 == 0) return *(const Four *)from;
    Four four = {};
    for (int k = 0; k < 4; ++k) {
        if (c + k < channels) four.at[k] = from[k];
    }
    return four;
}

// Stores four channels.
DEVICE void store(Four four, float *to, int c, int channels) {
    if (channels % 4 == 0) {
        *(Four *)to = four;
        return;
    }
    for (int k = 0; k < 4; ++k) {
        if (c + k < channels) to[k] = four.at[k];
    }
}

// A sample and the first of four channels, for a thread of a pixel.
struct Place {
    int b, c;
};

DEVICE Place place(int thread, int channels) {
    const int fours = (channels + 3) / 4;
    return {thread / fours, thread % fours * 4};
}

// The index of a product of a layer: that of sample b and channel c with the source s of an output pixel. -1 for none.
DEVICE i64 product_at(const int *sources, int taps, int pixel, int s, int b, int batch, int c, int channels) {
    const int *source = sources + ((i64)pixel * SOURCES + s) * 2;
    return source[0] < 0 ? -1 : (((i64)source[0] * batch + b) * taps + source[1]) * channels + c;
}

// Adds up the products that land on an output pixel, for four channels.
DEVICE Four gather(const float *product, const int *sources, int taps, int pixel, int b, int batch, int c,
                   int channels) {
    Four sum = {};
    for (int s = 0; s < SOURCES; ++s) {
        const i64 at = product_at(sources, taps, pixel, s, b, batch, c, channels);
        if (at < 0) continue;
        const Four more = load(product + at, c, channels);
        for (int k = 0; k < 4; ++k) sum.at[k] += more.at[k];
    }
    return sum;
}

// Copies the gradient of four channels of an output pixel to its sources.
DEVICE void scatter(Four gradient, float *columns, const int *sources, int taps, int pixel, int b, int batch, int c,
                    int channels) {
    for (int s = 0; s < SOURCES; ++s) {
        const i64 at = product_at(sources, taps, pixel, s, b, batch, c, channels);
        if (at >= 0) store(gradient, columns + at, c, channels);
    }
}

// ---- Adam: ops/adam.rs

DEVICE void adam_step(float *p, float *m, float *v, float g, float step_size, float epsilon) {
    const float moved = *m + (g - *m) * (float)(1.0 - 0.9);
    const float square = *v * (float)0.999 + (float)(1.0 - 0.999) * g * g;
    *m = moved;
    *v = square;
    *p -= step_size * moved / (sqrtf(square) + epsilon);
}

// All parameters of the decoder, in n groups of four.
KERNEL(adam)(Four *p, Four *m, Four *v, const Four *g, const double *rates, const int *cursor, i64 n) {
    const double *now = rates + (i64)cursor[0] * RATES;
    EACH_THREAD(t) {
        const i64 i = global_index(t);
        if (i < n) {
            Four value = p[i], moment = m[i], square = v[i];
            const Four gradient = g[i];
            for (int k = 0; k < 4; ++k)
                adam_step(value.at + k, moment.at + k, square.at + k, gradient.at[k], (float)now[0], (float)now[1]);
            p[i] = value;
            m[i] = moment;
            v[i] = square;
        }
    }
}

// ---- Posteriors: model/posterior.rs

#define SQRT_3 1.7320508075688772
#define LN_2 0.6931471805599453

DEVICE double sigmoid64(double x) { return 1.0 / (1.0 + exp(-x)); }
DEVICE double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }
DEVICE double sign_of(double x) { return (double)((x > 0.0) - (x < 0.0)); }
DEVICE double half_width(double u, double v) { return 2.0 * SQRT_3 * sigmoid64(-2.0 * fabs(u)) * sigmoid64(v); }

DEVICE double sample(int family, double a, double b, double e) {
    if (family == GAUSSIAN) return a + exp(0.5 * b) * e;
    if (family == EXPONENTIAL) return -log(e) * exp(-a);
    return SQRT_3 * tanh(a) + half_width(a, b) * (2.0 * e - 1.0);
}

DEVICE void sample_gradient(int family, double a, double b, double e, double *by_a, double *by_b) {
    if (family == GAUSSIAN) {
        *by_a = 1.0;
        *by_b = 0.5 * exp(0.5 * b) * e;
    } else if (family == EXPONENTIAL) {
        *by_a = log(e) * exp(-a);
        *by_b = 0.0;
    } else {
        const double c = tanh(a), slope = SQRT_3 * (1.0 - c * c), sign = 2.0 * e - 1.0;
        *by_a = slope * (1.0 - sign_of(a) * sigmoid64(b) * sign);
        *by_b = half_width(a, b) * sigmoid64(-b) * sign;
    }
}

DEVICE double divergence(int family, double a, double b) {
    if (family == GAUSSIAN) return 0.5 * (expm1(b) + a * a - b);
    if (family == EXPONENTIAL) return a + expm1(-a);
    if (family == UNIFORM) return softplus(2.0 * fabs(a)) - LN_2 + softplus(-b);
    return 0.0;
}

DEVICE void divergence_gradient(int family, double a, double b, double *by_a, double *by_b) {
    if (family == GAUSSIAN) {
        *by_a = a;
        *by_b = 0.5 * expm1(b);
    } else if (family == EXPONENTIAL) {
        *by_a = -expm1(-a);
        *by_b = 0.0;
    } else {
        *by_a = 2.0 * sign_of(a) * sigmoid64(2.0 * fabs(a));
        *by_b = -sigmoid64(-b);
    }
}

// z of the current batch, and a partial sum of its KL for each block. For families with one parameter, `b` is `a`.
KERNEL(draw)(int family, const int *cursor, const int *order, const float *a, const float *b, const float *noise,
             float *z, double *partial, int full, int batch, int dim) {
    SHARED double sums[THREADS];
    const i64 start = (i64)cursor[0] * full;
    EACH_THREAD(t) {
        const int i = (int)global_index(t);
        double kl = 0.0;
        if (i < batch * dim) {
            const i64 at = (i64)order[start + i / dim] * dim + i % dim;
            if (family == PLAIN) {
                z[i] = a[at];
            } else {
                z[i] = (float)sample(family, a[at], b[at], noise[start * dim + i]);
                kl = divergence(family, a[at], b[at]);
            }
        }
        sums[t] = kl;
    }
    SYNC();
    block_sum(sums);
    EACH_THREAD(t) {
        if (t == 0) partial[blockIdx.x] = sums[0];
    }
}

// Adam on all latent numbers: rows outside the batch move by their momentum. `position` is the inverse of the epoch's
// order, `dz` the gradient with respect to the batch's z.
KERNEL(latents_step)(int family, const int *cursor, const int *position, const float *noise, const float *dz,
                     const double *rates, float *a, float *am, float *av, float *b, float *bm, float *bv,
                     int full, int batch, int dim, int n) {
    const double *now = rates + (i64)cursor[0] * RATES;
    const i64 start = (i64)cursor[0] * full;
    EACH_THREAD(t) {
        const int i = (int)global_index(t);
        if (i < n) {
            const i64 at = position[i / dim] - start;
            float by_a = 0.0f, by_b = 0.0f;
            if (at >= 0 && at < batch) {
                const i64 j = at * dim + i % dim;
                const float g = dz[j];
                if (family == PLAIN) {
                    by_a = g;
                } else {
                    double za, zb, ka = 0.0, kb = 0.0;
                    sample_gradient(family, a[i], b[i], noise[start * dim + j], &za, &zb);
                    if (now[4] != 0.0) divergence_gradient(family, a[i], b[i], &ka, &kb);
                    by_a = (float)((double)g * za + now[4] * ka);
                    by_b = (float)((double)g * zb + now[4] * kb);
                }
            }
            adam_step(a + i, am + i, av + i, by_a, (float)now[2], (float)now[3]);
            if (family == GAUSSIAN || family == UNIFORM)
                adam_step(b + i, bm + i, bv + i, by_b, (float)now[2], (float)now[3]);
        }
    }
}

// Advances to the next step of the epoch.
KERNEL(advance)(int *cursor) {
    EACH_THREAD(t) {
        if (t == 0) cursor[0] += 1;
    }
}

// ---- Biases

// y = the sum of the products plus the bias, which has `stride` numbers for each pixel: `channels`, or 0 if the pixels
// share one. With `clip`, y = relu of that.
KERNEL(add_bias)(const float *product, const int *sources, int taps, const float *bias, int stride, int clip, float *y,
                 int batch, int channels, int size) {
    EACH_THREAD(t) {
        const int j = (int)global_index(t);
        if (j < size) {
            const Place at = place(j, channels);
            const i64 i = ((i64)blockIdx.y * batch + at.b) * channels + at.c;
            const Four more = load(bias + (i64)blockIdx.y * stride + at.c, at.c, channels);
            Four sum = gather(product, sources, taps, blockIdx.y, at.b, batch, at.c, channels);
            for (int k = 0; k < 4; ++k) {
                sum.at[k] += more.at[k];
                if (clip && !(sum.at[k] > 0.0f)) sum.at[k] = 0.0f;
            }
            store(sum, y + i, at.c, channels);
        }
    }
}

// Copies the gradient of the fully connected layer to its sources, and sums it up by bias, [pixel][channel]. A block
// has CHANNELS channels of a pixel, LANES samples at a time.
KERNEL(bias_backward)(const float *dy, const int *sources, int taps, float *columns, float *gradient, int batch,
                      int channels) {
    SHARED double sums[THREADS * 4];
    EACH_THREAD(t) {
        const int c = blockIdx.x * CHANNELS + t * 4 % CHANNELS;
        double sum[4] = {};
        if (c < channels) {
            for (int b = t * 4 / CHANNELS; b < batch; b += LANES) {
                const Four g = load(dy + ((i64)blockIdx.y * batch + b) * channels + c, c, channels);
                scatter(g, columns, sources, taps, blockIdx.y, b, batch, c, channels);
                for (int k = 0; k < 4; ++k) sum[k] += g.at[k];
            }
        }
        for (int k = 0; k < 4; ++k) sums[t * 4 + k] = sum[k];
    }
    SYNC();
    EACH_THREAD(t) {
        const int c = blockIdx.x * CHANNELS + t;
        if (t < CHANNELS && c < channels) {
            double sum = 0.0;
            for (int lane = 0; lane < LANES; ++lane) sum += sums[lane * CHANNELS + t];
            gradient[(i64)blockIdx.y * channels + c] = (float)sum;
        }
    }
}

// ---- Batch norm and ReLU: ops/norm.rs. Rows are (pixel, sample). A block sums CHANNELS channels over `chunk` rows,
// LANES rows at a time. `partial` is [chunk][2][channel]; a block adds it up for FEW_CHANNELS channels, MANY_LANES chunks
// at a time.

// Adds up two numbers of each thread of a block, by channel, into `partial`.
DEVICE void store_partial(const double *first, const double *second, double *partial, int channels) {
    EACH_THREAD(t) {
        const int c = blockIdx.x * CHANNELS + t;
        if (t < CHANNELS && c < channels) {
            double a = 0.0, b = 0.0;
            for (int lane = 0; lane < LANES; ++lane) {
                a += first[lane * CHANNELS + t];
                b += second[lane * CHANNELS + t];
            }
            partial[(i64)blockIdx.y * 2 * channels + c] = a;
            partial[((i64)blockIdx.y * 2 + 1) * channels + c] = b;
        }
    }
}

// Adds up the partial sums of all chunks, by channel, into the first FEW_CHANNELS elements of both arrays.
DEVICE void load_partial(const double *partial, double *first, double *second, int chunks, int channels) {
    EACH_THREAD(t) {
        const int c = blockIdx.x * FEW_CHANNELS + t % FEW_CHANNELS;
        double a = 0.0, b = 0.0;
        if (c < channels) {
            for (i64 chunk = t / FEW_CHANNELS; chunk < chunks; chunk += MANY_LANES) {
                a += partial[chunk * 2 * channels + c];
                b += partial[(chunk * 2 + 1) * channels + c];
            }
        }
        first[t] = a;
        second[t] = b;
    }
    SYNC();
    for (int half = THREADS / 2; half >= FEW_CHANNELS; half /= 2) {
        EACH_THREAD(t) {
            if (t < half) {
                first[t] += first[t + half];
                second[t] += second[t + half];
            }
        }
        SYNC();
    }
}

// Writes the sums of the layer's products to `x`, and partial sums of x and x².
KERNEL(norm_sums)(const float *product, const int *sources, int taps, float *x, double *partial, int batch, int rows,
                  int channels, int chunk) {
    SHARED double sums[THREADS * 4];
    SHARED double squares[THREADS * 4];
    EACH_THREAD(t) {
        const int c = blockIdx.x * CHANNELS + t * 4 % CHANNELS;
        const int first = blockIdx.y * chunk, end = first + chunk < rows ? first + chunk : rows;
        double sum[4] = {}, square[4] = {};
        if (c < channels) {
            for (int r = first + t * 4 / CHANNELS; r < end; r += LANES) {
                const Four v = gather(product, sources, taps, r / batch, r % batch, batch, c, channels);
                store(v, x + (i64)r * channels + c, c, channels);
                for (int k = 0; k < 4; ++k) {
                    sum[k] += v.at[k];
                    square[k] += (double)v.at[k] * v.at[k];
                }
            }
        }
        for (int k = 0; k < 4; ++k) {
            sums[t * 4 + k] = sum[k];
            squares[t * 4 + k] = square[k];
        }
    }
    SYNC();
    store_partial(sums, squares, partial, channels);
}

// Mean and 1 / √(var + ε) of each channel. Updates the running statistics if `track`.
KERNEL(norm_statistics)(const double *partial, float *mean, float *inverse, float *running_mean, float *running_var,
                        int chunks, int rows, int channels, int track) {
    SHARED double sums[THREADS];
    SHARED double squares[THREADS];
    load_partial(partial, sums, squares, chunks, channels);
    EACH_THREAD(t) {
        const int c = blockIdx.x * FEW_CHANNELS + t;
        if (t < FEW_CHANNELS && c < channels) {
            const double n = rows, average = sums[t] / n;
            // The difference of two f64 sums of f32 numbers keeps enough digits. Rounding may make it slightly
            // negative.
            double deviation = squares[t] - average * sums[t];
            if (deviation < 0.0) deviation = 0.0;
            mean[c] = (float)average;
            inverse[c] = (float)(1.0 / sqrt(deviation / n + 1e-5));
            if (track) {
                const float unbiased = (float)(deviation / (n > 2.0 ? n - 1.0 : 1.0));
                running_mean[c] += ((float)average - running_mean[c]) * 0.1f;
                running_var[c] += (unbiased - running_var[c]) * 0.1f;
            }
        }
    }
}

// The statistics and parameters of a norm, for four channels.
struct Norm {
    Four mean, inverse, gamma, beta;
};

DEVICE Norm load_norm(const float *mean, const float *inverse, const float *gamma, const float *beta, int c,
                      int channels) {
    return {load(mean + c, c, channels), load(inverse + c, c, channels), load(gamma + c, c, channels),
            load(beta + c, c, channels)};
}

// x̂ of channel k.
DEVICE float normalise(const Norm &norm, float x, int k) { return (x - norm.mean.at[k]) * norm.inverse.at[k]; }

// γ x̂ + β of channel k.
DEVICE float scale(const Norm &norm, float normalised, int k) { return norm.gamma.at[k] * normalised + norm.beta.at[k]; }

// y = relu(γ x̂ + β).
KERNEL(norm_apply)(const float *x, const float *mean, const float *inverse, const float *gamma, const float *beta,
                   float *y, int batch, int channels, int size) {
    EACH_THREAD(t) {
        const int j = (int)global_index(t);
        if (j < size) {
            const Place at = place(j, channels);
            const i64 i = ((i64)blockIdx.y * batch + at.b) * channels + at.c;
            const Norm norm = load_norm(mean, inverse, gamma, beta, at.c, channels);
            Four v = load(x + i, at.c, channels);
            for (int k = 0; k < 4; ++k) {
                const float whole = scale(norm, normalise(norm, v.at[k], k), k);
                v.at[k] = whole > 0.0f ? whole : 0.0f;
            }
            store(v, y + i, at.c, channels);
        }
    }
}

// Partial sums of g = dy · [y > 0] and of g x̂.
KERNEL(norm_backward_sums)(const float *dy, const float *x, const float *mean, const float *inverse, const float *gamma,
                           const float *beta, double *partial, int rows, int channels, int chunk) {
    SHARED double sums[THREADS * 4];
    SHARED double dots[THREADS * 4];
    EACH_THREAD(t) {
        const int c = blockIdx.x * CHANNELS + t * 4 % CHANNELS;
        const int first = blockIdx.y * chunk, end = first + chunk < rows ? first + chunk : rows;
        double sum[4] = {}, dot[4] = {};
        if (c < channels) {
            const Norm norm = load_norm(mean, inverse, gamma, beta, c, channels);
            for (int r = first + t * 4 / CHANNELS; r < end; r += LANES) {
                const i64 at = (i64)r * channels + c;
                const Four value = load(x + at, c, channels), gradient = load(dy + at, c, channels);
                for (int k = 0; k < 4; ++k) {
                    const float normalised = normalise(norm, value.at[k], k);
                    const float g = scale(norm, normalised, k) > 0.0f ? gradient.at[k] : 0.0f;
                    sum[k] += g;
                    dot[k] += (double)g * normalised;
                }
            }
        }
        for (int k = 0; k < 4; ++k) {
            sums[t * 4 + k] = sum[k];
            dots[t * 4 + k] = dot[k];
        }
    }
    SYNC();
    store_partial(sums, dots, partial, channels);
}

// dβ and dγ; `means` are both divided by the number of rows, [2][channel].
KERNEL(norm_backward_statistics)(const double *partial, float *dgamma, float *dbeta, float *means, int chunks, int rows,
                                 int channels) {
    SHARED double sums[THREADS];
    SHARED double dots[THREADS];
    load_partial(partial, sums, dots, chunks, channels);
    EACH_THREAD(t) {
        const int c = blockIdx.x * FEW_CHANNELS + t;
        if (t < FEW_CHANNELS && c < channels) {
            dbeta[c] = (float)sums[t];
            dgamma[c] = (float)dots[t];
            means[c] = (float)(sums[t] / rows);
            means[channels + c] = (float)(dots[t] / rows);
        }
    }
}

// Copies γ / √(var + ε) · (g − dβ / n − x̂ dγ / n) to the sources of each output pixel.
KERNEL(norm_backward_apply)(const float *dy, const float *x, const float *mean, const float *inverse, const float *gamma,
                            const float *beta, const float *means, const int *sources, int taps, float *columns,
                            int batch, int channels, int size) {
    EACH_THREAD(t) {
        const int j = (int)global_index(t);
        if (j < size) {
            const Place at = place(j, channels);
            const i64 i = ((i64)blockIdx.y * batch + at.b) * channels + at.c;
            const Norm norm = load_norm(mean, inverse, gamma, beta, at.c, channels);
            const Four value = load(x + i, at.c, channels), shift = load(means + at.c, at.c, channels);
            const Four slope = load(means + channels + at.c, at.c, channels);
            Four d = load(dy + i, at.c, channels);
            for (int k = 0; k < 4; ++k) {
                const float normalised = normalise(norm, value.at[k], k);
                const float g = scale(norm, normalised, k) > 0.0f ? d.at[k] : 0.0f;
                d.at[k] = norm.gamma.at[k] * norm.inverse.at[k] * (g - shift.at[k] - normalised * slope.at[k]);
            }
            scatter(d, columns, sources, taps, blockIdx.y, at.b, batch, at.c, channels);
        }
    }
}

// The backward pass where the norm is folded into the weights, so that only ReLU remains.
KERNEL(clip_backward)(const float *dy, const float *y, const int *sources, int taps, float *columns, int batch,
                      int channels, int size) {
    EACH_THREAD(t) {
        const int j = (int)global_index(t);
        if (j < size) {
            const Place at = place(j, channels);
            const i64 i = ((i64)blockIdx.y * batch + at.b) * channels + at.c;
            const Four value = load(y + i, at.c, channels);
            Four d = load(dy + i, at.c, channels);
            for (int k = 0; k < 4; ++k) {
                if (!(value.at[k] > 0.0f)) d.at[k] = 0.0f;
            }
            scatter(d, columns, sources, taps, blockIdx.y, at.b, batch, at.c, channels);
        }
    }
}

// ---- The tail and the loss: ops/tail.rs. `scalars` are bias, scale and shift.

// From the products [input pixel][sample][tap] to σ and x̂ − x, with a partial sum of its squares for each block.
KERNEL(tail_forward)(const float *taps, const float *scalars, const u8 *images, const int *cursor,
                     const int *order, float *before, float *sigmoid, float *error, double *partial, int full,
                     int batch) {
    SHARED double squares[THREADS];
    const i64 start = (i64)cursor[0] * full;
    EACH_THREAD(t) {
        const int i = (int)global_index(t);
        double square = 0.0;
        if (i < PIXELS * batch) {
            const int b = i % batch, pixel = i / batch;
            const int oy = pixel / SIDE + CROP + 1, ox = pixel % SIDE + CROP + 1;
            float u = scalars[0];
            for (int ky = oy % 2; ky < 4; ky += 2) {
                for (int kx = ox % 2; kx < 4; kx += 2) {
                    const int iy = (oy - ky) / 2, ix = (ox - kx) / 2;
                    if (oy < ky || ox < kx || iy >= INPUT_SIDE || ix >= INPUT_SIDE) continue;
                    const i64 at = ((i64)(iy * INPUT_SIDE + ix) * batch + b) * TAPS + ky * 4 + kx;
                    u += taps[at];
                }
            }
            const float s = 1.0f / (1.0f + expf(-(scalars[1] * u + scalars[2])));
            const float e = s * WHITE - (float)images[(i64)order[start + b] * PIXELS + pixel];
            before[i] = u;
            sigmoid[i] = s;
            error[i] = e;
            square = (double)e * e;
        }
        squares[t] = square;
    }
    SYNC();
    block_sum(squares);
    EACH_THREAD(t) {
        if (t == 0) partial[blockIdx.x] = squares[0];
    }
}

// Writes the step's squared error and mean KL to `losses`, and 255 / (‖x − x̂‖ n) to `factor`, or 0 if the norm is 0.
// One block.
KERNEL(tail_loss)(const double *squares, int blocks, const double *kl, int kl_blocks, const int *cursor, double *losses,
                  double *factor, double pixels, double numbers) {
    SHARED double sums[THREADS];
    SHARED double kls[THREADS];
    EACH_THREAD(t) {
        double sum = 0.0, divergence = 0.0;
        for (int i = t; i < blocks; i += THREADS) sum += squares[i];
        for (int i = t; i < kl_blocks; i += THREADS) divergence += kl[i];
        sums[t] = sum;
        kls[t] = divergence;
    }
    SYNC();
    block_sum(sums);
    block_sum(kls);
    EACH_THREAD(t) {
        if (t == 0) {
            const double norm = sqrt(sums[0]);
            losses[(i64)cursor[0] * 2] = sums[0];
            losses[(i64)cursor[0] * 2 + 1] = kls[0] / numbers;
            factor[0] = norm > 0.0 ? (double)WHITE / (norm * pixels) : 0.0;
        }
    }
}

// Replaces the error by the gradient with respect to u, with partial sums of the gradients of shift and scale for each
// block.
KERNEL(tail_backward)(const float *before, const float *sigmoid, const float *scalars, const double *factor,
                      float *gradient, double *partial, i64 n) {
    SHARED double shifts[THREADS];
    SHARED double scales[THREADS];
    EACH_THREAD(t) {
        const i64 i = global_index(t);
        double shift = 0.0, scale = 0.0;
        if (i < n) {
            const float by_a = gradient[i] * (float)factor[0] * sigmoid[i] * (1.0f - sigmoid[i]);
            shift = by_a;
            scale = (double)by_a * before[i];
            gradient[i] = by_a * scalars[1];
        }
        shifts[t] = shift;
        scales[t] = scale;
    }
    SYNC();
    block_sum(shifts);
    block_sum(scales);
    EACH_THREAD(t) {
        if (t == 0) {
            partial[(i64)blockIdx.x * 2] = shifts[0];
            partial[(i64)blockIdx.x * 2 + 1] = scales[0];
        }
    }
}

// The gradients of bias, scale and shift. One block.
KERNEL(tail_scalars)(const double *partial, int blocks, const float *scalars, float *gradient) {
    SHARED double shifts[THREADS];
    SHARED double scales[THREADS];
    EACH_THREAD(t) {
        double shift = 0.0, scale = 0.0;
        for (int i = t; i < blocks; i += THREADS) {
            shift += partial[(i64)i * 2];
            scale += partial[(i64)i * 2 + 1];
        }
        shifts[t] = shift;
        scales[t] = scale;
    }
    SYNC();
    block_sum(shifts);
    block_sum(scales);
    EACH_THREAD(t) {
        if (t == 0) {
            gradient[0] = (float)(shifts[0] * scalars[1]);
            gradient[1] = (float)scales[0];
            gradient[2] = (float)shifts[0];
        }
    }
}

// Copies the gradient of each pixel to the products that were added to it; 0 for cropped pixels.
KERNEL(tail_spread)(const float *gradient, float *taps, int batch, int n) {
    EACH_THREAD(t) {
        const int i = (int)global_index(t);
        if (i < n) {
            const int tap = i % TAPS, b = i / TAPS % batch, input = i / TAPS / batch;
            const int y = input / INPUT_SIDE * 2 + tap / 4 - 1 - CROP, x = input % INPUT_SIDE * 2 + tap % 4 - 1 - CROP;
            const int inside = y >= 0 && y < SIDE && x >= 0 && x < SIDE;
            taps[i] = inside ? gradient[(i64)(y * SIDE + x) * batch + b] : 0.0f;
        }
    }
}
