//! Code that the fuzz targets share. A target is a program that passes the fuzzer's bytes to the check with its name in
//! `vadpipe::fuzzing`, which defines the properties.

/// Checks one input, measuring allocations on the calling thread.
pub fn check(target: &str, bytes: &[u8]) {
    vadpipe::fuzzing::check(target, bytes, |run| allocation_counter::measure(run).bytes_max);
}

/// Makes a program the fuzz target of this name.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::check($name, bytes));
    };
}
