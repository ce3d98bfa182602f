//! The `vadpipe` program: everything is in the library, except the allocator, which ends the process when memory runs
//! out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;
use std::process::ExitCode;

use vadpipe::error::Category;

fn main() -> ExitCode {
    vadpipe::store::silence_caught_panics();
    vadpipe::cli::main()
}

#[global_allocator]
static ALLOCATOR: OrExit = OrExit;

/// The system's allocator. When memory runs out, the process prints an error and exits with the code for a failed
/// system, instead of aborting as Rust does. The cache is then in the same state as after a kill: the next run
/// continues.
struct OrExit;

#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
// SAFETY: every call is passed on to the system's allocator unchanged; a null pointer is never returned.
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer was returned by a method here, so it is the system allocator's, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as `alloc`.
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as `dealloc`; the caller keeps the contract for the new size.
        or_exit(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

fn or_exit(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() {
        out_of_memory(size);
    }
    pointer
}

/// Allocates nothing and runs no exit handlers: other threads may be in the middle of anything.
#[cold]
fn out_of_memory(size: usize) -> ! {
    let mut text = [0u8; 256];
    let mut rest = &mut text[..];
    let _ = write!(
        rest,
        "error: out of memory: the system refused {size} bytes\n  hint: raise the limit (see `ulimit -a`), or run with \
         a smaller `--jobs` or `--threads`\n"
    );
    let unused = rest.len();
    let used = text.len() - unused;
    #[expect(unsafe_code, reason = "writes and leaves without any lock or allocation")]
    // SAFETY: the buffer is valid for `used` bytes, and both calls are safe in any state of the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), used);
        libc::_exit(i32::from(Category::Storage.exit_code()))
    }
}
