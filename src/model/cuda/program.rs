//! A step as a list of operations with all their arguments, made once for each size of batch.
//!
//! The values that change from step to step are the samples, Adam's rates and the address of the losses. The kernels
//! read them from the tables of the epoch, at the number of the step (`cursor`). So a step runs the list, which
//! allocates nothing, or replays its recording.

use super::layer::{Layer, Pass};
use super::layout::layers;
use super::machine::{Address, Argument, CudaError, Kernel, Launch, Machine, Operation, Product, THREADS};
use super::settings::Statistics;
use super::shared::Shared;
use crate::model::decoder::layers::{LAYERS, NORMS};
use crate::ops::tail::PIXELS;

/// The number of channels in a block of the norms' sums, as in `kernels.cu`.
const CHANNELS: usize = 32;
/// The maximum number of chunks of rows in these sums.
const CHUNKS: usize = 256;
/// The number of channels in a block that adds up these chunks.
const FEW_CHANNELS: usize = 8;

/// The buffers of a layer.
#[derive(Clone, Copy)]
struct Buffers {
    /// The input.
    x: Address,
    /// The products, `[input pixel][sample][tap][channel]`.
    product: Address,
    /// For each output pixel, the sum of its products, for a norm.
    sum: Address,
    /// The gradient with respect to the products. Those that land outside the image keep the zeros of the allocation.
    columns: Address,
    /// The gradient with respect to the input.
    dx: Address,
}

/// The operations of a step.
pub(super) struct Program {
    pub(super) operations: Vec<Operation>,
    /// The machine's recording of the operations.
    pub(super) recording: Option<usize>,
    /// Where it leaves the decoded images, `[pixel][sample]`, from 0 to 1.
    pub(super) decoded: Address,
}

/// What a program does with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// A step of a training or of a fit.
    Step,
    /// Decodes, and compares with the images.
    Evaluation,
}

/// Builds a program.
struct Builder<'a> {
    shared: &'a Shared,
    full: usize,
    batch: usize,
    layers: [Layer; LAYERS],
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
    /// The program of batches of `batch` samples, in an epoch whose other batches have `full`.
    pub(super) fn new(
        machine: &dyn Machine,
        shared: &Shared,
        purpose: Purpose,
        (full, batch): (usize, usize),
    ) -> Result<Self, CudaError> {
        let mut builder = Builder::new(machine, shared, full, batch)?;
        builder.draw();
        builder.forward();
        builder.loss();
        if purpose == Purpose::Step {
            builder.loss_backward();
            builder.backward();
            builder.update();
        }
        builder.launch(Kernel::Advance, [1, 1], vec![shared.epoch.cursor.into()]);
        let decoded = builder.tail[1];
        Ok(Self { operations: builder.operations, recording: None, decoded })
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
    fn new(machine: &dyn Machine, shared: &'a Shared, full: usize, batch: usize) -> Result<Self, CudaError> {
        let layers = layers(shared.shape);
        let floats = |n: usize| machine.allocate(4 * n, "the buffers of a step");
        let doubles = |n: usize| machine.allocate(8 * n, "the buffers of a step");
        let mut x = floats(batch * shared.shape.latent_dim)?;
        let mut buffers = Vec::new();
        for layer in layers {
            let products = layer.geometry.inputs() * batch * layer.width();
            let (product, columns) = (floats(products)?, floats(products)?);
            let sum = floats(outputs(layer, batch))?;
            buffers.push(Buffers { x, product, sum, columns, dx: floats(inputs(layer, batch))? });
            x = floats(outputs(layer, batch))?;
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
        Ok(Self { shared, full, batch, layers, buffers, sums, factor, means, tail, operations })
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

    /// Launches a kernel with a thread for four channels of a layer's output, in a row of blocks for each pixel.
    fn launch_over_pixels(&mut self, layer: Layer, kernel: Kernel, mut arguments: Vec<Argument>) {
        arguments.extend([self.batch, layer.co].map(int));
        let size = self.batch * layer.co.div_ceil(4);
        arguments.push(int(size));
        self.launch(kernel, [blocks(size), layer.geometry.outputs()], arguments);
    }

    fn product(&mut self, l: usize, pass: Pass, operands: [Address; 3]) {
        let sizes = self.layers[l].product(pass, self.batch);
        self.operations.push(Operation::Product(Product { sizes, operands }));
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

    fn forward(&mut self) {
        for l in 0..LAYERS {
            let buffers = self.buffers[l];
            self.product(l, Pass::Forward, [self.weights(l), buffers.x, buffers.product]);
            match l {
                0 => self.add_bias(l, self.parameter(self.shared.layout.bias.start), false),
                1..=NORMS if self.shared.statistics == Statistics::Folded => {
                    self.add_bias(l, self.gamma_and_beta(l)[1], true);
                }
                1..=NORMS => self.norm(l),
                _ => {}
            }
        }
    }

    /// Adds the bias, which is one for all pixels where a ReLU follows.
    fn add_bias(&mut self, l: usize, bias: Address, relu: bool) {
        let layer = self.layers[l];
        let mut arguments = vec![self.buffers[l].product.into()];
        arguments.extend(self.sources(l));
        let stride = if relu { 0 } else { layer.co };
        arguments.extend([bias.into(), int(stride), int(usize::from(relu)), self.buffers[l + 1].x.into()]);
        self.launch_over_pixels(layer, Kernel::AddBias, arguments);
    }

    fn norm(&mut self, l: usize) {
        let (layer, Buffers { product, sum, .. }) = (self.layers[l], self.buffers[l]);
        let rows = layer.geometry.outputs() * self.batch;
        let (chunk, chunks) = chunks(rows);
        let mut arguments = vec![product.into()];
        arguments.extend(self.sources(l));
        arguments.extend([sum, self.sums[3]].map(Argument::from));
        arguments.extend([self.batch, rows, layer.co, chunk].map(int));
        self.launch(Kernel::NormSums, [layer.co.div_ceil(CHANNELS), chunks], arguments);
        let [mean, inverse] = self.shared.normal[l - 1];
        let running = self.shared.layout.running[l - 1].clone().map(|range| self.shared.running.floats(range.start));
        let mut arguments = [self.sums[3], mean, inverse, running[0], running[1]].map(Argument::from).to_vec();
        arguments.extend([chunks, rows, layer.co, usize::from(self.learns())].map(int));
        self.launch(Kernel::NormStatistics, [layer.co.div_ceil(FEW_CHANNELS), 1], arguments);
        let [gamma, beta] = self.gamma_and_beta(l);
        let arguments = [sum, mean, inverse, gamma, beta, self.buffers[l + 1].x].map(Argument::from).to_vec();
        self.launch_over_pixels(layer, Kernel::NormApply, arguments);
    }

    fn loss(&mut self) {
        let Shared { epoch, images, shape, .. } = self.shared;
        let (last, n) = (LAYERS - 1, PIXELS * self.batch);
        let scalars = self.parameter(self.shared.layout.tail.start);
        let [before, sigmoid, error] = self.tail;
        let mut forward = vec![self.buffers[last].product.into()];
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
        self.launch(Kernel::TailForward, [blocks(n), 1], forward);
        self.launch(Kernel::TailLoss, [1, 1], loss);
    }

    fn loss_backward(&mut self) {
        let (last, n) = (LAYERS - 1, PIXELS * self.batch);
        let scalars = self.parameter(self.shared.layout.tail.start);
        let [before, sigmoid, error] = self.tail;
        let backward = [before, sigmoid, scalars, self.factor, error, self.sums[2]].map(Argument::from);
        let gradient = self.shared.gradient.floats(self.shared.layout.tail.start);
        let by_scalars = vec![self.sums[2].into(), int(blocks(n)), scalars.into(), gradient.into()];
        let spread = vec![error.into(), self.buffers[last].columns.into(), int(self.batch)];
        self.launch_over(n, Kernel::TailBackward, backward.to_vec());
        if self.learns() {
            self.launch(Kernel::TailScalars, [1, 1], by_scalars);
        }
        self.launch_over_few(outputs(self.layers[last], self.batch), Kernel::TailSpread, spread);
    }

    fn backward(&mut self) {
        for l in (0..LAYERS).rev() {
            match l {
                0 => self.bias_backward(),
                1..=NORMS => self.norm_backward(l),
                _ => {}
            }
            let Buffers { x, columns, dx, .. } = self.buffers[l];
            if self.learns() {
                let gradient = self.shared.gradient.floats(self.shared.layout.weights[l].start);
                self.product(l, Pass::Weights, [columns, x, gradient]);
            }
            self.product(l, Pass::Input, [self.weights(l), columns, dx]);
        }
    }

    fn bias_backward(&mut self) {
        let layer = self.layers[0];
        let gradient = self.shared.gradient.floats(self.shared.layout.bias.start);
        let mut arguments = vec![self.buffers[1].dx.into()];
        arguments.extend(self.sources(0));
        arguments.extend([self.buffers[0].columns, gradient].map(Argument::from));
        arguments.extend([self.batch, layer.co].map(int));
        let blocks = [layer.co.div_ceil(CHANNELS), layer.geometry.outputs()];
        self.launch(Kernel::BiasBackward, blocks, arguments);
    }

    fn norm_backward(&mut self, l: usize) {
        let (layer, Buffers { sum, columns, .. }) = (self.layers[l], self.buffers[l]);
        let (dy, y) = (self.buffers[l + 1].dx, self.buffers[l + 1].x);
        let [sources, taps] = self.sources(l);
        let into = [sources, taps, columns.into()];
        if self.shared.statistics == Statistics::Folded {
            let arguments = [&[dy.into(), y.into()][..], &into].concat();
            return self.launch_over_pixels(layer, Kernel::ClipBackward, arguments);
        }
        let rows = layer.geometry.outputs() * self.batch;
        let (chunk, chunks) = chunks(rows);
        let ([mean, inverse], [gamma, beta]) = (self.shared.normal[l - 1], self.gamma_and_beta(l));
        let from = [dy, sum, mean, inverse, gamma, beta].map(Argument::from);
        let mut arguments = [&from[..], &[self.sums[3].into()]].concat();
        arguments.extend([rows, layer.co, chunk].map(int));
        self.launch(Kernel::NormBackwardSums, [layer.co.div_ceil(CHANNELS), chunks], arguments);
        let [dgamma, dbeta] = self.shared.layout.norms[l - 1].clone().map(|r| self.shared.gradient.floats(r.start));
        let mut arguments = [self.sums[3], dgamma, dbeta, self.means].map(Argument::from).to_vec();
        arguments.extend([chunks, rows, layer.co].map(int));
        self.launch(Kernel::NormBackwardStatistics, [layer.co.div_ceil(FEW_CHANNELS), 1], arguments);
        let arguments = [&from[..], &[self.means.into()], &into].concat();
        self.launch_over_pixels(layer, Kernel::NormBackwardApply, arguments);
    }

    fn update(&mut self) {
        let Shared { family, epoch, latents: [a, b], shape, samples, .. } = self.shared;
        if self.learns() {
            let [p, m, v] = self.shared.parameters;
            let arguments = [p, m, v, self.shared.gradient, epoch.rates, epoch.cursor].map(Argument::from).to_vec();
            self.launch_over(self.shared.layout.parameters / 4, Kernel::Adam, arguments);
        }
        let mut arguments = vec![int(*family as usize)];
        arguments
            .extend([epoch.cursor, epoch.position, epoch.noise, self.buffers[0].dx, epoch.rates].map(Argument::from));
        arguments.extend([a[0], a[1], a[2], b[0], b[1], b[2]].map(Argument::from));
        arguments.extend([self.full, self.batch, shape.latent_dim].map(int));
        self.launch_over_few(samples * shape.latent_dim, Kernel::LatentsStep, arguments);
    }

    fn learns(&self) -> bool {
        self.shared.statistics == Statistics::Learning
    }

    fn parameter(&self, at: usize) -> Address {
        self.shared.parameters[0].floats(at)
    }

    fn weights(&self, l: usize) -> Address {
        self.parameter(self.shared.layout.weights[l].start)
    }

    /// The arguments from which a kernel finds the products of an output pixel.
    fn sources(&self, l: usize) -> [Argument; 2] {
        [self.shared.sources[l].into(), int(self.layers[l].geometry.taps())]
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
    let chunk = rows.div_ceil(CHUNKS).next_multiple_of(4 * THREADS / CHANNELS);
    (chunk, rows.div_ceil(chunk))
}

/// A size as an `int` argument. [`Shared::new`] checked that the sizes of the data fit.
fn int(n: usize) -> Argument {
    Argument::Int(i32::try_from(n).unwrap_or(i32::MAX))
}

/// A size as a `long long` argument.
fn long(n: usize) -> Argument {
    Argument::Long(i64::try_from(n).unwrap_or(i64::MAX))
}
