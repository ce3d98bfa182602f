//! Exact nearest neighbours: blocked matrix products choose candidates, which are then sorted by exact distances.
//!
//! With `‖a − b‖² = ‖a‖² + ‖b‖² − 2 a·b` the search is a matrix product. That is fast, but loses digits for close
//! points. So it only chooses candidates, [`SPARE`] more than needed. These are sorted by `Σ (aᵢ − bᵢ)²`, summed in a
//! fixed order, and then by index. The result does not depend on the number of threads.

use std::ops::ControlFlow;

use rayon::prelude::*;

/// The number of additional candidates, since rounding in the product may change their order.
const SPARE: usize = 16;
/// The number of query points in a product. With [`POINTS`], its result is 1 MiB.
const QUERIES: usize = 128;
/// The number of data points in a product.
const POINTS: usize = 2048;
/// The number of query points between two calls of `go_on`.
const BATCH: usize = 16 * QUERIES;

/// The nearest neighbours of n points, nearest first, without the point itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    /// The number of neighbours of each point: the requested number, but at most n − 1.
    pub k: usize,
    /// n·k indices.
    pub indices: Vec<u32>,
    /// n·k squared Euclidean distances.
    pub squared: Vec<f32>,
}

impl Neighbours {
    /// The neighbours of point `i`.
    pub fn of(&self, i: usize) -> &[u32] {
        &self.indices[i * self.k..(i + 1) * self.k]
    }
}

/// The `k` nearest neighbours of each of `n` points of dimension `d` (row-major n × d, finite). Calls `go_on` now and
/// then, and returns `None` if it breaks.
pub fn neighbours(
    points: &[f32],
    n: usize,
    d: usize,
    k: usize,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Option<Neighbours> {
    let k = k.min(n.saturating_sub(1));
    let mut found = Neighbours { k, indices: vec![0; n * k], squared: vec![0.0; n * k] };
    if k == 0 {
        return Some(found);
    }
    let centred = centred(points, n, d);
    let norms: Vec<f32> = centred.chunks_exact(d.max(1)).map(|p| dot(p, p)).collect();
    let data = Data { points: &centred, norms: &norms, n, d, k };
    let batches = found.indices.chunks_mut(BATCH * k).zip(found.squared.chunks_mut(BATCH * k));
    for (batch, (indices, squared)) in batches.enumerate() {
        if go_on().is_break() {
            return None;
        }
        let blocks = indices.par_chunks_mut(QUERIES * k).zip(squared.par_chunks_mut(QUERIES * k));
        blocks.enumerate().for_each(|(block, (indices, squared))| {
            data.search(batch * BATCH + block * QUERIES, indices, squared);
        });
    }
    Some(found)
}

/// The points minus their mean: with smaller norms, the products lose fewer digits.
fn centred(points: &[f32], n: usize, d: usize) -> Vec<f32> {
    let mut mean = vec![0.0f64; d];
    for point in points.chunks_exact(d.max(1)) {
        mean.iter_mut().zip(point).for_each(|(m, v)| *m += f64::from(*v));
    }
    let mean: Vec<f32> = mean.iter().map(|m| (m / n as f64) as f32).collect();
    points.chunks_exact(d.max(1)).flat_map(|p| p.iter().zip(&mean).map(|(v, m)| v - m)).collect()
}

struct Data<'a> {
    points: &'a [f32],
    norms: &'a [f32],
    n: usize,
    d: usize,
    k: usize,
}

impl Data<'_> {
    /// Writes the neighbours of the points from `first` on, for as many points as the slices hold.
    fn search(&self, first: usize, indices: &mut [u32], squared: &mut [f32]) {
        let count = indices.len() / self.k;
        let keep = (self.k + SPARE).min(self.n - 1);
        let mut best: Vec<Candidates> = (0..count).map(|i| Candidates::new(keep, (first + i) as u32)).collect();
        let mut products = vec![0.0; count * POINTS];
        for start in (0..self.n).step_by(POINTS) {
            let width = POINTS.min(self.n - start);
            self.products(first, count, start, width, &mut products);
            for (row, best) in products.chunks_exact(POINTS).zip(&mut best) {
                best.offer(&row[..width], &self.norms[start..start + width], start as u32);
            }
        }
        let rows = indices.chunks_exact_mut(self.k).zip(squared.chunks_exact_mut(self.k));
        for ((i, best), (indices, squared)) in (first..).zip(best).zip(rows) {
            let point = self.point(i);
            let mut near: Vec<(f32, u32)> =
                best.into_indices().map(|j| (distance(point, self.point(j as usize)), j)).collect();
            near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            for (((distance, j), index), out) in near.into_iter().zip(indices).zip(squared) {
                (*index, *out) = (j, distance);
            }
        }
    }

    fn point(&self, i: usize) -> &[f32] {
        &self.points[i * self.d..(i + 1) * self.d]
    }

    /// Writes the scalar products of `count` points from `first` on with `width` points from `start` on, in rows of
    /// `POINTS`.
    #[expect(unsafe_code, reason = "gemm takes raw pointers")]
    fn products(&self, first: usize, count: usize, start: usize, width: usize, out: &mut [f32]) {
        let queries = &self.points[first * self.d..(first + count) * self.d];
        let points = &self.points[start * self.d..(start + width) * self.d];
        assert!(out.len() >= count * POINTS && width <= POINTS);
        let stride = self.d as isize;
        // SAFETY: `queries` holds count·d and `points` width·d elements, which are read with row stride d. `out` holds
        // `count` rows of POINTS ≥ width elements, is not read (read_dst is false) and overlaps neither.
        unsafe {
            gemm::gemm(
                count,
                width,
                self.d,
                out.as_mut_ptr(),
                1,
                POINTS as isize,
                false,
                queries.as_ptr(),
                1,
                stride,
                points.as_ptr(),
                stride,
                1,
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// The nearest candidates of a point so far.
struct Candidates {
    keep: usize,
    own: u32,
    limit: f32,
    found: Vec<(f32, u32)>,
}

impl Candidates {
    fn new(keep: usize, own: u32) -> Self {
        Self { keep, own, limit: f32::INFINITY, found: Vec::with_capacity(4 * keep) }
    }

    /// Adds the points from index `start` on, given by their products with this point, unless they are too far away.
    fn offer(&mut self, products: &[f32], norms: &[f32], start: u32) {
        // Usually none of 16 consecutive points is near, which a single branch finds out.
        for (block, (products, norms)) in products.chunks(16).zip(norms.chunks(16)).enumerate() {
            let mut lanes = [f32::INFINITY; 16];
            for ((lane, product), norm) in lanes.iter_mut().zip(products).zip(norms) {
                *lane = norm - 2.0 * product;
            }
            if !lanes.iter().any(|v| *v < self.limit) {
                continue;
            }
            let first = start + 16 * block as u32;
            for (j, v) in (first..).zip(lanes) {
                if v < self.limit && j != self.own {
                    self.found.push((v, j));
                }
            }
            if self.found.len() + 16 > 4 * self.keep {
                self.shrink();
            }
        }
    }

    fn shrink(&mut self) {
        if self.found.len() > self.keep {
            let last = self.keep - 1;
            self.found.select_nth_unstable_by(last, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            self.found.truncate(self.keep);
            self.limit = self.found[last].0;
        }
    }

    fn into_indices(mut self) -> impl Iterator<Item = u32> {
        self.shrink();
        self.found.into_iter().map(|(_, j)| j)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The squared distance, summed in eight lanes.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += (a - b) * (a - b);
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Streams;

    fn all(points: &[f32], d: usize, k: usize) -> Neighbours {
        neighbours(points, points.len() / d, d, k, &mut || ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn neighbours_equal_those_of_a_full_sort() {
        for (n, d, k) in [(300, 7, 12), (2500, 3, 5), (5, 2, 9)] {
            let mut points = vec![0.0; n * d];
            Streams::new(1).stream("points", 0, 0).normals(&mut points);
            // Far from the origin, where products lose digits.
            points.iter_mut().for_each(|v| *v += 30.0);
            let found = all(&points, d, k);
            assert_eq!(found.k, k.min(n - 1));
            for i in (0..n).step_by(37) {
                let a = &points[i * d..(i + 1) * d];
                let square =
                    |j: usize| -> f64 { a.iter().zip(&points[j * d..]).map(|(x, y)| f64::from(x - y).powi(2)).sum() };
                let mut order: Vec<usize> = (0..n).filter(|j| *j != i).collect();
                order.sort_by(|x, y| square(*x).total_cmp(&square(*y)));
                let expected: Vec<f64> = order.iter().take(k).map(|j| square(*j)).collect();
                let here: Vec<f64> = found.of(i).iter().map(|j| square(*j as usize)).collect();
                for (a, b) in here.iter().zip(&expected) {
                    assert!((a - b).abs() < 1e-4 * b.max(1.0), "{here:?} {expected:?}");
                }
            }
        }
    }

    #[test]
    fn equal_points_are_each_others_neighbours_in_order_of_index() {
        let found = all(&[1.0; 8], 2, 2);
        assert_eq!(found.indices, [1, 2, 0, 2, 0, 1, 0, 1]);
        assert_eq!(found.squared, [0.0; 8]);
    }

    #[test]
    fn one_point_has_no_neighbours() {
        assert_eq!(all(&[], 3, 5).k, 0);
        assert_eq!(all(&[1.0, 2.0], 2, 5).indices, [0u32; 0]);
    }

    #[test]
    fn search_stops_when_the_callback_breaks() {
        assert!(neighbours(&[0.0; 20], 10, 2, 3, &mut || ControlFlow::Break(())).is_none());
    }
}
