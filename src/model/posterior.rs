//! The posteriors of a variational auto-decoder: one distribution for each sample and latent dimension.
//!
//! Every function here speaks of one latent number; the arrays (one of n × D for each parameter) are the training's.
//! With ε the noise of the reparametrisation trick (Kingma & Welling 2014, arXiv 1312.6114):
//!
//! | | parameters | z | mean | prior | KL to the prior |
//! |---|---|---|---|---|---|
//! | gaussian | μ, ℓ = log σ² | μ + σε, ε ~ N(0,1) | μ | N(0,1) | ½(σ² + μ² − 1 − ℓ) |
//! | exponential | k = log λ | −log(ε)/λ, ε ~ U(0,1] | 1/λ | Exp(1) | k + 1/λ − 1 |
//! | uniform | u, v | c + h(2ε − 1), ε ~ U(0,1] | c | U(−√3, √3) | log(√3/h) |
//!
//! where the uniform's centre is c = √3·tanh u and its half-width h = (√3 − |c|)·sigmoid v, so that its support never
//! leaves the prior's and the KL stays finite: log(√3/h) = softplus(2|u|) − ln 2 + softplus(−v). The priors of the first
//! and the last have mean 0 and variance 1, Exp(1) has mean 1 and variance 1.
//!
//! All arithmetic is in f64 through `libm`: the same bits on every machine, and one rounding on the way out.

use crate::rng::Stream;

const SQRT_3: f64 = 1.732_050_807_568_877_2;

/// A family of distributions that serves as posterior and, with fixed parameters, as prior.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// N(μ, σ²), prior N(0, 1).
    Gaussian,
    /// Exp(λ), prior Exp(1).
    Exponential,
    /// U(c − h, c + h), prior U(−√3, √3).
    Uniform,
}

/// The parameters of one latent number, in the order of [`Distribution::parameters`]; the exponential's second is not
/// used and 0. Also the type of gradients with respect to them.
pub type Pair = [f64; 2];

/// One parameter of a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in artifacts: `posterior.<name>`.
    pub name: &'static str,
    /// How it starts.
    pub start: Start,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// At 0.
    Zero,
    /// Normal around 0 with the standard deviation that the stage's `init_std` gives.
    InitStd,
    /// Normal around 0 with this standard deviation.
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

    /// Fills with the noise ε that [`Self::sample`] transforms.
    pub fn noise(self, stream: &mut Stream, out: &mut [f32]) {
        match self {
            Self::Gaussian => stream.normals(out),
            Self::Exponential | Self::Uniform => stream.uniforms(out),
        }
    }

    /// The same, `scale` times as far from the posterior's mean: z is mean + scale × (z − mean) of what it would be, for the noise
    /// of a mean draw is 0 (Gaussian), 1/e (exponential, whose z is −ln ε × mean) and ½ (uniform). From a scale of 6 on, an exponential's
    /// ε may become 0, and z infinite.
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

    /// Fills with samples of the prior.
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

    /// z for the noise `e`.
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

    /// The gradient of z with respect to the parameters, for the noise `e`. At u = 0, where |c| has a kink, the
    /// derivative of |c| is taken to be 0, as PyTorch does.
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

    /// The mean.
    pub fn mean(self, [a, _]: Pair) -> f64 {
        match self {
            Self::Gaussian => a,
            Self::Exponential => libm::exp(-a),
            Self::Uniform => SQRT_3 * libm::tanh(a),
        }
    }

    /// The Kullback–Leibler divergence from the prior, in nats: ∫ q log(q/p).
    pub fn kl(self, [a, b]: Pair) -> f64 {
        match self {
            Self::Gaussian => 0.5 * (libm::expm1(b) + a * a - b),
            Self::Exponential => a + libm::expm1(-a),
            Self::Uniform => softplus(2.0 * a.abs()) - std::f64::consts::LN_2 + softplus(-b),
        }
    }

    /// The gradient of [`Self::kl`]; at u = 0 as in [`Self::sample_gradient`].
    pub fn kl_gradient(self, [a, b]: Pair) -> Pair {
        match self {
            Self::Gaussian => [a, 0.5 * libm::expm1(b)],
            Self::Exponential => [-libm::expm1(-a), 0.0],
            Self::Uniform => [2.0 * signum(a) * sigmoid(2.0 * a.abs()), -sigmoid(-b)],
        }
    }
}

/// Centre and half-width. √3 − |c| = √3(1 − tanh|u|) is written as 2√3·sigmoid(−2|u|), which does not cancel where tanh
/// is close to 1.
fn uniform(u: f64, v: f64) -> (f64, f64) {
    (SQRT_3 * libm::tanh(u), 2.0 * SQRT_3 * sigmoid(-2.0 * u.abs()) * sigmoid(v))
}

/// The sign, 0 at 0 (f64's own is 1 there).
fn signum(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// log(1 + eˣ) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

#[cfg(test)]
mod tests;
