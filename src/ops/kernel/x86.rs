//! The kernels for AVX2 and AVX-512. Both walk over groups of blocks; they differ in the registers of a tile.

use std::arch::x86_64::{
    __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_load_ps, _mm256_setzero_ps,
    _mm256_store_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps,
};
use std::iter::FusedIterator;

use super::run::Run;
use crate::ops::block::{Block, LANES};

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
                    let scalar = _mm256_broadcast_ss(&*l.add(if BY_ROW { row * LANES + k } else { k * LANES + row }));
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
