//! Batched products in three loops, for tests: what cuBLAS computes for a [`Call`].

use super::plan::Call;

/// Computes all products of a call, column-major.
pub(super) fn multiply(call: &Call, a: &[f32], b: &[f32], c: &mut [f32]) {
    for [a_at, b_at, c_at] in &call.products {
        multiply_one(call, &a[*a_at..], &b[*b_at..], &mut c[*c_at..]);
    }
}

/// Computes `C = A · B (+ C)` with sums in f64.
pub(super) fn multiply_one(call: &Call, a: &[f32], b: &[f32], c: &mut [f32]) {
    let ([m, n, k], [lda, ldb, ldc]) = (call.size, call.leading);
    let [(row_a, inner_a), (inner_b, column_b)] =
        [if call.transposed[0] { (lda, 1) } else { (1, lda) }, if call.transposed[1] { (ldb, 1) } else { (1, ldb) }];
    for column in 0..n {
        for row in 0..m {
            let factors =
                |i: usize| f64::from(a[row * row_a + i * inner_a]) * f64::from(b[i * inner_b + column * column_b]);
            let sum: f64 = (0..k).map(factors).sum();
            let to = &mut c[column * ldc + row];
            *to = if call.accumulate { *to + sum as f32 } else { sum as f32 };
        }
    }
}

/// The number of elements in A, B and C that one product of the call reads or writes, with gaps.
pub(super) fn extents(call: &Call) -> [usize; 3] {
    let [m, n, k] = call.size;
    let a = if call.transposed[0] { (k, m) } else { (m, k) };
    let b = if call.transposed[1] { (n, k) } else { (k, n) };
    let reach = |(rows, columns): (usize, usize), leading: usize| (columns - 1) * leading + rows;
    [reach(a, call.leading[0]), reach(b, call.leading[1]), reach((m, n), call.leading[2])]
}
