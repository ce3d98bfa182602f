//! The clients of object stores. Their settings and credentials come from the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::variables::Variables;

/// A busy server gets some time. One that fails for longer is given up, so that a run goes on without it.
fn retries() -> RetryConfig {
    RetryConfig { max_retries: 7, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() }
}

/// The longest request. It must suffice for 64 MiB of parts in flight over a slow line.
const LONGEST_REQUEST: Duration = Duration::from_secs(120);

fn client() -> ClientOptions {
    // reqwest is built without a provider of its own. A second installation fails, which changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let user_agent = concat!("vadpipe/", env!("CARGO_PKG_VERSION"));
    let options = ClientOptions::new().with_connect_timeout(Duration::from_secs(10)).with_timeout(LONGEST_REQUEST);
    match user_agent.parse() {
        Ok(user_agent) => options.with_user_agent(user_agent),
        Err(_) => options,
    }
}

/// A server without encryption is used only on this machine, or if the environment allows it.
fn is_local(variables: &Variables, names: &[&str]) -> bool {
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    names.iter().filter_map(|name| variables.get(*name)).any(|url| local.iter().any(|local| url.starts_with(local)))
}

/// Opens a bucket of S3.
#[cfg(feature = "s3")]
pub(super) fn s3(url: &str, variables: &Variables) -> Result<Arc<dyn ObjectStore>, String> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    let set = |builder: AmazonS3Builder, (name, value): (&String, &String)| match name
        .to_ascii_lowercase()
        .parse::<AmazonS3ConfigKey>()
    {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    };
    let aws = variables.iter().filter(|(name, _)| name.starts_with("AWS_"));
    let mut builder = AmazonS3Builder::new().with_client_options(client()).with_retry(retries()).with_url(url);
    builder = aws.fold(builder, set);
    let endpoints = ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"];
    if is_local(variables, &endpoints) {
        builder = builder.with_allow_http(true);
    } else if let Some(name) =
        endpoints.iter().find(|name| variables.get(**name).is_some_and(|url| url.starts_with("http://")))
        && !variables.contains_key("AWS_ALLOW_HTTP")
    {
        return Err(format!("{name} is a server without encryption: use https://, or set AWS_ALLOW_HTTP=true"));
    }
    let has = |names: &[&str]| names.iter().any(|name| variables.get(*name).is_some_and(|value| !value.is_empty()));
    let sources = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_METADATA_ENDPOINT",
        "AWS_SKIP_SIGNATURE",
    ];
    if has(&["AWS_ACCESS_KEY_ID"]) != has(&["AWS_SECRET_ACCESS_KEY"]) {
        return Err("of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, only one is set".to_owned());
    }
    // Otherwise the client asks the metadata service of a cloud machine, which takes minutes where there is none.
    if !has(&sources) && !std::path::Path::new("/sys/hypervisor/uuid").exists() && !is_machine_of("Amazon EC2") {
        return Err("there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                    (`aws configure export-credentials --format env` prints those of a profile), or \
                    AWS_SKIP_SIGNATURE=true for a public bucket"
            .to_owned());
    }
    builder.build().map(|store| Arc::new(store) as _).map_err(|e| e.to_string())
}

/// Whether this is a machine of a cloud, which gets its credentials there.
fn is_machine_of(vendor: &str) -> bool {
    std::fs::read_to_string("/sys/class/dmi/id/sys_vendor").is_ok_and(|name| name.trim() == vendor)
}

/// Opens a bucket of Google Cloud Storage.
#[cfg(feature = "gcs")]
pub(super) fn gcs(url: &str, variables: &Variables) -> Result<Arc<dyn ObjectStore>, String> {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    let set = |builder: GoogleCloudStorageBuilder, (name, value): (&String, &String)| match name
        .to_ascii_lowercase()
        .parse::<GoogleConfigKey>()
    {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    };
    let is_source = |name: &String| {
        let sources = ["SERVICE_ACCOUNT", "APPLICATION_CREDENTIALS", "BEARER_TOKEN", "SKIP_SIGNATURE"];
        name.starts_with("GOOGLE_") && sources.iter().any(|source| name.contains(source))
    };
    // The client looks there.
    let of_gcloud = |home: std::path::PathBuf| home.join(".config/gcloud/application_default_credentials.json");
    let is_logged_in = || std::env::home_dir().map(of_gcloud).is_some_and(|file| file.exists());
    if !variables.keys().any(is_source) && !is_logged_in() && !is_machine_of("Google") {
        return Err("there are no credentials: set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth \
                    application-default login`"
            .to_owned());
    }
    let builder = GoogleCloudStorageBuilder::new().with_client_options(client()).with_retry(retries()).with_url(url);
    let google = variables.iter().filter(|(name, _)| name.starts_with("GOOGLE_"));
    google.fold(builder, set).build().map(|store| Arc::new(store) as _).map_err(|e| e.to_string())
}

/// Opens a container of Azure Blob Storage.
#[cfg(feature = "azure")]
pub(super) fn azure(url: &str, variables: &Variables) -> Result<Arc<dyn ObjectStore>, String> {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    let set = |builder: MicrosoftAzureBuilder, (name, value): (&String, &String)| match name
        .to_ascii_lowercase()
        .parse::<AzureConfigKey>()
    {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    };
    let is_source = |name: &String| {
        let sources = ["KEY", "SAS", "TOKEN", "CLIENT_ID", "MSI", "IDENTITY", "CLI", "SKIP_SIGNATURE", "EMULATOR"];
        name.starts_with("AZURE_") && sources.iter().any(|source| name.contains(source))
    };
    if !variables.keys().any(is_source) && !is_machine_of("Microsoft Corporation") {
        return Err("there are no credentials: set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or \
                    AZURE_USE_AZURE_CLI=true after `az login`"
            .to_owned());
    }
    let builder = MicrosoftAzureBuilder::new().with_client_options(client()).with_retry(retries()).with_url(url);
    let azure = variables.iter().filter(|(name, _)| name.starts_with("AZURE_"));
    azure.fold(builder, set).build().map(|store| Arc::new(store) as _).map_err(|e| e.to_string())
}
