//! The table of certificates the cluster issues to its own parts, and what one holds once issued.
//! Upstream: kubeadm's certificate list and its kubeconfig phases.
//! Not here: when they are issued and where they are kept (`store`).

use std::net::IpAddr;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::authority::{AlternativeNames, Authority, Certificate, Key, Request, Usage};
use crate::store::Settings;
use crate::{Error, authority};

/// The API server's user name towards kubelets.
pub const KUBELET_CLIENT_NAME: &str = "kube-apiserver-kubelet-client";

/// A certificate of one of the cluster's own parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// The API server's serving certificate.
    ApiserverServing,
    /// By which the API server authenticates to kubelets: [`KUBELET_CLIENT_NAME`], in no group, so that what it may
    /// do is a role's to say and can be taken back.
    ApiserverKubeletClient,
    /// By which the aggregator authenticates to extension API servers (front-proxy authority).
    FrontProxyClient,
    /// The administrator: `kubernetes-admin` of `system:masters`.
    Admin,
    /// The node's serving certificate (`:10250`).
    KubeletServing,
    /// The node as a client: `system:node:<name>` of `system:nodes`.
    KubeletClient,
    /// The scheduler as a client.
    Scheduler,
    /// The controller manager as a client.
    ControllerManager,
    /// The service proxy as a client.
    Proxy,
    /// A member of the replicated store towards the others, which it calls and is called by (peer authority).
    Peer {
        /// The member's id.
        member: u64,
    },
}

/// The name that the certificates of all members of the store have; each has its own, too, in front of it: the member's id
/// as sixteen hexadecimal digits. Addresses change, members do not.
pub const PEER_NAME: &str = "member.ironclad.internal";

/// Who signs a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    Cluster,
    FrontProxy,
    Peer,
}

pub(crate) struct Profile {
    /// File name without extension.
    pub(crate) file: &'static str,
    pub(crate) signer: Signer,
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
    pub(crate) usages: &'static [Usage],
    pub(crate) names: AlternativeNames,
}

impl Leaf {
    pub(crate) fn profile(self, settings: &Settings) -> Profile {
        let client = |file, common_name: &str, organization: Option<&str>| Profile {
            file,
            signer: Signer::Cluster,
            common_name: common_name.to_owned(),
            organizations: organization.map(str::to_owned).into_iter().collect(),
            usages: &[Usage::Client],
            names: AlternativeNames::default(),
        };
        let node = format!("system:node:{}", settings.node_name);
        match self {
            Leaf::ApiserverServing => Profile {
                usages: &[Usage::Server],
                names: apiserver_names(settings),
                ..client("apiserver", "kube-apiserver", None)
            },
            Leaf::ApiserverKubeletClient => client("apiserver-kubelet-client", KUBELET_CLIENT_NAME, None),
            Leaf::FrontProxyClient => {
                let profile = client("front-proxy-client", "front-proxy-client", None);
                Profile { signer: Signer::FrontProxy, ..profile }
            }
            Leaf::Admin => client("admin", "kubernetes-admin", Some("system:masters")),
            Leaf::KubeletServing => Profile {
                usages: &[Usage::Server],
                names: kubelet_names(settings),
                ..client("kubelet-serving", &node, Some("system:nodes"))
            },
            Leaf::KubeletClient => client("kubelet-client", &node, Some("system:nodes")),
            Leaf::Scheduler => client("scheduler", "system:kube-scheduler", None),
            Leaf::ControllerManager => client("controller-manager", "system:kube-controller-manager", None),
            Leaf::Proxy => client("kube-proxy", "system:kube-proxy", None),
            Leaf::Peer { member } => {
                let own = format!("{member:016x}.{PEER_NAME}");
                Profile {
                    signer: Signer::Peer,
                    usages: &[Usage::Server, Usage::Client],
                    names: AlternativeNames { dns: vec![PEER_NAME.to_owned(), own.clone()], ip: Vec::new() },
                    ..client("peer", &own, None)
                }
            }
        }
    }
}

fn apiserver_names(settings: &Settings) -> AlternativeNames {
    let mut names = kubelet_names(settings);
    let mut dns: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    if !settings.cluster_domain.is_empty() {
        dns.push(format!("kubernetes.default.svc.{}", settings.cluster_domain));
    }
    names.dns.splice(0..0, dns);
    names.ip.extend(settings.service_ips.iter().copied());
    for extra in &settings.extra_names {
        match extra.parse::<IpAddr>() {
            Ok(ip) => names.ip.push(ip),
            Err(_) => names.dns.push(extra.clone()),
        }
    }
    unique(names)
}

fn kubelet_names(settings: &Settings) -> AlternativeNames {
    let mut names = AlternativeNames {
        dns: vec!["localhost".to_owned(), settings.node_name.clone()],
        ip: vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()],
    };
    names.dns.retain(|name| !name.is_empty());
    names.ip.extend(settings.node_ips.iter().copied());
    unique(names)
}

fn unique(mut names: AlternativeNames) -> AlternativeNames {
    let mut seen = std::collections::BTreeSet::new();
    names.dns.retain(|name| seen.insert(name.clone()));
    let mut seen = std::collections::BTreeSet::new();
    names.ip.retain(|ip| seen.insert(*ip));
    names
}

/// A certificate with its key.
pub struct Credential {
    key: Key,
    certificate: Certificate,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Credential {
    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The private key in PEM (PKCS#8).
    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// The chain as rustls takes it: the leaf alone, since it is signed by the authority directly.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.certificate.der().to_vec())]
    }

    /// The private key as rustls takes it.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.pkcs8().to_vec()).into()
    }

    pub(crate) fn validity(&self) -> (Timestamp, Timestamp) {
        (self.not_before, self.not_after)
    }

    /// The end of validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// When it is to be renewed: after two thirds of its life, so that a machine that is asleep for weeks
    /// still wakes with a valid one.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_after - life / 3
    }

    pub(crate) fn issue(
        profile: &Profile,
        authority: &Authority,
        life: jiff::SignedDuration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let key = Key::generate()?;
        let public_info = key.public_info();
        let certificate = authority.sign(Request {
            subject: authority::name(&profile.common_name, &profile.organizations),
            public_info: &public_info,
            not_before: now - authority::BACKDATE,
            not_after: now + life,
            // digitalSignature alone: ECDSA keys encipher nothing
            key_usage: &[0],
            extended: authority::extended(profile.usages),
            alternative_names: authority::general_names(&profile.names),
        })?;
        Self::load(certificate, key).map_err(|_| Error::Crypto("read the certificate it just made"))
    }

    /// A credential from its stored parts.
    pub(crate) fn load(certificate: Certificate, key: Key) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der())
            .map_err(|e| format!("it is not an X.509 certificate ({e})"))?;
        if parsed.public_key().raw != key.public_info() {
            return Err("it does not belong to the key beside it".to_owned());
        }
        let (not_before, not_after) = authority::validity(&parsed)?;
        Ok(Self { key, certificate, not_before, not_after })
    }

    /// Whether the certificate says what the profile asks for, under this authority, at this time.
    pub(crate) fn serves(&self, profile: &Profile, authority: &Authority, now: Timestamp) -> bool {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(self.certificate.der()) else {
            return false;
        };
        let signed_by_authority = parsed.issuer().as_raw() == authority.subject()
            && parsed.iter_extensions().any(|extension| {
                matches!(
                    extension.parsed_extension(),
                    x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(identifier)
                        if identifier.key_identifier.as_ref().is_some_and(|k| k.0 == authority.key_identifier())
                )
            });
        let names = parsed
            .iter_extensions()
            .find(|extension| extension.oid == x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME)
            .map(|extension| extension.value)
            .unwrap_or_default();
        signed_by_authority
            && parsed.subject().as_raw() == authority::name(&profile.common_name, &profile.organizations)
            && names == authority::general_names(&profile.names)
            && self.not_before <= now
            && now < self.renew_at()
    }
}
