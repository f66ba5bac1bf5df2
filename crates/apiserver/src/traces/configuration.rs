//! Reads a TracingConfiguration (apiserver.config.k8s.io/v1, v1beta1, v1alpha1).
//!
//! Upstream: apiserver/pkg/apis/apiserver, component-base/tracing/api/v1 (config.go, the messages).

use serde::Deserialize;

/// Where collectors listen unless it is said otherwise.
const DEFAULT_ENDPOINT: &str = "localhost:4317";
const MOST_PER_MILLION: i64 = 1_000_000;

/// What is traced, and who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The collector.
    pub endpoint: Endpoint,
    /// How many of a million requests are sampled, of those whose clients have no say in it.
    pub sampling_rate_per_million: u32,
}

/// How a collector is reached, as gRPC names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`.
    Tcp(String),
    /// A socket at a path.
    Unix(String),
    /// A socket with a name of the kernel's.
    UnixAbstract(String),
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no YAML of this form.
    #[error("unable to decode tracing configuration data: {0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// It is of another kind.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind {
        /// The kind.
        kind: String,
        /// Its version.
        version: String,
    },
    /// A field has a value that cannot be.
    #[error("failed to validate tracing configuration: {0}")]
    Invalid(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i64>,
}

impl Configuration {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Where it is no such configuration, or says what cannot be.
    pub fn read(text: &str) -> Result<Self, Error> {
        let file: File = serde_yaml_ng::from_str(text)?;
        let version = file.api_version.strip_prefix("apiserver.config.k8s.io/");
        if file.kind != "TracingConfiguration" || !matches!(version, Some("v1" | "v1beta1" | "v1alpha1")) {
            return Err(Error::Kind { kind: file.kind, version: file.api_version });
        }
        let rate = file.sampling_rate_per_million.unwrap_or(0);
        let wrong = |problem: &str| {
            Error::Invalid(format!("samplingRatePerMillion: Invalid value: {rate}: {problem}"))
        };
        let sampling_rate_per_million = match u32::try_from(rate) {
            _ if rate > MOST_PER_MILLION => {
                return Err(wrong("sampling rate per million must be less than or equal to one million"));
            }
            Ok(rate) => rate,
            Err(_) => return Err(wrong("sampling rate must be positive")),
        };
        let endpoint = endpoint(file.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT))?;
        Ok(Self { endpoint, sampling_rate_per_million })
    }
}

fn endpoint(text: &str) -> Result<Endpoint, Error> {
    let Some((scheme, rest)) = text.split_once("://") else {
        // gRPC also takes `unix:path`, without an authority.
        return Ok(match text.split_once(':') {
            Some(("unix", path)) => Endpoint::Unix(path.to_owned()),
            Some(("unix-abstract", name)) => Endpoint::UnixAbstract(name.to_owned()),
            Some(("dns", host)) => Endpoint::Tcp(host.to_owned()),
            _ => Endpoint::Tcp(text.to_owned()),
        });
    };
    match scheme {
        // Between the slashes may stand the name server to ask, which is the system's here.
        "dns" => Ok(Endpoint::Tcp(rest.rsplit('/').next().unwrap_or(rest).to_owned())),
        "unix" => Ok(Endpoint::Unix(rest.to_owned())),
        "unix-abstract" => Ok(Endpoint::UnixAbstract(rest.to_owned())),
        other => Err(Error::Invalid(format!(
            "endpoint: Invalid value: {text:?}: unsupported scheme: {other}.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(version: &str, rest: &str) -> Result<Configuration, String> {
        let text =
            format!("apiVersion: apiserver.config.k8s.io/{version}\nkind: TracingConfiguration\n{rest}");
        Configuration::read(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn every_version_is_read() {
        for version in ["v1alpha1", "v1beta1", "v1"] {
            let found = read(version, "endpoint: collector:4317\nsamplingRatePerMillion: 100\n").unwrap();
            assert_eq!(found.endpoint, Endpoint::Tcp("collector:4317".to_owned()));
            assert_eq!(found.sampling_rate_per_million, 100);
        }
        let found = read("v1", "").unwrap();
        assert_eq!(found.endpoint, Endpoint::Tcp("localhost:4317".to_owned()));
        assert_eq!(found.sampling_rate_per_million, 0);
    }

    #[test]
    fn what_cannot_be_is_refused_in_upstreams_words() {
        for (version, rest, message) in [
            ("v2", "", "no kind \"TracingConfiguration\""),
            ("v1", "samplingRatePerMillion: -1", "sampling rate must be positive"),
            ("v1", "samplingRatePerMillion: 1000001", "must be less than or equal to one million"),
            ("v1", "endpoint: http://localhost:4317", "unsupported scheme: http"),
            ("v1", "endpoints: x", "unknown field"),
        ] {
            let error = read(version, rest).unwrap_err();
            assert!(error.contains(message), "{rest}: {error}");
        }
    }

    #[test]
    fn endpoints_are_those_of_grpc() {
        for (text, expected) in [
            ("localhost:4317", Endpoint::Tcp("localhost:4317".to_owned())),
            ("dns:///collector:4317", Endpoint::Tcp("collector:4317".to_owned())),
            ("dns://10.0.0.1/collector:4317", Endpoint::Tcp("collector:4317".to_owned())),
            ("unix:///run/otel.sock", Endpoint::Unix("/run/otel.sock".to_owned())),
            ("unix:/run/otel.sock", Endpoint::Unix("/run/otel.sock".to_owned())),
            ("unix-abstract:otel", Endpoint::UnixAbstract("otel".to_owned())),
        ] {
            assert_eq!(endpoint(text).unwrap(), expected, "{text}");
        }
    }
}
