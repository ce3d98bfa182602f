//! What stages compute on, and its numerics class.
//!
//! Devices of the same class round in the same way, so a chain can continue on any of them with the same bytes.
//! Finished results are shared across classes. States are not.

use std::sync::{Arc, LazyLock};

use super::context::Device;

/// What the stages of a pipeline compute on.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device of the built-in stages.
    pub device: Device,
    /// "cpu" or "cuda:0".
    pub name: String,
    /// The numerics class of the device, such as "cpu-avx512".
    pub numerics: String,
    gpus: LazyGpus,
}

/// GPUs that are looked up at the first use.
type LazyGpus = Arc<LazyLock<ProgramGpus, Box<dyn FnOnce() -> ProgramGpus + Send>>>;

/// The GPUs that programs can get for themselves. All are of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramGpus {
    /// Their names in `CUDA_VISIBLE_DEVICES`.
    pub ids: Vec<String>,
    /// Their model, such as "NVIDIA A100-SXM4-40GB", if that is known.
    pub model: Option<String>,
    /// What the user should know about them.
    pub warning: Option<String>,
}

impl Compute {
    /// The processor, with this numerics class. Programs get no GPUs.
    pub fn cpu(numerics: &str) -> Self {
        Self::new(Device::Cpu, "cpu".to_owned(), numerics.to_owned())
    }

    /// A GPU, with this numerics class. Programs get no GPUs.
    pub fn cuda(ordinal: usize, numerics: String) -> Self {
        Self::new(Device::Cuda { ordinal, graph: true }, format!("cuda:{ordinal}"), numerics)
    }

    fn new(device: Device, name: String, numerics: String) -> Self {
        Self { device, name, numerics, gpus: lazy(ProgramGpus::default) }
    }

    /// Lets programs get GPUs. They are looked up when they are needed, because that may take a second.
    #[must_use]
    pub fn with_gpus(self, find: impl FnOnce() -> ProgramGpus + Send + 'static) -> Self {
        Self { gpus: lazy(find), ..self }
    }

    /// Makes a GPU start each kernel by itself, instead of recording the step of a training as a CUDA graph. Results do
    /// not change.
    #[must_use]
    pub fn without_graphs(mut self) -> Self {
        if let Device::Cuda { graph, .. } = &mut self.device {
            *graph = false;
        }
        self
    }

    /// The GPUs that programs can get.
    pub fn gpus(&self) -> &ProgramGpus {
        &self.gpus
    }

    /// The numerics class of the states of a program that has this many GPUs. Another model, or more of them, adds in
    /// another order.
    pub fn class(&self, gpus: usize) -> String {
        let model = || self.gpus().model.as_deref().unwrap_or("GPU of unknown model");
        match gpus {
            0 => self.numerics.clone(),
            1 => model().to_owned(),
            _ => format!("{gpus} x {}", model()),
        }
    }
}

fn lazy(find: impl FnOnce() -> ProgramGpus + Send + 'static) -> LazyGpus {
    Arc::new(LazyLock::new(Box::new(find)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_of_a_program_has_the_model_and_the_number_of_its_gpus() {
        let gpus = |model: Option<&str>| ProgramGpus { model: model.map(str::to_owned), ..ProgramGpus::default() };
        let known = gpus(Some("NVIDIA H100"));
        let known = Compute::cpu("cpu-avx2").with_gpus(move || known);
        assert_eq!([0, 1, 2].map(|count| known.class(count)), ["cpu-avx2", "NVIDIA H100", "2 x NVIDIA H100"]);
        let unknown = Compute::cpu("cpu-avx2").with_gpus(move || gpus(None));
        assert_eq!(unknown.class(1), "GPU of unknown model", "it must not continue a state of the processor");
    }

    #[test]
    fn gpus_are_looked_up_only_if_they_are_needed() {
        let compute = Compute::cpu("cpu-avx2").with_gpus(|| unreachable!("nobody asked"));
        assert_eq!(compute.class(0), "cpu-avx2");
    }
}
