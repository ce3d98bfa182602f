//! t-SNE: maps points to the plane and keeps neighbours together.
//!
//! Source: van der Maaten and Hinton, *Visualizing data using t-SNE*, JMLR 2008. The settings are the defaults of
//! openTSNE (Poličar et al.; learning rates from Belkina et al. 2019): a start on the first two principal components,
//! 250 steps of early exaggeration with learning rate n/exaggeration, then steps with learning rate n; momentum 0.8,
//! and a gain that adapts for each coordinate.
//!
//! | part | file | how |
//! |---|---|---|
//! | neighbours | `neighbours` | exact, with blocked matrix products |
//! | P | `affinities` | Newton's method on the entropy |
//! | start | `start` | orthogonal iteration on the covariance |
//! | attraction, repulsion of few points | `forces` | exact, vectorised |
//! | repulsion of many points | `grid` | a mesh and FFTs |
//! | quality of any map | `quality` | all pairs |
//!
//! The result depends only on the points, the settings and the seed. The number of points determines the tasks, not the
//! number of threads, and sums are in the order of the tasks.

mod affinities;
mod forces;
mod grid;
mod lanes;
mod neighbours;
mod quality;
mod start;

use std::ops::ControlFlow;

pub use neighbours::{Neighbours, neighbours};
pub use quality::{Exact, recall};
use rayon::prelude::*;

use crate::rng::Streams;

/// From this many points on, the mesh is faster than all pairs.
const GRID_FROM: usize = 7000;
/// Steps of early exaggeration.
const EARLY: usize = 250;
/// Iterations between two evaluations of the divergence.
const EVALUATE: usize = 50;
/// The minimum number of neighbours to find, for comparing them with the neighbours in the map.
const NEIGHBOURS: usize = 10;
/// The weight of the previous move in the next one.
const MOMENTUM: f32 = 0.8;
/// The minimum gain, as in openTSNE.
const LEAST_GAIN: f32 = 0.01;
/// The maximum length of a step, as in openTSNE.
const LONGEST_STEP: f32 = 5.0;

/// The parameters of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The effective number of neighbours of a point; see [`Settings::perplexity_for`].
    pub perplexity: f64,
    /// The number of steps. The first 250 (or all, if fewer) have exaggeration.
    pub iterations: usize,
    /// The factor of the attraction in these first steps.
    pub exaggeration: f64,
}

impl Settings {
    /// The perplexity for `n` points: at most (n − 1)/3, as in openTSNE, and at least 1.
    pub fn perplexity_for(&self, n: usize) -> f64 {
        self.perplexity.min(n.saturating_sub(1) as f64 / 3.0).max(1.0)
    }
}

/// A map of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// n points, centred.
    pub coordinates: Vec<[f32; 2]>,
    /// `KL(P‖Q)` of the final coordinates in nats, over the neighbours that P covers, without exaggeration. openTSNE
    /// reports the same figure with an approximate Z; here Z is exact.
    pub kl: f64,
    /// The neighbours of the input points: at least the ten nearest, if there are ten.
    pub neighbours: Neighbours,
}

/// Maps `n` points of dimension `d` (row-major n × d, finite) to n × 2 coordinates.
///
/// `progress` gets the number of finished steps and, every 50 steps, the divergence. Before the last step, its Z is
/// that of the mesh, which is within half a percent. Returns `None` if `progress` breaks.
pub fn embed(
    points: &[f32],
    n: usize,
    d: usize,
    settings: &Settings,
    streams: Streams,
    progress: &mut dyn FnMut(usize, Option<f64>) -> ControlFlow<()>,
) -> Option<Embedding> {
    let perplexity = settings.perplexity_for(n);
    let k = (3.0 * perplexity) as usize;
    let neighbours = neighbours(points, n, d, k.max(NEIGHBOURS), &mut || progress(0, None))?;
    if n < 2 {
        return Some(Embedding { coordinates: vec![[0.0; 2]; n], kl: 0.0, neighbours });
    }
    let p = affinities::affinities(&neighbours, n, k, perplexity);
    let begin = start::start(points, n, d, &mut streams.stream("tsne start", 0, 0));
    let mut descent = Descent::new(begin);
    for step in 0..settings.iterations {
        let early = step < EARLY;
        let exaggeration = if early { settings.exaggeration as f32 } else { 1.0 };
        let z = descent.forces(&p);
        let kl = (step > 0 && step.is_multiple_of(EVALUATE)).then(|| forces::divergence(&p, &descent.points, z));
        if progress(step, kl).is_break() {
            return None;
        }
        descent.step(exaggeration, z, n as f32 / exaggeration);
    }
    let z = forces::repulsion(&descent.points, &mut descent.push);
    let kl = forces::divergence(&p, &descent.points, z);
    if progress(settings.iterations, Some(kl)).is_break() {
        return None;
    }
    Some(Embedding { coordinates: descent.points, kl, neighbours })
}

/// The state of the descent.
struct Descent {
    points: Vec<[f32; 2]>,
    moves: Vec<[f32; 2]>,
    gains: Vec<[f32; 2]>,
    pull: Vec<[f32; 2]>,
    push: Vec<[f32; 2]>,
    grid: Option<grid::Grid>,
}

impl Descent {
    fn new(points: Vec<[f32; 2]>) -> Self {
        let n = points.len();
        let grid = (n >= GRID_FROM).then(grid::Grid::default);
        let zeros = || vec![[0.0; 2]; n];
        Self { points, moves: zeros(), gains: vec![[1.0; 2]; n], pull: zeros(), push: zeros(), grid }
    }

    /// Computes both forces; returns Z.
    fn forces(&mut self, p: &affinities::Affinities) -> f64 {
        forces::attraction(p, &self.points, &mut self.pull);
        let z = match &mut self.grid {
            Some(grid) => grid.repulsion(&self.points, &mut self.push),
            None => forces::repulsion(&self.points, &mut self.push),
        };
        // Z is 0 if all points are so far apart that every q underflows.
        z.max(f64::MIN_POSITIVE)
    }

    /// One step with the forces that [`Descent::forces`] computed.
    fn step(&mut self, exaggeration: f32, z: f64, rate: f32) {
        let over_z = (1.0 / z) as f32;
        let state = self.points.par_iter_mut().zip(&mut self.moves).zip(&mut self.gains);
        let forces = self.pull.par_iter().zip(&self.push);
        state.zip(forces).with_min_len(1024).for_each(|(((point, last), gain), (pull, push))| {
            for axis in 0..2 {
                let slope = exaggeration * pull[axis] - push[axis] * over_z;
                // The gain grows while the moves go down the slope, and shrinks after a move beyond the minimum. 0 is a
                // sign of its own.
                let same = sign(last[axis]) == sign(slope);
                gain[axis] = if same { gain[axis] * 0.8 + LEAST_GAIN } else { gain[axis] + 0.2 };
                last[axis] = MOMENTUM * last[axis] - rate * gain[axis] * slope;
            }
            let length = (last[0] * last[0] + last[1] * last[1]).sqrt();
            let cut = if length > LONGEST_STEP { LONGEST_STEP / length } else { 1.0 };
            for axis in 0..2 {
                last[axis] *= cut;
                point[axis] += last[axis];
            }
        });
        self.centre();
    }

    fn centre(&mut self) {
        let mut sum = [0.0f64; 2];
        for point in &self.points {
            sum[0] += f64::from(point[0]);
            sum[1] += f64::from(point[1]);
        }
        let mean = sum.map(|s| (s / self.points.len() as f64) as f32);
        for point in &mut self.points {
            point[0] -= mean[0];
            point[1] -= mean[1];
        }
    }
}

fn sign(v: f32) -> i8 {
    i8::from(v > 0.0) - i8::from(v < 0.0)
}

#[cfg(test)]
mod tests;
