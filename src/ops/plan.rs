//! Which products a transposed convolution is made of.
//!
//! Input pixel `i` adds `x[i] · W[k]` to output pixel `o = i · stride − padding + k`, on each axis, for every tap `k` for which
//! `o` is inside. So every (input pixel, tap) is a plain matrix product over channels and batch; which of them meet in an
//! output pixel, in an input pixel's gradient and in a tap's gradient is listed once, in a [`Plan`]. For kernel 4, stride 2,
//! padding 1 on 2 × 2 pixels that leaves 36 of 64 products.
//!
//! Both axes are alike, so the products of one ([`Axis`]) say all: those of an image are its pairs.

/// The sizes of a transposed convolution; the same on both axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels on a side of the input.
    pub input: usize,
    /// Taps on a side of the kernel.
    pub kernel: usize,
    /// Output pixels from one input pixel to the next.
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

    /// Where an input pixel's tap lands, on one axis.
    pub fn lands(&self, input: usize, tap: usize) -> Option<usize> {
        (input * self.stride + tap).checked_sub(self.padding).filter(|o| *o < self.output())
    }
}

/// A product on one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    /// Which tap, or linear form of taps.
    pub tap: usize,
    /// Which input pixel, or linear form of them.
    pub input: usize,
    /// The output pixel, or the partial sum, that it is added to.
    pub output: usize,
}

/// The products on one axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// How many taps there are, used or not.
    pub taps: usize,
    /// How many inputs.
    pub inputs: usize,
    /// How many outputs.
    pub outputs: usize,
    /// What is multiplied, and where it goes.
    pub products: Vec<Product>,
}

impl Axis {
    /// Every tap with every input pixel that it meets inside the image.
    pub fn direct(geometry: Geometry) -> Self {
        let pairs = (0..geometry.kernel).flat_map(|tap| (0..geometry.input).map(move |input| (tap, input)));
        let products = pairs.filter_map(|(tap, input)| {
            let output = geometry.lands(input, tap)?;
            Some(Product { tap, input, output })
        });
        Self { taps: geometry.kernel, inputs: geometry.input, outputs: geometry.output(), products: products.collect() }
    }
}

/// All (tap, input pixel, output pixel) of an image that meet, by each of the three; with minimal filtering forms, signals and
/// sums are in their place.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For each output pixel, the (tap, input pixel) that reach it.
    pub by_output: Vec<Vec<(usize, usize)>>,
    /// For each input pixel, the (tap, output pixel) that it reaches.
    pub by_input: Vec<Vec<(usize, usize)>>,
    /// For each tap, the (input pixel, output pixel) that it joins.
    pub by_tap: Vec<Vec<(usize, usize)>>,
}

impl Plan {
    /// Lists what meets, in the order of taps, then input pixels.
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

    /// Products of matrices in all.
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
    fn what_meets_is_listed_by_taps_then_inputs() {
        let plan = Plan::new(&Axis::direct(Geometry { input: 3, kernel: 3, stride: 2, padding: 1 }));
        for list in plan.by_output.iter().chain(&plan.by_input).chain(&plan.by_tap) {
            assert!(!list.is_empty() && list.is_sorted());
        }
    }
}
