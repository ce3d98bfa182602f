//! The matrix products of a transposed convolution.
//!
//! On each axis, input pixel `i` adds `x[i] · W[k]` to output pixel `o = i · stride − padding + k`, for every tap `k`
//! with `o` inside the image. So each pair of an input pixel and a tap is a matrix product over channels and batch. A
//! [`Plan`] lists which of them are summed in each output pixel, in each input pixel's gradient and in each tap's
//! gradient. For kernel 4, stride 2 and padding 1 on 2 × 2 pixels, 36 of 64 products remain.
//!
//! Both axes are alike, so the products of an image are all pairs of the products of one [`Axis`].

/// The sizes of a transposed convolution, equal on both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels on a side of the input.
    pub input: usize,
    /// Taps on a side of the kernel.
    pub kernel: usize,
    /// The distance in output pixels between neighbouring input pixels.
    pub stride: usize,
    /// Output pixels cut off at each edge.
    pub padding: usize,
}

impl Geometry {
    /// Pixels on a side of the output.
    pub fn output(&self) -> usize {
        (self.input - 1) * self.stride + self.kernel - 2 * self.padding
    }

    /// Pixels of the input.
    pub fn inputs(&self) -> usize {
        self.input * self.input
    }

    /// Pixels of the output.
    pub fn outputs(&self) -> usize {
        self.output() * self.output()
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// The output pixel of an input pixel and a tap on one axis; `None` outside the image.
    pub fn lands(&self, input: usize, tap: usize) -> Option<usize> {
        (input * self.stride + tap).checked_sub(self.padding).filter(|o| *o < self.output())
    }
}

/// A product on one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    /// The tap, or the linear combination of taps.
    pub tap: usize,
    /// The input pixel, or the linear combination of input pixels.
    pub input: usize,
    /// The output pixel or the partial sum to which it is added.
    pub output: usize,
}

/// The products on one axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The number of taps, used or not.
    pub taps: usize,
    /// The number of inputs.
    pub inputs: usize,
    /// The number of outputs.
    pub outputs: usize,
    /// The products.
    pub products: Vec<Product>,
}

impl Axis {
    /// The products of all taps and input pixels whose output pixel is inside the image.
    pub fn direct(geometry: Geometry) -> Self {
        let pairs = (0..geometry.kernel).flat_map(|tap| (0..geometry.input).map(move |input| (tap, input)));
        let products = pairs.filter_map(|(tap, input)| {
            let output = geometry.lands(input, tap)?;
            Some(Product { tap, input, output })
        });
        Self { taps: geometry.kernel, inputs: geometry.input, outputs: geometry.output(), products: products.collect() }
    }
}

/// The products of an image, each a (tap, input pixel, output pixel), indexed by each of the three. With minimal
/// filtering they are (form, signal, sum).
#[derive(Clone, Debug)]
pub struct Plan {
    /// For each output pixel, its (tap, input pixel).
    pub by_output: Vec<Vec<(usize, usize)>>,
    /// For each input pixel, its (tap, output pixel).
    pub by_input: Vec<Vec<(usize, usize)>>,
    /// For each tap, its (input pixel, output pixel).
    pub by_tap: Vec<Vec<(usize, usize)>>,
}

impl Plan {
    /// Lists the products, ordered by tap, then by input pixel.
    pub fn new(axis: &Axis) -> Self {
        let pairs = axis.products.iter().flat_map(|row| axis.products.iter().map(move |column| (row, column)));
        let mut products: Vec<Product> = pairs
            .map(|(row, column)| Product {
                tap: row.tap * axis.taps + column.tap,
                input: row.input * axis.inputs + column.input,
                output: row.output * axis.outputs + column.output,
            })
            .collect();
        products.sort_unstable();
        let mut plan = Self {
            by_output: vec![Vec::new(); axis.outputs * axis.outputs],
            by_input: vec![Vec::new(); axis.inputs * axis.inputs],
            by_tap: vec![Vec::new(); axis.taps * axis.taps],
        };
        for Product { tap, input, output } in products {
            plan.by_output[output].push((tap, input));
            plan.by_input[input].push((tap, output));
            plan.by_tap[tap].push((input, output));
        }
        plan
    }

    /// Pixels of the input.
    pub fn inputs(&self) -> usize {
        self.by_input.len()
    }

    /// Pixels of the output.
    pub fn outputs(&self) -> usize {
        self.by_output.len()
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.by_tap.len()
    }

    /// The number of matrix products.
    pub fn products(&self) -> usize {
        self.by_tap.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_product_falls_outside_the_image() {
        let plan = Plan::new(&Axis::direct(Geometry { input: 2, kernel: 4, stride: 2, padding: 1 }));
        assert_eq!((plan.products(), plan.outputs()), (36, 16));
    }

    #[test]
    fn lists_are_ordered_by_tap_then_input() {
        let plan = Plan::new(&Axis::direct(Geometry { input: 3, kernel: 3, stride: 2, padding: 1 }));
        for list in plan.by_output.iter().chain(&plan.by_input).chain(&plan.by_tap) {
            assert!(!list.is_empty() && list.is_sorted());
        }
    }
}
