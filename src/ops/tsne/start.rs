//! The coordinates at which the descent starts: the first two principal components.
//!
//! They keep the large-scale structure of the data (Kobak and Berens, *The art of using t-SNE for single-cell
//! transcriptomics*, 2019). They are scaled to a standard deviation of 1e-4 along the first component. Noise of a
//! hundredth of that separates equal points.

use rayon::prelude::*;

use crate::rng::Stream;

/// The standard deviation along the first component.
const SPREAD: f64 = 1e-4;
/// The standard deviation of the noise.
const JITTER: f64 = 0.01 * SPREAD;
/// The number of vectors in the iteration, of which the first two are used. With more vectors, those converge faster.
const SUBSPACE: usize = 6;
/// The steps of orthogonal iteration. It need not converge, because the descent moves the points anyway.
const STEPS: usize = 100;

/// The starting coordinates of `n` points of dimension `d` (row-major n × d).
pub(super) fn start(points: &[f32], n: usize, d: usize, stream: &mut Stream) -> Vec<[f32; 2]> {
    let mut jitter = vec![0.0f32; 2 * n];
    stream.normals(&mut jitter);
    let columns = centred_columns(points, n, d);
    let mut axes = main_directions(&covariance(&columns, n, d), d, stream).into_iter();
    let mut project = || -> Vec<f64> {
        let axis = axes.next().unwrap_or_default();
        let mut out = vec![0.0; n];
        for (weight, column) in axis.iter().zip(columns.chunks_exact(n.max(1))) {
            out.iter_mut().zip(column).for_each(|(o, v)| *o += weight * f64::from(*v));
        }
        out
    };
    let (first, second) = (project(), project());
    let variance = first.iter().map(|v| v * v).sum::<f64>() / n.max(1) as f64;
    let scale = if variance > 0.0 { SPREAD / variance.sqrt() } else { 0.0 };
    let at = |v: f64, noise: f32| (v * scale + JITTER * f64::from(noise)) as f32;
    first
        .iter()
        .zip(second)
        .zip(jitter.chunks_exact(2))
        .map(|((x, y), noise)| [at(*x, noise[0]), at(y, noise[1])])
        .collect()
}

/// The data without its mean, transposed: d columns of n numbers.
fn centred_columns(points: &[f32], n: usize, d: usize) -> Vec<f32> {
    let mut columns = vec![0.0f32; n * d];
    for (i, point) in points.chunks_exact(d.max(1)).enumerate() {
        point.iter().enumerate().for_each(|(c, v)| columns[c * n + i] = *v);
    }
    for column in columns.chunks_exact_mut(n.max(1)) {
        let mean = (column.iter().map(|v| f64::from(*v)).sum::<f64>() / n as f64) as f32;
        column.iter_mut().for_each(|v| *v -= mean);
    }
    columns
}

/// The d × d covariance, not divided by n.
fn covariance(columns: &[f32], n: usize, d: usize) -> Vec<f64> {
    let column = |c: usize| &columns[c * n..(c + 1) * n];
    let mut matrix = vec![0.0; d * d];
    matrix.par_chunks_mut(d.max(1)).enumerate().for_each(|(a, row)| {
        for (b, out) in row.iter_mut().enumerate().take(a + 1) {
            *out = dot(column(a), column(b));
        }
    });
    for a in 0..d {
        for b in a + 1..d {
            matrix[a * d + b] = matrix[b * d + a];
        }
    }
    matrix
}

/// The scalar product in f64, summed in eight lanes.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f64::from(*a) * f64::from(*b);
        }
    }
    lanes.iter().sum()
}

/// Unit vectors along the principal components, by orthogonal iteration. The element of largest magnitude of each is
/// positive.
fn main_directions(matrix: &[f64], d: usize, stream: &mut Stream) -> Vec<Vec<f64>> {
    let mut vectors: Vec<Vec<f64>> = (0..SUBSPACE.min(d))
        .map(|_| {
            let mut v = vec![0.0f32; d];
            stream.normals(&mut v);
            v.into_iter().map(f64::from).collect()
        })
        .collect();
    for _ in 0..STEPS {
        for v in &mut vectors {
            *v = matrix.chunks_exact(d).map(|row| row.iter().zip(&*v).map(|(m, x)| m * x).sum()).collect();
        }
        orthonormalise(&mut vectors);
    }
    for v in &mut vectors {
        let largest = v.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
        if largest < 0.0 {
            v.iter_mut().for_each(|x| *x = -*x);
        }
    }
    vectors
}

/// Gram–Schmidt. A vector that depends linearly on those before it becomes 0.
fn orthonormalise(vectors: &mut [Vec<f64>]) {
    for i in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(i);
        let Some(v) = rest.first_mut() else { return };
        let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let whole = length(v);
        for u in before.iter() {
            let along: f64 = u.iter().zip(&*v).map(|(a, b)| a * b).sum();
            v.iter_mut().zip(u).for_each(|(x, y)| *x -= along * y);
        }
        let left = length(v);
        let scale = if left > 1e-12 * whole { 1.0 / left } else { 0.0 };
        v.iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Streams;

    fn stream() -> Stream {
        Streams::new(5).stream("start", 0, 0)
    }

    #[test]
    fn principal_components_are_found_and_scaled() {
        let (n, d) = (500, 5);
        let mut points = vec![0.0f32; n * d];
        stream().normals(&mut points);
        // Longest along (0, 3, 0, 4, 0)/5, then along the last axis.
        for p in points.chunks_exact_mut(d) {
            let t = p[0];
            p.iter_mut().for_each(|v| *v *= 0.1);
            (p[1], p[3], p[4]) = (p[1] + 6.0 * t + 3.0, p[3] + 8.0 * t, p[4] * 20.0);
        }
        let found = start(&points, n, d, &mut stream());
        let deviation = |axis: usize| (found.iter().map(|p| f64::from(p[axis]).powi(2)).sum::<f64>() / n as f64).sqrt();
        assert!((deviation(0) - 1e-4).abs() < 1e-6, "{}", deviation(0));
        assert!((deviation(1) - 0.2e-4).abs() < 0.05e-4, "{}", deviation(1));
        let along: Vec<f64> = points.chunks_exact(d).map(|p| f64::from(p[1] * 0.6 + p[3] * 0.8) - 1.8).collect();
        let product: f64 = found.iter().zip(&along).map(|(p, a)| f64::from(p[0]) * a).sum();
        let norm: f64 = along.iter().map(|a| a * a).sum::<f64>().sqrt() * deviation(0) * (n as f64).sqrt();
        assert!(product / norm > 0.999, "{}", product / norm);
    }

    #[test]
    fn equal_points_are_separated_and_few_dimensions_are_enough() {
        let found = start(&[3.0; 12], 6, 2, &mut stream());
        assert!(found.iter().flatten().all(|v| v.abs() < 1e-5 && *v != 0.0));
        assert_eq!(start(&[1.0, 2.0, 4.0], 3, 1, &mut stream()).len(), 3);
        assert_eq!(start(&[], 0, 4, &mut stream()).len(), 0);
        assert_eq!(start(&[], 3, 0, &mut stream()).len(), 3);
    }
}
