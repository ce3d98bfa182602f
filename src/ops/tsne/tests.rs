//! Whole maps.

use super::*;

/// `blobs` distant balls of `each` points in `d` dimensions. Consecutive points are in different balls.
pub(super) fn blobs(blobs: usize, each: usize, d: usize) -> Vec<f32> {
    let mut points = vec![0.0; blobs * each * d];
    Streams::new(11).stream("points", 0, 0).normals(&mut points);
    for (i, point) in points.chunks_exact_mut(d).enumerate() {
        point[i % blobs % d] += 40.0;
    }
    points
}

pub(super) fn go_on(_: usize, _: Option<f64>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(super) fn settings(iterations: usize) -> Settings {
    Settings { perplexity: 15.0, iterations, exaggeration: 12.0 }
}

/// The share of the 10 nearest neighbours in the map that belong to the same blob.
fn purity(map: &Embedding, blobs: usize) -> f64 {
    let flat: Vec<f32> = map.coordinates.iter().flatten().copied().collect();
    let n = map.coordinates.len();
    let near = neighbours(&flat, n, 2, 10, &mut || ControlFlow::Continue(())).unwrap();
    let right = (0..n).map(|i| near.of(i).iter().filter(|j| **j as usize % blobs == i % blobs).count()).sum::<usize>();
    right as f64 / (n * near.k) as f64
}

#[test]
fn distant_blobs_stay_apart() {
    let points = blobs(3, 100, 8);
    let map = embed(&points, 300, 8, &settings(500), Streams::new(1), &mut go_on).unwrap();
    assert_eq!(purity(&map, 3), 1.0);
    assert!(map.kl > 0.0 && map.kl < 1.0, "{}", map.kl);
    let sum = map.coordinates.iter().fold([0.0f32; 2], |s, p| [s[0] + p[0], s[1] + p[1]]);
    assert!(sum.iter().all(|s| s.abs() < 0.1), "centred: {sum:?}");
}

#[test]
fn mesh_and_all_pairs_find_equally_good_maps() {
    let points = blobs(6, 100, 12);
    let p = |grid: bool| {
        let neighbours = neighbours(&points, 600, 12, 45, &mut || ControlFlow::Continue(())).unwrap();
        let p = affinities::affinities(&neighbours, 600, 45, 15.0);
        let mut descent = Descent::new(start::start(&points, 600, 12, &mut Streams::new(1).stream("", 0, 0)));
        descent.grid = grid.then(grid::Grid::default);
        for step in 0..500 {
            let exaggeration = if step < 200 { 12.0 } else { 1.0 };
            let z = descent.forces(&p);
            descent.step(exaggeration, z, 600.0 / exaggeration);
        }
        let z = forces::repulsion(&descent.points, &mut descent.push);
        forces::divergence(&p, &descent.points, z)
    };
    let (exact, mesh) = (p(false), p(true));
    assert!((mesh / exact - 1.0).abs() < 0.03, "{mesh} against {exact}");
}

#[test]
fn number_of_threads_does_not_change_the_bits() {
    for (blob, n) in [(150, 450), (2340, 7020)] {
        let points = blobs(3, blob, 6);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| embed(&points, n, 6, &settings(30), Streams::new(1), &mut go_on).unwrap())
        };
        let one = with(1);
        assert_eq!(one, with(2));
        assert_eq!(one, with(3));
        let other = embed(&points, n, 6, &settings(30), Streams::new(2), &mut go_on).unwrap();
        assert_ne!(one.coordinates, other.coordinates, "another seed gives another map");
    }
}

#[test]
fn few_or_equal_points_give_finite_maps() {
    for n in 0..8 {
        for d in [1, 3] {
            let distinct: Vec<f32> = (0..n * d).map(|i| (i * i) as f32).collect();
            for points in [distinct, vec![2.0; n * d]] {
                let map = embed(&points, n, d, &settings(300), Streams::new(1), &mut go_on).unwrap();
                assert_eq!(map.coordinates.len(), n);
                assert!(map.coordinates.iter().flatten().all(|v| v.is_finite()), "{n} points: {:?}", map.coordinates);
                assert!(map.kl.is_finite());
            }
        }
    }
    // Two groups of equal points.
    let points: Vec<f32> = (0..200).map(|i| (i % 2) as f32).collect();
    let map = embed(&points, 200, 1, &settings(300), Streams::new(1), &mut go_on).unwrap();
    assert!(map.coordinates.iter().flatten().all(|v| v.is_finite()));
    assert_eq!(purity(&map, 2), 1.0);
}

#[test]
fn progress_is_reported_and_can_stop_the_descent() {
    let points = blobs(3, 20, 4);
    let mut reports = vec![];
    embed(&points, 60, 4, &settings(120), Streams::new(1), &mut |step, kl| {
        reports.extend(kl.map(|kl| (step, kl)));
        ControlFlow::Continue(())
    });
    assert_eq!(reports.iter().map(|r| r.0).collect::<Vec<_>>(), [50, 100, 120]);
    assert!(reports[2].1 < reports[0].1, "{reports:?}");
    let mut steps = 0;
    let map = embed(&points, 60, 4, &settings(120), Streams::new(1), &mut |step, _| {
        steps = step;
        if step < 7 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(map.is_none() && steps == 7);
}

#[test]
fn perplexity_is_lowered_for_few_points() {
    let s = Settings { perplexity: 30.0, iterations: 0, exaggeration: 12.0 };
    assert_eq!([2, 10, 91, 1000].map(|n| s.perplexity_for(n)), [1.0, 3.0, 30.0, 30.0]);
}
