//! The attraction along the edges of P, and the exact repulsion between all pairs of points.
//!
//! With `q(i,j) = 1/(1 + ‖yᵢ − yⱼ‖²)` and `Z = Σ_{i≠j} q(i,j)`, a quarter of the gradient of KL(P‖Q) is
//!
//! ```text
//! Σⱼ P(i,j) q(i,j) (yᵢ − yⱼ)  −  (1/Z) Σⱼ q(i,j)² (yᵢ − yⱼ)
//! ```
//!
//! openTSNE also leaves out the factor 4, and its learning rates assume that.

use rayon::prelude::*;

use super::affinities::{Affinities, LANES};
use super::lanes::widest;

/// The number of points in a task. Constant, so that the partial sums are the same for any number of threads.
const TASK: usize = 128;
/// The number of lanes in the loop over all points.
const WIDE: usize = 16;
/// The coordinates of padding points: so far away that their repulsion is 0.
const NOWHERE: f32 = 1e18;

/// Writes the repulsion on each point, not divided by Z, to `out`. Returns Z.
pub(super) fn repulsion(points: &[[f32; 2]], out: &mut [[f32; 2]]) -> f64 {
    let padded = points.len().next_multiple_of(WIDE);
    let axis = |a: usize| -> Vec<f32> {
        let mut values: Vec<f32> = points.iter().map(|p| p[a]).collect();
        values.resize(padded, NOWHERE);
        values
    };
    let (xs, ys) = (axis(0), axis(1));
    let tasks = points.par_chunks(TASK).zip(out.par_chunks_mut(TASK));
    let sums: Vec<f64> = tasks.map(|(points, out)| repel(points, &xs, &ys, out)).collect();
    // Subtract q = 1 of each point with itself.
    sums.iter().sum::<f64>() - points.len() as f64
}

widest! {
    /// Writes the repulsion of all points on `points` to `out`. Returns the sum of their q.
    pub(super) fn repel(points: &[[f32; 2]], xs: &[f32], ys: &[f32], out: &mut [[f32; 2]]) -> f64 {
        let mut total = 0.0;
        for (point, out) in points.iter().zip(out) {
            let (mut z, mut fx, mut fy) = ([0.0f32; WIDE], [0.0f32; WIDE], [0.0f32; WIDE]);
            for (xs, ys) in xs.chunks_exact(WIDE).zip(ys.chunks_exact(WIDE)) {
                for lane in 0..WIDE {
                    let (dx, dy) = (point[0] - xs[lane], point[1] - ys[lane]);
                    let q = 1.0 / (1.0 + dx * dx + dy * dy);
                    let push = q * q;
                    z[lane] += q;
                    fx[lane] += push * dx;
                    fy[lane] += push * dy;
                }
            }
            *out = [fx.iter().sum(), fy.iter().sum()];
            total += z.iter().map(|v| f64::from(*v)).sum::<f64>();
        }
        total
    }
}

/// Writes the attraction on each point to `out`.
pub(super) fn attraction(p: &Affinities, points: &[[f32; 2]], out: &mut [[f32; 2]]) {
    out.par_chunks_mut(TASK).enumerate().for_each(|(task, out)| {
        let first = task * TASK;
        attract(&p.starts[first..=first + out.len()], &p.edges, points, first, out);
    });
}

widest! {
    /// Writes the attraction on the points from `first` on to `out`.
    pub(super) fn attract(starts: &[usize], edges: &[(u32, f32)], points: &[[f32; 2]], first: usize, out: &mut [[f32; 2]]) -> () {
        for (row, out) in out.iter_mut().enumerate() {
            let [x, y] = points[first + row];
            let (mut fx, mut fy) = ([0.0f32; LANES], [0.0f32; LANES]);
            for edges in edges[starts[row]..starts[row + 1]].chunks_exact(LANES) {
                let (mut dx, mut dy, mut p) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
                for lane in 0..LANES {
                    let (j, weight) = edges[lane];
                    let other = points[j as usize];
                    (dx[lane], dy[lane], p[lane]) = (x - other[0], y - other[1], weight);
                }
                for lane in 0..LANES {
                    let pull = p[lane] / (1.0 + dx[lane] * dx[lane] + dy[lane] * dy[lane]);
                    fx[lane] += pull * dx[lane];
                    fy[lane] += pull * dy[lane];
                }
            }
            *out = [fx.iter().sum(), fy.iter().sum()];
        }
    }
}

/// The divergence `KL(P‖Q) = Σ P ln P + Σ P ln(1 + d²) + ln Z` in nats, for P that sums to 1.
pub(super) fn divergence(p: &Affinities, points: &[[f32; 2]], z: f64) -> f64 {
    let rows: Vec<f64> = points
        .par_iter()
        .enumerate()
        .map(|(i, [x, y])| {
            let edges = &p.edges[p.starts[i]..p.starts[i + 1]];
            let far = |j: u32| {
                let other = points[j as usize];
                let (dx, dy) = (f64::from(x - other[0]), f64::from(y - other[1]));
                libm::log1p(dx * dx + dy * dy)
            };
            edges.iter().map(|(j, p)| f64::from(*p) * far(*j)).sum()
        })
        .collect();
    p.entropy + rows.iter().sum::<f64>() + libm::log(z)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::affinities::affinities;
    use super::super::neighbours::neighbours;
    use super::*;
    use crate::rng::Streams;

    fn scattered(n: usize, spread: f32) -> Vec<[f32; 2]> {
        let mut values = vec![0.0; 2 * n];
        Streams::new(2).stream("points", 0, 0).normals(&mut values);
        values.chunks_exact(2).map(|p| [p[0] * spread, p[1] * spread]).collect()
    }

    fn some_affinities(n: usize) -> Affinities {
        let mut points = vec![0.0; n * 3];
        Streams::new(4).stream("points", 0, 0).normals(&mut points);
        let near = neighbours(&points, n, 3, 12, &mut || ControlFlow::Continue(())).unwrap();
        affinities(&near, n, 12, 4.0)
    }

    #[test]
    fn forces_are_the_gradient_of_the_divergence() {
        let (n, step) = (60, 1e-2);
        let p = some_affinities(n);
        let points = scattered(n, 2.0);
        let (mut pull, mut push) = (vec![[0.0; 2]; n], vec![[0.0; 2]; n]);
        attraction(&p, &points, &mut pull);
        let z = repulsion(&points, &mut push);
        let kl = |points: &[[f32; 2]]| divergence(&p, points, repulsion(points, &mut vec![[0.0; 2]; n]));
        for i in [0, 17, 59] {
            for axis in 0..2 {
                let moved = |by: f32| {
                    let mut points = points.clone();
                    points[i][axis] += by;
                    kl(&points)
                };
                let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                let ours = 4.0 * (f64::from(pull[i][axis]) - f64::from(push[i][axis]) / z);
                assert!((numeric - ours).abs() < 2e-3 * ours.abs() + 2e-6, "point {i}: {numeric} {ours}");
            }
        }
    }

    #[test]
    fn z_counts_each_pair_twice_and_no_point_with_itself() {
        let mut out = [[0.0; 2]; 2];
        let z = repulsion(&[[0.0, 0.0], [3.0, 0.0]], &mut out);
        assert!((z - 0.2).abs() < 1e-6, "{z}");
        assert!((out[1][0] - 0.03).abs() < 1e-6 && out[0][0] == -out[1][0] && out[0][1] == 0.0, "{out:?}");
    }
}
