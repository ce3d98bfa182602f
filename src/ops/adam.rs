//! Adam as PyTorch does it (`torch.optim.Adam`, no weight decay, no AMSGrad), in one pass.
//!
//! ```text
//! m ← m + (g − m)(1 − β₁)          v ← β₂ v + (1 − β₂) g²
//! p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)          β₁ = 0.9, β₂ = 0.999, ε = 1e-8
//! ```
//! Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015. With c = √(1 − β₂ᵗ) the last line is computed as
//! `p − (lr c / (1 − β₁ᵗ)) m / (√v + c ε)`: the same, with one division instead of two. A pass over p, g, m and v is bound by
//! memory, so it is made once.

use rayon::prelude::*;

use super::block::Row;
use super::kernel;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// Elements of one parallel task: 64 KiB of each array.
const TASK: usize = 1 << 14;

/// First and second moments of some parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Running mean of the gradients.
    pub m: Vec<f32>,
    /// Running mean of their squares.
    pub v: Vec<f32>,
}

impl Moments {
    /// A fresh start for `n` parameters.
    pub fn zeros(n: usize) -> Self {
        Self { m: vec![0.0; n], v: vec![0.0; n] }
    }
}

/// What a step's number and learning rate come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// `lr √(1 − β₂ᵗ) / (1 − β₁ᵗ)`.
    pub step_size: f32,
    /// `ε √(1 − β₂ᵗ)`.
    pub epsilon: f32,
}

impl Rates {
    /// β₁ and β₂.
    pub const BETAS: (f64, f64) = (BETA1, BETA2);

    /// The rates of a step, counted from 1.
    pub fn new(step: u64, lr: f32) -> Self {
        let t = step as f64;
        let correction = (1.0 - libm::pow(BETA2, t)).sqrt();
        let step_size = f64::from(lr) * correction / (1.0 - libm::pow(BETA1, t));
        Self { step_size: step_size as f32, epsilon: (EPSILON * correction) as f32 }
    }

    /// One element's step.
    #[inline(always)]
    fn element(self, p: &mut f32, g: f32, m: &mut f32, v: &mut f32) {
        *m += (g - *m) * (1.0 - BETA1) as f32;
        *v = *v * BETA2 as f32 + (1.0 - BETA2) as f32 * g * g;
        *p -= self.step_size * *m / (v.sqrt() + self.epsilon);
    }

    /// The step of a run of parameters, on this thread.
    #[inline(always)]
    pub fn step(self, params: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, g), m), v) in params.iter_mut().zip(gradient).zip(m).zip(v) {
            self.element(p, *g, m, v);
        }
    }

    /// The step of 16 rows of 16 parameters.
    #[inline(always)]
    pub fn rows(self, params: &mut [Row], gradient: &[Row], m: &mut [Row], v: &mut [Row]) {
        for (((p, g), m), v) in params.iter_mut().zip(gradient).zip(m).zip(v) {
            self.step(p, g, m, v);
        }
    }
}

/// One step of Adam on `params`; `step` counts from 1. All slices have one length.
///
/// Every element moves, as in PyTorch: also those whose gradient is 0, by their momentum.
pub fn update(params: &mut [f32], gradient: &[f32], moments: &mut Moments, step: u64, lr: f32) {
    let rates = Rates::new(step, lr);
    params
        .par_chunks_mut(TASK)
        .zip_eq(gradient.par_chunks(TASK))
        .zip_eq(moments.m.par_chunks_mut(TASK))
        .zip_eq(moments.v.par_chunks_mut(TASK))
        .for_each(|(((p, g), m), v)| {
            kernel::vectorised(
                #[inline(always)]
                || rates.step(p, g, m, v),
            )
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_the_formula_and_momentum_outlives_the_gradient() {
        let (mut p, mut moments) = (vec![1.0f32; TASK + 3], Moments::zeros(TASK + 3));
        let (mut q, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for (t, g) in [(1, 0.5f64), (2, -2.0), (3, 0.0), (4, 0.0)] {
            update(&mut p, &vec![g as f32; TASK + 3], &mut moments, t, 1e-2);
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (by1, by2) = (1.0 - 0.9f64.powi(t as i32), 1.0 - 0.999f64.powi(t as i32));
            let before = q;
            q -= 1e-2 * (m / by1) / ((v / by2).sqrt() + 1e-8);
            assert!(q != before);
            assert!((f64::from(p[0]) - q).abs() < 1e-6, "{} {q}", p[0]);
        }
        assert!(p.iter().all(|x| *x == p[0]), "every element is treated alike");
    }

    #[test]
    fn a_parameter_that_never_had_a_gradient_stays() {
        let (mut p, mut moments) = (vec![3.0f32; 2], Moments::zeros(2));
        update(&mut p, &[0.0, 1.0], &mut moments, 1, 0.1);
        assert_eq!(p[0], 3.0);
        assert!((p[1] - 2.9).abs() < 1e-6);
    }
}
