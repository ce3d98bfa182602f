//! What a step asks of the thing that runs it: memory, kernels, batched products. A GPU does that ([`super::device`]); in tests, the
//! same kernels built for the processor do ([`super::emulated`]), so that the whole step is checked where there is no GPU.

use super::plan::Call;

/// A failure of driver, cuBLAS or compiler.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// A library that is loaded when a GPU is asked for.
    #[error(
        "{0} was not found: install NVIDIA's driver and CUDA's cuBLAS and NVRTC, or put their folders into LD_LIBRARY_PATH"
    )]
    Missing(&'static str),
    /// A call that failed.
    #[error("{action}: {message}")]
    Call {
        /// What was tried.
        action: &'static str,
        /// What the library said.
        message: String,
    },
    /// The GPU's memory is full.
    #[error("the GPU has no {} MiB left for {what}", bytes >> 20)]
    Memory {
        /// How many were asked for.
        bytes: usize,
        /// What for.
        what: &'static str,
    },
    /// A state that doesn't fit.
    #[error(transparent)]
    State(#[from] crate::artifact::TensorError),
}

impl CudaError {
    /// For `map_err`.
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
            /// All of them, in the order of their numbers.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// Its name in the source.
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

/// A thread block's size, for all kernels.
pub(super) const THREADS: usize = 256;

/// An address in the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(pub(super) u64);

impl Address {
    /// So many f32 further on.
    pub(super) fn floats(self, n: usize) -> Self {
        Self(self.0 + 4 * n as u64)
    }
}

/// An argument of a kernel, in the kernel's own type.
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

/// A batched product.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) call: Call,
    /// Where the lists of A's, B's and C's addresses are, in the machine's memory.
    pub(super) pointers: [Address; 3],
    /// Whether all matrices begin at, and all their columns are apart by, a multiple of 16 bytes: cuBLAS asks that of TF32.
    pub(super) aligned: bool,
}

/// One thing to do.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Launch(Launch),
    Product(Product),
}

/// What runs steps. All operations run one after the other, in the order in which they are given.
pub(super) trait Machine {
    /// Memory, zeroed, until the machine goes; never none.
    fn allocate(&self, bytes: usize, what: &'static str) -> Result<Address, CudaError>;
    /// Copies into it.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), CudaError>;
    /// Waits for all that was given, then copies out of it.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), CudaError>;
    /// Does it; may return before it is done.
    fn run(&self, operation: &Operation) -> Result<(), CudaError>;
    /// A recording of these operations, if the machine makes any; it is replayed by its number.
    fn record(&self, operations: &[Operation]) -> Result<Option<usize>, CudaError>;
    /// Does what was recorded.
    fn replay(&self, recording: usize) -> Result<(), CudaError>;
}

/// New memory that holds these numbers.
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
