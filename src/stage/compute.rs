//! What stages compute on, and its numerics class.
//!
//! Devices of the same class round in the same way, so a chain can continue on any of them with the same bytes.
//! Finished results are shared across classes. States are not.

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
    /// The GPUs that programs can get for themselves.
    pub gpus: Vec<Gpu>,
}

/// A GPU that a program can get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name in `CUDA_VISIBLE_DEVICES`.
    pub name: String,
    /// Its model, such as "NVIDIA A100-SXM4-40GB", if that is known.
    pub model: Option<String>,
}

impl Compute {
    /// The processor, with this numerics class.
    pub fn cpu(numerics: &str) -> Self {
        Self { device: Device::Cpu, name: "cpu".to_owned(), numerics: numerics.to_owned(), gpus: vec![] }
    }

    /// A GPU, with this numerics class.
    pub fn cuda(ordinal: usize, numerics: String) -> Self {
        let device = Device::Cuda { ordinal, graph: true };
        Self { device, name: format!("cuda:{ordinal}"), numerics, gpus: vec![] }
    }

    /// Makes a GPU start each kernel by itself, instead of recording the step of a training as a CUDA graph. Results do
    /// not change.
    pub fn without_graphs(mut self) -> Self {
        if let Device::Cuda { graph, .. } = &mut self.device {
            *graph = false;
        }
        self
    }

    /// The numerics class of the states of a program that has these GPUs. GPUs of another model, or more of them, add
    /// in another order. Without GPUs, or if their models are unknown, it is the class of the device.
    pub fn class(&self, gpus: &[String]) -> String {
        let model = |name: &String| self.gpus.iter().find(|gpu| gpu.name == *name)?.model.as_deref();
        let models: Option<Vec<&str>> = gpus.iter().map(model).collect();
        let mut models = models.unwrap_or_default();
        models.sort_unstable();
        let same = models.chunk_by(|a, b| a == b);
        let counted: Vec<String> = same
            .map(|same| if same.len() == 1 { same[0].to_owned() } else { format!("{} x {}", same.len(), same[0]) })
            .collect();
        if counted.is_empty() { self.numerics.clone() } else { counted.join(" + ") }
    }

    /// The class if a program gets the first `count` GPUs.
    pub fn class_with_first(&self, count: usize) -> String {
        let first: Vec<String> = self.gpus.iter().take(count).map(|gpu| gpu.name.clone()).collect();
        self.class(&first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_of_programs_has_models_and_numbers_of_gpus() {
        let gpu = |name: &str, model: &str| Gpu { name: name.to_owned(), model: Some(model.to_owned()) };
        let gpus = vec![gpu("0", "NVIDIA H100"), gpu("1", "NVIDIA A100"), gpu("2", "NVIDIA H100")];
        let unknown = Gpu { name: "3".to_owned(), model: None };
        let compute = Compute { gpus: gpus.into_iter().chain([unknown]).collect(), ..Compute::cpu("cpu-avx2") };
        let class = |names: &[&str]| compute.class(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(class(&[]), "cpu-avx2");
        assert_eq!(class(&["0"]), "NVIDIA H100");
        assert_eq!(class(&["2", "0"]), "2 x NVIDIA H100");
        assert_eq!(class(&["0", "1", "2"]), "NVIDIA A100 + 2 x NVIDIA H100");
        assert_eq!(class(&["0", "3"]), "cpu-avx2", "one model is unknown");
        assert_eq!(compute.class_with_first(2), "NVIDIA A100 + NVIDIA H100");
    }
}
