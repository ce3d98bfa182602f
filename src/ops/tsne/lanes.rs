//! Compiles a function several times, for the vector instructions that the processor may have.
//!
//! The functions compute on arrays of lanes. Rust never reorders floating-point operations or fuses multiplication and
//! addition by itself, so wider registers change only the speed.

/// Defines `fn name(arguments) -> Result`, which runs its body with AVX-512 or AVX2 if the processor has them.
macro_rules! widest {
    ($(#[$doc:meta])* pub(super) fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty $body:block) => {
        $(#[$doc])*
        #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls the functions for wider registers"))]
        pub(super) fn $name($($arg: $type),*) -> $result {
            #[inline(always)]
            fn body($($arg: $type),*) -> $result $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) -> $result {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) -> $result {
                    body($($arg),*)
                }
                if std::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has AVX-512F, and the function is safe otherwise.
                    return unsafe { avx512($($arg),*) };
                }
                if std::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, and the function is safe otherwise.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

pub(super) use widest;
