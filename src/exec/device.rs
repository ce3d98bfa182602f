//! The device that computes, and its numerics class.
//!
//! Machines of the same class round in the same way, so a chain can continue on any of them with the same bytes.
//! Finished results are shared across classes. States are not.

use crate::error::{Error, Result};
use crate::spec::{DeviceChoice, Precision};
use crate::stage::Device;

/// A device, ready to compute on.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device, as stages use it.
    pub device: Device,
    /// "cpu" or "cuda:0".
    pub name: String,
    /// The numerics class, such as "cpu-avx512".
    pub numerics: String,
}

/// Finds the requested device.
///
/// # Errors
/// If the device does not exist or does not support the precision (exit code 2).
pub fn choose(choice: DeviceChoice, precision: Precision) -> Result<Compute> {
    let compute = match choice {
        DeviceChoice::Cpu => cpu(),
        DeviceChoice::Auto if !cfg!(feature = "cuda") => cpu(),
        DeviceChoice::Auto => cuda(0).unwrap_or_else(|_| cpu()),
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

fn cpu() -> Compute {
    Compute { device: Device::Cpu, name: "cpu".to_owned(), numerics: cpu_class().to_owned() }
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
    let device = Device::Cuda { ordinal, graph: true };
    Ok(Compute { device, name: format!("cuda:{ordinal}"), numerics })
}

impl Compute {
    /// Makes a GPU start each kernel by itself, instead of recording the step of a training as a CUDA graph. Results do
    /// not change.
    pub fn without_graphs(mut self) -> Self {
        if let Device::Cuda { graph, .. } = &mut self.device {
            *graph = false;
        }
        self
    }
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
        let check_precision = |name: &str, precision| {
            let device = if name == "cpu" { Device::Cpu } else { Device::Cuda { ordinal: 0, graph: false } };
            check_precision(&Compute { device, name: name.to_owned(), numerics: String::new() }, precision)
        };
        let error = |device, precision| check_precision(device, precision).unwrap_err();
        assert_eq!(error("cuda:0", Precision::Bf16).message, "cuda:0 does not support precision bf16");
        assert_eq!(error("cpu", Precision::Tf32).message, "the CPU does not support precision tf32");
        assert_eq!(error("cuda:0", Precision::Bf16).category, crate::error::Category::BadInput);
        assert!(check_precision("cuda:0", Precision::F32).is_ok());
        assert!(check_precision("cuda:1", Precision::Tf32).is_ok());
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
