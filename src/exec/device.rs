//! The choice of the device, and its numerics class.

use crate::error::{Error, Result};
use crate::spec::{DeviceChoice, Precision};
use crate::stage::Compute;

/// Finds the requested device. Programs get no GPUs yet.
///
/// # Errors
/// If the device does not exist or does not support the precision (exit code 2).
pub fn choose(choice: DeviceChoice, precision: Precision) -> Result<Compute> {
    let compute = match choice {
        DeviceChoice::Cpu => Compute::cpu(cpu_class()),
        DeviceChoice::Auto if !cfg!(feature = "cuda") => Compute::cpu(cpu_class()),
        DeviceChoice::Auto => cuda(0).unwrap_or_else(|_| Compute::cpu(cpu_class())),
        DeviceChoice::Cuda(index) => cuda(index)?,
    };
    check_precision(&compute, precision)?;
    Ok(compute)
}

/// Rejects a precision that the device does not support, before anything runs.
fn check_precision(compute: &Compute, precision: Precision) -> Result<()> {
    if compute.device.supports(precision) {
        return Ok(());
    }
    let (device, hint) = match compute.device.is_cpu() {
        true => ("the CPU", "use `precision = \"f32\"`"),
        false => (compute.name.as_str(), "use `precision = \"f32\"` or `precision = \"tf32\"`"),
    };
    Err(Error::bad_input(format!("{device} does not support precision {precision}")).hint(hint))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Compute> {
    let hint = "build it with `cargo install --path . --features cuda`, or use `--device cpu`";
    Err(Error::bad_input("this vadpipe was built without CUDA").hint(hint))
}

/// Kernels are compiled for the architecture of the GPU, so it determines their rounding.
#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Compute> {
    let numerics = crate::model::cuda::class(ordinal).map_err(|e| {
        Error::bad_input(format!("there is no device cuda:{ordinal}")).caused_by(e).hint("use `--device cpu`")
    })?;
    Ok(Compute::cuda(ordinal, numerics))
}

/// The class of the instruction set that the matrix kernels use. It determines the order of additions.
#[cfg(target_arch = "x86_64")]
fn cpu_class() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") {
        "cpu-avx512"
    } else if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        "cpu-avx2"
    } else {
        "cpu-sse2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_class() -> &'static str {
    if cfg!(target_arch = "aarch64") { "cpu-neon" } else { "cpu-scalar" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_precision_is_refused() {
        let (cpu, gpu) = (Compute::cpu("cpu-avx2"), Compute::cuda(0, "sm_90".to_owned()));
        let error = |compute, precision| check_precision(compute, precision).unwrap_err();
        assert_eq!(error(&gpu, Precision::Bf16).message, "cuda:0 does not support precision bf16");
        assert_eq!(error(&cpu, Precision::Tf32).message, "the CPU does not support precision tf32");
        assert_eq!(error(&gpu, Precision::Bf16).category, crate::error::Category::BadInput);
        assert!(check_precision(&gpu, Precision::F32).is_ok());
        assert!(check_precision(&gpu, Precision::Tf32).is_ok());
        assert!(choose(DeviceChoice::Cpu, Precision::Bf16).is_err());
    }

    #[test]
    fn missing_gpu_is_bad_input() {
        let error = choose(DeviceChoice::Cuda(4095), Precision::F32).unwrap_err();
        assert_eq!(error.category, crate::error::Category::BadInput);
        if cfg!(feature = "cuda") {
            assert_eq!(error.message, "there is no device cuda:4095");
        } else {
            assert_eq!(error.message, "this vadpipe was built without CUDA");
            assert!(error.hint.is_some_and(|hint| hint.contains("--features cuda")));
        }
    }
}
