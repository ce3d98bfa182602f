//! The interface between a step and what runs it: memory, kernels and batched products.
//!
//! [`super::device`] runs steps on a GPU. In tests, [`super::emulated`] runs the same kernels, built for the processor,
//! so that whole steps are tested without a GPU.

use super::layer::Sizes;

/// A failure of the driver, cuBLAS or NVRTC.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// A library is not installed.
    #[error(
        "{0} was not found: install NVIDIA's driver and CUDA's cuBLAS and NVRTC, or put their folders into LD_LIBRARY_PATH"
    )]
    Missing(&'static str),
    /// A call failed.
    #[error("{action}: {message}")]
    Call {
        /// What the call was for.
        action: &'static str,
        /// The error of the library.
        message: String,
    },
    /// The GPU's memory is full.
    #[error("the GPU has no {} MiB left for {what}", bytes >> 20)]
    Memory {
        /// The requested number of bytes.
        bytes: usize,
        /// What they were for.
        what: &'static str,
    },
    /// A state does not fit the decoder.
    #[error(transparent)]
    State(#[from] crate::artifact::TensorError),
}

impl CudaError {
    /// For `map_err`: wraps the error of a call.
    pub(super) fn call<E: std::fmt::Debug>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Call { action, message: format!("{error:?}") }
    }
}

/// The kernels of `kernels.cu`.
macro_rules! kernels {
    ($($variant:ident $name:literal,)*) => {
        /// A kernel of `kernels.cu`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kernel { $(#[doc = $name] $variant),* }
        impl Kernel {
            /// All kernels, in the order of their numbers.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The kernel's name in the source.
            pub(super) fn name(self) -> &'static str { match self { $(Self::$variant => $name),* } }
        }
    };
}

kernels! {
    Adam "adam",
    Draw "draw",
    LatentsStep "latents_step",
    Advance "advance",
    AddBias "add_bias",
    BiasBackward "bias_backward",
    NormSums "norm_sums",
    NormStatistics "norm_statistics",
    NormApply "norm_apply",
    NormBackwardSums "norm_backward_sums",
    NormBackwardStatistics "norm_backward_statistics",
    NormBackwardApply "norm_backward_apply",
    ClipBackward "clip_backward",
    TailForward "tail_forward",
    TailLoss "tail_loss",
    TailBackward "tail_backward",
    TailScalars "tail_scalars",
    TailSpread "tail_spread",
}

/// The number of threads in a block, for all kernels.
pub(super) const THREADS: usize = 256;

/// An address in the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) u64);

impl Address {
    /// The address of the f32 with this index.
    pub(super) fn floats(self, n: usize) -> Self {
        Self(self.0 + 4 * n as u64)
    }
}

/// An argument of a kernel, by its type in the source.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// A pointer.
    Pointer(Address),
    /// An `int`.
    Int(i32),
    /// A `long long`.
    Long(i64),
    /// A `double`.
    Double(f64),
}

impl From<Address> for Argument {
    fn from(address: Address) -> Self {
        Self::Pointer(address)
    }
}

/// A kernel with its arguments and its number of blocks.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) kernel: Kernel,
    pub(super) blocks: [usize; 2],
    pub(super) arguments: Vec<Argument>,
}

/// A matrix product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) sizes: Sizes,
    /// A, B and C.
    pub(super) operands: [Address; 3],
}

/// One operation of a step.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Launch(Launch),
    Product(Product),
}

/// Runs steps. All operations run one after the other, in the order of the calls.
pub(super) trait Machine {
    /// Allocates zeroed memory, at least one byte, which is freed with the machine.
    fn allocate(&self, bytes: usize, what: &'static str) -> Result<Address, CudaError>;
    /// Copies `bytes` to the machine's memory.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), CudaError>;
    /// Waits for all operations, then copies `bytes` from the machine's memory.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), CudaError>;
    /// Starts an operation; may return before it is done.
    fn run(&self, operation: &Operation) -> Result<(), CudaError>;
    /// Runs operations for the first time, and records them. Returns the number of the recording; `None` if the machine
    /// does not record.
    fn run_first(&self, operations: &[Operation]) -> Result<Option<usize>, CudaError>;
    /// Runs a recording, by its number.
    fn replay(&self, recording: usize) -> Result<(), CudaError>;
}

/// Allocates memory and copies numbers to it.
pub(super) fn upload_new<T: bytemuck::NoUninit>(
    machine: &dyn Machine,
    numbers: &[T],
    what: &'static str,
) -> Result<Address, CudaError> {
    let bytes: &[u8] = bytemuck::cast_slice(numbers);
    let address = machine.allocate(bytes.len(), what)?;
    machine.upload(address, bytes)?;
    Ok(address)
}
