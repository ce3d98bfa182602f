use proptest::prelude::*;

use super::*;
use crate::rng::Streams;

/// Density of the posterior at z.
fn density(d: Distribution, [a, b]: Pair, z: f64) -> f64 {
    match d {
        Distribution::Gaussian => (-(z - a).powi(2) / (2.0 * b.exp())).exp() / (std::f64::consts::TAU * b.exp()).sqrt(),
        Distribution::Exponential => a.exp() * (-z * a.exp()).exp(),
        Distribution::Uniform => {
            let (c, h) = textbook_uniform(a, b);
            if (z - c).abs() <= h { 0.5 / h } else { 0.0 }
        }
    }
}

fn textbook_uniform(u: f64, v: f64) -> (f64, f64) {
    let root = 3f64.sqrt();
    let c = root * u.tanh();
    (c, (root - c.abs()) / (1.0 + (-v).exp()))
}

/// The logarithm of the prior's density at z, from its definition.
fn log_prior(d: Distribution, z: f64) -> f64 {
    match d {
        Distribution::Gaussian => -0.5 * z * z - 0.5 * std::f64::consts::TAU.ln(),
        Distribution::Exponential => -z,
        Distribution::Uniform => -(2.0 * 3f64.sqrt()).ln(),
    }
}

/// An interval with nearly all of the posterior's mass.
fn support(d: Distribution, [a, b]: Pair) -> (f64, f64) {
    match d {
        Distribution::Gaussian => (a - 12.0 * (b / 2.0).exp(), a + 12.0 * (b / 2.0).exp()),
        Distribution::Exponential => (0.0, 45.0 / a.exp()),
        Distribution::Uniform => {
            let (c, h) = textbook_uniform(a, b);
            (c - h, c + h)
        }
    }
}

/// The integral of f q over the posterior's support, by the midpoint rule.
fn expectation(d: Distribution, p: Pair, f: impl Fn(f64) -> f64) -> f64 {
    const STEPS: usize = 20_000;
    let (low, high) = support(d, p);
    let width = (high - low) / STEPS as f64;
    (0..STEPS).map(|i| low + (i as f64 + 0.5) * width).map(|z| density(d, p, z) * f(z) * width).sum()
}

fn families() -> impl Strategy<Value = Distribution> {
    prop::sample::select(Distribution::ALL.to_vec())
}

/// Not near 0, where |u| of the uniform has its kink.
fn off_zero() -> impl Strategy<Value = f64> {
    (0.02..2.5f64, any::<bool>()).prop_map(|(x, negative)| if negative { -x } else { x })
}

fn close(found: f64, wanted: f64, tolerance: f64) -> Result<(), TestCaseError> {
    let error = (found - wanted).abs() / (1.0 + wanted.abs());
    prop_assert!(error < tolerance, "{found} is not {wanted}");
    Ok(())
}

/// Central differences with respect to both parameters.
fn differences(p: Pair, f: impl Fn(Pair) -> f64) -> Pair {
    let step = 1e-5;
    let slope = |i: usize| {
        let (mut low, mut high) = (p, p);
        low[i] -= step;
        high[i] += step;
        (f(high) - f(low)) / (2.0 * step)
    };
    [slope(0), slope(1)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn kl_is_the_integral_of_its_definition(d in families(), a in off_zero(), b in -2.0..2.0f64) {
        let p = [a, b];
        let integral = expectation(d, p, |z| density(d, p, z).ln() - log_prior(d, z));
        close(d.kl(p), integral, 1e-5)?;
    }

    #[test]
    fn mean_is_the_integral_of_its_definition(d in families(), a in off_zero(), b in -2.0..2.0f64) {
        close(d.mean([a, b]), expectation(d, [a, b], |z| z), 1e-5)?;
    }

    #[test]
    fn kl_is_not_negative(d in families(), a in -30.0..30.0f64, b in -30.0..30.0f64) {
        prop_assert!(d.kl([a, b]) >= 0.0);
    }

    #[test]
    fn kl_gradient_agrees_with_differences(d in families(), a in off_zero(), b in -2.0..2.0f64) {
        let p = [a, b];
        let wanted = differences(p, |p| d.kl(p));
        for (found, wanted) in d.kl_gradient(p).into_iter().zip(wanted) {
            close(found, wanted, 1e-7)?;
        }
    }

    #[test]
    fn sample_gradient_agrees_with_differences(
        d in families(), a in off_zero(), b in -2.0..2.0f64, e in 0.001..1.0f64,
    ) {
        let p = [a, b];
        let wanted = differences(p, |p| d.sample(p, e));
        for (found, wanted) in d.sample_gradient(p, e).into_iter().zip(wanted) {
            close(found, wanted, 1e-7)?;
        }
    }

    #[test]
    fn uniform_stays_inside_its_prior(u in -40.0..40.0f64, v in -40.0..40.0f64, e in 0.0..=1.0f64) {
        let z = Distribution::Uniform.sample([u, v], e);
        prop_assert!(z.abs() <= SQRT_3 * (1.0 + 1e-12));
        prop_assert!(Distribution::Uniform.kl([u, v]).is_finite());
    }
}

/// Mean and variance.
fn moments(values: impl ExactSizeIterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (mean, values.map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

#[test]
fn samples_have_the_moments_of_their_distribution() {
    for (d, p, variance) in [
        (Distribution::Gaussian, [0.7, -1.0], (-1f64).exp()),
        (Distribution::Exponential, [0.5, 0.0], (-1f64).exp()),
        (Distribution::Uniform, [0.3, 0.4], textbook_uniform(0.3, 0.4).1.powi(2) / 3.0),
    ] {
        let mut noise = vec![0.0; 40_000];
        d.noise(&mut Streams::new(3).stream("noise", 0, 0), &mut noise);
        let (found_mean, found_variance) = moments(noise.iter().map(|e| d.sample(p, f64::from(*e))));
        assert!((found_mean - d.mean(p)).abs() < 0.02, "{d:?}: mean {found_mean}, not {}", d.mean(p));
        assert!((found_variance / variance - 1.0).abs() < 0.05, "{d:?}: variance {found_variance}, not {variance}");
    }
}

#[test]
fn priors_have_unit_variance() {
    for (d, wanted_mean) in
        [(Distribution::Gaussian, 0.0), (Distribution::Exponential, 1.0), (Distribution::Uniform, 0.0)]
    {
        let mut z = vec![0.0; 40_000];
        d.prior(&mut Streams::new(3).stream("prior", 0, 0), &mut z);
        let (mean, variance) = moments(z.iter().map(|v| f64::from(*v)));
        assert!((mean - wanted_mean).abs() < 0.02, "{d:?}: mean {mean}");
        assert!((variance - 1.0).abs() < 0.05, "{d:?}: variance {variance}");
    }
}

#[test]
fn kl_is_zero_if_posterior_equals_prior() {
    assert_eq!(Distribution::Gaussian.kl([0.0, 0.0]), 0.0);
    assert_eq!(Distribution::Exponential.kl([0.0, 0.0]), 0.0);
    // The uniform's prior is its limit for v → ∞.
    assert!(Distribution::Uniform.kl([0.0, 40.0]) < 1e-15);
}

#[test]
fn gradients_at_kink_of_uniform_are_finite() {
    assert_eq!(Distribution::Uniform.kl_gradient([0.0, 0.0]), [0.0, -0.5]);
    let [u, v] = Distribution::Uniform.sample_gradient([0.0, 0.0], 0.75);
    assert!((u - SQRT_3).abs() < 1e-15 && (v - SQRT_3 / 8.0).abs() < 1e-15, "{u} {v}");
}

#[test]
fn family_is_found_by_name() {
    for d in Distribution::ALL {
        assert_eq!(Distribution::from_name(d.name()), Some(d));
    }
    assert_eq!(Distribution::from_name("gauss"), None);
}

#[test]
fn scaled_noise_scales_the_distance_from_the_mean() {
    let stream = || crate::rng::Streams::new(3).stream("noise", 0, 0);
    for d in Distribution::ALL {
        let p = [0.3, -0.4];
        let (mut plain, mut same, mut scaled) = ([0.0f32; 64], [0.0f32; 64], [0.0f32; 64]);
        d.noise(&mut stream(), &mut plain);
        d.scaled_noise(&mut stream(), 1.0, &mut same);
        assert_eq!(same, plain);
        for scale in [0.0, 0.25, 1.75] {
            d.scaled_noise(&mut stream(), scale, &mut scaled);
            for (e, plain) in scaled.iter().zip(plain) {
                let wanted = d.mean(p) + scale * (d.sample(p, f64::from(plain)) - d.mean(p));
                let found = d.sample(p, f64::from(*e));
                assert!((found - wanted).abs() < 1e-5, "{d:?} × {scale}: {found}, not {wanted}");
            }
        }
    }
}
