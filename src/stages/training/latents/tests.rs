use super::*;

fn every_family() -> impl Iterator<Item = Option<Distribution>> {
    Distribution::ALL.into_iter().map(Some).chain([None])
}

fn some(distribution: Option<Distribution>) -> Latents {
    Latents::start(distribution, (5, 3), 0.7, &Streams::new(4), "test")
}

fn noise() -> Stream {
    Streams::new(4).stream("noise", 2, 1)
}

/// The loss ½‖z‖² + weight × KL of a draw for some rows.
fn loss(latents: &mut Latents, rows: &[usize], weight: f64) -> f64 {
    let z: f64 = latents.draw(rows, &mut noise(), 1.0).iter().map(|z| 0.5 * f64::from(*z).powi(2)).sum();
    z + weight * latents.kl(rows)
}

fn state(latents: &Latents) -> BTreeMap<String, Tensor> {
    latents.state(&mut BTreeMap::new()).unwrap()
}

#[test]
fn gradient_of_loss_and_kl_reaches_each_parameter() {
    let (rows, weight) = ([3, 1], 2.5);
    for distribution in every_family() {
        let mut latents = some(distribution);
        // Not near the kink of |u|.
        let values = latents.parameters.iter_mut().flat_map(|p| &mut p.values);
        values.filter(|v| v.abs() < 0.05).for_each(|v| *v += 0.1);
        let z = latents.draw(&rows, &mut noise(), 1.0).to_vec();
        // β₁ = 0.9, so after the first step m is a tenth of the gradient.
        latents.update(&rows, &z, weight, 0.0);
        for i in 0..latents.parameters.len() {
            for at in 0..15 {
                let found = 10.0 * f64::from(latents.parameters[i].m[at]);
                let at_offset = |latents: &mut Latents, offset: f32| {
                    let value = latents.parameters[i].values[at];
                    latents.parameters[i].values[at] = value + offset;
                    let loss = loss(latents, &rows, weight);
                    latents.parameters[i].values[at] = value;
                    loss
                };
                let step = 1f32 / 512.0;
                let wanted = (at_offset(&mut latents, step) - at_offset(&mut latents, -step)) / (2.0 / 512.0);
                assert!((found - wanted).abs() < 2e-3, "{distribution:?} {i} {at}: {found}, not {wanted}");
            }
        }
    }
}

#[test]
fn rows_outside_the_batch_move_only_by_their_momentum() {
    let mut latents = some(None);
    let start = latents.means(0..5);
    let gradient = [1.0; 3];
    latents.draw(&[0], &mut noise(), 1.0);
    latents.update(&[0], &gradient, 0.0, 0.1);
    latents.catch_up();
    let first = latents.means(0..5);
    assert!(first[..3].iter().zip(&start).all(|(a, b)| a < b));
    assert_eq!(first[3..], start[3..]);
    latents.draw(&[1], &mut noise(), 1.0);
    latents.update(&[1], &gradient, 0.0, 0.1);
    latents.catch_up();
    assert!(latents.means(0..1).iter().zip(&first).all(|(a, b)| a < b), "momentum");
}

#[test]
fn rows_that_catch_up_late_equal_those_of_dense_steps() {
    for distribution in every_family() {
        let (mut late, mut dense) = (some(distribution), some(distribution));
        dense.begin_epoch(6, 2);
        for rows in [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4], [0, 2]] {
            let gradient = late.draw(&rows, &mut noise(), 1.0).to_vec();
            assert_eq!(dense.draw(&rows, &mut noise(), 1.0), gradient);
            late.update(&rows, &gradient, 1.0, 0.1);
            dense.update(&rows, &gradient, 1.0, 0.1);
            dense.catch_up();
        }
        late.catch_up();
        assert_eq!(state(&late), state(&dense), "{distribution:?}");
    }
}

#[test]
fn state_is_restored() {
    for distribution in every_family() {
        let mut latents = some(distribution);
        latents.draw(&[0, 4], &mut noise(), 1.0);
        latents.update(&[0, 4], &[0.3; 6], 1.0, 0.1);
        latents.catch_up();
        let saved = state(&latents);
        let mut other = Latents::start(distribution, (5, 3), 0.0, &Streams::new(9), "test");
        other.restore(&saved).unwrap();
        assert_eq!(state(&other), saved);
        latents.draw(&[2], &mut noise(), 1.0);
        latents.update(&[2], &[0.1; 3], 1.0, 0.1);
        other.draw(&[2], &mut noise(), 1.0);
        other.update(&[2], &[0.1; 3], 1.0, 0.1);
        latents.catch_up();
        other.catch_up();
        assert_eq!(state(&other), state(&latents));
        let missing = other.restore(&BTreeMap::new()).unwrap_err().to_string();
        assert!(missing.starts_with("the saved state has no `latents."), "{missing}");
    }
}

#[test]
fn latents_are_read_back_from_an_artifact() {
    for distribution in every_family() {
        let latents = some(distribution);
        let shown = latents.to_artifact().unwrap();
        let read = |name: &str| find(&shown, name).cloned();
        let back = Latents::from_artifact(distribution, (5, 3), read).unwrap();
        assert_eq!(back.to_artifact().unwrap(), shown);
        assert_eq!(shown["latents"].to_vec::<f32>().unwrap(), latents.means(0..5));
        assert!(Latents::from_artifact(distribution, (4, 3), read).is_err(), "wrong shape");
    }
}
