//! Replies of a peer: each is a line with a JSON object, which contains `error` if the request failed.

use serde_json::{Map, Value};

/// Parses a reply. An error is a line for the user.
pub(crate) fn parse(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(reply)) => match reply.get("error") {
            Some(why) => Err(why.as_str().map_or_else(|| why.to_string(), str::to_owned)),
            None => Ok(reply),
        },
        _ => Err(format!("unexpected reply of the peer: {:?}", line.trim_end())),
    }
}
