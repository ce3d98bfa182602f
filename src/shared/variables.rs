//! The settings of object stores in the environment.

use std::collections::BTreeMap;

/// The variables of the environment that hold credentials and settings of object stores. Their values never appear in
/// messages.
pub type Variables = BTreeMap<String, String>;

/// A text of a library or a server, in which values of the environment that may be secret are replaced.
pub(super) fn hidden(text: &str, variables: &Variables) -> String {
    let is_secret = |name: &str| {
        ["KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL", "SAS"]
            .iter()
            .any(|s| name.to_ascii_uppercase().contains(s))
    };
    let secrets = variables.iter().filter(|(name, value)| is_secret(name) && value.len() >= 4);
    secrets.fold(text.to_owned(), |text, (_, value)| text.replace(value.as_str(), "…"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secret_variables_are_hidden() {
        let variables = [("AWS_SECRET_ACCESS_KEY", "hunter22"), ("AWS_REGION", "eu-west-1")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(hidden("eu-west-1 refused hunter22", &variables), "eu-west-1 refused …");
    }
}
