//! What a training learns about each sample: a plain latent vector (AD) or the parameters of a posterior (VAD).
//!
//! A plain latent is treated as a posterior with one parameter, no noise and no KL, so that one loop serves both. Each
//! parameter is an array of n × D, row-major, with Adam moments of the same shape. Adam is dense, as PyTorch's is for
//! an indexed parameter: rows outside the batch have gradient 0 and still move by their momentum. Nobody looks at a row until
//! it is drawn, or at the end of the epoch, so that its missed steps are made up for then, to the bit: with 60,000 samples a dense
//! pass in every step would move hundreds of megabytes.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::artifact::{Tensor, TensorError};
use crate::model::posterior::{Distribution, Pair, Start};
use rayon::prelude::*;

use crate::ops::adam::Rates;
use crate::ops::kernel::vectorised;
use crate::rng::{Stream, Streams};

/// The latents of n samples with their optimiser.
pub(in crate::stages) struct Latents {
    distribution: Option<Distribution>,
    samples: usize,
    dim: usize,
    parameters: Vec<Learned>,
    /// Adam steps done.
    step: u64,
    /// The rates of the newest steps, as many as the row that is furthest behind has missed, or more.
    recent: Vec<Rates>,
    /// For each row, how many of `recent` it has made.
    made: Vec<usize>,
    /// The noise of the last draw, B × D: the gradient needs it again.
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
    /// Its second moments.
    v: Vec<f32>,
    /// Of the rows of the batch at hand, B × D.
    gradient: Vec<f32>,
}

/// The only parameter of a plain latent.
const PLAIN: &str = "z";

/// The name of each parameter, and how it starts.
pub(super) fn parameters(distribution: Option<Distribution>) -> Vec<(&'static str, Start)> {
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
    /// At the distribution's start. `purpose` keeps the draws of a training and a fit apart, which share the seed.
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

    /// From the tensors of an artifact, with a fresh optimiser. `read` gets a tensor by its name in the artifact.
    ///
    /// # Errors
    /// As `read`, or if a tensor is not n × D of f32.
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

    /// The family of the posterior; none for plain latents.
    pub(in crate::stages) fn distribution(&self) -> Option<Distribution> {
        self.distribution
    }

    /// Makes room for the steps of an epoch, so that none of them allocates. All rows must be up to date.
    pub(in crate::stages) fn begin_epoch(&mut self, steps: usize, batch: usize) {
        self.catch_up();
        let numbers = batch.min(self.samples) * self.dim;
        self.recent.reserve(steps);
        let drawn = [&mut self.z, &mut self.noise].into_iter();
        for buffer in drawn.chain(self.parameters.iter_mut().map(|p| &mut p.gradient)) {
            buffer.reserve(numbers.saturating_sub(buffer.len()));
        }
    }

    /// Brings these rows up to date: what is asked of them next sees the steps that they missed.
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

    /// Brings all rows up to date.
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

    /// Draws z for these rows, B × D, with noise from this stream, `scale` times as far from the mean; plain latents as they are.
    /// Kept for [`Latents::update`].
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

    /// The KL divergence averaged over these rows, drawn last, and the latent dimensions; 0 for plain latents.
    pub(in crate::stages) fn kl(&self, rows: &[usize]) -> f64 {
        let Some(d) = self.distribution else { return 0.0 };
        let places = rows.iter().flat_map(|row| row * self.dim..(row + 1) * self.dim);
        places.map(|at| d.kl(pair(&self.parameters, at))).sum::<f64>() / (rows.len() * self.dim) as f64
    }

    /// One step of Adam on all rows, of which those outside the batch make theirs later. `gradient` is the loss's with respect to
    /// the last draw for these rows, B × D; `kl_weight` × [`Latents::kl`] is added to that loss.
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

    /// The gradient of each parameter, from that by the last draw; `share` is the weight of one number's KL.
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

    /// The means of these rows, which must be up to date: the latents themselves, or the posterior's means.
    pub(in crate::stages) fn means(&self, rows: Range<usize>) -> Vec<f32> {
        debug_assert!(self.recent.is_empty(), "rows that are not up to date");
        let places = rows.start * self.dim..rows.end * self.dim;
        match self.distribution {
            None => self.parameters[0].values[places].to_vec(),
            Some(d) => places.map(|at| d.mean(pair(&self.parameters, at)) as f32).collect(),
        }
    }

    /// What an artifact shows of them: `latents`, and for a posterior each `posterior.<parameter>`, n × D.
    ///
    /// # Errors
    /// None in practice: the shapes are our own.
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

    /// Everything that the next step reads, as `latents.*`. All rows must be up to date.
    ///
    /// # Errors
    /// None in practice: the shapes are our own.
    pub(in crate::stages) fn state(&self) -> Result<BTreeMap<String, Tensor>, TensorError> {
        debug_assert!(self.recent.is_empty(), "rows that are not up to date");
        let shape = [self.samples, self.dim];
        let mut tensors = BTreeMap::from([("latents.step".to_owned(), Tensor::vector(&[self.step as i64]))]);
        for Learned { name, values, m, v, .. } in &self.parameters {
            for (part, array) in [("value", values), ("m", m), ("v", v)] {
                tensors.insert(format!("latents.{name}.{part}"), Tensor::new(shape, array)?);
            }
        }
        Ok(tensors)
    }

    /// Goes back to what [`Latents::state`] said.
    ///
    /// # Errors
    /// If the state is another's.
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
}

impl Learned {
    fn new(name: &'static str, values: Vec<f32>) -> Self {
        let zeros = vec![0.0; values.len()];
        Self { name, values, m: zeros.clone(), v: zeros, gradient: vec![] }
    }
}

/// Both parameters of the latent number at this place of the arrays.
fn pair(parameters: &[Learned], at: usize) -> Pair {
    let value = |i: usize| parameters.get(i).map_or(0.0, |p| f64::from(p.values[at]));
    [value(0), value(1)]
}

/// A tensor of a state.
pub(in crate::stages) fn find<'a>(state: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor, TensorError> {
    state.get(name).ok_or_else(|| TensorError::Unsupported(format!("the saved state has no `{name}`")))
}

/// The elements of a tensor that must have this shape.
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
