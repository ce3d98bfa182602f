//! The joint probabilities P of t-SNE.
//!
//! Over the k = 3·perplexity nearest neighbours of point i, `p(j|i) ∝ exp(−β d²(i,j))`, with β such that the entropy is
//! `ln perplexity`. Then `P(i,j) = (p(j|i) + p(i|j)) / 2n`. Source: van der Maaten, *Accelerating t-SNE using
//! tree-based algorithms*, JMLR 2014, section 4. β is found with Newton's method on the entropy, `dH/dβ = −β Var(d²)`,
//! inside a bracket.

use rayon::prelude::*;

use super::neighbours::Neighbours;

/// The edges of a row are padded to a multiple of this number with edges of weight 0, so that loops over them have no
/// remainder.
pub(super) const LANES: usize = 8;
/// The accepted error of the entropy, as in openTSNE.
const CLOSE: f64 = 1e-8;

/// The symmetric sparse matrix P, by rows; it sums to 1.
#[derive(Clone, Debug)]
pub(super) struct Affinities {
    /// Row i's edges are `edges[starts[i]..starts[i + 1]]`.
    pub(super) starts: Vec<usize>,
    /// The other point and P, ordered by point. Padding has the row's own point and P = 0.
    pub(super) edges: Vec<(u32, f32)>,
    /// `Σ P ln P`, a term of the divergence.
    pub(super) entropy: f64,
}

/// P of `n` points, from the first `k` neighbours of each.
pub(super) fn affinities(neighbours: &Neighbours, n: usize, k: usize, perplexity: f64) -> Affinities {
    let k = k.min(neighbours.k);
    let mut conditional = vec![0.0f64; n * k];
    if k > 0 {
        let rows = conditional.par_chunks_mut(k).zip(neighbours.squared.par_chunks(neighbours.k));
        rows.for_each(|(row, squared)| {
            calibrate(&squared[..k], perplexity, row);
        });
    }
    symmetric(neighbours, &conditional, n, k)
}

/// Fills `row` with p(j|i) for a perplexity, and returns β. `squared` are the squared distances, of which the first is
/// the smallest.
pub(super) fn calibrate(squared: &[f32], perplexity: f64, row: &mut [f64]) -> f64 {
    let nearest = squared.first().map_or(0.0, |d| f64::from(*d));
    // Relative to the nearest neighbour, so that the sum never underflows.
    let far: Vec<f64> = squared.iter().map(|d| f64::from(*d) - nearest).collect();
    let mean = far.iter().sum::<f64>() / far.len() as f64;
    let target = libm::log(perplexity);
    let (mut low, mut high) = (0.0, f64::INFINITY);
    // If all distances are equal, any β gives the same probabilities.
    let mut beta = if mean > 0.0 { 1.0 / mean } else { 1.0 };
    for _ in 0..100 {
        let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
        for (p, d) in row.iter_mut().zip(&far) {
            *p = libm::exp(-beta * d);
            sum += *p;
            first += *p * d;
            second += *p * d * d;
        }
        row.iter_mut().for_each(|p| *p /= sum);
        let average = first / sum;
        let entropy = libm::log(sum) + beta * average;
        let variance = second / sum - average * average;
        if (entropy - target).abs() < CLOSE || mean == 0.0 {
            break;
        }
        if entropy > target {
            low = beta;
        } else {
            high = beta;
        }
        let newton = beta + (entropy - target) / (beta * variance);
        beta = match (newton > low && newton < high && newton < 4.0 * beta + low, high.is_finite()) {
            (true, _) => newton,
            (false, true) => 0.5 * (low + high),
            (false, false) => 2.0 * beta,
        };
        // No β reaches the entropy if several neighbours are equally near.
        if beta * mean > 1e12 {
            break;
        }
    }
    beta
}

/// Adds the conditional probabilities and their transposed matrix.
fn symmetric(neighbours: &Neighbours, conditional: &[f64], n: usize, k: usize) -> Affinities {
    // The rows of the transposed matrix are ordered by index because they are filled in that order.
    let mut counts = vec![0usize; n + 1];
    for i in 0..n {
        neighbours.of(i).iter().take(k).for_each(|j| counts[*j as usize + 1] += 1);
    }
    for i in 0..n {
        counts[i + 1] += counts[i];
    }
    let mut next = counts.clone();
    let mut transposed = vec![(0u32, 0.0f64); n * k];
    for i in 0..n {
        for (j, p) in neighbours.of(i).iter().take(k).zip(&conditional[i * k..]) {
            let at = &mut next[*j as usize];
            transposed[*at] = (i as u32, *p);
            *at += 1;
        }
    }
    let scale = 1.0 / (2.0 * n.max(1) as f64);
    let mut all = Affinities { starts: vec![0], edges: vec![], entropy: 0.0 };
    let mut row: Vec<(u32, f64)> = vec![];
    for i in 0..n {
        row.clear();
        row.extend(neighbours.of(i).iter().take(k).copied().zip(conditional[i * k..].iter().copied()));
        row.extend_from_slice(&transposed[counts[i]..counts[i + 1]]);
        row.sort_by_key(|(j, _)| *j);
        row.dedup_by(|again, kept| {
            let same = again.0 == kept.0;
            if same {
                kept.1 += again.1;
            }
            same
        });
        for (j, p) in &row {
            let p = p * scale;
            if p > 0.0 {
                all.entropy += p * libm::log(p);
            }
            all.edges.push((*j, p as f32));
        }
        all.edges.resize(all.edges.len().next_multiple_of(LANES), (i as u32, 0.0));
        all.starts.push(all.edges.len());
    }
    all
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use proptest::prelude::*;

    use super::super::neighbours::neighbours;
    use super::*;
    use crate::rng::Streams;

    fn entropy(row: &[f64]) -> f64 {
        -row.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
    }

    proptest! {
        #[test]
        fn search_reaches_the_target_entropy(
            mut squared in proptest::collection::vec(0.0f32..1e4, 20..120),
            part in 0.1f64..0.6,
            scale in -8i32..8,
        ) {
            squared.iter_mut().for_each(|d| *d *= 10f32.powi(scale));
            squared.sort_by(f32::total_cmp);
            prop_assume!(squared[1] > squared[0] * 1.001);
            let perplexity = (squared.len() as f64 * part).max(1.5);
            let mut row = vec![0.0; squared.len()];
            let beta = calibrate(&squared, perplexity, &mut row);
            prop_assert!(beta.is_finite() && beta > 0.0);
            prop_assert!((entropy(&row) - perplexity.ln()).abs() < 1e-6, "{} for {}", entropy(&row).exp(), perplexity);
        }
    }

    #[test]
    fn equal_distances_give_equal_probabilities() {
        let mut row = [0.0; 4];
        calibrate(&[2.0; 4], 2.0, &mut row);
        assert_eq!(row, [0.25; 4]);
        // Three at distance 0 can't have an entropy of ln 2.
        calibrate(&[0.0, 0.0, 0.0, 5.0], 2.0, &mut row);
        assert!(row.iter().all(|p| p.is_finite()) && (row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn p_is_symmetric_and_sums_to_one() {
        let (n, d, k) = (80, 4, 12);
        let mut points = vec![0.0; n * d];
        Streams::new(3).stream("points", 0, 0).normals(&mut points);
        let near = neighbours(&points, n, d, k + 3, &mut || ControlFlow::Continue(())).unwrap();
        let p = affinities(&near, n, k, 4.0);
        let mut dense = vec![0.0f64; n * n];
        for i in 0..n {
            let row = &p.edges[p.starts[i]..p.starts[i + 1]];
            assert_eq!(row.len() % LANES, 0);
            row.iter().for_each(|(j, v)| dense[i * n + *j as usize] += f64::from(*v));
        }
        assert!((dense.iter().sum::<f64>() - 1.0).abs() < 1e-6);
        for i in 0..n {
            assert_eq!(dense[i * n + i], 0.0);
            (0..i).for_each(|j| assert_eq!(dense[i * n + j], dense[j * n + i]));
        }
        assert!((p.entropy + entropy(&dense)).abs() < 1e-6);
    }
}
