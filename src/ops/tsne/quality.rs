//! The quality of a map, made by any method: its divergence over all pairs, and the share of neighbours that it keeps.
//!
//! The `kl` of an embedding covers only the neighbours that its method uses, so the figures of two methods are not
//! comparable. Here P is defined over all pairs (van der Maaten and Hinton 2008, equations 1 and 10):
//! `p(j|i) ∝ exp(−βᵢ d²(i,j))` with the entropy `ln perplexity`, `P(i,j) = (p(j|i) + p(i|j)) / 2n`, and
//! `KL = Σ P ln(P/Q)` with `Q(i,j) = 1/(1 + ‖yᵢ − yⱼ‖²) / Z`.
//!
//! The calibration of a row takes n·d multiply-adds and about 10 n exponentials; the score of a map takes n of each for
//! a row. No array has n² elements, so 10,000 points take seconds and a few megabytes.

use rayon::prelude::*;

use super::affinities::calibrate;
use super::neighbours::Neighbours;

/// The exact P of some points, to score any number of maps.
#[derive(Clone, Debug)]
pub struct Exact<'a> {
    points: &'a [f32],
    d: usize,
    rows: Vec<Row>,
}

/// `p(j|i) = scale · exp(−beta · (d²(i,j) − nearest))`.
#[derive(Clone, Copy, Debug)]
struct Row {
    beta: f64,
    nearest: f64,
    scale: f64,
}

impl Row {
    fn conditional(self, squared: f32) -> f64 {
        self.scale * libm::exp(-self.beta * (f64::from(squared) - self.nearest))
    }
}

impl<'a> Exact<'a> {
    /// P of points of dimension `d` (row-major n × d, finite). `perplexity` must be at least 1 and below n.
    pub fn new(points: &'a [f32], d: usize, perplexity: f64) -> Self {
        let n = points.len() / d.max(1);
        let mut exact = Self { points, d, rows: vec![] };
        let row = |i: usize| {
            let mut squared: Vec<f32> = (0..n).filter(|j| *j != i).map(|j| exact.squared(i, j)).collect();
            // `calibrate` needs the nearest first, and sums over the others in any order.
            if let Some(at) = (0..squared.len()).min_by(|a, b| squared[*a].total_cmp(&squared[*b])) {
                squared.swap(0, at);
            }
            let mut p = vec![0.0; squared.len()];
            let beta = calibrate(&squared, perplexity, &mut p);
            let first = |values: Option<&f64>| values.copied().unwrap_or(0.0);
            Row { beta, nearest: squared.first().map_or(0.0, |v| f64::from(*v)), scale: first(p.first()) }
        };
        exact.rows = (0..n).into_par_iter().map(row).collect();
        exact
    }

    /// `KL(P‖Q)` in nats of a map of the same points.
    ///
    /// # Panics
    /// If the map has fewer points.
    pub fn divergence(&self, map: &[[f32; 2]]) -> f64 {
        let n = self.rows.len();
        // Each pair once: Σ P ln P, Σ P ln(1 + d²), Σ P and Σ q.
        let row = |i: usize| {
            let mut sums = [0.0; 4];
            for j in 0..i {
                let squared = self.squared(i, j);
                let p = (self.rows[i].conditional(squared) + self.rows[j].conditional(squared)) / n as f64;
                let far: f64 = (0..2).map(|axis| f64::from(map[i][axis] - map[j][axis]).powi(2)).sum();
                if p > 0.0 {
                    sums[0] += p * libm::log(p / 2.0);
                }
                sums[1] += p * libm::log1p(far);
                sums[2] += p;
                sums[3] += 2.0 / (1.0 + far);
            }
            sums
        };
        let rows: Vec<[f64; 4]> = (0..n).into_par_iter().map(row).collect();
        let [entropy, far, whole, z] = rows.iter().fold([0.0; 4], |all, row| [0, 1, 2, 3].map(|k| all[k] + row[k]));
        if n < 2 { 0.0 } else { entropy + far + whole * libm::log(z) }
    }

    /// The squared distance, summed in eight lanes.
    fn squared(&self, i: usize, j: usize) -> f32 {
        let point = |i: usize| self.points[i * self.d..(i + 1) * self.d].chunks(8);
        let mut lanes = [0.0f32; 8];
        for (a, b) in point(i).zip(point(j)) {
            for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
                *lane += (a - b) * (a - b);
            }
        }
        lanes.iter().sum()
    }
}

/// The share of the first `k` neighbours of each point `before` that are also among its first `k` `after`, averaged
/// over points. 1 if no point has neighbours.
pub fn recall(before: &Neighbours, after: &Neighbours, k: usize) -> f64 {
    let k = k.min(before.k).min(after.k);
    let points = before.indices.len().checked_div(before.k).unwrap_or(0);
    let kept = |i: usize| after.of(i)[..k].iter().filter(|j| before.of(i)[..k].contains(j)).count();
    let kept: usize = (0..points).map(kept).sum();
    if points * k == 0 { 1.0 } else { kept as f64 / (points * k) as f64 }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{blobs, go_on, settings};
    use super::super::{embed, neighbours};
    use super::*;
    use crate::rng::Streams;

    #[test]
    fn divergence_of_three_equidistant_points_on_a_line() {
        // P is 1/6 for each of the six pairs. On a line at 0, 1, 2 the q are 1/2, 1/2, 1/5, so Z = 2.4, and
        // KL = 2/6 · (2 ln(1/6 · 2.4 / 0.5) + ln(1/6 · 2.4 / 0.2)) = ln(0.8² · 2) / 3.
        let points = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let exact = Exact::new(&points, 3, 2.0);
        let found = exact.divergence(&[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]);
        assert!((found - 1.28f64.ln() / 3.0).abs() < 1e-6, "{found}");
        // An equilateral map keeps all distances.
        let found = exact.divergence(&[[0.0, 0.0], [2.0, 0.0], [1.0, 3f32.sqrt()]]);
        assert!(found.abs() < 1e-6, "{found}");
    }

    #[test]
    fn divergence_of_two_points_or_fewer_is_zero() {
        for n in 0..3 {
            let points: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let found = Exact::new(&points, 1, 1.0).divergence(&[[0.0; 2], [5.0; 2]][..n]);
            assert!(found.abs() < 1e-12, "{n} points: {found}");
        }
    }

    #[test]
    fn divergence_agrees_with_embedding_whose_neighbours_hold_most_of_p() {
        // The embedding leaves out p(j|i) beyond 3 × perplexity neighbours, which is small.
        let points = blobs(3, 100, 8);
        let map = embed(&points, 300, 8, &settings(500), Streams::new(1), &mut go_on).unwrap();
        let exact = Exact::new(&points, 8, 15.0);
        let found = exact.divergence(&map.coordinates);
        assert!((found / map.kl - 1.0).abs() < 0.1, "{found} against {}", map.kl);
        let mut shuffled = map.coordinates.clone();
        shuffled.rotate_left(1);
        assert!(exact.divergence(&shuffled) > 2.0 * found);
    }

    #[test]
    fn recall_is_the_share_of_common_neighbours() {
        let lists = |indices: [u32; 6]| Neighbours { k: 2, indices: indices.to_vec(), squared: vec![0.0; 6] };
        let before = lists([1, 2, 0, 2, 0, 1]);
        assert_eq!(recall(&before, &before, 2), 1.0);
        assert_eq!(recall(&before, &lists([2, 1, 2, 0, 1, 0]), 2), 1.0);
        assert_eq!(recall(&before, &lists([2, 1, 2, 0, 1, 0]), 1), 0.0);
        assert_eq!(recall(&before, &lists([1, 3, 3, 4, 0, 4]), 2), 2.0 / 6.0);
        let none = neighbours(&[], 0, 3, 5, &mut || std::ops::ControlFlow::Continue(())).unwrap();
        assert_eq!(recall(&none, &none, 10), 1.0);
    }
}
