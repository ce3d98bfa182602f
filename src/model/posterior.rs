//! The posteriors of a variational auto-decoder: one distribution for each sample and latent dimension.
//!
//! The functions compute with one latent number; the training has the arrays, n × D for each parameter. ε is the noise
//! of the reparametrisation trick (Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114):
//!
//! | | parameters | z | mean | prior | KL to the prior |
//! |---|---|---|---|---|---|
//! | gaussian | μ, ℓ = log σ² | μ + σε, ε ~ N(0,1) | μ | N(0,1) | ½(σ² + μ² − 1 − ℓ) |
//! | exponential | k = log λ | −log(ε)/λ, ε ~ U(0,1] | 1/λ | Exp(1) | k + 1/λ − 1 |
//! | uniform | u, v | c + h(2ε − 1), ε ~ U(0,1] | c | U(−√3, √3) | log(√3/h) |
//!
//! The uniform has the centre c = √3·tanh u and the half-width h = (√3 − |c|)·sigmoid v. So its support is inside the
//! prior's, and the KL is finite: log(√3/h) = softplus(2|u|) − ln 2 + softplus(−v). The priors N(0,1) and U(−√3, √3)
//! have mean 0 and variance 1; Exp(1) has mean 1 and variance 1.
//!
//! All arithmetic is f64 with `libm`, so the bits are the same on every machine. Results are rounded to f32 once.

use crate::rng::Stream;

const SQRT_3: f64 = 1.732_050_807_568_877_2;

/// A family of posteriors, each with its prior.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// N(μ, σ²), prior N(0, 1).
    Gaussian,
    /// Exp(λ), prior Exp(1).
    Exponential,
    /// U(c − h, c + h), prior U(−√3, √3).
    Uniform,
}

/// The parameters of one latent number, in the order of [`Distribution::parameters`]. The exponential does not use the
/// second, which is 0. Gradients with respect to the parameters have the same type.
pub type Pair = [f64; 2];

/// One parameter of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in artifacts: `posterior.<name>`.
    pub name: &'static str,
    /// Its values before training.
    pub start: Start,
}

/// The values of a parameter before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// 0.
    Zero,
    /// Normal with mean 0 and the standard deviation of the stage's parameter `init_std`.
    InitStd,
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
}

impl Distribution {
    /// All families.
    pub const ALL: [Self; 3] = [Self::Gaussian, Self::Exponential, Self::Uniform];

    /// Its name in pipelines and artifacts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gaussian => "gaussian",
            Self::Exponential => "exponential",
            Self::Uniform => "uniform",
        }
    }

    /// The family of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// Its parameters: one or two.
    pub fn parameters(self) -> &'static [Parameter] {
        const fn parameter(name: &'static str, start: Start) -> Parameter {
            Parameter { name, start }
        }
        match self {
            Self::Gaussian => const { &[parameter("mean", Start::InitStd), parameter("log_variance", Start::Zero)] },
            Self::Exponential => const { &[parameter("log_rate", Start::Normal(0.1))] },
            Self::Uniform => const { &[parameter("u", Start::Normal(0.1)), parameter("v", Start::Normal(0.1))] },
        }
    }

    /// Fills `out` with the noise ε that [`Self::sample`] transforms.
    pub fn noise(self, stream: &mut Stream, out: &mut [f32]) {
        match self {
            Self::Gaussian => stream.normals(out),
            Self::Exponential | Self::Uniform => stream.uniforms(out),
        }
    }

    /// Fills `out` with noise whose samples are `scale` times as far from the posterior's mean: z becomes mean + scale
    /// × (z − mean). The noise of the mean itself is 0 (Gaussian), 1/e (exponential, where z is −ln ε × mean) and ½
    /// (uniform). With a scale of 6 or more, the exponential's ε may be 0, and z infinite.
    pub fn scaled_noise(self, stream: &mut Stream, scale: f64, out: &mut [f32]) {
        self.noise(stream, out);
        if scale == 1.0 {
            return;
        }
        for v in out {
            let e = f64::from(*v);
            *v = match self {
                Self::Gaussian => scale * e,
                Self::Exponential => libm::exp(scale * (libm::log(e) + 1.0) - 1.0),
                Self::Uniform => 0.5 + scale * (e - 0.5),
            } as f32;
        }
    }

    /// Fills `out` with samples of the prior.
    pub fn prior(self, stream: &mut Stream, out: &mut [f32]) {
        self.noise(stream, out);
        for v in out {
            let e = f64::from(*v);
            *v = match self {
                Self::Gaussian => e,
                Self::Exponential => -libm::log(e),
                Self::Uniform => SQRT_3 * (2.0 * e - 1.0),
            } as f32;
        }
    }

    /// The sample z for the noise `e`.
    pub fn sample(self, [a, b]: Pair, e: f64) -> f64 {
        match self {
            Self::Gaussian => a + libm::exp(0.5 * b) * e,
            Self::Exponential => -libm::log(e) * libm::exp(-a),
            Self::Uniform => {
                let (centre, half_width) = uniform(a, b);
                centre + half_width * (2.0 * e - 1.0)
            }
        }
    }

    /// The gradient of z with respect to the parameters, for the noise `e`. The derivative of |c| at u = 0, where it
    /// has a kink, is 0 as in PyTorch.
    pub fn sample_gradient(self, [a, b]: Pair, e: f64) -> Pair {
        match self {
            Self::Gaussian => [1.0, 0.5 * libm::exp(0.5 * b) * e],
            Self::Exponential => [libm::log(e) * libm::exp(-a), 0.0],
            Self::Uniform => {
                let tanh = libm::tanh(a);
                let slope = SQRT_3 * (1.0 - tanh * tanh);
                let (_, half_width) = uniform(a, b);
                let sign = 2.0 * e - 1.0;
                [slope * (1.0 - signum(a) * sigmoid(b) * sign), half_width * sigmoid(-b) * sign]
            }
        }
    }

    /// The mean of the posterior.
    pub fn mean(self, [a, _]: Pair) -> f64 {
        match self {
            Self::Gaussian => a,
            Self::Exponential => libm::exp(-a),
            Self::Uniform => SQRT_3 * libm::tanh(a),
        }
    }

    /// The Kullback–Leibler divergence of the posterior q from the prior p: ∫ q log(q/p), in nats.
    pub fn kl(self, [a, b]: Pair) -> f64 {
        match self {
            Self::Gaussian => 0.5 * (libm::expm1(b) + a * a - b),
            Self::Exponential => a + libm::expm1(-a),
            Self::Uniform => softplus(2.0 * a.abs()) - std::f64::consts::LN_2 + softplus(-b),
        }
    }

    /// The gradient of [`Self::kl`] with respect to the parameters. At u = 0 as [`Self::sample_gradient`].
    pub fn kl_gradient(self, [a, b]: Pair) -> Pair {
        match self {
            Self::Gaussian => [a, 0.5 * libm::expm1(b)],
            Self::Exponential => [-libm::expm1(-a), 0.0],
            Self::Uniform => [2.0 * signum(a) * sigmoid(2.0 * a.abs()), -sigmoid(-b)],
        }
    }
}

/// Centre and half-width of the uniform. √3 − |c| = √3(1 − tanh|u|) is computed as 2√3·sigmoid(−2|u|), which loses no
/// digits where tanh is close to 1.
fn uniform(u: f64, v: f64) -> (f64, f64) {
    (SQRT_3 * libm::tanh(u), 2.0 * SQRT_3 * sigmoid(-2.0 * u.abs()) * sigmoid(v))
}

/// The sign of `x`; 0 for 0, unlike [`f64::signum`].
fn signum(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// log(1 + eˣ), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

#[cfg(test)]
mod tests;
