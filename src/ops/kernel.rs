//! The inner loop of all matrix products: adds outer products to a 16 × 16 tile of results, which stays in registers.
//!
//! `acc[r][l] += Σ scalars[k][r] · vectors[k][l]` (or `scalars[r][k]`), over a list of pairs of positions, and over a
//! run of blocks from each pair on. Blocks are processed in small groups: the scalars of a group are read once for all
//! results, and meanwhile the next group is prefetched.
//!
//! Each element is one chain of fused multiply-adds with every instruction set, so all give the same bits.

use std::iter::FusedIterator;

use super::block::{Block, LANES, Row};

/// A run of blocks, in both operands.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The number of blocks, at least 1.
    pub blocks: usize,
    /// The distance between two blocks of scalars.
    pub scalars: usize,
    /// The distance between two blocks of vectors.
    pub vectors: usize,
    /// Whether the sum starts at 0 instead of the previous content of the results.
    pub fresh: bool,
}

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

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions on raw pointers; `accumulate` checks the bounds")]
mod x86 {
    use super::{Block, FusedIterator, LANES, Run};
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_load_ps,
        _mm256_setzero_ps, _mm256_store_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_store_ps,
    };

    /// The number of blocks that are processed together. Those of both operands and the next ones fill half of the
    /// first-level cache, and the processor computes long enough for the next ones to come from main memory.
    const GROUP: usize = 4;

    /// Up to [`GROUP`] blocks of both operands.
    #[derive(Clone, Copy)]
    struct Group {
        scalars: [*const f32; GROUP],
        vectors: [*const f32; GROUP],
        len: usize,
    }

    impl Group {
        /// The same scalars with the vectors of the next result.
        #[inline(always)]
        fn advanced(mut self) -> Self {
            for vectors in &mut self.vectors {
                *vectors = vectors.wrapping_add(LANES * LANES);
            }
            self
        }
    }

    /// Splits runs into groups.
    struct Groups<'a> {
        scalars: &'a [Block],
        vectors: &'a [Block],
        run: Run,
        /// The next blocks of the current run.
        left: *const Block,
        right: *const Block,
        /// How many blocks it has left.
        rest: usize,
    }

    impl<'a> Groups<'a> {
        fn new(scalars: &'a [Block], vectors: &'a [Block], run: Run) -> Self {
            Self { scalars, vectors, run, left: scalars.as_ptr(), right: vectors.as_ptr(), rest: 0 }
        }

        /// Takes the next group. It is empty after the last pair.
        #[inline(always)]
        fn next(&mut self, pairs: &mut impl Iterator<Item = (usize, usize)>) -> Group {
            let (scalars, vectors) = (self.scalars.as_ptr(), self.vectors.as_ptr());
            let mut group = Group { scalars: [scalars.cast(); GROUP], vectors: [vectors.cast(); GROUP], len: 0 };
            while group.len < GROUP {
                if self.rest == 0 {
                    let Some((s, v)) = pairs.next() else { break };
                    (self.left, self.right) = (scalars.wrapping_add(s), vectors.wrapping_add(v));
                    self.rest = self.run.blocks;
                }
                group.scalars[group.len] = self.left.cast();
                group.vectors[group.len] = self.right.cast();
                group.len += 1;
                self.rest -= 1;
                self.left = self.left.wrapping_add(self.run.scalars);
                self.right = self.right.wrapping_add(self.run.vectors);
            }
            group
        }
    }

    /// Blocks to be prefetched while a group is processed.
    struct Ahead<'a> {
        /// The scalars of the next group, with the last result of this one.
        scalars: Option<&'a [*const f32; GROUP]>,
        /// The vectors of the next result or group.
        vectors: &'a [*const f32; GROUP],
    }

    /// Calls `add` for each group and result, also with whether the sum starts at 0. The scalars of a group stay in the
    /// cache for all results.
    #[inline(always)]
    fn each_group(
        accs: &mut [Block],
        mut groups: Groups<'_>,
        mut pairs: impl FusedIterator<Item = (usize, usize)>,
        mut next: impl Iterator<Item = (usize, usize)>,
        mut add: impl FnMut(&mut Block, &Group, Ahead<'_>, bool),
    ) {
        let mut group = groups.next(&mut pairs);
        let mut fresh = groups.run.fresh;
        if group.len == 0 && fresh {
            accs.fill(Block::ZERO);
        }
        while group.len > 0 {
            let mut following = groups.next(&mut pairs);
            let is_last = following.len == 0;
            if is_last {
                following = groups.next(&mut next);
            }
            let results = accs.len();
            for (n, acc) in accs.iter_mut().enumerate() {
                let of_next = group.advanced();
                let ahead = match n + 1 < results {
                    true => Ahead { scalars: None, vectors: &of_next.vectors },
                    false => Ahead { scalars: Some(&following.scalars), vectors: &following.vectors },
                };
                add(acc, &group, ahead, fresh);
                group = of_next;
            }
            (group, fresh) = (following, false);
            if is_last {
                break;
            }
        }
    }

    /// The 16 rows of a tile are 16 registers. A step is one load and 16 multiply-adds with a broadcast operand. Zen 4
    /// can do one 512-bit multiply-add a cycle, and 17 loads in 16 cycles.
    ///
    /// # Safety
    /// The processor must have AVX-512F, and every block of every run must lie inside its slice.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512<const BY_ROW: bool>(
        accs: &mut [Block],
        scalars: &[Block],
        vectors: &[Block],
        pairs: impl FusedIterator<Item = (usize, usize)>,
        next: impl Iterator<Item = (usize, usize)>,
        run: Run,
    ) {
        each_group(accs, Groups::new(scalars, vectors, run), pairs, next, |acc, group, ahead, fresh| {
            // SAFETY: blocks are aligned to 64 bytes, and the caller guarantees that runs lie in bounds. Prefetching is
            // allowed at any address.
            unsafe {
                let mut tile: [__m512; LANES] = [_mm512_setzero_ps(); LANES];
                if !fresh {
                    for (register, row) in tile.iter_mut().zip(&acc.0) {
                        *register = _mm512_load_ps(row.as_ptr());
                    }
                }
                let ahead = [ahead.scalars.unwrap_or(ahead.vectors), ahead.vectors];
                for at in 0..group.len {
                    let (l, r) = (group.scalars[at], group.vectors[at]);
                    for k in 0..LANES {
                        for blocks in ahead {
                            _mm_prefetch::<_MM_HINT_T0>(blocks[at].cast::<i8>().wrapping_add(k * 64));
                        }
                        let lanes = _mm512_load_ps(r.add(k * LANES));
                        for (row, register) in tile.iter_mut().enumerate() {
                            let scalar = *l.add(if BY_ROW { row * LANES + k } else { k * LANES + row });
                            *register = _mm512_fmadd_ps(_mm512_set1_ps(scalar), lanes, *register);
                        }
                    }
                }
                for (register, row) in tile.iter().zip(&mut acc.0) {
                    _mm512_store_ps(row.as_mut_ptr(), *register);
                }
            }
        });
    }

    /// 16 rows of 16 numbers take 32 registers, of which AVX2 has 16. So the tile is computed in three parts of 6, 5
    /// and 5 rows, each with at most 12 registers for sums, 2 for lanes and 1 for a scalar. A step of 6 rows is 8 loads
    /// and 12 multiply-adds; Zen 3 can do 2 of each in a cycle.
    ///
    /// # Safety
    /// The processor must have AVX2 and FMA, and every block of every run must lie inside its slice.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<const BY_ROW: bool>(
        accs: &mut [Block],
        scalars: &[Block],
        vectors: &[Block],
        pairs: impl FusedIterator<Item = (usize, usize)>,
        next: impl Iterator<Item = (usize, usize)>,
        run: Run,
    ) {
        each_group(accs, Groups::new(scalars, vectors, run), pairs, next, |acc, group, ahead, fresh| {
            // SAFETY: the caller guarantees that runs lie in bounds.
            unsafe {
                rows::<BY_ROW, 0, 6>(acc, group, ahead.scalars, fresh);
                rows::<BY_ROW, 6, 5>(acc, group, Some(ahead.vectors), fresh);
                rows::<BY_ROW, 11, 5>(acc, group, None, fresh);
            }
        });
    }

    /// Adds the products of a group to `ROWS` rows from `FIRST` on, and prefetches the blocks `ahead`.
    ///
    /// # Safety
    /// The processor must have AVX2 and FMA, and the pointers of the group must point to blocks.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn rows<const BY_ROW: bool, const FIRST: usize, const ROWS: usize>(
        acc: &mut Block,
        group: &Group,
        ahead: Option<&[*const f32; GROUP]>,
        fresh: bool,
    ) {
        // SAFETY: a block has 16 rows of 16 numbers, and is aligned to 64 bytes. Prefetching any address is allowed.
        unsafe {
            let mut tile: [[__m256; 2]; ROWS] = [[_mm256_setzero_ps(); 2]; ROWS];
            if !fresh {
                for (registers, row) in tile.iter_mut().zip(&acc.0[FIRST..FIRST + ROWS]) {
                    *registers = [_mm256_load_ps(row.as_ptr()), _mm256_load_ps(row.as_ptr().add(LANES / 2))];
                }
            }
            for at in 0..group.len {
                let (l, r) = (group.scalars[at], group.vectors[at]);
                for k in 0..LANES {
                    if let Some(ahead) = ahead {
                        _mm_prefetch::<_MM_HINT_T0>(ahead[at].cast::<i8>().wrapping_add(k * 64));
                    }
                    let lanes = [_mm256_load_ps(r.add(k * LANES)), _mm256_load_ps(r.add(k * LANES + LANES / 2))];
                    for (row, registers) in tile.iter_mut().enumerate() {
                        let row = FIRST + row;
                        let scalar =
                            _mm256_broadcast_ss(&*l.add(if BY_ROW { row * LANES + k } else { k * LANES + row }));
                        registers[0] = _mm256_fmadd_ps(scalar, lanes[0], registers[0]);
                        registers[1] = _mm256_fmadd_ps(scalar, lanes[1], registers[1]);
                    }
                }
            }
            for (registers, row) in tile.iter().zip(&mut acc.0[FIRST..FIRST + ROWS]) {
                _mm256_store_ps(row.as_mut_ptr(), registers[0]);
                _mm256_store_ps(row.as_mut_ptr().add(LANES / 2), registers[1]);
            }
        }
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
