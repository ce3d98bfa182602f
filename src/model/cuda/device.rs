//! A GPU as a [`Machine`].
//!
//! Everything runs in order on one stream.

use std::cell::RefCell;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use cudarc::cublas::sys as blas;
use cudarc::driver::{CudaGraph, CudaSlice, result, sys};

use super::layer::Sizes;
use super::machine::{Address, Argument, CudaError, Launch, Machine, Operation, Product, THREADS};
use super::opened::{Lane, OpenGpu, address, allocate, pointer};
use super::settings::Options;

/// See [`super::device`].
pub(super) struct Gpu {
    open: Arc<OpenGpu>,
    /// Not given back after an error from which the GPU does not recover: cudarc panics if it can't close the handle.
    lane: ManuallyDrop<Lane>,
    graphs: RefCell<Vec<CudaGraph>>,
    memory: RefCell<Vec<CudaSlice<u8>>>,
    compute: blas::cublasComputeType_t,
    records: bool,
}

impl Gpu {
    pub(super) fn new(options: Options) -> Result<Self, CudaError> {
        let open = OpenGpu::get(options.ordinal)?;
        open.functions()?;
        let compute = if options.tf32 {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let lane = ManuallyDrop::new(open.take_lane()?);
        let (memory, graphs) = (RefCell::default(), RefCell::default());
        Ok(Self { open, lane, graphs, memory, compute, records: options.graph })
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
        let function = self.open.functions()?[launch.kernel as usize].cu_function();
        let [x, y] = launch.blocks.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        // SAFETY: the arguments have the number, order and types of the kernel's parameters, and point into memory of
        // this machine. Tests run all programs with the same arguments on the emulated machine.
        #[expect(unsafe_code, reason = "launches a kernel")]
        let launched = unsafe {
            let stream = self.lane.stream.cu_stream();
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
                *self.lane.blas.handle(),
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
        let slice = allocate(&self.lane.stream, bytes, what)?;
        let address = address(&self.lane.stream, &slice);
        self.memory.borrow_mut().push(slice);
        Ok(address)
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), CudaError> {
        // SAFETY: `to` is memory of this machine with at least as many bytes, and the function waits for the copy.
        #[expect(unsafe_code, reason = "a copy to an address on the GPU")]
        let copied = unsafe { result::memcpy_htod_async(to.0, bytes, self.lane.stream.cu_stream()) };
        copied.map_err(CudaError::call("copying to the GPU"))?;
        self.lane.stream.synchronize().map_err(CudaError::call("waiting for the GPU"))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: `from` is memory of this machine with at least as many bytes, and the function waits for the copy.
        #[expect(unsafe_code, reason = "a copy from an address on the GPU")]
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from.0, self.lane.stream.cu_stream()) };
        copied.map_err(CudaError::call("copying from the GPU"))?;
        self.lane.stream.synchronize().map_err(CudaError::call("waiting for the GPU"))
    }

    fn run(&self, operation: &Operation) -> Result<(), CudaError> {
        match operation {
            Operation::Launch(launch) => self.launch(launch),
            Operation::Product(product) => self.multiply(product),
        }
    }

    fn run_first(&self, operations: &[Operation]) -> Result<Option<usize>, CudaError> {
        let _exclusive = self.open.exclusive();
        // The libraries load modules meanwhile. A graph can't record that.
        operations.iter().try_for_each(|operation| self.run(operation))?;
        if !self.records {
            return Ok(None);
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.lane.stream.begin_capture(mode).map_err(CudaError::call("starting to record a graph"))?;
        let started = operations.iter().try_for_each(|operation| self.run(operation));
        // The capture must also end if an operation failed. That failure is then the one to report.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.lane.stream.end_capture(flags).map_err(CudaError::call("recording a graph"));
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
        // An error of another training says nothing about this one.
        let _ = self.open.context.check_err();
        // Memory must not be freed while a kernel still writes to it. An error can't be reported any more.
        if self.lane.stream.synchronize().is_ok() {
            self.graphs.get_mut().clear();
            self.memory.get_mut().clear();
            // Only then does the driver give the memory back, for programs on the same GPU.
            let _ = self.lane.stream.synchronize();
            // SAFETY: the lane is not used after this.
            #[expect(unsafe_code, reason = "takes out of a ManuallyDrop, here only")]
            let lane = unsafe { ManuallyDrop::take(&mut self.lane) };
            self.open.give_back(lane);
        }
    }
}

fn too_large() -> CudaError {
    CudaError::Call { action: "multiplying with cuBLAS", message: "a matrix is too large".to_owned() }
}
