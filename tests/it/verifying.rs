//! `verify` runs stages again and compares the results with the stored ones.

use serde_json::Value;
use vadpipe::artifact::Tensor;
use vadpipe::key::{Key, Position};
use vadpipe::store::{NewState, Store};

use crate::support::{MINI, Project, json};

#[test]
fn verify_runs_again_and_finds_the_same_bytes() {
    let project = Project::new(MINI);
    project.run(&["ad"]);
    let output = project.vadpipe(["verify", "p.toml", "ad"]);
    assert_eq!((output.code, output.stdout.contains("same")), (0, true), "{}{}", output.stdout, output.stderr);
}

#[test]
fn verify_finds_a_command_with_random_output() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.now]\nkind = \"command\"\n\
         argv = [\"sh\", \"-c\", \"head -c 16 /dev/urandom > \\\"$0\\\"\", \"{outputs.x}\"]\noutputs = { x = \"x.bin\" }\n",
    );
    project.run(&[]);
    let output = project.vadpipe(["verify", "p.toml", "now"]);
    assert_eq!(output.code, 3, "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("file x.bin has different bytes"), "{}", output.stdout);
}

/// A command that makes two tensors. The last element of `b` is the number in the file `count`, which each run
/// increases.
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
fn verify_shows_the_difference_of_the_first_tensor() {
    let project = Project::new(DIFFERS);
    project.write("count", "10\n");
    project.run(&[]);
    project.write("count", "15\n");
    let output = project.vadpipe(["verify", "p.toml", "--json"]);
    assert_eq!(output.code, 3, "{}", output.stderr);
    let object: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let difference = &object["stages"][0]["difference"];
    assert_eq!(difference["part"], "tensor");
    assert_eq!(difference["name"], "b");
    assert_eq!((&difference["differing"], &difference["elements"]), (&1.into(), &3.into()));
    assert_eq!(difference["max_abs"], 5.0);
    project.write("count", "17\n");
    let output = project.vadpipe(["verify", "p.toml"]);
    assert!(output.stdout.contains("tensor b differs in 1 of 3 elements, by 7e0 at most"), "{}", output.stdout);
}

#[test]
fn verify_samples_stretches_of_a_training() {
    let project = Project::new(&MINI.replacen("latent_dim = 6", "keep = [2, 3, 5]\nlatent_dim = 6", 1));
    project.edit("epochs = 3", "epochs = 6");
    project.run(&["ad"]);
    let sampled = |more: &[&str]| {
        let output = project.vadpipe(["verify", "p.toml", "ad", "--json", "--sample"].iter().chain(more));
        json(&output)
    };
    let two = sampled(&["2", "--seed", "4"]);
    assert_eq!(two, sampled(&["2", "--seed", "4"]), "the same seed picks the same stretches");
    let ad = &two["stages"][0];
    assert_eq!((&ad["same"], &ad["sampled"]["states"]), (&true.into(), &serde_json::json!([2, 3, 5, 6])));
    let stretches = ad["sampled"]["stretches"].as_array().expect("stretches");
    assert_eq!(stretches.len(), 2);
    let ends = [[0, 2], [2, 3], [3, 5], [5, 6]].map(|[from, to]| (Value::from(from), Value::from(to)));
    assert!(stretches.iter().all(|s| ends.contains(&(s["from"].clone(), s["to"].clone()))), "{ad}");
    let output = project.vadpipe(["verify", "p.toml", "ad", "--sample", "9"]);
    assert_eq!((output.code, output.stdout.lines().count()), (0, 4), "{}", output.stderr);
    assert!(output.stdout.starts_with("same    ad from epoch 0 to 2 of 6\n"), "{}", output.stdout);
    assert!(
        output.stderr.contains("no more than 4 stretches") && output.stderr.contains("--seed "),
        "{}",
        output.stderr
    );
    // Without kept states the only stretch is the whole training.
    project.run(&["vad@distribution=uniform"]);
    let output = project.vadpipe(["verify", "p.toml", "vad@distribution=uniform", "--sample", "2"]);
    assert!(output.code == 0 && output.stderr.contains("the whole training ran again"), "{}", output.stderr);
}

#[test]
fn sample_finds_a_stored_state_that_differs() {
    let project = Project::new(&MINI.replacen("latent_dim = 6", "keep = [2]\nlatent_dim = 6", 1));
    project.run(&["ad"]);
    let key = json(&project.vadpipe(["show", "p.toml", "ad", "--json"]))["ad"]["key"].clone();
    let key: Key = serde_json::from_value(key).expect("a key");
    let store = Store::open(&project.path("cache"), Default::default()).expect("a cache");
    let states = store.result(&key).expect("an index").expect("a result").components.chain().keys().to_vec();
    let kept = store.chain_states(&states).expect("an index").into_iter().find(|s| s.epoch == 2).expect("state 2");
    let mut tensors = store.read_state(&kept).expect("a state");
    let name = "latents.z.value";
    let mut values: Vec<f32> = tensors[name].to_vec().expect("floats");
    values[3] += 0.5;
    let changed = Tensor::new(tensors[name].shape().to_vec(), &values).expect("a tensor");
    tensors.insert(name.to_owned(), changed);
    let position = Position { epoch: 2, step: 0 };
    store.put_state(&states, NewState::new(position, &kept.class, true, &tensors)).expect("it is stored");
    drop(store);
    let output = project.vadpipe(["verify", "p.toml", "ad", "--sample", "9", "--json"]);
    assert_eq!(output.code, 3, "{}{}", output.stdout, output.stderr);
    let found: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let stretches = &found["stages"][0]["sampled"]["stretches"];
    let difference = &stretches[0]["difference"];
    assert_eq!((&stretches[0]["from"], &stretches[0]["to"]), (&0.into(), &2.into()));
    assert_eq!((&difference["name"], &difference["differing"]), (&name.into(), &1.into()));
    assert!((difference["max_abs"].as_f64().expect("a number") - 0.5).abs() < 1e-6, "{difference}");
    assert!(
        !stretches[1]["difference"].is_null(),
        "a stretch that starts from the changed state ends in a different one: {found}"
    );
}
