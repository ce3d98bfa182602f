//! Events of workers, read by whoever watches the run.

use super::*;

fn pieces(machine: &Machine, read: &mut EventsRead) -> Vec<(String, String)> {
    let text = |(worker, bytes): (String, bytes::Bytes)| (worker, String::from_utf8(bytes.to_vec()).unwrap());
    machine.shared.new_events("r1", read).unwrap().into_iter().map(text).collect()
}

#[test]
fn each_piece_is_read_once_and_those_of_a_worker_in_their_order() {
    let store = faultless();
    let (worker, watcher) = (Machine::new(&store), Machine::new(&store));
    let mut read = EventsRead::default();
    assert_eq!(pieces(&watcher, &mut read), []);
    let put = |name: &str, number: u64| {
        worker.shared.put_events("r1", name, number, format!("{name} {number}").into_bytes()).unwrap();
    };
    (0..20).for_each(|number| put("a", number));
    put("b", 0);
    // One that comes before its predecessor waits for it.
    put("b", 2);
    worker.shared.put_events("r2", "c", 0, b"of another run".to_vec()).unwrap();
    let found = pieces(&watcher, &mut read);
    let of = |name: &str, found: &[(String, String)]| -> Vec<String> {
        found.iter().filter(|(worker, _)| worker == name).map(|(_, text)| text.clone()).collect()
    };
    assert_eq!(of("a", &found), (0..20).map(|number| format!("a {number}")).collect::<Vec<_>>());
    assert_eq!((of("b", &found), found.len()), (vec!["b 0".to_owned()], 21));
    assert_eq!(pieces(&watcher, &mut read), []);
    put("b", 1);
    assert_eq!(of("b", &pieces(&watcher, &mut read)), ["b 1", "b 2"]);
}
