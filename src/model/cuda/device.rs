//! A GPU as a [`Machine`].
//!
//! Everything runs in order on one stream. cuBLAS has a fixed workspace, so that it always chooses the same kernels and
//! the same order of sums. NVRTC compiles `kernels.cu` when the first training begins.
//!
//! Driver, cuBLAS and NVRTC are loaded by name when a GPU is used, so the program also starts without them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::{CudaBlas, sys as blas};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, result, sys};
use cudarc::nvrtc::{Ptx, result as nvrtc, sys as nvrtc_sys};

use super::layer::Sizes;
use super::machine::{Address, Argument, CudaError, Kernel, Launch, Machine, Operation, Product, THREADS};
use super::settings::Options;

const SOURCE: &str = include_str!("kernels.cu");
/// Raise it with every change of the order of sums in `kernels.cu` or in `program.rs`: a state made before is then not
/// continued.
const STEP: u32 = 2;
/// The size of cuBLAS's workspace in bytes: the recommendation for the newest GPUs.
const WORKSPACE: usize = 32 << 20;

/// The numerics class of a GPU, such as `cuda2-sm90x132-cublas13.1.0-nvrtc13.1`. Machines of the same class compute the
/// same bits, so they can continue each other's states. One version of cuBLAS guarantees that for GPUs of one
/// architecture with the same number of multiprocessors; for the other kernels, the version of NVRTC matters. [`STEP`]
/// counts the versions of our own arithmetic.
///
/// # Errors
/// If there is no such GPU, or the driver or a library is missing.
pub fn class(ordinal: usize) -> Result<String, CudaError> {
    let context = open(ordinal)?;
    let (major, minor) = capability(&context)?;
    let processors = context
        .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        .map_err(CudaError::call("reading the number of multiprocessors"))?;
    let (blas, compiler) = (blas_version()?, compiler_version()?);
    Ok(format!("cuda{STEP}-sm{major}{minor}x{processors}-cublas{blas}-nvrtc{compiler}"))
}

fn blas_version() -> Result<String, CudaError> {
    use blas::libraryPropertyType_t::{MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip([MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL]) {
        // SAFETY: the call writes one `int`.
        #[expect(unsafe_code, reason = "a call into cuBLAS")]
        let asked = unsafe { blas::cublasGetProperty(part, &raw mut *number) };
        asked.result().map_err(CudaError::call("reading the version of cuBLAS"))?;
    }
    let [major, minor, patch] = numbers;
    Ok(format!("{major}.{minor}.{patch}"))
}

fn compiler_version() -> Result<String, CudaError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the call writes two `int`s.
    #[expect(unsafe_code, reason = "a call into NVRTC")]
    let asked = unsafe { nvrtc_sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    asked.result().map_err(CudaError::call("reading the version of NVRTC"))?;
    Ok(format!("{major}.{minor}"))
}

fn open(ordinal: usize) -> Result<Arc<CudaContext>, CudaError> {
    libraries()?;
    CudaContext::new(ordinal).map_err(CudaError::call("opening the GPU"))
}

fn capability(context: &CudaContext) -> Result<(i32, i32), CudaError> {
    context.compute_capability().map_err(CudaError::call("reading the GPU's architecture"))
}

#[cfg(not(feature = "candle-cuda"))]
type Library = (&'static str, unsafe fn() -> bool);

/// Checks that all libraries are installed. The bindings panic if one is missing.
#[cfg(not(feature = "candle-cuda"))]
fn libraries() -> Result<(), CudaError> {
    present(&[("NVIDIA's driver library libcuda", sys::is_culib_present), ("cuBLAS", blas::is_culib_present)])?;
    compiler()
}

/// Checks that NVRTC is installed.
#[cfg(not(feature = "candle-cuda"))]
pub(super) fn compiler() -> Result<(), CudaError> {
    present(&[("NVRTC", nvrtc_sys::is_culib_present)])
}

#[cfg(not(feature = "candle-cuda"))]
fn present(libraries: &[Library]) -> Result<(), CudaError> {
    for (name, present) in libraries {
        // SAFETY: the call only loads a library, whose initialisers are NVIDIA's.
        #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
        let found = unsafe { present() };
        if !found {
            return Err(CudaError::Missing(name));
        }
    }
    Ok(())
}

/// With candle's feature, the libraries are linked.
#[cfg(feature = "candle-cuda")]
fn libraries() -> Result<(), CudaError> {
    compiler()
}

/// With candle's feature, NVRTC is linked.
#[cfg(feature = "candle-cuda")]
pub(super) fn compiler() -> Result<(), CudaError> {
    Ok(())
}

/// See [`super::device`].
pub(super) struct Gpu {
    /// Dropped before the memory that it uses. cudarc panics if it can't close the handle, for example after an error
    /// from which the GPU does not recover. It is then left open.
    blas: ManuallyDrop<CudaBlas>,
    graphs: RefCell<Vec<CudaGraph>>,
    memory: RefCell<Vec<CudaSlice<u8>>>,
    functions: Vec<CudaFunction>,
    compute: blas::cublasComputeType_t,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    records: bool,
}

impl Gpu {
    pub(super) fn new(options: Options) -> Result<Self, CudaError> {
        let context = open(options.ordinal)?;
        // SAFETY: all commands use one stream, and run there in their order.
        #[expect(unsafe_code, reason = "cudarc no longer synchronises streams with each other")]
        unsafe {
            context.disable_event_tracking();
        }
        let stream = context.new_stream().map_err(CudaError::call("creating a stream"))?;
        let blas = CudaBlas::new(stream.clone()).map_err(CudaError::call("starting cuBLAS"))?;
        let compute = if options.tf32 {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let functions = functions(&context)?;
        let (memory, graphs) = (RefCell::default(), RefCell::default());
        let blas = ManuallyDrop::new(blas);
        let gpu = Self { blas, graphs, memory, functions, compute, stream, context, records: options.graph };
        let workspace = gpu.allocate(WORKSPACE, "cuBLAS")?;
        // SAFETY: the workspace has this size and lives as long as the handle.
        #[expect(unsafe_code, reason = "a call into cuBLAS")]
        let set = unsafe { blas::cublasSetWorkspace_v2(*gpu.blas.handle(), pointer(workspace), WORKSPACE) };
        set.result().map_err(CudaError::call("setting cuBLAS's workspace"))?;
        Ok(gpu)
    }

    fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        let mut pointers = [std::ptr::null_mut::<c_void>(); 24];
        for (pointer, argument) in pointers.iter_mut().zip(&launch.arguments) {
            *pointer = match argument {
                Argument::Pointer(address) => (&raw const address.0).cast_mut().cast(),
                Argument::Int(value) => (&raw const *value).cast_mut().cast(),
                Argument::Long(value) => (&raw const *value).cast_mut().cast(),
                Argument::Double(value) => (&raw const *value).cast_mut().cast(),
            };
        }
        let function = self.functions[launch.kernel as usize].cu_function();
        let [x, y] = launch.blocks.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        // SAFETY: the arguments have the number, order and types of the kernel's parameters, and point into memory of
        // this machine. Tests run all programs with the same arguments on the emulated machine.
        #[expect(unsafe_code, reason = "launches a kernel")]
        let launched = unsafe {
            let stream = self.stream.cu_stream();
            result::launch_kernel(function, (x, y, 1), (THREADS as u32, 1, 1), 0, stream, &mut pointers)
        };
        launched.map_err(CudaError::call("starting a kernel"))
    }

    fn multiply(&self, product: &Product) -> Result<(), CudaError> {
        let (one, zero) = (1.0f32, 0.0f32);
        let operation = |transposed| match transposed {
            true => blas::cublasOperation_t::CUBLAS_OP_T,
            false => blas::cublasOperation_t::CUBLAS_OP_N,
        };
        let int = |n: usize| i32::try_from(n).map_err(|_| too_large());
        let float = blas::cudaDataType_t::CUDA_R_32F;
        let Sizes { transposed, size: [m, n, k], leading: [lda, ldb, ldc] } = product.sizes;
        let [a, b, c] = product.operands;
        // cuBLAS requires addresses and leading dimensions of whole 16 bytes for TF32.
        let aligned = product.operands.iter().all(|operand| operand.0.is_multiple_of(16))
            && product.sizes.leading.iter().all(|n| n.is_multiple_of(4));
        let compute = if aligned { self.compute } else { blas::cublasComputeType_t::CUBLAS_COMPUTE_32F };
        // SAFETY: the operands are matrices of these sizes inside memory of this machine. C is not one of A and B.
        #[expect(unsafe_code, reason = "a call into cuBLAS")]
        let multiplied = unsafe {
            blas::cublasGemmEx(
                *self.blas.handle(),
                operation(transposed[0]),
                operation(transposed[1]),
                int(m)?,
                int(n)?,
                int(k)?,
                (&raw const one).cast(),
                pointer::<c_void>(a).cast_const(),
                float,
                int(lda)?,
                pointer::<c_void>(b).cast_const(),
                float,
                int(ldb)?,
                (&raw const zero).cast(),
                pointer::<c_void>(c),
                float,
                int(ldc)?,
                compute,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        multiplied.result().map_err(CudaError::call("multiplying with cuBLAS"))
    }
}

impl Machine for Gpu {
    fn allocate(&self, bytes: usize, what: &'static str) -> Result<Address, CudaError> {
        let full = |error: cudarc::driver::DriverError| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::Memory { bytes, what },
            _ => CudaError::call("allocating memory on the GPU")(error),
        };
        let slice = self.stream.alloc_zeros::<u8>(bytes.max(1)).map_err(full)?;
        let address = Address(slice.device_ptr(&self.stream).0);
        self.memory.borrow_mut().push(slice);
        Ok(address)
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), CudaError> {
        // SAFETY: `to` is memory of this machine with at least as many bytes, and the function waits for the copy.
        #[expect(unsafe_code, reason = "a copy to an address on the GPU")]
        let copied = unsafe { result::memcpy_htod_async(to.0, bytes, self.stream.cu_stream()) };
        copied.map_err(CudaError::call("copying to the GPU"))?;
        self.stream.synchronize().map_err(CudaError::call("waiting for the GPU"))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: `from` is memory of this machine with at least as many bytes, and the function waits for the copy.
        #[expect(unsafe_code, reason = "a copy from an address on the GPU")]
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream.cu_stream()) };
        copied.map_err(CudaError::call("copying from the GPU"))?;
        self.stream.synchronize().map_err(CudaError::call("waiting for the GPU"))
    }

    fn run(&self, operation: &Operation) -> Result<(), CudaError> {
        match operation {
            Operation::Launch(launch) => self.launch(launch),
            Operation::Product(product) => self.multiply(product),
        }
    }

    fn record(&self, operations: &[Operation]) -> Result<Option<usize>, CudaError> {
        if !self.records {
            return Ok(None);
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(CudaError::call("starting to record a graph"))?;
        let started = operations.iter().try_for_each(|operation| self.run(operation));
        // The capture must also end if an operation failed. That failure is then the one to report.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(CudaError::call("recording a graph"));
        started?;
        let Some(graph) = graph? else { return Ok(None) };
        let mut graphs = self.graphs.borrow_mut();
        graphs.push(graph);
        Ok(Some(graphs.len() - 1))
    }

    fn replay(&self, recording: usize) -> Result<(), CudaError> {
        match self.graphs.borrow().get(recording) {
            Some(graph) => graph.launch().map_err(CudaError::call("starting a graph")),
            None => Ok(()),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Memory must not be freed while a kernel still writes to it. An error can't be reported any more.
        let ended = self.stream.synchronize();
        if ended.is_ok() {
            // SAFETY: the handle is not used after this.
            #[expect(unsafe_code, reason = "drops a ManuallyDrop, here only")]
            unsafe {
                ManuallyDrop::drop(&mut self.blas);
            }
        }
        self.context.record_err(ended);
    }
}

fn pointer<T>(address: Address) -> *mut T {
    std::ptr::with_exposed_provenance_mut(address.0 as usize)
}

fn too_large() -> CudaError {
    CudaError::Call { action: "multiplying with cuBLAS", message: "a matrix is too large".to_owned() }
}

/// The kernels, in the order of [`Kernel::ALL`].
fn functions(context: &Arc<CudaContext>) -> Result<Vec<CudaFunction>, CudaError> {
    let binary = compiled(capability(context)?)?;
    let module = context.load_module(Ptx::from_binary(binary)).map_err(CudaError::call("loading the kernels"))?;
    let load = |kernel: &Kernel| module.load_function(kernel.name()).map_err(CudaError::call("finding a kernel"));
    Kernel::ALL.iter().map(load).collect()
}

/// `kernels.cu`, compiled for an architecture once in a process.
fn compiled(architecture: (i32, i32)) -> Result<Vec<u8>, CudaError> {
    static COMPILED: Mutex<BTreeMap<(i32, i32), Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(binary) = compiled.get(&architecture) {
        return Ok(binary.clone());
    }
    let binary = compile(architecture)?;
    compiled.insert(architecture, binary.clone());
    Ok(binary)
}

/// Compiles `kernels.cu` to machine code, which every driver accepts that supports the GPU. An older driver would
/// refuse the PTX of a newer compiler.
pub(super) fn compile((major, minor): (i32, i32)) -> Result<Vec<u8>, CudaError> {
    let options = [format!("--gpu-architecture=sm_{major}{minor}"), "--fmad=false".to_owned()];
    let source = CString::new(SOURCE).map_err(CudaError::call("reading the kernels"))?;
    let program = nvrtc::create_program(&source, Some(c"kernels.cu")).map_err(CudaError::call("starting NVRTC"))?;
    // SAFETY: the program exists until it is destroyed at the end, and `source` outlives it. The buffer has the size
    // that NVRTC returned.
    #[expect(unsafe_code, reason = "calls into NVRTC")]
    unsafe {
        let binary = match nvrtc::compile_program(program, &options) {
            Ok(()) => {
                let mut size = 0;
                let asked = nvrtc_sys::nvrtcGetCUBINSize(program, &raw mut size).result();
                let mut binary = vec![0u8; size];
                let got = nvrtc_sys::nvrtcGetCUBIN(program, binary.as_mut_ptr().cast::<c_char>()).result();
                asked.and(got).map(|()| binary).map_err(CudaError::call("reading the compiled kernels"))
            }
            Err(error) => {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let text = CStr::from_bytes_until_nul(bytemuck::cast_slice(&log)).unwrap_or_default();
                let message = format!("{error:?} for sm_{major}{minor}: {}", text.to_string_lossy());
                Err(CudaError::Call { action: "compiling the kernels", message })
            }
        };
        nvrtc::destroy_program(program).map_err(CudaError::call("closing NVRTC"))?;
        binary
    }
}
