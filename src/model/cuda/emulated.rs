//! An emulated GPU for tests: `kernels.cu`, built with a C++ compiler, with a function call for each block.
//!
//! With simple products instead of cuBLAS's it runs whole steps, with the same arguments as on a GPU. Only the order of
//! some sums differs.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::layer::Sizes;
use super::machine::{Address, Argument, CudaError, Kernel, Launch, Machine, Operation, Product};

const SOURCE: &str = include_str!("kernels.cu");
const SHIM: &str = include_str!("emulated.cpp");
const FAKE_DRIVER: &str = include_str!("fake_driver.cpp");

type Emulate = unsafe extern "C" fn(*const c_char, c_int, c_uint, c_uint, *const *const c_void) -> i32;

/// A machine whose memory is the host's.
pub(super) struct Emulated {
    emulate: Emulate,
    memory: RefCell<Vec<Vec<u64>>>,
    /// Whether threads and blocks run in reverse order. Results must not depend on it.
    pub(super) backwards: bool,
}

impl Emulated {
    /// `None` without a C++ compiler.
    pub(super) fn new() -> Option<Self> {
        static EMULATE: OnceLock<Option<(Emulate, libloading::Library)>> = OnceLock::new();
        let (emulate, _) = EMULATE.get_or_init(build).as_ref()?;
        Some(Self { emulate: *emulate, memory: RefCell::default(), backwards: false })
    }

    fn launch(&self, launch: &Launch) {
        let pointers: Vec<*const c_void> = launch
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Pointer(address) => (&raw const address.0).cast(),
                Argument::Int(value) => (&raw const *value).cast(),
                Argument::Long(value) => (&raw const *value).cast(),
                Argument::Double(value) => (&raw const *value).cast(),
            })
            .collect();
        let name = CString::new(launch.kernel.name()).unwrap();
        let [x, y] = launch.blocks.map(|n| n as c_uint);
        // SAFETY: the shim reads as many arguments as the kernel's type has.
        #[expect(unsafe_code, reason = "calls the emulated kernels")]
        let arguments = unsafe { (self.emulate)(name.as_ptr(), c_int::from(self.backwards), x, y, pointers.as_ptr()) };
        assert_eq!(arguments, launch.arguments.len() as i32, "{:?}", launch.kernel);
    }

    fn multiply(product: &Product) {
        let lengths = extents(product.sizes);
        // SAFETY: the operands are in memory of this machine, which is freed only with the machine. The result is not
        // one of the factors.
        #[expect(unsafe_code, reason = "the machine's addresses are the host's")]
        let (a, b, c) = unsafe {
            let [a, b, c] = product.operands.map(|at| std::ptr::with_exposed_provenance_mut::<f32>(at.0 as usize));
            (
                std::slice::from_raw_parts(a.cast_const(), lengths[0]),
                std::slice::from_raw_parts(b.cast_const(), lengths[1]),
                std::slice::from_raw_parts_mut(c, lengths[2]),
            )
        };
        multiply(product.sizes, a, b, c);
    }
}

/// Computes `C = A · B`, column-major, with sums in f64.
fn multiply(sizes: Sizes, a: &[f32], b: &[f32], c: &mut [f32]) {
    let Sizes { transposed, size: [m, n, k], leading: [lda, ldb, ldc] } = sizes;
    let [(row_a, inner_a), (inner_b, column_b)] =
        [if transposed[0] { (lda, 1) } else { (1, lda) }, if transposed[1] { (ldb, 1) } else { (1, ldb) }];
    for column in 0..n {
        for row in 0..m {
            let factors =
                |i: usize| f64::from(a[row * row_a + i * inner_a]) * f64::from(b[i * inner_b + column * column_b]);
            c[column * ldc + row] = (0..k).map(factors).sum::<f64>() as f32;
        }
    }
}

/// The number of elements in A, B and C that a product reads or writes, with gaps.
fn extents(Sizes { transposed, size: [m, n, k], leading }: Sizes) -> [usize; 3] {
    let a = if transposed[0] { (k, m) } else { (m, k) };
    let b = if transposed[1] { (n, k) } else { (k, n) };
    let reach = |(rows, columns): (usize, usize), leading: usize| (columns - 1) * leading + rows;
    [reach(a, leading[0]), reach(b, leading[1]), reach((m, n), leading[2])]
}

impl Machine for Emulated {
    fn allocate(&self, bytes: usize, _: &'static str) -> Result<Address, CudaError> {
        let mut memory = vec![0u64; bytes.div_ceil(8).max(1)];
        let address = Address(memory.as_mut_ptr().expose_provenance() as u64);
        self.memory.borrow_mut().push(memory);
        Ok(address)
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), CudaError> {
        let to = std::ptr::with_exposed_provenance_mut::<u8>(to.0 as usize);
        // SAFETY: `to` is memory of this machine with at least as many bytes.
        #[expect(unsafe_code, reason = "the machine's addresses are the host's")]
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), CudaError> {
        let from = std::ptr::with_exposed_provenance::<u8>(from.0 as usize);
        // SAFETY: `from` is memory of this machine with at least as many bytes.
        #[expect(unsafe_code, reason = "the machine's addresses are the host's")]
        unsafe {
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn run(&self, operation: &Operation) -> Result<(), CudaError> {
        match operation {
            Operation::Launch(launch) => self.launch(launch),
            Operation::Product(product) => Self::multiply(product),
        }
        Ok(())
    }

    fn run_first(&self, operations: &[Operation]) -> Result<Option<usize>, CudaError> {
        operations.iter().try_for_each(|operation| self.run(operation))?;
        Ok(None)
    }

    fn replay(&self, _: usize) -> Result<(), CudaError> {
        Ok(())
    }
}

fn build() -> Option<(Emulate, libloading::Library)> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("kernels.so");
    if !compile(folder.path(), &library, SHIM) {
        return None;
    }
    // SAFETY: the library is built above and has no initialisers. `emulate` has this type, and the library stays loaded
    // with it.
    #[expect(unsafe_code, reason = "loads the emulated kernels")]
    unsafe {
        let library = libloading::Library::new(library).unwrap();
        let emulate = *library.get::<Emulate>(b"emulate").unwrap();
        Some((emulate, library))
    }
}

/// Builds replacements for the driver, cuBLAS and NVRTC in a folder, under the names of the libraries. Returns `false`
/// without a C++ compiler.
pub(super) fn fake_driver(folder: &Path) -> bool {
    std::fs::write(folder.join("emulated.cpp"), SHIM).unwrap();
    let fake = folder.join("libcuda.so");
    if !compile(folder, &fake, FAKE_DRIVER) {
        return false;
    }
    for name in ["libcublas.so", "libnvrtc.so"] {
        // Links to one library, so that all three share their variables.
        std::os::unix::fs::symlink(&fake, folder.join(name)).unwrap();
    }
    true
}

/// Builds a library. Returns `false` without a C++ compiler, and panics if the kernels do not compile.
fn compile(folder: &Path, library: &Path, main: &str) -> bool {
    let table: String = Kernel::ALL.iter().map(|kernel| format!("K({})\n", kernel.name())).collect();
    std::fs::write(folder.join("kernels.cu"), SOURCE).unwrap();
    std::fs::write(folder.join("kernels.def"), table).unwrap();
    let shim = folder.join("main.cpp");
    std::fs::write(&shim, main).unwrap();
    let flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"];
    let built = Command::new("g++").args(flags).arg("-o").arg(library).arg(&shim).output();
    let Ok(output) = built else { return false };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}
