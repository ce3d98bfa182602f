//! One body, compiled for the vector units that the processor has.
//!
//! The bodies are plain arithmetic over arrays of lanes, in an order that the source fixes. Rust neither reorders float
//! arithmetic nor fuses multiplication and addition by itself, so wider registers change the speed and not one bit.

/// Defines `fn name(arguments) -> Result` that runs its body with AVX-512 or AVX2 where there is such.
macro_rules! widest {
    ($(#[$doc:meta])* pub(super) fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty $body:block) => {
        $(#[$doc])*
        #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the functions compiled for wider registers"))]
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
                    // SAFETY: the processor has AVX-512F, as was just asked; the function is safe otherwise.
                    return unsafe { avx512($($arg),*) };
                }
                if std::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2, as was just asked; the function is safe otherwise.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

pub(super) use widest;
