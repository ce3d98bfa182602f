//! A step as a list of operations with all their arguments, made once for each size of batch.
//!
//! The values that change from step to step are the samples, Adam's rates and the address of the losses. The kernels
//! read them from the tables of the epoch, at the number of the step (`cursor`). So a step runs the list, which
//! allocates nothing, or replays its recording.

use super::layout::layers;
use super::machine::{Address, Argument, CudaError, Kernel, Launch, Machine, Operation, Product, THREADS, upload_new};
use super::plan::{Calls, Layer, Pass, Plan};
use super::settings::Statistics;
use super::shared::Shared;
use crate::model::decoder::layers::{LAYERS, NORMS};
use crate::ops::tail::PIXELS;

/// The number of channels in a block of the norms' sums, as in `kernels.cu`.
const CHANNELS: usize = 32;
/// The maximum number of chunks of rows in these sums.
const CHUNKS: usize = 128;

/// The buffers of a layer.
#[derive(Clone, Copy)]
struct Buffers {
    /// The input.
    x: Address,
    /// The product, in slots.
    product: Address,
    /// The sum of the slots, for a norm.
    sum: Address,
    /// The gradient with respect to the product.
    d: Address,
    /// The gradient with respect to the input, in slots.
    dx: Address,
}

/// The calls of a layer.
struct Passes {
    forward: Calls,
    input: Calls,
    weights: Calls,
}

/// The operations of a step.
pub(super) struct Program {
    pub(super) operations: Vec<Operation>,
    /// The machine's recording of the operations.
    pub(super) recording: Option<usize>,
}

/// Builds a program.
struct Builder<'a> {
    machine: &'a dyn Machine,
    shared: &'a Shared,
    full: usize,
    batch: usize,
    layers: [Layer; LAYERS],
    passes: Vec<Passes>,
    buffers: Vec<Buffers>,
    /// Partial sums: of the KL, of the squared errors, of the tail's gradients and of the norms.
    sums: [Address; 4],
    /// 255 / (‖x − x̂‖ n).
    factor: Address,
    /// Two means for each channel of a norm.
    means: Address,
    /// u, σ, and x̂ − x, which becomes the gradient with respect to u.
    tail: [Address; 3],
    operations: Vec<Operation>,
}

impl Program {
    /// The program of steps with `batch` samples, in an epoch whose other steps have `full`.
    pub(super) fn new(machine: &dyn Machine, shared: &Shared, full: usize, batch: usize) -> Result<Self, CudaError> {
        let mut builder = Builder::new(machine, shared, full, batch)?;
        builder.draw();
        builder.forward()?;
        builder.loss();
        builder.backward()?;
        builder.update();
        Ok(Self { operations: builder.operations, recording: None })
    }

    /// Runs a step.
    pub(super) fn run(&self, machine: &dyn Machine) -> Result<(), CudaError> {
        match self.recording {
            Some(recording) => machine.replay(recording),
            None => self.operations.iter().try_for_each(|operation| machine.run(operation)),
        }
    }
}

impl<'a> Builder<'a> {
    fn new(machine: &'a dyn Machine, shared: &'a Shared, full: usize, batch: usize) -> Result<Self, CudaError> {
        let layers = layers(shared.shape);
        let passes: Vec<Passes> = layers
            .iter()
            .map(|layer| {
                let plan = Plan::new(*layer);
                let calls = |pass| plan.calls(pass, batch);
                Passes { forward: calls(Pass::Forward), input: calls(Pass::Input), weights: calls(Pass::Weights) }
            })
            .collect();
        let floats = |n: usize| machine.allocate(4 * n, "the buffers of a step");
        let doubles = |n: usize| machine.allocate(8 * n, "the buffers of a step");
        let mut x = floats(batch * shared.shape.latent_dim)?;
        let mut buffers = Vec::new();
        for (layer, passes) in layers.iter().zip(&passes) {
            let (input, output) = (inputs(*layer, batch), outputs(*layer, batch));
            let product = floats(passes.forward.slots * output)?;
            let (sum, d) = (floats(output)?, floats(output)?);
            let dx = floats(passes.input.slots * input)?;
            buffers.push(Buffers { x, product, sum, d, dx });
            x = floats(output)?;
        }
        let widest = shared.shape.channels.into_iter().max().unwrap_or(1);
        let sums = [
            doubles(blocks(batch * shared.shape.latent_dim))?,
            doubles(blocks(PIXELS * batch))?,
            doubles(2 * blocks(PIXELS * batch))?,
            doubles(2 * CHUNKS * widest)?,
        ];
        let tail = [floats(PIXELS * batch)?, floats(PIXELS * batch)?, floats(PIXELS * batch)?];
        let (factor, means) = (doubles(1)?, floats(2 * widest)?);
        let operations = Vec::new();
        Ok(Self { machine, shared, full, batch, layers, passes, buffers, sums, factor, means, tail, operations })
    }

    fn launch(&mut self, kernel: Kernel, blocks: [usize; 2], arguments: Vec<Argument>) {
        self.operations.push(Operation::Launch(Launch { kernel, blocks, arguments }));
    }

    /// Launches a kernel with a thread for each of n numbers.
    fn launch_over(&mut self, n: usize, kernel: Kernel, mut arguments: Vec<Argument>) {
        arguments.push(long(n));
        self.launch(kernel, [blocks(n), 1], arguments);
    }

    /// The same for a kernel whose count is an `int`.
    fn launch_over_few(&mut self, n: usize, kernel: Kernel, mut arguments: Vec<Argument>) {
        arguments.push(int(n));
        self.launch(kernel, [blocks(n), 1], arguments);
    }

    /// Launches a kernel with a thread for each number of a layer's output, in a row of blocks for each pixel.
    fn launch_over_pixels(&mut self, layer: Layer, kernel: Kernel, mut arguments: Vec<Argument>) {
        let size = self.batch * layer.co;
        arguments.push(int(size));
        self.launch(kernel, [blocks(size), layer.geometry.outputs()], arguments);
    }

    fn products(&mut self, calls: Calls, arrays: [Address; 3]) -> Result<(), CudaError> {
        for call in calls.calls {
            let mut pointers = arrays;
            let mut aligned = call.leading.iter().all(|n| n.is_multiple_of(4));
            for (operand, array) in arrays.into_iter().enumerate() {
                let list: Vec<u64> = call.products.iter().map(|p| array.floats(p[operand]).0).collect();
                aligned &= list.iter().all(|address| address.is_multiple_of(16));
                pointers[operand] = upload_new(self.machine, &list, "the lists of products")?;
            }
            self.operations.push(Operation::Product(Product { call, pointers, aligned }));
        }
        Ok(())
    }

    fn draw(&mut self) {
        let Shared { family, epoch, latents: [a, b], shape, .. } = self.shared;
        let n = self.batch * shape.latent_dim;
        let arguments = vec![
            int(*family as usize),
            epoch.cursor.into(),
            epoch.order.into(),
            a[0].into(),
            b[0].into(),
            epoch.noise.into(),
            self.buffers[0].x.into(),
            self.sums[0].into(),
            int(self.full),
            int(self.batch),
            int(shape.latent_dim),
        ];
        self.launch(Kernel::Draw, [blocks(n), 1], arguments);
    }

    fn forward(&mut self) -> Result<(), CudaError> {
        for l in 0..LAYERS {
            let (layer, buffers) = (self.layers[l], self.buffers[l]);
            let calls = self.passes[l].forward.clone();
            let slots = calls.slots;
            self.products(calls, [self.parameter(self.shared.layout.weights[l].start), buffers.x, buffers.product])?;
            let stride = outputs(layer, self.batch);
            match l {
                0 => {
                    let bias = self.parameter(self.shared.layout.bias.start);
                    let mut arguments = slotted(buffers.product, slots, stride);
                    arguments.extend([bias.into(), self.buffers[1].x.into(), int(layer.co)]);
                    self.launch_over_pixels(layer, Kernel::AddBias, arguments);
                }
                1..=NORMS => self.norm(l, slots),
                _ => {}
            }
        }
        Ok(())
    }

    fn norm(&mut self, l: usize, slots: usize) {
        let (layer, Buffers { product, sum, .. }) = (self.layers[l], self.buffers[l]);
        let (n, rows) = (outputs(layer, self.batch), layer.geometry.outputs() * self.batch);
        let (chunk, chunks) = chunks(rows);
        let across = layer.co.div_ceil(CHANNELS);
        let mut x = slotted(sum, 1, 0);
        let [mean, inverse] = self.shared.normal[l - 1];
        if self.shared.statistics == Statistics::Folded {
            x = slotted(product, slots, n);
        } else {
            let mut arguments = slotted(product, slots, n);
            arguments.extend([sum.into(), self.sums[3].into(), int(rows), int(layer.co), int(chunk)]);
            self.launch(Kernel::NormSums, [across, chunks], arguments);
            let [running_mean, running_variance] = &self.shared.layout.running[l - 1];
            let arguments = vec![
                self.sums[3].into(),
                mean.into(),
                inverse.into(),
                self.shared.running.floats(running_mean.start).into(),
                self.shared.running.floats(running_variance.start).into(),
                int(chunks),
                int(rows),
                int(layer.co),
                int(usize::from(self.shared.statistics == Statistics::Learning)),
            ];
            self.launch(Kernel::NormStatistics, [across, 1], arguments);
        }
        let [gamma, beta] = self.gamma_and_beta(l);
        x.extend([mean, inverse, gamma, beta, self.shared.places[l], self.buffers[l + 1].x].map(Argument::from));
        x.push(int(layer.co));
        self.launch_over_pixels(layer, Kernel::NormApply, x);
    }

    fn loss(&mut self) {
        let Shared { epoch, images, shape, .. } = self.shared;
        let (last, n) = (LAYERS - 1, PIXELS * self.batch);
        let scalars = self.parameter(self.shared.layout.tail.start);
        let [before, sigmoid, error] = self.tail;
        let mut forward = slotted(
            self.buffers[last].product,
            self.passes[last].forward.slots,
            outputs(self.layers[last], self.batch),
        );
        forward.extend([scalars, *images, epoch.cursor, epoch.order, before, sigmoid, error].map(Argument::from));
        forward.extend([self.sums[1].into(), int(self.full), int(self.batch)]);
        let numbers = self.batch * shape.latent_dim;
        let loss = vec![
            self.sums[1].into(),
            int(blocks(n)),
            self.sums[0].into(),
            int(blocks(numbers)),
            epoch.cursor.into(),
            epoch.losses.into(),
            self.factor.into(),
            Argument::Double(n as f64),
            Argument::Double(numbers as f64),
        ];
        let backward = [before, sigmoid, scalars, self.factor, error, self.sums[2]].map(Argument::from);
        let gradient = self.shared.gradient.floats(self.shared.layout.tail.start);
        let by_scalars = vec![self.sums[2].into(), int(blocks(n)), scalars.into(), gradient.into()];
        let spread = vec![error.into(), self.buffers[last].d.into(), int(self.batch)];
        self.launch(Kernel::TailForward, [blocks(n), 1], forward);
        self.launch(Kernel::TailLoss, [1, 1], loss);
        self.launch_over(n, Kernel::TailBackward, backward.to_vec());
        if self.learns() {
            self.launch(Kernel::TailScalars, [1, 1], by_scalars);
        }
        self.launch_over_few(outputs(self.layers[last], self.batch), Kernel::TailSpread, spread);
    }

    fn backward(&mut self) -> Result<(), CudaError> {
        for l in (0..LAYERS).rev() {
            match l {
                0 => self.bias_backward(),
                1..=NORMS => self.norm_backward(l),
                _ => {}
            }
            let (Buffers { x, d, dx, .. }, layout) = (self.buffers[l], &self.shared.layout);
            if self.learns() {
                let into = match self.shared.extra_slots[l] {
                    Some((begin, _)) => self.shared.extra.floats(begin),
                    None => self.shared.gradient.floats(layout.weights[l].start),
                };
                let calls = self.passes[l].weights.clone();
                self.products(calls, [d, x, into])?;
            }
            let weights = self.parameter(layout.weights[l].start);
            let calls = self.passes[l].input.clone();
            self.products(calls, [weights, d, dx])?;
        }
        Ok(())
    }

    /// The gradient with respect to a layer's output, as the next layer wrote it: address, slots and their stride.
    fn above(&self, l: usize) -> Vec<Argument> {
        slotted(self.buffers[l + 1].dx, self.passes[l + 1].input.slots, outputs(self.layers[l], self.batch))
    }

    fn bias_backward(&mut self) {
        let layer = self.layers[0];
        let gradient = self.shared.gradient.floats(self.shared.layout.bias.start);
        let mut arguments = self.above(0);
        arguments.extend([self.buffers[0].d.into(), gradient.into(), int(self.batch), int(layer.co)]);
        self.launch_over(layer.co * layer.geometry.outputs(), Kernel::BiasBackward, arguments);
    }

    fn norm_backward(&mut self, l: usize) {
        let (layer, Buffers { sum, d, .. }) = (self.layers[l], self.buffers[l]);
        let rows = layer.geometry.outputs() * self.batch;
        let place = self.shared.places[l];
        let mut arguments = self.above(l);
        if self.shared.statistics == Statistics::Folded {
            arguments.extend([self.buffers[l + 1].x, place, d].map(Argument::from));
            return self.launch_over_pixels(layer, Kernel::ClipBackward, arguments);
        }
        let (chunk, chunks) = chunks(rows);
        let across = layer.co.div_ceil(CHANNELS);
        let ([mean, inverse], [gamma, beta]) = (self.shared.normal[l - 1], self.gamma_and_beta(l));
        arguments.extend([sum, mean, inverse, gamma, beta, place, d, self.sums[3]].map(Argument::from));
        arguments.extend([rows, layer.co, self.batch, chunk].map(int));
        self.launch(Kernel::NormBackwardSums, [across, chunks], arguments);
        let [dgamma, dbeta] = self.shared.layout.norms[l - 1].clone().map(|r| self.shared.gradient.floats(r.start));
        let mut arguments = [self.sums[3], dgamma, dbeta, self.means].map(Argument::from).to_vec();
        arguments.extend([chunks, rows, layer.co].map(int));
        self.launch(Kernel::NormBackwardStatistics, [across, 1], arguments);
        let mut arguments = [d, sum, mean, inverse, gamma, self.means].map(Argument::from).to_vec();
        arguments.push(int(layer.co));
        self.launch_over_pixels(layer, Kernel::NormBackwardApply, arguments);
    }

    fn update(&mut self) {
        let Shared { family, epoch, latents: [a, b], shape, samples, .. } = self.shared;
        if self.learns() {
            let [p, m, v] = self.shared.parameters;
            let Shared { gradient, extra, segments, .. } = *self.shared;
            let mut arguments = [p, m, v, gradient, extra, segments].map(Argument::from).to_vec();
            arguments.extend([int(self.shared.segment_count), epoch.rates.into(), epoch.cursor.into()]);
            self.launch_over(self.shared.layout.parameters, Kernel::Adam, arguments);
        }
        let mut arguments = vec![int(*family as usize)];
        arguments.extend([epoch.cursor, epoch.position, epoch.noise].map(Argument::from));
        let stride = self.batch * shape.latent_dim;
        arguments.extend(slotted(self.buffers[0].dx, self.passes[0].input.slots, stride));
        arguments.push(epoch.rates.into());
        arguments.extend([a[0], a[1], a[2], b[0], b[1], b[2]].map(Argument::from));
        arguments.extend([self.full, self.batch, shape.latent_dim].map(int));
        self.launch_over_few(samples * shape.latent_dim, Kernel::LatentsStep, arguments);
        self.launch(Kernel::Advance, [1, 1], vec![epoch.cursor.into()]);
    }

    fn learns(&self) -> bool {
        self.shared.statistics == Statistics::Learning
    }

    fn parameter(&self, at: usize) -> Address {
        self.shared.parameters[0].floats(at)
    }

    fn gamma_and_beta(&self, l: usize) -> [Address; 2] {
        self.shared.layout.norms[l - 1].clone().map(|range| self.parameter(range.start))
    }
}

/// The number of elements of a layer's input.
fn inputs(layer: Layer, batch: usize) -> usize {
    layer.geometry.inputs() * batch * layer.ci
}

/// The number of elements of a layer's output.
fn outputs(layer: Layer, batch: usize) -> usize {
    layer.geometry.outputs() * batch * layer.co
}

/// The number of thread blocks for n threads.
fn blocks(n: usize) -> usize {
    n.div_ceil(THREADS)
}

/// The number of rows in a chunk, and of chunks. They depend only on the number of rows.
fn chunks(rows: usize) -> (usize, usize) {
    let chunk = rows.div_ceil(CHUNKS).next_multiple_of(THREADS / CHANNELS);
    (chunk, rows.div_ceil(chunk))
}

/// The arguments for an array in slots.
fn slotted(array: Address, slots: usize, stride: usize) -> Vec<Argument> {
    vec![array.into(), int(slots), long(stride)]
}

/// A size as an `int` argument. [`Shared::new`] checked that the sizes of the data fit.
fn int(n: usize) -> Argument {
    Argument::Int(i32::try_from(n).unwrap_or(i32::MAX))
}

/// A size as a `long long` argument.
fn long(n: usize) -> Argument {
    Argument::Long(i64::try_from(n).unwrap_or(i64::MAX))
}
