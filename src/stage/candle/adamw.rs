//! AdamW with its state in variables.

use std::sync::PoisonError;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{ParamsAdamW, VarMap};

/// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv 1711.05101, algorithm 2). It
/// computes what [`candle_nn::AdamW`] does, bit for bit, which keeps its moments to itself.
pub struct AdamW {
    parameters: Vec<Parameter>,
    /// The number of steps; i64, on the CPU.
    steps: Var,
    params: ParamsAdamW,
    state: VarMap,
}

struct Parameter {
    value: Var,
    first: Var,
    second: Var,
}

impl AdamW {
    /// An optimiser of the variables that the model has now. Only those of floats learn.
    ///
    /// # Errors
    /// If a device fails.
    pub fn new(model: &VarMap, params: ParamsAdamW) -> Result<Self> {
        let (state, mut parameters) = (VarMap::new(), Vec::new());
        let steps = Var::zeros((), DType::I64, &Device::Cpu)?;
        let mut named = state.data().lock().unwrap_or_else(PoisonError::into_inner);
        named.insert("steps".to_owned(), steps.clone());
        let model = model.data().lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in model.iter().filter(|(_, value)| value.dtype().is_float()) {
            let zeros = || Var::zeros(value.shape(), value.dtype(), value.device());
            let (first, second) = (zeros()?, zeros()?);
            named.insert(format!("first.{name}"), first.clone());
            named.insert(format!("second.{name}"), second.clone());
            parameters.push(Parameter { value: value.clone(), first, second });
        }
        drop(named);
        Ok(Self { parameters, steps, params, state })
    }

    /// Both moments of each variable, and the number of steps: for [`super::Training::optimizer`].
    pub fn state(&self) -> VarMap {
        self.state.clone()
    }

    /// Sets the learning rate. It is not part of the state: set it in each step.
    pub fn set_learning_rate(&mut self, lr: f64) {
        self.params.lr = lr;
    }

    /// Updates the variables with the gradients of a loss.
    ///
    /// # Errors
    /// If a device fails.
    pub fn backward_step(&mut self, loss: &Tensor) -> Result<()> {
        self.step(&loss.backward()?)
    }

    /// Updates the variables with their gradients. A variable without a gradient stays as it is.
    ///
    /// # Errors
    /// If a device fails.
    pub fn step(&mut self, gradients: &GradStore) -> Result<()> {
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = self.params;
        let steps = self.steps.to_scalar::<i64>()? + 1;
        self.steps.set(&Tensor::new(steps, &Device::Cpu)?)?;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powi(steps as i32));
        for Parameter { value, first, second } in &self.parameters {
            let Some(gradient) = gradients.get(value) else { continue };
            let m = ((first.as_tensor() * beta1)? + (gradient * (1.0 - beta1))?)?;
            let v = ((second.as_tensor() * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
            let direction = ((&m * correction(beta1))? / ((&v * correction(beta2))?.sqrt()? + eps)?)?;
            let decayed = (value.as_tensor() * (1.0 - lr * weight_decay))?;
            value.set(&(decayed - (direction * lr)?)?)?;
            first.set(&m)?;
            second.set(&v)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::{Linear, Module as _, Optimizer as _, VarBuilder, linear, loss};

    use super::*;

    fn model(variables: &VarMap) -> Linear {
        let build = VarBuilder::from_varmap(variables, DType::F32, &Device::Cpu);
        linear(5, 3, build.pp("fc")).unwrap()
    }

    #[test]
    fn equals_the_adamw_of_candle_bit_for_bit() {
        let (ours, theirs) = (VarMap::new(), VarMap::new());
        let models = [model(&ours), model(&theirs)];
        for (name, value) in ours.data().lock().unwrap().iter() {
            theirs.data().lock().unwrap()[name].set(value).unwrap();
        }
        let params = ParamsAdamW { lr: 0.05, weight_decay: 0.1, ..ParamsAdamW::default() };
        let mut our_adamw = AdamW::new(&ours, params.clone()).unwrap();
        let mut their_adamw = candle_nn::AdamW::new(theirs.all_vars(), params).unwrap();
        let images = Tensor::arange(0f32, 20.0, &Device::Cpu).unwrap().reshape((4, 5)).unwrap();
        let labels = Tensor::new(&[0u32, 1, 2, 0], &Device::Cpu).unwrap();
        for step in 0..20 {
            let lr = 0.05 / f64::from(step + 1);
            our_adamw.set_learning_rate(lr);
            their_adamw.set_learning_rate(lr);
            let [a, b] = [0, 1].map(|m| loss::cross_entropy(&models[m].forward(&images).unwrap(), &labels).unwrap());
            our_adamw.backward_step(&a).unwrap();
            their_adamw.backward_step(&b).unwrap();
        }
        let theirs = theirs.data().lock().unwrap();
        for (name, value) in ours.data().lock().unwrap().iter() {
            let bits = |var: &Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits);
            assert!(bits(value).eq(bits(&theirs[name])), "{name}");
        }
    }
}
