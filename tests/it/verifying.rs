//! `verify`: what is stored is what comes out, and where it is not.

use serde_json::Value;
use vadpipe::artifact::Tensor;
use vadpipe::key::Key;
use vadpipe::store::{StatePosition, Store};

use crate::support::{Desk, MINI, json};

#[test]
fn verify_runs_again_and_finds_the_same_bytes() {
    let desk = Desk::new(MINI);
    desk.run(&["ad"]);
    let said = desk.vadpipe(["verify", "p.toml", "ad"]);
    assert_eq!((said.code, said.out.contains("same")), (0, true), "{}{}", said.out, said.err);
}

#[test]
fn verify_finds_a_command_that_answers_otherwise_each_time() {
    let desk = Desk::new(
        "[pipeline]\nname = \"p\"\n[stages.now]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"head -c 16 /dev/urandom > \\\"$0\\\"\", \"{outputs.x}\"]\noutputs = { x = \"x.bin\" }\n",
    );
    desk.run(&[]);
    let said = desk.vadpipe(["verify", "p.toml", "now"]);
    assert_eq!(said.code, 3, "{}{}", said.out, said.err);
    assert!(said.out.contains("file x.bin has other bytes"), "{}", said.out);
}

/// A command that makes a tensor of two floats, another one each time: 1.0, and the file's number.
const DIFFERS: &str = r#"
[pipeline]
name = "differs"

[stages.now]
kind = "command"
shell = true
argv = ["""
n=$(cat {base}/count); echo $((n + 1)) > {base}/count
head='{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}}'
printf "\\\\$(printf %o $${#head})\\0\\0\\0\\0\\0\\0\\0%s\\1\\2\\3\\4\\\\$(printf %o $n)" "$head" > {outputs.out}
"""]
outputs = { out = "out.safetensors" }
"#;

#[test]
fn verify_says_how_much_the_first_tensor_differs() {
    let desk = Desk::new(DIFFERS);
    desk.write("count", "10\n");
    desk.run(&[]);
    desk.write("count", "15\n");
    let said = desk.vadpipe(["verify", "p.toml", "--json"]);
    assert_eq!(said.code, 3, "{}", said.err);
    let object: Value = serde_json::from_str(&said.out).expect("JSON");
    let difference = &object["stages"][0]["difference"];
    assert_eq!(difference["part"], "tensor");
    assert_eq!(difference["name"], "b");
    assert_eq!((&difference["differing"], &difference["elements"]), (&1.into(), &3.into()));
    assert_eq!(difference["max_abs"], 5.0);
    desk.write("count", "17\n");
    let said = desk.vadpipe(["verify", "p.toml"]);
    assert!(said.out.contains("tensor b differs in 1 of 3 elements, by 7e0 at most"), "{}", said.out);
}

#[test]
fn verify_samples_stretches_of_a_training() {
    let desk = Desk::new(&MINI.replacen("latent_dim = 6", "keep = [2, 3, 5]\nlatent_dim = 6", 1));
    desk.edit("epochs = 3", "epochs = 6");
    desk.run(&["ad"]);
    let sampled = |more: &[&str]| {
        let said = desk.vadpipe(["verify", "p.toml", "ad", "--json", "--sample"].iter().chain(more));
        json(&said)
    };
    let two = sampled(&["2", "--seed", "4"]);
    assert_eq!(two, sampled(&["2", "--seed", "4"]), "the same seed picks the same stretches");
    let ad = &two["stages"][0];
    assert_eq!((&ad["same"], &ad["sampled"]["states"]), (&true.into(), &serde_json::json!([2, 3, 5, 6])));
    let stretches = ad["sampled"]["stretches"].as_array().expect("stretches");
    assert_eq!(stretches.len(), 2);
    let ends = [[0, 2], [2, 3], [3, 5], [5, 6]].map(|[from, to]| (Value::from(from), Value::from(to)));
    assert!(stretches.iter().all(|s| ends.contains(&(s["from"].clone(), s["to"].clone()))), "{ad}");
    let said = desk.vadpipe(["verify", "p.toml", "ad", "--sample", "9"]);
    assert_eq!((said.code, said.out.lines().count()), (0, 4), "{}", said.err);
    assert!(said.out.starts_with("same    ad from epoch 0 to 2 of 6\n"), "{}", said.out);
    assert!(said.err.contains("no more than 4 stretches") && said.err.contains("--seed "), "{}", said.err);
    // Without kept states there is one stretch: the whole.
    desk.run(&["vad@distribution=uniform"]);
    let said = desk.vadpipe(["verify", "p.toml", "vad@distribution=uniform", "--sample", "2"]);
    assert!(said.code == 0 && said.err.contains("the whole training was run again"), "{}", said.err);
}

#[test]
fn a_sample_finds_the_state_that_a_stretch_does_not_end_in() {
    let desk = Desk::new(&MINI.replacen("latent_dim = 6", "keep = [2]\nlatent_dim = 6", 1));
    desk.run(&["ad"]);
    let key = json(&desk.vadpipe(["show", "p.toml", "ad", "--json"]))["ad"]["key"].clone();
    let key: Key = serde_json::from_value(key).expect("a key");
    let store = Store::open(&desk.path("cache"), Default::default()).expect("a cache");
    let states = store.result(&key).expect("an index").expect("a result").components.states();
    let kept = store.chain_states(&states).expect("an index").into_iter().find(|s| s.epoch == 2).expect("state 2");
    let mut tensors = store.read_state(&kept).expect("a state");
    let name = "latents.z.value";
    let mut values: Vec<f32> = tensors[name].to_vec().expect("floats");
    values[3] += 0.5;
    let changed = Tensor::new(tensors[name].shape().to_vec(), &values).expect("a tensor");
    tensors.insert(name.to_owned(), changed);
    let position = StatePosition { epoch: 2, step: 0 };
    store.put_state(&states, position, &kept.class, true, &tensors).expect("it is stored");
    drop(store);
    let said = desk.vadpipe(["verify", "p.toml", "ad", "--sample", "9", "--json"]);
    assert_eq!(said.code, 3, "{}{}", said.out, said.err);
    let found: Value = serde_json::from_str(&said.out).expect("JSON");
    let stretches = &found["stages"][0]["sampled"]["stretches"];
    let difference = &stretches[0]["difference"];
    assert_eq!((&stretches[0]["from"], &stretches[0]["to"]), (&0.into(), &2.into()));
    assert_eq!((&difference["name"], &difference["differing"]), (&name.into(), &1.into()));
    assert!((difference["max_abs"].as_f64().expect("a number") - 0.5).abs() < 1e-6, "{difference}");
    assert!(!stretches[1]["difference"].is_null(), "what began in the wrong state ends in another: {found}");
}
