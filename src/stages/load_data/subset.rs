//! Chooses the images of a split.

use crate::rng::Stream;

/// How the images of a split are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subset {
    /// Equally many of each class as far as possible, shuffled.
    Balanced,
    /// The first ones, in the order of the source.
    First,
    /// Random ones, shuffled.
    Random,
}

/// There are fewer images than asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} images were asked for, but there are {found}")]
pub(super) struct TooFew {
    /// The number asked for.
    pub(super) wanted: usize,
    /// The number of images.
    pub(super) found: usize,
}

/// Chooses `count` images. `labels[i]` is the class of image i in `0..classes`, or none if its class is left out.
/// Returns indices into `labels`. The stream is drawn from only if `subset` is not [`Subset::First`].
///
/// # Errors
/// [`TooFew`].
pub(super) fn select(
    labels: &[Option<u8>],
    classes: usize,
    count: usize,
    subset: Subset,
    stream: &mut Stream,
) -> Result<Vec<usize>, TooFew> {
    let mut kept: Vec<usize> = (0..labels.len()).filter(|i| labels[*i].is_some()).collect();
    if kept.len() < count {
        return Err(TooFew { wanted: count, found: kept.len() });
    }
    match subset {
        Subset::First => kept.truncate(count),
        Subset::Random => {
            stream.shuffle(&mut kept);
            kept.truncate(count);
        }
        Subset::Balanced => {
            // One pass over the shuffled list fills the quota of each class and keeps the order shuffled.
            stream.shuffle(&mut kept);
            let mut available = vec![0; classes];
            for label in labels.iter().flatten() {
                available[usize::from(*label)] += 1;
            }
            let mut quotas = quotas(&available, count, stream);
            kept.retain(|i| {
                let quota = labels[*i].and_then(|l| quotas.get_mut(usize::from(l)));
                quota.is_some_and(|q| {
                    let take = *q > 0;
                    *q -= usize::from(take);
                    take
                })
            });
        }
    }
    Ok(kept)
}

/// Divides `count` among the classes, so that no two differ by more than one unless a class runs out. The remainder
/// goes to random classes, so that a small subset does not favour the first ones.
fn quotas(available: &[usize], count: usize, stream: &mut Stream) -> Vec<usize> {
    let mut quotas = vec![0; available.len()];
    let mut order: Vec<usize> = (0..available.len()).collect();
    stream.shuffle(&mut order);
    let mut left = count;
    loop {
        order.retain(|c| quotas[*c] < available[*c]);
        if left == 0 || order.is_empty() {
            return quotas;
        }
        let share = left / order.len();
        for class in &order {
            // In the last round the share is 0, and the first classes in the random order get one each.
            let give = share.max(1).min(left).min(available[*class] - quotas[*class]);
            quotas[*class] += give;
            left -= give;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Streams;

    fn stream(seed: i64) -> Stream {
        Streams::new(seed).stream("subset", 0, 0)
    }

    fn pool(n: usize, classes: u8) -> Vec<Option<u8>> {
        (0..n).map(|i| Some((i % usize::from(classes)) as u8)).collect()
    }

    #[test]
    fn first_takes_the_first_of_the_chosen_classes() {
        let labels = [Some(0), None, Some(1), Some(0), None, Some(1)];
        assert_eq!(select(&labels, 2, 3, Subset::First, &mut stream(0)).unwrap(), [0, 2, 3]);
    }

    #[test]
    fn random_and_balanced_follow_the_seed() {
        let labels = pool(500, 10);
        for subset in [Subset::Random, Subset::Balanced] {
            let draw = |seed| select(&labels, 10, 50, subset, &mut stream(seed)).unwrap();
            assert_eq!(draw(1), draw(1));
            assert_ne!(draw(1), draw(2));
            assert!(!draw(1).is_sorted(), "{subset:?} leaves a shuffled order");
        }
    }

    #[test]
    fn too_few_images_are_counted() {
        let error = select(&pool(7, 2), 2, 8, Subset::Balanced, &mut stream(0)).unwrap_err();
        insta::assert_snapshot!(error, @"8 images were asked for, but there are 7");
    }

    #[test]
    fn remainder_goes_to_random_classes() {
        let labels = pool(100, 10);
        let firsts = (0..20).filter(|seed| {
            let chosen = select(&labels, 10, 1, Subset::Balanced, &mut stream(*seed)).unwrap();
            labels[chosen[0]] == Some(0)
        });
        assert!(firsts.count() < 10);
    }

    proptest! {
        #[test]
        fn balanced_is_as_equal_as_the_source_allows(sizes in proptest::collection::vec(0usize..30, 1..6), part in 0.0..1.0f64, seed in 0i64..1000) {
            let labels: Vec<Option<u8>> =
                sizes.iter().enumerate().flat_map(|(c, n)| std::iter::repeat_n(Some(c as u8), *n)).collect();
            let count = (labels.len() as f64 * part) as usize;
            let chosen = select(&labels, sizes.len(), count, Subset::Balanced, &mut stream(seed)).unwrap();
            prop_assert_eq!(chosen.len(), count);
            let mut unique = chosen.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), count);
            let per: Vec<usize> = (0..sizes.len()).map(|c| chosen.iter().filter(|i| labels[**i] == Some(c as u8)).count()).collect();
            let most = per.iter().copied().max().unwrap_or(0);
            for (have, size) in per.iter().zip(&sizes) {
                prop_assert!(have + 1 >= most || have == size, "{:?} of {:?}", per, sizes);
            }
        }
    }
}
