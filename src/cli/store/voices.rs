//! What machines say about a result, in words and as JSON.

use serde_json::{Value, json};

use crate::shared::{Voice, Voices};
use crate::store::Part;

/// "net: made by a; b agrees; c differs in tensor `w`".
pub(in crate::cli) fn dissent(voices: &Voices) -> String {
    let Some((first, others)) = voices.voices.split_first() else { return voices.record.point.clone() };
    let mut parts = vec![format!("{}: made by {}", voices.record.point, who(first))];
    let agreeing: Vec<String> = others.iter().filter(|voice| voice.differs.is_none()).map(who).collect();
    match &*agreeing {
        [] => {}
        [one] => parts.push(format!("{one} agrees")),
        all => parts.push(format!("{} agree", all.join(", "))),
    }
    for voice in others {
        if let Some((part, name)) = &voice.differs {
            parts.push(format!("{} differs in {} `{name}`", who(voice), word(*part)));
        }
    }
    parts.join("; ")
}

/// The same as JSON.
pub(in crate::cli) fn object(voices: &Voices) -> Value {
    let voice = |voice: &Voice| {
        let differs = voice.differs.as_ref().map(|(part, name)| json!({ "part": word(*part), "name": name }));
        json!({
            "host": voice.host, "signer": voice.signer.map(|key| key.to_string()), "name": voice.name,
            "digest": voice.digest, "differs": differs,
        })
    };
    let record = &voices.record;
    json!({
        "point": record.point, "pipeline": record.pipeline, "key": record.key,
        "voices": voices.voices.iter().map(voice).collect::<Vec<_>>(),
    })
}

/// "alice (host)", "host (signed by 1a2b…)", "host (unsigned)".
fn who(voice: &Voice) -> String {
    match (&voice.name, voice.signer) {
        (Some(name), _) => format!("{name} ({})", voice.host),
        (None, Some(key)) => format!("{} (signed by {})", voice.host, key.short()),
        (None, None) => format!("{} (unsigned)", voice.host),
    }
}

fn word(part: Part) -> &'static str {
    match part {
        Part::Tensor => "tensor",
        Part::File => "file",
        Part::Metric => "metric",
        Part::Fact => "fact",
    }
}
