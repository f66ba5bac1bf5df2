//! Pulling images: policy, pull secrets, and the texts that users see.
//!
//! Reads Secrets through [`volumes::Objects`]; talks to the runtime's image service. Not here: who may use an image that is
//! there (`images/pulls.rs`), when a failed pull is tried again (the worker).
//! Upstream: `pkg/kubelet/images`, `pkg/credentialprovider`.

pub mod pulls;

use std::collections::HashMap;

use api::types::core::v1::{Container, Pod, Secret};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cri::v1::{
    AuthConfig, ImageSpec, ImageStatusRequest, ListImagesRequest, PodSandboxConfig, PullImageRequest,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tonic::Code;

use self::pulls::{Needs, Source};
use crate::node::Node;
use crate::pod;

/// An image that is there.
#[derive(Clone, Debug)]
pub struct Image {
    /// What the runtime calls it.
    pub reference: String,
    /// The numeric user of the image.
    pub uid: Option<i64>,
    /// The user of the image by name.
    pub username: String,
}

/// Why an image is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It may not be pulled.
    NeverPull(String),
    /// The name is no image's name.
    InvalidName(String),
    /// The runtime could not say whether it is there.
    Inspect(String),
    /// It could not be pulled.
    Pull(String),
}

/// The policy that applies: what is asked for, else `Always` for `latest`.
pub fn policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ if tag(image) == Some("latest") || (tag(image).is_none() && !image.contains('@')) => "Always",
        _ => "IfNotPresent",
    }
}

fn tag(image: &str) -> Option<&str> {
    let last = image.rsplit('/').next()?;
    if last.contains('@') { None } else { last.split_once(':').map(|(_, tag)| tag) }
}

/// Makes sure that the container's image is there, as its policy says.
pub async fn ensure(
    node: &Node,
    pod: &Pod,
    container: &Container,
    sandbox: &PodSandboxConfig,
) -> Result<Image, Error> {
    let image = container.image.clone().unwrap_or_default();
    if image.is_empty() || image.chars().any(char::is_whitespace) {
        return Err(Error::InvalidName(format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        )));
    }
    let policy = policy(container);
    let present = inspect(node, &image)
        .await
        .map_err(|e| Error::Inspect(format!("Failed to inspect image \"{image}\": {e}")))?;
    let mut offered = None;
    let present = match present {
        Some(present) if policy != "Always" => {
            may_use(node, pod, &image, &present.reference, &mut offered).await.then_some(present)
        }
        _ => None,
    };
    match (present, policy) {
        (Some(present), _) => {
            let message = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            node.container_event(pod, container, client::EventType::Normal, "Pulled", message);
            return Ok(present);
        }
        (None, "Never") => {
            return Err(Error::NeverPull(format!(
                "Container image \"{image}\" is not present with pull policy of Never"
            )));
        }
        _ => {}
    }
    node.container_event(
        pod,
        container,
        client::EventType::Normal,
        "Pulling",
        format!("Pulling image \"{image}\""),
    );
    let begun = node.clock.monotonic();
    let credentials = match offered {
        Some(offered) => offered,
        None => credentials(node, pod, &image).await,
    };
    let (mut failure, mut answered) = (String::new(), true);
    let unrecorded =
        |error: std::io::Error| Error::Pull(format!("failed to record image pull intent: {error}"));
    let pulling = node.pulls.begin(&image).map_err(unrecorded)?;
    let attempts = credentials.into_iter().map(Some).chain([None]);
    for attempt in attempts {
        let (source, auth) = attempt.map(|offer| (offer.source, offer.auth)).unzip();
        let request = PullImageRequest {
            image: Some(ImageSpec { image: image.clone(), ..ImageSpec::default() }),
            auth,
            sandbox_config: Some(sandbox.clone()),
        };
        match node.runtime.images().pull_image(request).await {
            Ok(answer) => {
                let reference = answer.into_inner().image_ref;
                let took = node.clock.monotonic().saturating_sub(begun);
                let found = inspect(node, &reference).await.ok().flatten();
                let image_ref = found.as_ref().map_or(&reference, |found| &found.reference);
                pulling.done(image_ref, source.as_ref());
                prune(node).await;
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took:.3?} ({took:.3?} including waiting)."
                );
                node.container_event(pod, container, client::EventType::Normal, "Pulled", message);
                return Ok(found.unwrap_or(Image { reference, uid: None, username: String::new() }));
            }
            Err(status) => {
                // A runtime that went away, or was given up, may have pulled it all the same.
                answered &=
                    !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
                failure = crate::runtime::Error::from(status).to_string();
            }
        }
    }
    if answered {
        pulling.failed();
    }
    Err(Error::Pull(failure))
}

/// Whether the pod may use an image that is there. The credentials that were looked up for it are `offered`.
async fn may_use(
    node: &Node,
    pod: &Pod,
    image: &str,
    image_ref: &str,
    offered: &mut Option<Vec<Offer>>,
) -> bool {
    match node.pulls.needs(image, image_ref) {
        Needs::Nothing => true,
        Needs::Pull => false,
        Needs::OneOf(known) => {
            let found = credentials(node, pod, image).await;
            let sources: Vec<Source> = found.iter().map(|offer| offer.source.clone()).collect();
            *offered = Some(found);
            node.pulls.accepts(image, image_ref, &known, &sources)
        }
    }
}

/// Forgets who may use images that are gone.
async fn prune(node: &Node) {
    if !node.pulls.are_many() {
        return;
    }
    if let Ok(answer) = node.runtime.images().list_images(ListImagesRequest::default()).await {
        let there: Vec<String> = answer.into_inner().images.into_iter().map(|image| image.id).collect();
        node.pulls.keep(&there);
    }
}

async fn inspect(node: &Node, image: &str) -> Result<Option<Image>, crate::runtime::Error> {
    let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
    let answer =
        node.runtime.images().image_status(ImageStatusRequest { image, verbose: false }).await?.into_inner();
    Ok(answer.image.map(|image| Image {
        reference: image.id,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
    }))
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Clone, Default, Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// Credentials, and where they are from.
struct Offer {
    source: Source,
    auth: AuthConfig,
}

impl Offer {
    fn new(secret: &Secret, auth: AuthConfig) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        // With their lengths, so that no two different ones read the same.
        let parts = [&auth.username, &auth.password, &auth.server_address, &auth.identity_token];
        let whole: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
        let source = Source {
            uid: text(&secret.metadata.uid),
            namespace: text(&secret.metadata.namespace),
            name: text(&secret.metadata.name),
            hash: format!("{:x}", Sha256::digest(whole)),
        };
        Self { source, auth }
    }
}

/// What the pod's pull secrets offer for `image`, the most specific first.
async fn credentials(node: &Node, pod: &Pod, image: &str) -> Vec<Offer> {
    let mut found = Vec::new();
    for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        match node.objects.secret(pod::namespace(pod), &reference.name).await {
            Ok(Some(secret)) => {
                let fitting = from_secret(&secret, image).into_iter();
                found.extend(fitting.map(|(length, auth)| (length, Offer::new(&secret, auth))));
            }
            Ok(None) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                node.recorder.event(
                    pod,
                    client::EventType::Warning,
                    "FailedToRetrieveImagePullSecret",
                    message,
                );
            }
            Err(error) => {
                tracing::warn!(secret = reference.name, %error, "an image pull secret was not read")
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, offer)| offer).collect()
}

/// The credentials of one Secret that fit `image`, with the length of what they were stored under.
fn from_secret(secret: &Secret, image: &str) -> Vec<(usize, AuthConfig)> {
    let get = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let config = match (get(".dockerconfigjson"), get(".dockercfg")) {
        (Some(data), _) => serde_json::from_slice::<DockerConfig>(&data.0).ok(),
        (_, Some(data)) => serde_json::from_slice(&data.0).ok().map(|auths| DockerConfig { auths }),
        _ => None,
    };
    let whole = qualified(image);
    let auths = config.into_iter().flat_map(|config| config.auths);
    auths
        .filter_map(|(registry, auth)| {
            let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
            let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
            let rest = whole.strip_prefix(registry)?;
            if !(rest.is_empty() || rest.starts_with(['/', ':', '@'])) {
                return None;
            }
            let decoded =
                BASE64_STANDARD.decode(auth.auth.as_bytes()).ok().and_then(|b| String::from_utf8(b).ok());
            let (username, password) = match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
                Some((user, password)) if auth.username.is_empty() => (user.to_owned(), password.to_owned()),
                _ => (auth.username, auth.password),
            };
            let server_address = registry.split('/').next().unwrap_or_default().to_owned();
            let identity_token = auth.identitytoken;
            Some((
                registry.len(),
                AuthConfig { username, password, server_address, identity_token, ..AuthConfig::default() },
            ))
        })
        .collect()
}

/// The image's name with its registry.
fn qualified(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_by_tag() {
        for (image, asked, want) in [
            ("nginx", None, "Always"),
            ("nginx:latest", None, "Always"),
            ("nginx:1", None, "IfNotPresent"),
            ("host:5000/nginx", None, "Always"),
            ("nginx@sha256:00", None, "IfNotPresent"),
            ("nginx", Some("Never"), "Never"),
        ] {
            let container = Container {
                image: Some(image.into()),
                image_pull_policy: asked.map(str::to_owned),
                ..Container::default()
            };
            assert_eq!(policy(&container), want, "{image}");
        }
    }

    #[test]
    fn pull_secrets_fit_their_registry_only() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": BASE64_STANDARD.encode("hub:h")},
            "reg.example.com": {"username": "u", "password": "p"},
            "reg.example.com/team": {"username": "t", "password": "p"}}});
        let data = BASE64_STANDARD.encode(config.to_string());
        let secret: Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": data}})).unwrap();
        let users = |image: &str| {
            let mut found = from_secret(&secret, image);
            found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
            found.into_iter().map(|(_, auth)| auth.username).collect::<Vec<_>>().join(",")
        };
        for (image, want) in [
            ("nginx", "hub"),
            ("reg.example.com/x:1", "u"),
            ("reg.example.com/team/x:1", "t,u"),
            ("reg.example.community/x", ""),
        ] {
            assert_eq!(users(image), want, "{image}");
        }
    }
}
