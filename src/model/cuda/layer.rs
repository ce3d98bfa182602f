//! A transposed convolution as one matrix product for each pass.
//!
//! Input pixel `i` adds `x[i] · W[tap]` to output pixel `i · stride − padding + tap`. All these products of a layer are
//! one product, `[input pixel, sample] × [ci]` times `[ci] × [tap, co]`. The kernel that reads it adds up, for each
//! output pixel, the products that land on it: [`Layer::sources`]. The products that land outside the image are never
//! read.
//!
//! For the gradients, the kernel that computes the gradient of an output pixel copies it to each of its sources. The
//! result has the size of the forward product (`columns`), and zeros in the products outside the image. The gradients
//! of the input and of the weights are then one product each.
//!
//! | | product | multiply-adds outside the image |
//! |---|---|---|
//! | forward | `x · W` | for kernel 4, stride 2, padding 1: |
//! | input gradient | `columns · Wᵀ` | 44 % at 2 × 2 input pixels, 23 % at 4 × 4, |
//! | weight gradient | `xᵀ · columns` | 12 % at 8 × 8 |
//!
//! Batches of products over the valid taps only took longer on an H200, 1.3 to 1.5 times at batch 16: they have too few
//! rows to fill a GPU.

use crate::ops::plan::Geometry;

/// The maximum number of products that one output pixel adds up, as in `kernels.cu`.
pub(super) const SOURCES: usize = 4;

/// A transposed convolution with its numbers of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) geometry: Geometry,
    /// Input channels.
    pub(super) ci: usize,
    /// Output channels.
    pub(super) co: usize,
}

/// The result of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// `x · W`.
    Forward,
    /// `columns · Wᵀ`.
    Input,
    /// `xᵀ · columns`.
    Weights,
}

/// The sizes of a matrix product, as cuBLAS defines them: column-major `C (m × n) = A · B`, where A and B may be
/// transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Whether A and B are transposed.
    pub(super) transposed: [bool; 2],
    /// m, n and k.
    pub(super) size: [usize; 3],
    /// Leading dimensions of A, B and C.
    pub(super) leading: [usize; 3],
}

impl Layer {
    /// The number of weights, `[ci][tap][co]`.
    pub(super) fn weights(&self) -> usize {
        self.ci * self.width()
    }

    /// The number of products of one number of the input.
    pub(super) fn width(&self) -> usize {
        self.geometry.taps() * self.co
    }

    /// The product of a pass over this many samples. Its operands are W and x, W and columns, or columns and x.
    pub(super) fn product(&self, pass: Pass, batch: usize) -> Sizes {
        let (ci, width, rows) = (self.ci, self.width(), self.geometry.inputs() * batch);
        let (transposed, size, leading) = match pass {
            Pass::Forward => ([false, false], [width, rows, ci], [width, ci, width]),
            Pass::Input => ([true, false], [ci, rows, width], [width, width, ci]),
            Pass::Weights => ([false, true], [width, ci, rows], [width, ci, width]),
        };
        Sizes { transposed, size, leading }
    }

    /// For each output pixel, [`SOURCES`] pairs of an input pixel and a tap that add to it; -1 after the last.
    pub(super) fn sources(&self) -> Vec<i32> {
        let Geometry { input: side, kernel, .. } = self.geometry;
        let output = self.geometry.output();
        let mut found = vec![Vec::new(); output * output];
        for (input, tap) in (0..side * side).flat_map(|input| (0..kernel * kernel).map(move |tap| (input, tap))) {
            let row = self.geometry.lands(input / side, tap / kernel);
            let column = self.geometry.lands(input % side, tap % kernel);
            if let (Some(row), Some(column)) = (row, column) {
                found[row * output + column].extend([input as i32, tap as i32]);
            }
        }
        for sources in &mut found {
            debug_assert!(sources.len() <= 2 * SOURCES, "a kernel of at most twice the stride");
            sources.resize(2 * SOURCES, -1);
        }
        found.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_inside_the_image_has_one_output_pixel() {
        for (input, kernel, stride, padding, inside) in
            [(1, 2, 1, 0, 4), (2, 4, 2, 1, 36), (4, 4, 2, 1, 196), (8, 4, 2, 1, 900), (16, 1, 1, 0, 256)]
        {
            let layer = Layer { geometry: Geometry { input, kernel, stride, padding }, ci: 3, co: 2 };
            let sources = layer.sources();
            assert_eq!(sources.len(), layer.geometry.outputs() * SOURCES * 2);
            let mut pairs: Vec<_> = sources.chunks_exact(2).filter(|pair| pair[0] >= 0).collect();
            assert_eq!(pairs.len(), inside);
            pairs.sort_unstable();
            pairs.dedup();
            assert_eq!(pairs.len(), inside);
        }
    }
}
