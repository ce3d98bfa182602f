//! What a training learns about each sample: a plain latent vector (AD) or the parameters of a posterior (VAD).
//!
//! A plain latent is handled as a posterior with one parameter, no noise and no KL. Each parameter is an array of n ×
//! D, row-major, with Adam moments of the same shape.
//!
//! Adam is dense, as in PyTorch for an indexed parameter: rows outside the batch have gradient 0, but still move by
//! their momentum. A row is read only when it is drawn and at the end of the epoch, so the steps that it missed are
//! applied then, with the same bits. With 60,000 samples, a dense pass in each step would move hundreds of megabytes.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use crate::artifact::{Tensor, TensorError};
#[cfg(feature = "cuda")]
use crate::model::cuda::LatentArrays;
use crate::model::posterior::{Distribution, Pair, Start};
use crate::ops::adam::Rates;
use crate::ops::kernel::vectorised;
use crate::rng::{Stream, Streams};

/// The latents of n samples, with the state of their optimiser.
pub(in crate::stages) struct Latents {
    distribution: Option<Distribution>,
    samples: usize,
    dim: usize,
    parameters: Vec<Learned>,
    /// The number of Adam steps so far.
    step: u64,
    /// The rates of the newest steps: at least those that the row furthest behind has missed.
    recent: Vec<Rates>,
    /// For each row, how many of `recent` were applied to it.
    made: Vec<usize>,
    /// The noise of the last draw, B × D, for the gradient.
    noise: Vec<f32>,
    /// The last draw, B × D.
    z: Vec<f32>,
}

/// One learned array.
struct Learned {
    name: &'static str,
    values: Vec<f32>,
    /// Adam's first moments.
    m: Vec<f32>,
    /// Adam's second moments.
    v: Vec<f32>,
    /// The gradient for the rows of the current batch, B × D.
    gradient: Vec<f32>,
}

/// The only parameter of a plain latent.
const PLAIN: &str = "z";

/// The name and the start of each parameter.
fn parameters(distribution: Option<Distribution>) -> Vec<(&'static str, Start)> {
    match distribution {
        None => vec![(PLAIN, Start::InitStd)],
        Some(d) => d.parameters().iter().map(|p| (p.name, p.start)).collect(),
    }
}

/// The name of a parameter's tensor in an artifact.
pub(in crate::stages) fn tensor_name(distribution: Option<Distribution>, parameter: &str) -> String {
    if distribution.is_some() { format!("posterior.{parameter}") } else { "latents".to_owned() }
}

impl Latents {
    /// Latents at the random start of the distribution. `purpose` separates the draws of a training from those of a fit
    /// with the same seed.
    pub(in crate::stages) fn start(
        distribution: Option<Distribution>,
        (samples, dim): (usize, usize),
        init_std: f32,
        streams: &Streams,
        purpose: &str,
    ) -> Self {
        let begin = |(name, start): (&'static str, Start)| {
            let mut values = vec![0.0; samples * dim];
            let std = match start {
                Start::Zero => 0.0,
                Start::InitStd => init_std,
                Start::Normal(std) => std,
            };
            if std > 0.0 {
                streams.stream(&format!("{purpose} start {name}"), 0, 0).normals(&mut values);
                values.iter_mut().for_each(|v| *v *= std);
            }
            Learned::new(name, values)
        };
        let parameters = parameters(distribution).into_iter().map(begin).collect();
        Self::of(distribution, (samples, dim), parameters)
    }

    /// The latents of an artifact, with a fresh optimiser. `read` returns the tensor of this name.
    ///
    /// # Errors
    /// As `read`, and if a tensor is not n × D of f32.
    pub(in crate::stages) fn from_artifact<E: From<TensorError>>(
        distribution: Option<Distribution>,
        (samples, dim): (usize, usize),
        read: impl Fn(&str) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        let begin = |(name, _)| {
            let tensor = read(&tensor_name(distribution, name))?;
            Ok(Learned::new(name, elements(&tensor, &[samples, dim])?))
        };
        let parameters = parameters(distribution).into_iter().map(begin).collect::<Result<_, E>>()?;
        Ok(Self::of(distribution, (samples, dim), parameters))
    }

    fn of(distribution: Option<Distribution>, (samples, dim): (usize, usize), parameters: Vec<Learned>) -> Self {
        let (recent, made) = (vec![], vec![0; samples]);
        Self { distribution, samples, dim, parameters, step: 0, recent, made, noise: vec![], z: vec![] }
    }

    /// The family of the posteriors; `None` for plain latents.
    pub(in crate::stages) fn distribution(&self) -> Option<Distribution> {
        self.distribution
    }

    /// Reserves memory for the steps of an epoch, so that they allocate nothing. Brings all rows up to date.
    pub(in crate::stages) fn begin_epoch(&mut self, steps: usize, batch: usize) {
        self.catch_up();
        let numbers = batch.min(self.samples) * self.dim;
        self.recent.reserve(steps);
        let drawn = [&mut self.z, &mut self.noise].into_iter();
        for buffer in drawn.chain(self.parameters.iter_mut().map(|p| &mut p.gradient)) {
            buffer.reserve(numbers.saturating_sub(buffer.len()));
        }
    }

    /// Applies the steps that these rows missed.
    fn catch_up_rows(&mut self, rows: &[usize]) {
        for row in rows {
            let missed = &self.recent[self.made[*row]..];
            let places = row * self.dim..(row + 1) * self.dim;
            for Learned { values, m, v, .. } in &mut self.parameters {
                let (values, m, v) = (&mut values[places.clone()], &mut m[places.clone()], &mut v[places.clone()]);
                vectorised(
                    #[inline(always)]
                    || Rates::coast(missed, values, m, v),
                );
            }
            self.made[*row] = self.recent.len();
        }
    }

    /// Applies the steps that any row missed.
    pub(in crate::stages) fn catch_up(&mut self) {
        let Self { parameters, recent, made, dim, .. } = self;
        for Learned { values, m, v, .. } in parameters {
            let rows = values.par_chunks_mut(*dim).zip_eq(m.par_chunks_mut(*dim)).zip_eq(v.par_chunks_mut(*dim));
            rows.zip_eq(&*made).for_each(|(((values, m), v), made)| {
                vectorised(
                    #[inline(always)]
                    || Rates::coast(&recent[*made..], values, m, v),
                );
            });
        }
        recent.clear();
        made.fill(0);
    }

    /// Draws z for these rows, B × D. For posteriors, `noise` is the source of ε, and z is `scale` times as far from
    /// the mean as a sample of the posterior. For plain latents, z is the latents. [`Latents::update`] uses this draw.
    pub(in crate::stages) fn draw(&mut self, rows: &[usize], noise: &mut Stream, scale: f64) -> &[f32] {
        self.catch_up_rows(rows);
        let dim = self.dim;
        self.z.resize(rows.len() * dim, 0.0);
        self.noise.resize(rows.len() * dim, 0.0);
        if let Some(d) = self.distribution {
            d.scaled_noise(noise, scale, &mut self.noise);
        }
        let Self { distribution, parameters, z, noise, .. } = self;
        for (b, row) in rows.iter().enumerate() {
            for k in 0..dim {
                let at = row * dim + k;
                z[b * dim + k] = match distribution {
                    None => parameters[0].values[at],
                    Some(d) => d.sample(pair(parameters, at), f64::from(noise[b * dim + k])) as f32,
                };
            }
        }
        &self.z
    }

    /// The last draw.
    pub(in crate::stages) fn drawn(&self) -> &[f32] {
        &self.z
    }

    /// The KL divergence from the prior in nats, averaged over the latent dimensions and over these rows, which must be
    /// those of the last draw. 0 for plain latents.
    pub(in crate::stages) fn kl(&self, rows: &[usize]) -> f64 {
        let Some(d) = self.distribution else { return 0.0 };
        let places = rows.iter().flat_map(|row| row * self.dim..(row + 1) * self.dim);
        places.map(|at| d.kl(pair(&self.parameters, at))).sum::<f64>() / (rows.len() * self.dim) as f64
    }

    /// One step of Adam on all rows; rows outside the batch are updated later. `gradient` is that of the loss with
    /// respect to the last draw, for these rows, B × D. `kl_weight` × [`Latents::kl`] is added to the loss.
    pub(in crate::stages) fn update(&mut self, rows: &[usize], gradient: &[f32], kl_weight: f64, lr: f32) {
        self.gradients(rows, gradient, kl_weight / (rows.len() * self.dim) as f64);
        self.step += 1;
        let (rates, dim) = (Rates::new(self.step, lr), self.dim);
        self.recent.push(rates);
        for (b, row) in rows.iter().enumerate() {
            let places = row * dim..(row + 1) * dim;
            for Learned { values, m, v, gradient, .. } in &mut self.parameters {
                let gradient = &gradient[b * dim..(b + 1) * dim];
                let (values, m, v) = (&mut values[places.clone()], &mut m[places.clone()], &mut v[places.clone()]);
                vectorised(
                    #[inline(always)]
                    || rates.step(values, gradient, m, v),
                );
            }
            self.made[*row] = self.recent.len();
        }
    }

    /// Computes the gradient of each parameter from `by_z`, that with respect to the last draw. `share` is the weight
    /// of the KL of one latent number.
    fn gradients(&mut self, rows: &[usize], by_z: &[f32], share: f64) {
        let dim = self.dim;
        for learned in &mut self.parameters {
            learned.gradient.resize(by_z.len(), 0.0);
        }
        let Some(d) = self.distribution else { return self.parameters[0].gradient.copy_from_slice(by_z) };
        for (b, row) in rows.iter().enumerate() {
            for k in 0..dim {
                let (at, through_z) = (row * dim + k, f64::from(by_z[b * dim + k]));
                let p = pair(&self.parameters, at);
                let dz = d.sample_gradient(p, f64::from(self.noise[b * dim + k]));
                let dkl = if share == 0.0 { [0.0; 2] } else { d.kl_gradient(p) };
                for (i, learned) in self.parameters.iter_mut().enumerate() {
                    learned.gradient[b * dim + k] = (through_z * dz[i] + share * dkl[i]) as f32;
                }
            }
        }
    }

    /// The means of these rows, B × D: the latents, or the means of the posteriors. The rows must be up to date.
    pub(in crate::stages) fn means(&self, rows: Range<usize>) -> Vec<f32> {
        debug_assert!(self.recent.is_empty(), "rows are not up to date");
        let places = rows.start * self.dim..rows.end * self.dim;
        match self.distribution {
            None => self.parameters[0].values[places].to_vec(),
            Some(d) => places.map(|at| d.mean(pair(&self.parameters, at)) as f32).collect(),
        }
    }

    /// The tensors of an artifact, n × D each: `latents`, and for posteriors each `posterior.<parameter>`.
    ///
    /// # Errors
    /// None: the numbers fit the shapes.
    pub(in crate::stages) fn to_artifact(&self) -> Result<BTreeMap<String, Tensor>, TensorError> {
        let shape = [self.samples, self.dim];
        let mut tensors = BTreeMap::new();
        for learned in &self.parameters {
            tensors.insert(tensor_name(self.distribution, learned.name), Tensor::new(shape, &learned.values)?);
        }
        if self.distribution.is_some() {
            tensors.insert("latents".to_owned(), Tensor::new(shape, &self.means(0..self.samples))?);
        }
        Ok(tensors)
    }

    /// The tensors of a state: everything that the next step reads, as `latents.*`. All rows must be up to date.
    ///
    /// # Errors
    /// None: the numbers fit the shapes.
    pub(in crate::stages) fn state(
        &self,
        spare: &mut BTreeMap<String, Tensor>,
    ) -> Result<BTreeMap<String, Tensor>, TensorError> {
        debug_assert!(self.recent.is_empty(), "rows are not up to date");
        let shape = [self.samples, self.dim];
        let mut tensors = BTreeMap::from([("latents.step".to_owned(), Tensor::vector(&[self.step as i64]))]);
        for Learned { name, values, m, v, .. } in &self.parameters {
            for (part, array) in [("value", values), ("m", m), ("v", v)] {
                let name = format!("latents.{name}.{part}");
                let tensor = Tensor::new_in(spare.remove(&name), shape, array)?;
                tensors.insert(name, tensor);
            }
        }
        Ok(tensors)
    }

    /// Goes to a state that [`Latents::state`] returned.
    ///
    /// # Errors
    /// If a tensor is missing, or its type or shape is wrong.
    pub(in crate::stages) fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), TensorError> {
        let shape = [self.samples, self.dim];
        let read = |name: &str, part| elements(find(state, &format!("latents.{name}.{part}"))?, &shape);
        for learned in &mut self.parameters {
            let (m, v) = (read(learned.name, "m")?, read(learned.name, "v")?);
            *learned = Learned { m, v, ..Learned::new(learned.name, read(learned.name, "value")?) };
        }
        self.recent.clear();
        self.made.fill(0);
        self.step = elements::<i64>(find(state, "latents.step")?, &[1])?[0].unsigned_abs();
        Ok(())
    }

    /// Values, moments and steps for a GPU. All rows must be up to date.
    #[cfg(feature = "cuda")]
    pub(super) fn arrays(&self) -> LatentArrays {
        let parameters = self.parameters.iter().map(|p| [p.values.clone(), p.m.clone(), p.v.clone()]).collect();
        LatentArrays { distribution: self.distribution, parameters, step: self.step }
    }

    /// Replaces values, moments and steps by a GPU's. They must have the sizes of [`Latents::arrays`].
    #[cfg(feature = "cuda")]
    pub(super) fn set_arrays(&mut self, arrays: LatentArrays) {
        for (learned, [values, m, v]) in self.parameters.iter_mut().zip(arrays.parameters) {
            (learned.values, learned.m, learned.v) = (values, m, v);
        }
        self.step = arrays.step;
    }
}

impl Learned {
    fn new(name: &'static str, values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self { name, values, m: zeros.clone(), v: zeros, gradient: vec![] }
    }
}

/// Both parameters of the latent number at this index of the arrays; 0 for a parameter that the family lacks.
fn pair(parameters: &[Learned], at: usize) -> Pair {
    let value = |i: usize| parameters.get(i).map_or(0.0, |p| f64::from(p.values[at]));
    [value(0), value(1)]
}

/// The tensor of this name in a state.
///
/// # Errors
/// If there is none.
pub(in crate::stages) fn find<'a>(state: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor, TensorError> {
    state.get(name).ok_or_else(|| TensorError::Unsupported(format!("the saved state has no `{name}`")))
}

/// The elements of a tensor.
///
/// # Errors
/// If its shape or type is not the requested one.
pub(in crate::stages) fn elements<T: crate::artifact::Element>(
    tensor: &Tensor,
    shape: &[usize],
) -> Result<Vec<T>, TensorError> {
    if tensor.shape() != shape {
        return Err(TensorError::Shape { elements: tensor.len(), shape: shape.to_vec() });
    }
    tensor.to_vec()
}

#[cfg(test)]
mod tests;
