//! `fit-latents`: finds the latents (AD) or posteriors (VAD) of a split for a trained decoder, which does not change.
//!
//! With `statistics = "running"` the decoder's batch norms use the running statistics of its training: PyTorch's
//! evaluation mode. With `"batch"` they use the statistics of each batch, as in PyTorch's training mode, in the fit's
//! steps and in its evaluation. The evaluation takes the split in order, in batches of 16. An image then depends on the
//! other images of its batch, and so do the figures. Other readers of the latents, such as `decode`, always use running
//! statistics.
//!
//! The fit of a VAD has no KL in its loss but keeps the noise: each step draws z, and only the posteriors' parameters
//! learn. A fit has epochs and states like a training, and resumes like one.

use std::sync::Arc;

use super::reading::{self, Images, Model, Split};
use super::training::Training;
use super::training::evaluation::evaluate;
use super::training::history::{self, History, psnr};
use super::training::latents::Latents;
use super::training::net::{Fixed, Net};
use super::training::schedule::{Rates, Schedule};
use crate::artifact::Artifact;
use crate::stage::{
    About, Bound, Capability, Context, Curves, Epochs, Params, Reads, Role, Roles, Stage, StageError, StageKind,
};

/// The stage kind `fit-latents`.
pub(super) struct FitLatents;

impl StageKind for FitLatents {
    fn about(&self) -> About {
        About {
            roles: Roles::Fixed(&[
                Role { name: "data", optional: false, needs: &[Capability::IMAGES] },
                Role { name: "model", optional: false, needs: &[Capability::DECODER] },
            ]),
            provides: &[
                Capability::LATENTS,
                Capability::FITTED_LATENTS,
                Capability::HISTORY,
                Capability::RECONSTRUCTIONS,
            ],
            heading: "Fitted latents",
            ..About::new("fit-latents", 2, "fit latents or posteriors of a split to a trained decoder")
        }
    }

    fn parse(&self, params: &mut Params<'_>) -> Arc<dyn Stage> {
        let split = params.describe("the images to fit").choice(
            "split",
            "test",
            &[("train", Split::Train), ("test", Split::Test)],
        );
        params.describe("where latents start; `trained` starts from those of the training");
        let init = params.choice("init", "random", &[("random", Init::Random), ("trained", Init::Trained)]);
        if (split, init) == (Split::Test, Init::Trained) {
            let message = "`init = \"trained\"` needs `split = \"train\"`";
            params.error("init", message, "a training has no latents of test images: use `init = \"random\"`");
        }
        if init == Init::Trained {
            params.need_of_input("model", Capability::LATENTS, "`init = \"trained\"`");
        }
        let choices = [("running", Statistics::Running), ("batch", Statistics::Batch)];
        params.describe("what batch normalisation uses: the averages of the training, or those of the batch");
        let statistics = params.choice("statistics", "running", &choices);
        let segments = params.segments(100, |p| Rates {
            batch: p.describe("the number of images in a step").int("batch", 16, 1..=65_536) as usize,
            lr: None,
            latent_lr: p.describe("the learning rate of the latents").float("latent_lr", 1e-2, Bound::NotNegative)
                as f32,
            kl_weight: 0.0,
            noise: 1.0,
        });
        Arc::new(Fit { split, init, statistics, schedule: Schedule::new(segments) })
    }
}

/// Where the latents of a fit start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    /// At the random start of the distribution.
    Random,
    /// At the latents that the training found.
    Trained,
}

/// The statistics that the decoder's batch norms use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statistics {
    /// The running means and variances of the training.
    Running,
    /// The means and variances of each batch.
    Batch,
}

struct Fit {
    split: Split,
    init: Init,
    statistics: Statistics,
    schedule: Schedule,
}

impl Stage for Fit {
    fn reads(&self) -> Reads {
        Reads { seed: true, precision: true, files: false }
    }

    fn epochs(&self) -> Option<Epochs> {
        Some(self.schedule.epochs.clone())
    }

    fn curves(&self) -> Curves {
        Curves::Named(history::names(false))
    }

    fn parallel(&self) -> bool {
        true
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn run(&self, context: &Context<'_>) -> Result<Artifact, StageError> {
        reading::check_device(context)?;
        reading::check_precision(context)?;
        let images = reading::images(context.inputs.one("data")?, self.split)?;
        let model = reading::model(context.inputs.one("model")?)?;
        let mut latents = self.start(context, &model, &images)?;
        let mut decoder = match self.statistics {
            Statistics::Running => Fixed::Running(Box::new(model.decoder)),
            Statistics::Batch => Fixed::Batch(Box::new(model.unfolded()?)),
        };
        let training = Training {
            purpose: "fit",
            net: Net::Fixed(&mut decoder),
            latents: &mut latents,
            images: &images,
            schedule: &self.schedule,
        };
        let history = training.run(context)?;
        self.artifact(context, &mut decoder, &mut latents, &images, &history)
    }
}

impl Fit {
    fn start(&self, context: &Context<'_>, model: &Model<'_>, images: &Images) -> Result<Latents, StageError> {
        let size = (images.count, model.latent_dim());
        match self.init {
            Init::Random => Ok(Latents::start(model.distribution, size, 1.0, &context.streams, "fit")),
            Init::Trained => {
                model.check_samples(context.inputs.one("data")?, images.count)?;
                let read = |name: &str| Ok::<_, StageError>(model.input().tensor(name)?);
                Latents::from_artifact(model.distribution, size, read)
            }
        }
    }

    fn artifact(
        &self,
        context: &Context<'_>,
        decoder: &mut Fixed,
        latents: &mut Latents,
        images: &Images,
        history: &History,
    ) -> Result<Artifact, StageError> {
        let at_mean = evaluate(context, decoder, images, |_, samples| latents.means(samples))?;
        let mut artifact = Artifact::default();
        artifact.tensors.extend(latents.to_artifact()?);
        artifact.tensors.extend(history.to_artifact(false));
        artifact.tensors.extend(at_mean.pictures(images)?);
        artifact.metrics.insert("loss".to_owned(), at_mean.loss);
        artifact.metrics.insert("rmse".to_owned(), at_mean.rmse);
        artifact.metrics.insert("psnr".to_owned(), psnr(at_mean.rmse));
        artifact.facts.insert("split".to_owned(), self.split.name().into());
        if self.statistics == Statistics::Batch {
            artifact.facts.insert("statistics".to_owned(), "batch".into());
        }
        if let Some(distribution) = latents.distribution() {
            let sampled = evaluate(context, decoder, images, |batch, samples| {
                let mut noise = context.streams.stream("fit evaluation noise", 0, batch);
                latents.draw(&samples.collect::<Vec<_>>(), &mut noise, 1.0).to_vec()
            })?;
            artifact.metrics.insert("loss_sampled".to_owned(), sampled.loss);
            artifact.facts.insert("distribution".to_owned(), distribution.name().into());
        }
        Ok(artifact)
    }
}
