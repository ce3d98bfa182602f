//! The first values of variables, drawn from the streams.

use std::sync::PoisonError;

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};

use crate::rng::Streams;

/// A builder for the layers of a model. It adds their variables to `variables`. Random first values come from the
/// streams, one stream for each name, so other variables don't change them. [`VarBuilder::from_varmap`] draws numbers
/// that differ in every process.
pub fn builder(variables: &VarMap, streams: Streams, dtype: DType, device: &Device) -> VarBuilder<'static> {
    let backend = Seeded { variables: variables.clone(), streams };
    VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
}

struct Seeded {
    variables: VarMap,
    streams: Streams,
}

impl SimpleBackend for Seeded {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        if !self.contains_tensor(name)
            && let Some(values) = self.draw(&shape, name, init)
        {
            let values = Tensor::from_vec(values, &shape, device)?.to_dtype(dtype)?;
            let mut variables = self.variables.data().lock().unwrap_or_else(PoisonError::into_inner);
            variables.insert(name.to_owned(), Var::from_tensor(&values)?);
        }
        self.variables.get(shape, name, init, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.variables.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.variables.contains_tensor(name)
    }
}

impl Seeded {
    /// The first values of a variable, if they are random.
    fn draw(&self, shape: &Shape, name: &str, init: Init) -> Option<Vec<f32>> {
        let mut stream = self.streams.stream(&format!("init {name}"), 0, 0);
        let mut values = vec![0f32; shape.elem_count()];
        match uniform_or_normal(init, shape)? {
            (NormalOrUniform::Uniform, low, width) => {
                stream.uniforms(&mut values);
                values.iter_mut().for_each(|v| *v = (low + width * f64::from(*v)) as f32);
            }
            (NormalOrUniform::Normal, mean, deviation) => {
                stream.normals(&mut values);
                values.iter_mut().for_each(|v| *v = (mean + deviation * f64::from(*v)) as f32);
            }
        }
        Some(values)
    }
}

/// The distribution of an initialisation, with its lower bound and width, or its mean and standard deviation; `None`
/// for a constant.
fn uniform_or_normal(init: Init, shape: &Shape) -> Option<(NormalOrUniform, f64, f64)> {
    match init {
        Init::Const(_) => None,
        Init::Uniform { lo, up } => Some((NormalOrUniform::Uniform, lo, up - lo)),
        Init::Randn { mean, stdev } => Some((NormalOrUniform::Normal, mean, stdev)),
        Init::Kaiming { dist, fan, non_linearity } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            Some(match dist {
                NormalOrUniform::Uniform => (dist, -deviation * 3f64.sqrt(), 2.0 * deviation * 3f64.sqrt()),
                NormalOrUniform::Normal => (dist, 0.0, deviation),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::init::{DEFAULT_KAIMING_NORMAL, DEFAULT_KAIMING_UNIFORM};

    use super::*;

    fn values(seed: i64, name: &str, init: Init) -> Vec<f32> {
        let build = builder(&VarMap::new(), Streams::new(seed), DType::F32, &Device::Cpu);
        build.get_with_hints((64, 50), name, init).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        for init in [DEFAULT_KAIMING_UNIFORM, DEFAULT_KAIMING_NORMAL] {
            assert_eq!(values(7, "weight", init), values(7, "weight", init));
            assert_ne!(values(7, "weight", init), values(8, "weight", init));
            assert_ne!(values(7, "weight", init), values(7, "other", init));
        }
    }

    #[test]
    fn values_have_the_distribution_that_the_layer_asks_for() {
        let moments = |init: Init| {
            let values: Vec<f64> = values(7, "weight", init).into_iter().map(f64::from).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt())
        };
        let near = |init: Init, mean: f64, deviation: f64| {
            let (found_mean, found) = moments(init);
            assert!((found_mean - mean).abs() < 0.1 * deviation, "{init:?}: mean {found_mean}");
            assert!((found / deviation - 1.0).abs() < 0.05, "{init:?}: deviation {found}");
        };
        // He et al. 2015: √(2 / fan-in).
        near(DEFAULT_KAIMING_UNIFORM, 0.0, (2.0f64 / 50.0).sqrt());
        near(DEFAULT_KAIMING_NORMAL, 0.0, (2.0f64 / 50.0).sqrt());
        near(Init::Uniform { lo: -1.0, up: 3.0 }, 1.0, 4.0 / 12f64.sqrt());
        near(Init::Randn { mean: 2.0, stdev: 0.5 }, 2.0, 0.5);
        assert_eq!(values(7, "weight", Init::Const(0.5)), [0.5; 3200]);
    }

    #[test]
    fn variable_of_another_shape_is_an_error() {
        let build = builder(&VarMap::new(), Streams::new(7), DType::F32, &Device::Cpu);
        build.get_with_hints(3, "b", Init::Const(1.0)).unwrap();
        assert!(build.get_with_hints(3, "b", DEFAULT_KAIMING_NORMAL).is_ok(), "it is shared");
        assert!(build.get_with_hints(4, "b", DEFAULT_KAIMING_NORMAL).is_err());
    }
}
