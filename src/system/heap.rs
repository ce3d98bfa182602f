//! The memory of this process: settings of glibc's allocator, and large pages.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
use rustix::process::{Resource, getrlimit};

/// Makes the allocator of this process give freed memory back to the system. By default, glibc keeps what large answers
/// took, for each thread.
pub(crate) fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger blocks have pages of their own.
        const LARGE: libc::c_int = 1 << 20;
        // SAFETY: both only set parameters of the allocator.
        #[expect(unsafe_code, reason = "calls into the C library")]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        }
    }
}

/// Saves address space: glibc reserves 64 MB of it for each allocating thread, up to eight times the number of cores.
/// Call it before other threads start.
pub(crate) fn save_address_space() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it only sets a parameter of the allocator.
        #[expect(unsafe_code, reason = "calls into the C library")]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
        }
    }
}

/// An empty vector whose memory is on large pages, as far as it fills them. The first touch of a large page is faster
/// than that of 512 ordinary pages.
pub(crate) fn vec_on_large_pages<T>(capacity: usize) -> Vec<T> {
    let mut vec = Vec::with_capacity(capacity);
    let memory = vec.spare_capacity_mut();
    advise_large_pages(memory.as_mut_ptr().expose_provenance(), size_of_val(memory));
    vec
}

/// Zeros on large pages. The kernel zeroes the pages of a large vector when they are first touched.
pub(crate) fn zeros_on_large_pages(len: usize) -> Vec<u8> {
    let mut zeros = vec![0; len];
    advise_large_pages(zeros.as_mut_ptr().expose_provenance(), len);
    zeros
}

/// Asks the kernel for large pages in these bytes of memory. A hint: it changes only the speed.
fn advise_large_pages(start: usize, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        /// The size of a large page on x86-64 and most Arm processors.
        const LARGE_PAGE: usize = 2 << 20;
        let (first, last) = (start.next_multiple_of(LARGE_PAGE), (start + bytes) / LARGE_PAGE * LARGE_PAGE);
        if first < last {
            let pages = std::ptr::with_exposed_provenance_mut(first);
            // SAFETY: it does not change the content of memory, and fails for addresses without memory.
            #[expect(unsafe_code, reason = "madvise takes a pointer")]
            unsafe {
                libc::madvise(pages, last - first, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

/// Whether the heap is set up for planning.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
static IS_FOR_PLANNING: AtomicBool = AtomicBool::new(false);

/// Puts the first 64 MiB of the first thread's heap on large pages. A plan of 10,000 points takes 40 MB in small
/// pieces. On ordinary pages, a quarter of its time would be spent on page faults.
///
/// Call [`set_up_heap_for_work`] before other work. Until then, each block of 256 KiB or more gets new pages, and the
/// heap keeps freed memory.
pub(crate) fn set_up_heap_for_planning() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const HEAP: libc::c_int = 64 << 20;
        /// By how much heaps grow by default.
        const TOP_PAD: libc::c_int = 128 << 10;
        /// Outside this heap, blocks of this size get pages of their own, which are zero without being touched.
        const SEPARATE: libc::c_int = 256 << 10;
        if getrlimit(Resource::As).current.is_some() {
            // The heap would take of a limited address space.
            return;
        }
        IS_FOR_PLANNING.store(true, Ordering::Relaxed);
        // SAFETY: these set parameters of the allocator, allocate and free blocks, and read the end of the heap. Other
        // threads may allocate meanwhile, with the old or the new parameters.
        #[expect(unsafe_code, reason = "calls into the C library")]
        let [start, end] = unsafe {
            libc::mallopt(libc::M_TOP_PAD, HEAP);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * HEAP);
            libc::mallopt(libc::M_MMAP_THRESHOLD, SEPARATE);
            let start = libc::sbrk(0) as usize;
            // More than is left of the heap and in smaller blocks, so that it grows now.
            let blocks = [(); 4].map(|()| std::hint::black_box(libc::malloc(SEPARATE as usize / 2)));
            blocks.into_iter().for_each(|block| libc::free(block));
            libc::mallopt(libc::M_TOP_PAD, TOP_PAD);
            [start, libc::sbrk(0) as usize]
        };
        advise_large_pages(start, end.saturating_sub(start));
    }
}

/// Undoes the limits of [`set_up_heap_for_planning`]. The allocator then keeps freed blocks of up to 32 MiB for the
/// next use, and returns the unused end of a heap to the system. glibc adapts both limits by itself only while no
/// program has set one.
pub(crate) fn set_up_heap_for_work() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The largest block that glibc would keep by default.
        const LARGEST: libc::c_int = 32 << 20;
        /// What a heap may keep at its end.
        const UNUSED: libc::c_int = 8 << 20;
        if IS_FOR_PLANNING.swap(false, Ordering::Relaxed) {
            // SAFETY: these only set parameters of the allocator. Other threads may allocate meanwhile, with the old or
            // the new parameters.
            #[expect(unsafe_code, reason = "calls into the C library")]
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
                libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED);
            }
        }
    }
}
