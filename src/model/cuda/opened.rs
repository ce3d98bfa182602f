//! The GPUs that this process has opened. They stay open until it ends: opening one takes longer than an epoch of a
//! small decoder, and a sweep has many trainings.
//!
//! NVRTC compiles `kernels.cu` when the first training begins. A training has a stream and a cuBLAS handle for itself,
//! and a later one uses them again.
//!
//! Driver, cuBLAS and NVRTC are loaded by name when a GPU is used, so the program also starts without them.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::cublas::{CudaBlas, sys as blas};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, sys};
use cudarc::nvrtc::{Ptx, result as nvrtc, sys as nvrtc_sys};

use super::machine::{Address, CudaError, Kernel};

const SOURCE: &str = include_str!("kernels.cu");
/// Raise it with every change of the order of sums in `kernels.cu` or in `program.rs`: a state made before is then not
/// continued.
const STEP: u32 = 3;
/// The size of cuBLAS's workspace in bytes: the recommendation for the newest GPUs.
const WORKSPACE: usize = 32 << 20;

/// An open GPU.
pub(super) struct OpenGpu {
    pub(super) context: Arc<CudaContext>,
    functions: OnceLock<Vec<CudaFunction>>,
    /// Lanes that no training uses.
    idle: Mutex<Vec<Lane>>,
    exclusive: Mutex<()>,
}

/// A stream, with a cuBLAS handle whose workspace has a fixed size, so that it always chooses the same kernels and the
/// same order of sums.
pub(super) struct Lane {
    pub(super) stream: Arc<CudaStream>,
    pub(super) blas: CudaBlas,
    workspace: CudaSlice<u8>,
}

impl OpenGpu {
    /// Opens a GPU, unless it is open already, for the calling thread.
    ///
    /// # Errors
    /// If the GPU, the driver or a library is missing.
    pub(super) fn get(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        static OPEN: Mutex<BTreeMap<usize, Arc<OpenGpu>>> = Mutex::new(BTreeMap::new());
        libraries()?;
        let mut open = lock(&OPEN);
        let gpu = match open.get(&ordinal) {
            Some(gpu) => Arc::clone(gpu),
            None => {
                let gpu = Arc::new(Self::new(ordinal)?);
                open.insert(ordinal, Arc::clone(&gpu));
                gpu
            }
        };
        gpu.context.bind_to_thread().map_err(CudaError::call("using the GPU"))?;
        Ok(gpu)
    }

    fn new(ordinal: usize) -> Result<Self, CudaError> {
        let context = CudaContext::new(ordinal).map_err(CudaError::call("opening the GPU"))?;
        // SAFETY: all commands of a training use one stream, and run there in their order.
        #[expect(unsafe_code, reason = "cudarc no longer synchronises streams with each other")]
        unsafe {
            context.disable_event_tracking();
        }
        Ok(Self { context, functions: OnceLock::new(), idle: Mutex::default(), exclusive: Mutex::default() })
    }

    /// The kernels, in the order of [`Kernel::ALL`].
    pub(super) fn functions(&self) -> Result<&[CudaFunction], CudaError> {
        if let Some(functions) = self.functions.get() {
            return Ok(functions);
        }
        let _exclusive = self.exclusive();
        if let Some(functions) = self.functions.get() {
            return Ok(functions);
        }
        let binary = compile(capability(&self.context)?)?;
        let module =
            self.context.load_module(Ptx::from_binary(binary)).map_err(CudaError::call("loading the kernels"))?;
        let load = |kernel: &Kernel| module.load_function(kernel.name()).map_err(CudaError::call("finding a kernel"));
        let functions = Kernel::ALL.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        Ok(self.functions.get_or_init(|| functions))
    }

    /// Until this is dropped, no other training records a graph, loads kernels or starts cuBLAS. A recording fails if
    /// another thread does one of these meanwhile.
    pub(super) fn exclusive(&self) -> MutexGuard<'_, ()> {
        lock(&self.exclusive)
    }

    /// A stream for one training.
    pub(super) fn take_lane(&self) -> Result<Lane, CudaError> {
        if let Some(lane) = lock(&self.idle).pop() {
            return Ok(lane);
        }
        let _exclusive = self.exclusive();
        Lane::new(&self.context)
    }

    /// Takes back the stream of a training that has ended.
    pub(super) fn give_back(&self, lane: Lane) {
        lock(&self.idle).push(lane);
    }
}

impl Lane {
    fn new(context: &Arc<CudaContext>) -> Result<Self, CudaError> {
        let stream = context.new_stream().map_err(CudaError::call("creating a stream"))?;
        let workspace = allocate(&stream, WORKSPACE, "cuBLAS")?;
        let blas = CudaBlas::new(stream.clone()).map_err(CudaError::call("starting cuBLAS"))?;
        let lane = Self { stream, blas, workspace };
        let at = pointer(address(&lane.stream, &lane.workspace));
        // SAFETY: the workspace has this size, and lives as long as the handle.
        #[expect(unsafe_code, reason = "a call into cuBLAS")]
        let set = unsafe { blas::cublasSetWorkspace_v2(*lane.blas.handle(), at, WORKSPACE) };
        set.result().map_err(CudaError::call("setting cuBLAS's workspace"))?;
        Ok(lane)
    }
}

/// Allocates zeroed memory, at least one byte.
pub(super) fn allocate(stream: &Arc<CudaStream>, bytes: usize, what: &'static str) -> Result<CudaSlice<u8>, CudaError> {
    stream.alloc_zeros::<u8>(bytes.max(1)).map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::Memory { bytes, what },
        _ => CudaError::call("allocating memory on the GPU")(error),
    })
}

pub(super) fn address(stream: &Arc<CudaStream>, memory: &CudaSlice<u8>) -> Address {
    Address(memory.device_ptr(stream).0)
}

pub(super) fn pointer<T>(address: Address) -> *mut T {
    std::ptr::with_exposed_provenance_mut(address.0 as usize)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numerics class of a GPU, such as `cuda3-sm90x132-cublas13.1.0-nvrtc13.1`. Machines of the same class compute the
/// same bits, so they can continue each other's states. One version of cuBLAS guarantees that for GPUs of one
/// architecture with the same number of multiprocessors; for the other kernels, the version of NVRTC matters. [`STEP`]
/// counts the versions of our own arithmetic.
///
/// # Errors
/// If the GPU, the driver or a library is missing.
pub fn class(ordinal: usize) -> Result<String, CudaError> {
    let gpu = OpenGpu::get(ordinal)?;
    let (major, minor) = capability(&gpu.context)?;
    let processors = gpu
        .context
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
