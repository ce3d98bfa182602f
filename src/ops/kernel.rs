//! The inner loop of all matrix products: adds outer products to a 16 × 16 tile of results, which stays in registers.
//!
//! `acc[r][l] += Σ scalars[k][r] · vectors[k][l]` (or `scalars[r][k]`), over a list of pairs of positions, and over a
//! run of blocks from each pair on. Blocks are processed in small groups: the scalars of a group are read once for all
//! results, and meanwhile the next group is prefetched.
//!
//! Each element is one chain of fused multiply-adds with every instruction set, so all give the same bits.

mod run;
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions on raw pointers; `accumulate` checks the bounds")]
mod x86;

pub use run::Run;

use std::iter::FusedIterator;

use super::block::{Block, LANES, Row};

/// Adds the products of all runs to each of `accs`, or to 0 if the run is fresh. `pairs` holds the first block of each
/// run, in `scalars` and in `vectors`; the vectors of the next result are one block further. With `BY_ROW`, rows of the
/// scalars' blocks are rows of the result; otherwise they are steps of the sum. `next` are the pairs of the next call,
/// whose blocks are prefetched.
///
/// # Panics
/// If a run has no blocks or leaves its slice.
#[inline(always)]
pub fn accumulate<const BY_ROW: bool>(
    accs: &mut [Block],
    scalars: &[Block],
    vectors: &[Block],
    pairs: impl FusedIterator<Item = (usize, usize)> + Clone,
    next: impl Iterator<Item = (usize, usize)> + Clone,
    run: Run,
) {
    assert!(run.blocks > 0, "a run without blocks");
    let last = run.blocks - 1;
    for (s, v) in pairs.clone() {
        let (s, v) = (s + last * run.scalars, v + last * run.vectors + accs.len());
        assert!(s < scalars.len() && v <= vectors.len(), "run out of bounds");
    }
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, and the loop above checked that every run lies inside both slices.
            #[expect(unsafe_code, reason = "calls the AVX-512 kernel")]
            return unsafe { x86::avx512::<BY_ROW>(accs, scalars, vectors, pairs, next, run) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA, and the loop above checked that every run lies inside both
            // slices.
            #[expect(unsafe_code, reason = "calls the AVX2 kernel")]
            return unsafe { x86::avx2::<BY_ROW>(accs, scalars, vectors, pairs, next, run) };
        }
    }
    for (n, acc) in accs.iter_mut().enumerate() {
        portable::<BY_ROW>(acc, scalars, &vectors[n..], pairs.clone(), run);
    }
}

/// Fetches a line that is needed soon into the cache. A hint, for any address; does nothing on processors other than
/// x86-64.
#[inline(always)]
pub fn prefetch(line: *const Row) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and prefetching neither changes memory nor faults.
    #[expect(unsafe_code, reason = "a prefetch instruction takes a pointer")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// The rows of the tile that the portable kernel keeps in registers at a time: 4 rows are 8 AVX2 registers or 16 NEON
/// registers.
const ROWS: usize = 4;

#[inline(always)]
fn portable<const BY_ROW: bool>(
    acc: &mut Block,
    scalars: &[Block],
    vectors: &[Block],
    pairs: impl Iterator<Item = (usize, usize)> + Clone,
    run: Run,
) {
    for (part, rows) in acc.0.chunks_exact_mut(ROWS).enumerate() {
        let first = part * ROWS;
        let mut tile: [Row; ROWS] = [[0.0; LANES]; ROWS];
        if !run.fresh {
            tile.copy_from_slice(rows);
        }
        for (s, v) in pairs.clone() {
            for j in 0..run.blocks {
                let (left, right) = (&scalars[s + j * run.scalars].0, &vectors[v + j * run.vectors].0);
                for (k, lanes) in right.iter().enumerate() {
                    for (r, row) in tile.iter_mut().enumerate() {
                        let scalar = if BY_ROW { left[first + r][k] } else { left[k][first + r] };
                        for (a, x) in row.iter_mut().zip(lanes) {
                            *a = scalar.mul_add(*x, *a);
                        }
                    }
                }
            }
        }
        rows.copy_from_slice(&tile);
    }
}

/// Runs `f`, compiled for the widest vectors that the processor has. The results have the same bits: Rust never fuses
/// or reorders floating-point operations by itself. To gain speed, `f` and the functions it calls must be
/// `#[inline(always)]`.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn wide<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma")]
        fn medium<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        let fma = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        if fma
            && std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bw")
        {
            // SAFETY: the processor has all features of `wide`.
            #[expect(unsafe_code, reason = "calls a function compiled for features that were just detected")]
            return unsafe { wide(f) };
        }
        if fma {
            // SAFETY: the processor has both features of `medium`.
            #[expect(unsafe_code, reason = "calls a function compiled for features that were just detected")]
            return unsafe { medium(f) };
        }
    }
    f()
}

#[cfg(test)]
mod tests {
    use std::iter::{empty, once};
    use std::slice::from_mut;

    use super::*;
    use crate::rng::Streams;

    fn random(n: usize, purpose: &str) -> Vec<Block> {
        let mut blocks = vec![Block::ZERO; n];
        Streams::new(1).stream(purpose, 0, 0).normals(bytemuck::cast_slice_mut(&mut blocks));
        blocks
    }

    /// The results of each kernel that this processor can run.
    #[expect(unsafe_code, reason = "calls the kernels for features that were just detected")]
    fn of_each_kernel(accs: &[Block], s: &[Block], v: &[Block], pairs: &[(usize, usize)], run: Run) -> Vec<Vec<Block>> {
        let (pairs, next) = (pairs.iter().copied(), [(2, 9), (77, 99)].into_iter());
        let mut found = vec![accs.to_vec(); 2];
        for (n, acc) in found[0].iter_mut().enumerate() {
            portable::<true>(acc, s, v.get(n..).unwrap_or_default(), pairs.clone(), run);
        }
        accumulate::<true>(&mut found[1], s, v, pairs.clone(), next.clone(), run);
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            let mut own = accs.to_vec();
            // SAFETY: the processor has AVX2 and FMA, and `accumulate` has checked the bounds.
            unsafe { x86::avx2::<true>(&mut own, s, v, pairs, next, run) };
            found.push(own);
        }
        found
    }

    #[test]
    fn all_kernels_give_the_same_bits_for_any_number_of_results() {
        let (s, v, accs) = (random(12, "s"), random(40, "v"), random(5, "a"));
        let all = [(1, vec![]), (1, vec![(3, 0)]), (5, vec![(0, 1), (2, 7)]), (4, vec![(1, 0), (0, 4), (2, 2)])];
        for (blocks, pairs) in all {
            for (fresh, results) in [(true, 5), (false, 5), (true, 1), (false, 1), (true, 0)] {
                let run = Run { blocks, scalars: 1, vectors: 3, fresh };
                let found = of_each_kernel(&accs[..results], &s, &v, &pairs, run);
                assert!(found.iter().all(|other| *other == found[0]), "{run:?}, {pairs:?}, {results} results");
                let expected = if fresh { vec![Block::ZERO; results] } else { accs[..results].to_vec() };
                assert_eq!(found[0] == expected, pairs.is_empty() || results == 0);
            }
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits_and_the_sum() {
        let (s, v) = (random(9, "s"), random(9, "v"));
        let pairs = [(0, 1), (4, 2), (1, 0)];
        let run = Run { blocks: 3, scalars: 2, vectors: 3, fresh: false };
        let (mut fast, mut plain, mut rows) = (s[8], s[8], s[8]);
        accumulate::<false>(from_mut(&mut fast), &s, &v, pairs.into_iter(), empty(), run);
        portable::<false>(&mut plain, &s, &v, pairs.into_iter(), run);
        assert_eq!(fast, plain);
        let turned: Vec<Block> = s.iter().map(Block::transposed).collect();
        accumulate::<true>(from_mut(&mut rows), &turned, &v, pairs.into_iter(), empty(), run);
        assert_eq!(fast, rows);
        let mut expected = f64::from(s[8].0[3][7]);
        for (a, b) in pairs {
            for j in 0..3 {
                for k in 0..LANES {
                    expected += f64::from(s[a + 2 * j].0[k][3]) * f64::from(v[b + 3 * j].0[k][7]);
                }
            }
        }
        assert!((f64::from(fast.0[3][7]) - expected).abs() < 1e-4);

        let (run, mut zero) = (Run { fresh: true, ..run }, Block::ZERO);
        accumulate::<false>(from_mut(&mut zero), &s, &v, pairs.into_iter(), once((2, 2)), Run { fresh: false, ..run });
        accumulate::<false>(from_mut(&mut fast), &s, &v, pairs.into_iter(), empty(), run);
        portable::<false>(&mut plain, &s, &v, pairs.into_iter(), run);
        assert_eq!((fast, plain), (zero, zero), "a fresh sum ignores the previous content");
    }

    #[test]
    fn each_result_has_the_next_vectors_and_what_is_prefetched_does_not_matter() {
        let (s, v) = (random(12, "s"), random(40, "v"));
        for (blocks, pairs) in [(1, vec![(3, 0)]), (5, vec![(0, 1), (2, 7)]), (6, vec![(1, 0), (0, 4), (2, 2)])] {
            let run = Run { blocks, scalars: 1, vectors: 3, fresh: true };
            let mut together = [Block::ZERO; 5];
            accumulate::<true>(&mut together, &s, &v, pairs.iter().copied(), [(2, 9), (77, 99)].into_iter(), run);
            for (n, found) in together.iter().enumerate() {
                let mut alone = Block::ZERO;
                portable::<true>(&mut alone, &s, &v[n..], pairs.iter().copied(), run);
                assert_eq!(*found, alone, "result {n} of runs of {blocks} blocks");
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn run_that_leaves_its_slice_panics() {
        let blocks = random(3, "s");
        let run = Run { blocks: 2, scalars: 1, vectors: 2, fresh: true };
        accumulate::<false>(&mut [Block::ZERO], &blocks, &blocks, once((0, 1)), empty(), run);
    }
}
