//! The repulsion between all pairs of points in O(n + M² log M), with a mesh of M × M nodes and a fast Fourier
//! transform.
//!
//! FIt-SNE (Linderman et al., *Fast interpolation-based t-SNE*, Nature Methods 2019) spreads charges to a mesh and
//! convolves them with the kernel by FFT. This module does so as the smooth particle-mesh Ewald method does (Essmann et
//! al., 1995):
//!
//! ```text
//! points ──quintic B-spline──▶ charges w on a mesh of spacing h ──FFT──▶ ŵ
//! ŵ · (F̂x + i F̂y) ──inverse FFT──▶ the force field, x as real and y as imaginary part ──the same spline──▶ points
//! Z = Σ |ŵ|² K̂          (Parseval: no second inverse transform)
//! ```
//!
//! with `K(d) = 1/(1 + ‖d‖²)` and `F(d) = d/(1 + ‖d‖²)²`, both divided by the fourth power of the spline's spectrum. An
//! evaluation takes one real forward and one complex inverse transform; FIt-SNE takes four of each. Spreading and
//! gathering use the same spline, so action equals reaction, and a point has no force on itself.
//!
//! The spacing is constant once the map is wide, so the kernel's spectrum changes only when the mesh grows. For a small
//! map, the spacing is halved until the mesh has enough nodes. The mesh is padded to at least twice its size, so that
//! the convolution does not wrap around. rustfft's scalar plans give the same bits on every processor. For a map that
//! is too wide for a mesh (for example with an outlier), the exact sum is used.

use std::sync::Arc;

use rayon::prelude::*;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftDirection, FftPlannerScalar};

use super::forces;

/// The spacing of the mesh, in units of the embedding.
const SPACING: f32 = 0.5;
/// The order of the spline: the number of nodes along each axis to which a point contributes.
const ORDER: usize = 6;
/// The minimum number of nodes along an axis before padding.
const LEAST_NODES: f32 = 24.0;
/// The minimum extent; a smaller map is handled as if it had this one.
const SMALLEST: f32 = 1e-5;
/// The maximum number of nodes along an axis before padding, for a map 750 units wide.
const MOST_NODES: f32 = 1500.0;
/// Additional nodes of padding, because the deconvolution oscillates near the edge of the kernel.
const MARGIN: usize = 16;
/// The number of columns or rows that are transposed together: a cache line of complex numbers.
const BLOCK: usize = 8;

type Complex32 = Complex<f32>;

/// A mesh, with the spectrum of the kernel for its size.
pub(super) struct Grid {
    /// The padded number of nodes along an axis, even; 0 before the first use.
    size: usize,
    spacing: f32,
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    /// `F̂x + i F̂y` by column: element (kx, ky) is at kx·size + ky.
    force: Vec<Complex32>,
    /// The columns 0…size/2 of `K̂`.
    potential: Vec<f32>,
}

/// The place of the points on the mesh.
struct Frame {
    low: [f32; 2],
    scale: f32,
    nodes: usize,
}

impl Frame {
    /// The first node of a point on each axis, and the weights of the nodes from there on.
    fn weights(&self, point: [f32; 2]) -> [(usize, [f32; ORDER]); 2] {
        [0, 1].map(|axis| {
            let u = (point[axis] - self.low[axis]) * self.scale;
            let node = (u as usize).min(self.nodes - ORDER);
            (node, spline(u - node as f32))
        })
    }
}

/// The values of the B-spline at the nodes around a point, with de Boor's recursion. `t` is the distance of the point
/// from the node before it.
fn spline(t: f32) -> [f32; ORDER] {
    let mut w = [0.0; ORDER];
    (w[0], w[1]) = (1.0 - t, t);
    for order in 3..=ORDER {
        let scale = 1.0 / (order - 1) as f32;
        w[order - 1] = scale * t * w[order - 2];
        for j in (1..order - 1).rev() {
            w[j] = scale * ((t + (order - 1 - j) as f32) * w[j - 1] + ((j + 1) as f32 - t) * w[j]);
        }
        w[0] *= scale * (1.0 - t);
    }
    w
}

impl Default for Grid {
    fn default() -> Self {
        let plan = |direction| FftPlannerScalar::new().plan_fft(1, direction);
        Self {
            size: 0,
            spacing: 0.0,
            forward: plan(FftDirection::Forward),
            inverse: plan(FftDirection::Inverse),
            force: vec![],
            potential: vec![],
        }
    }
}

impl Grid {
    /// Writes the repulsion on each point, not divided by Z, to `out`. Returns Z. Approximates
    /// [`super::forces::repulsion`].
    pub(super) fn repulsion(&mut self, points: &[[f32; 2]], out: &mut [[f32; 2]]) -> f64 {
        let Some(frame) = self.fit(points) else { return forces::repulsion(points, out) };
        let charges = spread(&frame, points);
        let spectrum = self.transform(&charges, frame.nodes);
        let z = self.sum_of_kernels(&spectrum);
        let field = self.field(&spectrum, frame.nodes);
        out.par_chunks_mut(1024).zip(points.par_chunks(1024)).for_each(|(out, points)| {
            for (out, point) in out.iter_mut().zip(points) {
                let [(x, wx), (y, wy)] = frame.weights(*point);
                let mut force = Complex32::new(0.0, 0.0);
                for (row, wy) in (y..).zip(wy) {
                    let nodes = &field[row * frame.nodes + x..][..ORDER];
                    force += nodes.iter().zip(wx).map(|(f, wx)| f * (wx * wy)).sum::<Complex32>();
                }
                *out = [force.re, force.im];
            }
        });
        // Subtract q = 1 of each point with itself.
        z - points.len() as f64
    }

    /// Makes the mesh large enough, and returns the place of the points on it; `None` if they are too far apart.
    fn fit(&mut self, points: &[[f32; 2]]) -> Option<Frame> {
        let (mut low, mut high) = ([f32::MAX; 2], [f32::MIN; 2]);
        for point in points {
            for axis in 0..2 {
                low[axis] = low[axis].min(point[axis]);
                high[axis] = high[axis].max(point[axis]);
            }
        }
        let extent = (high[0] - low[0]).max(high[1] - low[1]).max(SMALLEST);
        let mut spacing = SPACING;
        while extent < LEAST_NODES * spacing {
            spacing *= 0.5;
        }
        if extent > MOST_NODES * spacing {
            return None;
        }
        let nodes = (extent / spacing) as usize + ORDER + 1;
        let wanted = good_size(2 * nodes + MARGIN);
        // A mesh that is larger than necessary gives correct results, so it shrinks only if that saves more than a new
        // kernel costs.
        if spacing != self.spacing || wanted > self.size || 4 * wanted < 3 * self.size {
            self.plan(wanted, spacing);
        }
        Some(Frame { low, scale: 1.0 / spacing, nodes })
    }

    /// Computes the spectrum of the kernel for a mesh of this size.
    fn plan(&mut self, size: usize, spacing: f32) {
        let mut planner = FftPlannerScalar::new();
        (self.size, self.spacing) = (size, spacing);
        self.forward = planner.plan_fft_forward(size);
        self.inverse = planner.plan_fft_inverse(size);
        let half = size / 2;
        let away = |i: usize| (if i <= half { i as f64 } else { i as f64 - size as f64 }) * f64::from(spacing);
        // K is even and Fx odd in x, so the spectrum of their sum is K̂ in its real and −i·(i F̂x) in its imaginary
        // part.
        let mut kernel: Vec<Complex<f64>> = vec![Complex::default(); size * size];
        kernel.par_chunks_mut(size).enumerate().for_each(|(ix, column)| {
            let dx = away(ix);
            for (iy, out) in column.iter_mut().enumerate() {
                let q = 1.0 / (1.0 + dx * dx + away(iy) * away(iy));
                out.re = q + if ix == half { 0.0 } else { dx * q * q };
            }
        });
        let fft = FftPlannerScalar::new().plan_fft_forward(size);
        kernel.par_chunks_mut(size).for_each(|column| fft.process(column));
        transpose(&mut kernel, size);
        kernel.par_chunks_mut(size).for_each(|row| fft.process(row));
        transpose(&mut kernel, size);
        // 1 / spectrum² of the spline, whose values at the nodes are 66, 26 and 1 of 120. One factor for each axis,
        // with the 1/size that the inverse transform lacks.
        let spline: Vec<f64> = (0..size)
            .map(|k| {
                let angle = core::f64::consts::TAU * k as f64 / size as f64;
                let s = (66.0 + 52.0 * libm::cos(angle) + 2.0 * libm::cos(2.0 * angle)) / 120.0;
                1.0 / (s * s * size as f64)
            })
            .collect();
        self.potential = vec![0.0; (half + 1) * size];
        self.force = vec![Complex32::default(); size * size];
        self.force.par_chunks_mut(size).enumerate().for_each(|(kx, column)| {
            for (ky, out) in column.iter_mut().enumerate() {
                // F̂x = i·Im; F̂y is its mirror image. F̂x + i F̂y = i·Im(kx, ky) − Im(ky, kx).
                let scale = spline[kx] * spline[ky];
                let (x, y) = (kernel[kx * size + ky].im, kernel[ky * size + kx].im);
                *out = Complex32::new((-y * scale) as f32, (x * scale) as f32);
            }
        });
        self.potential.par_chunks_mut(size).enumerate().for_each(|(kx, column)| {
            for (ky, out) in column.iter_mut().enumerate() {
                *out = (kernel[kx * size + ky].re * spline[kx] * spline[ky]) as f32;
            }
        });
    }

    /// The columns 0…size/2 of the spectrum of real charges (`nodes` rows of `nodes`). The other columns mirror these.
    fn transform(&self, charges: &[f32], nodes: usize) -> Vec<Complex32> {
        let size = self.size;
        // Two real rows are transformed as one complex row.
        let mut rows = vec![Complex32::default(); nodes.div_ceil(2) * size];
        rows.par_chunks_mut(size).zip(charges.par_chunks(2 * nodes)).for_each(|(row, charges)| {
            let (even, odd) = charges.split_at(nodes);
            row.iter_mut().zip(even).for_each(|(z, v)| z.re = *v);
            row.iter_mut().zip(odd).for_each(|(z, v)| z.im = *v);
            self.forward.process(row);
        });
        let mut columns = vec![Complex32::default(); (size / 2 + 1) * size];
        columns.par_chunks_mut(BLOCK * size).enumerate().for_each(|(block, columns)| {
            for (pair, row) in rows.chunks_exact(size).enumerate() {
                for (k, column) in (block * BLOCK..).zip(columns.chunks_exact_mut(size)) {
                    let (z, mirror) = (row[k], row[(size - k) % size].conj());
                    let (sum, difference) = (z + mirror, z - mirror);
                    column[2 * pair] = sum * 0.5;
                    // Divided by 2i. If the number of rows is odd, the last one is 0.
                    column[2 * pair + 1] = Complex32::new(difference.im * 0.5, difference.re * -0.5);
                }
            }
            self.forward.process(columns);
        });
        columns
    }

    fn sum_of_kernels(&self, spectrum: &[Complex32]) -> f64 {
        let (size, half) = (self.size, self.size / 2);
        let columns = spectrum.par_chunks(size).zip(self.potential.par_chunks(size));
        let sums: Vec<f64> = columns
            .map(|(spectrum, potential)| {
                spectrum.iter().zip(potential).map(|(s, k)| f64::from(s.norm_sqr()) * f64::from(*k)).sum()
            })
            .collect();
        // The columns between the first and the middle one count twice, for their mirror images.
        let twice = |k: usize| if k == 0 || k == half { 1.0 } else { 2.0 };
        sums.iter().enumerate().map(|(k, s)| twice(k) * s).sum()
    }

    /// The force field at the nodes that points can contribute to, by row.
    fn field(&self, spectrum: &[Complex32], nodes: usize) -> Vec<Complex32> {
        let (size, half) = (self.size, self.size / 2);
        let mut columns = vec![Complex32::default(); size * size];
        columns.par_chunks_mut(size).zip(self.force.par_chunks(size)).enumerate().for_each(|(k, (column, force))| {
            if k <= half {
                let spectrum = &spectrum[k * size..][..size];
                column.iter_mut().zip(force).zip(spectrum).for_each(|((out, f), s)| *out = f * s);
            } else {
                let mirror = &spectrum[(size - k) * size..][..size];
                column[0] = force[0] * mirror[0].conj();
                let rest = column[1..].iter_mut().zip(&force[1..]);
                rest.zip(mirror[1..].iter().rev()).for_each(|((out, f), s)| *out = f * s.conj());
            }
            self.inverse.process(column);
        });
        let mut field = vec![Complex32::default(); nodes * nodes];
        field.par_chunks_mut(BLOCK * nodes).enumerate().for_each(|(block, field)| {
            let count = field.len() / nodes;
            let mut rows = vec![Complex32::default(); count * size];
            for (k, column) in columns.chunks_exact(size).enumerate() {
                for (row, value) in column[block * BLOCK..][..count].iter().enumerate() {
                    rows[row * size + k] = *value;
                }
            }
            self.inverse.process(&mut rows);
            for (field, row) in field.chunks_exact_mut(nodes).zip(rows.chunks_exact(size)) {
                field.copy_from_slice(&row[..nodes]);
            }
        });
        field
    }
}

/// Spreads the charges of all points to the mesh, in the order of the points.
fn spread(frame: &Frame, points: &[[f32; 2]]) -> Vec<f32> {
    // An even number of rows, because they are transformed in pairs.
    let mut charges = vec![0.0; frame.nodes.next_multiple_of(2) * frame.nodes];
    for point in points {
        let [(x, wx), (y, wy)] = frame.weights(*point);
        for (row, wy) in (y..).zip(wy) {
            let nodes = &mut charges[row * frame.nodes + x..][..ORDER];
            nodes.iter_mut().zip(wx).for_each(|(c, wx)| *c += wx * wy);
        }
    }
    charges
}

/// The smallest even number ≥ n without prime factors above 5.
fn good_size(n: usize) -> usize {
    let smooth = |mut v: usize| {
        for p in [2, 3, 5] {
            while v.is_multiple_of(p) {
                v /= p;
            }
        }
        v == 1
    };
    (n.next_multiple_of(2)..).step_by(2).find(|v| smooth(*v)).unwrap_or(n)
}

fn transpose(matrix: &mut [Complex<f64>], size: usize) {
    for a in 0..size {
        for b in 0..a {
            matrix.swap(a * size + b, b * size + a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Streams;

    fn scattered(n: usize, spread: f32) -> Vec<[f32; 2]> {
        let mut values = vec![0.0; 2 * n];
        Streams::new(2).stream("points", 0, 0).normals(&mut values);
        values.chunks_exact(2).map(|p| [p[0] * spread, p[1] * spread + 0.3]).collect()
    }

    /// The relative error of the forces (both as root mean squares), and that of Z.
    fn errors(grid: &mut Grid, points: &[[f32; 2]]) -> (f64, f64) {
        let n = points.len();
        let (mut exact, mut ours) = (vec![[0.0; 2]; n], vec![[0.0; 2]; n]);
        let z = forces::repulsion(points, &mut exact);
        let about = grid.repulsion(points, &mut ours);
        let square = |v: [f32; 2]| f64::from(v[0]).powi(2) + f64::from(v[1]).powi(2);
        let size: f64 = exact.iter().map(|f| square(*f)).sum();
        let error: f64 = exact.iter().zip(&ours).map(|(a, b)| square([a[0] - b[0], a[1] - b[1]])).sum();
        ((error / size).sqrt(), (about / z - 1.0).abs())
    }

    #[test]
    fn forces_agree_with_exact_sum_while_the_map_grows_and_shrinks() {
        let mut grid = Grid::default();
        for spread in [1e-6, 1e-4, 0.1, 1.0, 5.0, 20.0, 3.0] {
            let (force, z) = errors(&mut grid, &scattered(700, spread));
            assert!(force < 0.05 && z < 5e-3, "spread {spread}: force {force}, Z {z}");
        }
    }

    #[test]
    fn outliers_and_single_points_are_supported() {
        let mut grid = Grid::default();
        let mut points = scattered(200, 3.0);
        points[7] = [4000.0, -2000.0];
        assert_eq!(errors(&mut grid, &points), (0.0, 0.0), "computed with the exact sum");
        let mut out = [[1.0; 2]];
        let z = grid.repulsion(&[[5.0, 5.0]], &mut out);
        assert!(z.abs() < 1e-2 && out[0].iter().all(|f| f.abs() < 1e-5), "{z} {out:?}");
    }

    #[test]
    fn forces_sum_to_zero() {
        let points = scattered(300, 4.0);
        let mut out = vec![[0.0; 2]; 300];
        Grid::default().repulsion(&points, &mut out);
        for axis in 0..2 {
            let sum: f64 = out.iter().map(|f| f64::from(f[axis])).sum();
            let size: f64 = out.iter().map(|f| f64::from(f[axis]).abs()).sum();
            assert!(sum.abs() < 1e-5 * size, "{sum} of {size}");
        }
    }

    #[test]
    fn sizes_are_even_and_smooth() {
        assert_eq!([1, 13, 22, 101, 600].map(good_size), [2, 16, 24, 108, 600]);
    }
}
