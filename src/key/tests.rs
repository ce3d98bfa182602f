use proptest::prelude::*;

use super::*;

fn table<const N: usize>(entries: [(&str, Value); N]) -> Values {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn epochs(count: u64, lr: f64) -> Segment {
    Segment { epochs: count, params: table([("batch", Value::Int(16)), ("lr", Value::Float(lr))]) }
}

fn training(segments: Vec<Segment>) -> Components {
    Components {
        kind: "train-ad".to_owned(),
        version: 1,
        params: table([("latent_dim", Value::Int(6))]).into(),
        seed: Some(7),
        precision: Some("f32".to_owned()),
        inputs: BTreeMap::from([("data".to_owned(), InputDigest::One(digest("data")))]),
        segments: Some(segments),
        ..Components::default()
    }
}

/// Keys are stored on disk. A change that alters a key must raise [`FORMAT`] and replace the digests here. They were
/// computed by a second implementation of the table in `key.rs`.
#[test]
fn keys_equal_pinned_digests() {
    let more = Value::Table(table([("a", Value::Int(1))]));
    let flags = Value::List(vec![Value::Bool(true), Value::Int(-4)]);
    let shown = BTreeMap::from([("ad".to_owned(), digest("ad")), ("vad@x".to_owned(), digest("vad"))]);
    let stage = Components {
        kind: "report".to_owned(),
        version: 3,
        params: table([("title", "all".into()), ("flags", flags), ("scale", Value::Float(0.5)), ("more", more)]).into(),
        seed: None,
        precision: None,
        inputs: BTreeMap::from([
            ("shown".to_owned(), InputDigest::Many(shown)),
            ("data".to_owned(), InputDigest::One(digest("data"))),
        ]),
        contents: BTreeMap::from([("script.py".to_owned(), digest("print()"))]),
        ..Components::default()
    };
    assert_eq!(stage.key().to_string(), "02efd967754be4a4816992196ad94d41e1da40cb6b48f93f6cce01bb5ae9d8a3");
    assert_eq!(stage.chain().keys(), []);

    let training = training(vec![epochs(2, 1e-3), epochs(1, 1e-4)]);
    let states: Vec<String> = training.chain().keys().iter().map(Digest::to_string).collect();
    assert_eq!(
        states,
        [
            "55aadcdff3a42f80bdce0453981b4181708724d554b91b6e4a358b17b73dc8e9",
            "7e1132b3dd32033a83fe762459e09c0611a12e33855139d78c7eae90ea592ab5",
            "0849eeab280d850a83306861a4cbda9b9859ec64f1653ce007ea30619436e2b5",
            "7ef1c46877934660c7ac988728fca6960304835e513334b91789178a81970fde",
        ]
    );
    assert_eq!(training.key().to_string(), states[3]);
}

#[test]
fn every_component_changes_the_key() {
    let base = training(vec![epochs(2, 1e-3)]);
    let changes: [fn(&mut Components); 12] = [
        |c| c.kind = "train-vad".to_owned(),
        |c| c.version = 2,
        |c| c.params = Arc::default(),
        |c| c.seed = Some(8),
        |c| c.seed = None,
        |c| c.precision = Some("f64".to_owned()),
        |c| c.precision = None,
        |c| c.inputs = BTreeMap::from([("model".to_owned(), InputDigest::One(digest("data")))]),
        |c| {
            let many = BTreeMap::from([("data".to_owned(), digest("data"))]);
            c.inputs = BTreeMap::from([("data".to_owned(), InputDigest::Many(many))]);
        },
        |c| c.contents = BTreeMap::from([("data".to_owned(), digest("data"))]),
        |c| c.segments = Some(vec![epochs(2, 1e-4)]),
        |c| c.segments = None,
    ];
    let mut keys = std::collections::BTreeSet::from([base.key()]);
    for (at, change) in changes.iter().enumerate() {
        let mut changed = base.clone();
        change(&mut changed);
        assert!(keys.insert(changed.key()), "change {at} gives the original key or the key of another change");
    }
}

/// Few distinct values, so that equal values occur.
fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        (0i64..2).prop_map(Value::Int),
        prop::sample::select(vec![0.0, -0.0, 1.0]).prop_map(Value::Float),
        "[ab]{0,2}".prop_map(Value::Text),
    ];
    scalar.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            prop::collection::btree_map("[ab]{0,1}", inner, 0..3).prop_map(Value::Table),
        ]
    })
}

proptest! {
    #[test]
    fn equal_values_have_equal_hashes(a in value(), b in value(), c in value(), d in value()) {
        let of = |values: &[&Value]| {
            let mut hash = Hash::new("test");
            values.iter().for_each(|v| { hash.value(v); });
            hash.finish()
        };
        prop_assert_eq!(of(&[&a]), of(&[&a.clone()]));
        prop_assert_eq!(a == b, of(&[&a]) == of(&[&b]));
        prop_assert_eq!(a == c && b == d, of(&[&a, &b]) == of(&[&c, &d]));
        prop_assert_ne!(of(&[&a, &b]), of(&[&Value::List(vec![a.clone(), b.clone()])]));
    }

    #[test]
    fn different_splits_of_text_hash_differently(text in "[a-zé]{1,12}", cuts in (0usize..12, 0usize..12)) {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let [i, j] = [cuts.0, cuts.1].map(|cut| places[cut % places.len()]);
        let split = |at: usize| Hash::new("test").text(&text[..at]).text(&text[at..]).finish();
        prop_assert_eq!(i == j, split(i) == split(j));
        prop_assert_ne!(split(i), Hash::new("test").text(&text).finish());
        prop_assert_ne!(Hash::new("test").text(&text).finish(), Hash::new(&text).text("test").finish());
    }

    #[test]
    fn splitting_segments_does_not_change_states(
        segments in prop::collection::vec((0u64..6, 0usize..2, 0u64..6), 0..4)
    ) {
        let whole = segments.iter().map(|(count, lr, _)| epochs(*count, [1e-3, 1e-4][*lr])).collect();
        let parts = segments.iter().flat_map(|(count, lr, cut)| {
            let first = *cut.min(count);
            [first, count - first].map(|part| epochs(part, [1e-3, 1e-4][*lr]))
        });
        let (whole, parts) = (training(whole), training(parts.collect()));
        prop_assert_eq!(whole.chain().keys().to_vec(), parts.chain().keys().to_vec());
        prop_assert_eq!(whole.key(), parts.key());
        // One more epoch only adds a key.
        let mut longer = whole.clone();
        longer.segments.iter_mut().flatten().next_back().into_iter().for_each(|s| s.epochs += 1);
        let (longer, whole) = (longer.chain(), whole.chain());
        prop_assert_eq!(longer.shared_prefix(&whole), whole.keys().len());
        if let Some(last) = whole.keys().last() {
            prop_assert_eq!(whole.at(whole.total()), Some(*last));
            prop_assert_eq!(longer.at(whole.total()), Some(*last));
        }
        prop_assert_eq!(longer.at(longer.total() + 1), None);
    }
}

#[test]
fn equal_floats_have_equal_digests_whatever_their_bits() {
    let digest = |v: f64| Hash::new("float").float(v).finish();
    assert_eq!(digest(f64::from_bits(f64::NAN.to_bits() | 1)), digest(f64::NAN));
    assert_eq!(digest(-f64::NAN), digest(f64::NAN));
    assert_eq!(digest(-0.0), digest(0.0));
    assert_ne!(digest(f64::NEG_INFINITY), digest(f64::INFINITY));
}
