//! What computes, and in which numerics class.
//!
//! A class names what two machines must have in common for a chain to continue bit for bit on the other. Finished results
//! are shared across classes; states are not.

use candle_core::Device;

use crate::error::{Error, Result};
use crate::spec::{DeviceChoice, Precision};

/// A device, ready to compute on.
#[derive(Clone, Debug)]
pub struct Compute {
    /// candle's handle.
    pub device: Device,
    /// "cpu" or "cuda:0".
    pub name: String,
    /// The numerics class, such as "cpu-avx512".
    pub numerics: String,
}

/// Finds the device that is asked for.
///
/// # Errors
/// If there is no such device, or the precision is not built for it (exit code 2).
pub fn choose(choice: DeviceChoice, precision: Precision) -> Result<Compute> {
    let compute = match choice {
        DeviceChoice::Cpu => cpu(),
        DeviceChoice::Auto if !cfg!(feature = "cuda") => cpu(),
        DeviceChoice::Auto => cuda(0).unwrap_or_else(|_| cpu()),
        DeviceChoice::Cuda(index) => cuda(index)?,
    };
    check_precision(&compute.name, precision)?;
    Ok(compute)
}

/// No kernel of ours computes with less than 32 bits yet, on no device: better said before anything runs.
fn check_precision(device: &str, precision: Precision) -> Result<()> {
    if precision == Precision::F32 {
        return Ok(());
    }
    let device = if device == "cpu" { "the CPU" } else { device };
    let message = format!("precision {precision} is not built for {device}");
    Err(Error::bad_input(message).hint("use `precision = \"f32\"`"))
}

fn cpu() -> Compute {
    Compute { device: Device::Cpu, name: "cpu".to_owned(), numerics: cpu_class().to_owned() }
}

fn cuda(index: usize) -> Result<Compute> {
    if !cfg!(feature = "cuda") {
        let hint = "build it with `cargo install --path . --features cuda`, or use `--device cpu`";
        return Err(Error::bad_input("this vadpipe was built without CUDA").hint(hint));
    }
    let device = Device::new_cuda(index).map_err(|e| {
        Error::bad_input(format!("there is no device cuda:{index}")).caused_by(e).hint("use `--device cpu`")
    })?;
    // The compute capability that the kernels were compiled for decides their rounding.
    let class = option_env!("CUDA_COMPUTE_CAP").unwrap_or("unknown");
    Ok(Compute { device, name: format!("cuda:{index}"), numerics: format!("cuda-sm{class}") })
}

/// The instruction set that the matrix kernels use here: it decides the order of additions.
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
    fn less_than_32_bits_is_refused_on_every_device() {
        let complaint = |device, precision| check_precision(device, precision).unwrap_err();
        assert_eq!(complaint("cuda:0", Precision::Bf16).message, "precision bf16 is not built for cuda:0");
        assert_eq!(complaint("cuda:1", Precision::Tf32).message, "precision tf32 is not built for cuda:1");
        assert_eq!(complaint("cpu", Precision::Tf32).message, "precision tf32 is not built for the CPU");
        assert_eq!(complaint("cuda:0", Precision::Bf16).category, crate::error::Category::BadInput);
        assert!(check_precision("cuda:0", Precision::F32).is_ok());
        assert!(choose(DeviceChoice::Cpu, Precision::Bf16).is_err());
    }
}
