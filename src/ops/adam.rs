//! Adam as in PyTorch (`torch.optim.Adam`, without weight decay and AMSGrad), in one pass over the parameters.
//!
//! ```text
//! m ← m + (g − m)(1 − β₁)          v ← β₂ v + (1 − β₂) g²
//! p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)          β₁ = 0.9, β₂ = 0.999, ε = 1e-8
//! ```
//! Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015. With c = √(1 − β₂ᵗ) the last line is
//! computed as `p − (lr c / (1 − β₁ᵗ)) m / (√v + c ε)`, which is equal and has one division instead of two.
//!
//! Memory limits the speed of a pass over p, g, m and v: it reads and writes 24 bytes a parameter for about ten
//! operations. So each block of weights is updated right after its gradient is computed. Latents outside a batch get
//! all the steps that they missed at once, in registers ([`Rates::coast`]). Each element goes through the same
//! operations in the same order as in a dense pass.

use super::block::{LANES, Row};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The coefficients of a step, from its number and the learning rate.
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

    /// Updates one element.
    #[inline(always)]
    fn element(self, p: &mut f32, g: f32, m: &mut f32, v: &mut f32) {
        *m += (g - *m) * (1.0 - BETA1) as f32;
        *v = *v * BETA2 as f32 + (1.0 - BETA2) as f32 * g * g;
        *p -= self.step_size * *m / (v.sqrt() + self.epsilon);
    }

    /// Updates a slice of parameters on this thread. All slices have the same length.
    #[inline(always)]
    pub fn step(self, params: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, g), m), v) in params.iter_mut().zip(gradient).zip(m).zip(v) {
            self.element(p, *g, m, v);
        }
    }

    /// Applies steps in which the gradient of these parameters was 0. They move by their momentum, as in PyTorch.
    #[inline(always)]
    pub fn coast(missed: &[Self], params: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        for ((params, m), v) in params.chunks_mut(LANES).zip(m.chunks_mut(LANES)).zip(v.chunks_mut(LANES)) {
            for rates in missed {
                rates.step(params, &[0.0; LANES], m, v);
            }
        }
    }

    /// Updates rows of 16 parameters.
    #[inline(always)]
    pub fn rows(self, params: &mut [Row], gradient: &[Row], m: &mut [Row], v: &mut [Row]) {
        for (((p, g), m), v) in params.iter_mut().zip(gradient).zip(m).zip(v) {
            self.step(p, g, m, v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More numbers than a register holds, and not a multiple of its size.
    const N: usize = 2 * LANES + 3;

    #[test]
    fn steps_follow_formula_and_momentum_continues_without_gradient() {
        let (mut p, mut pm, mut pv) = ([1.0f32; N], [0.0; N], [0.0; N]);
        let (mut q, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for (t, g) in [(1, 0.5f64), (2, -2.0), (3, 0.0), (4, 0.0)] {
            Rates::new(t, 1e-2).step(&mut p, &[g as f32; N], &mut pm, &mut pv);
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (by1, by2) = (1.0 - 0.9f64.powi(t as i32), 1.0 - 0.999f64.powi(t as i32));
            let before = q;
            q -= 1e-2 * (m / by1) / ((v / by2).sqrt() + 1e-8);
            assert!(q != before);
            assert!((f64::from(p[0]) - q).abs() < 1e-6, "{} {q}", p[0]);
        }
        assert!(p.iter().all(|x| *x == p[0]), "all elements are equal");
    }

    #[test]
    fn parameter_without_any_gradient_does_not_move() {
        let (mut p, mut m, mut v) = ([3.0f32; 2], [0.0; 2], [0.0; 2]);
        Rates::new(1, 0.1).step(&mut p, &[0.0, 1.0], &mut m, &mut v);
        assert_eq!(p[0], 3.0);
        assert!((p[1] - 2.9).abs() < 1e-6);
    }

    #[test]
    fn missed_steps_applied_later_give_the_same_bits() {
        let start: [f32; N] = std::array::from_fn(|i| i as f32 / 7.0 - 2.0);
        let gradient = start.map(|p| p * p - 1.0);
        let (mut p, mut m, mut v) = (start, [0.0; N], [0.0; N]);
        Rates::new(1, 1e-2).step(&mut p, &gradient, &mut m, &mut v);
        let (mut q, mut qm, mut qv) = (p, m, v);
        let missed: Vec<Rates> = (2..300).map(|t| Rates::new(t, if t < 100 { 1e-2 } else { 1e-3 })).collect();
        for rates in &missed {
            rates.step(&mut p, &[0.0; N], &mut m, &mut v);
        }
        Rates::coast(&missed, &mut q, &mut qm, &mut qv);
        assert_eq!((p, m, v), (q, qm, qv));
        assert!(p[0] != start[0]);
    }
}
