//! Opens or makes the PKI folder, hands out credentials, and renews them in place.
//! Reads and writes `<data-dir>/pki` only.
//! Not here: the timer that calls for renewal, and the TLS listeners that take the new certificates.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::authority::{Authority, Certificate, Key};
use crate::leaf::{Credential, Leaf, Profile, Signer};
use crate::{Error, SigningKey, files, pem};

/// How long our own leaf certificates live. One year, as kubeadm.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);

/// What the certificates are made for. A change of these re-issues the certificates that name them.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The folder, usually `<data-dir>/pki`.
    pub dir: PathBuf,
    /// Name of this machine's Node.
    pub node_name: String,
    /// Addresses of this machine that clients may dial.
    pub node_ips: Vec<IpAddr>,
    /// First address of each service range: the `kubernetes` Service.
    pub service_ips: Vec<IpAddr>,
    /// Cluster domain, `cluster.local` by custom; empty for none.
    pub cluster_domain: String,
    /// Further names or addresses for the API server's certificate.
    pub extra_names: Vec<String>,
}

/// The key that signs ServiceAccount tokens: ECDSA P-256 where it was made here, any other where it was brought along.
#[derive(Debug)]
pub struct ServiceAccountKey {
    key: Arc<SigningKey>,
}

impl ServiceAccountKey {
    /// The private key.
    pub fn signing_key(&self) -> &Arc<SigningKey> {
        &self.key
    }

    /// SubjectPublicKeyInfo, DER; its SHA-256 is the `kid` of the tokens.
    pub fn public_info(&self) -> Vec<u8> {
        self.key.public().info()
    }
}

/// All keys and certificates of one cluster on one machine. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Pki {
    settings: Settings,
    cluster: Authority,
    front_proxy: Authority,
    service_account: ServiceAccountKey,
    /// Opened, or made, when a member of the store first needs it: a server that keeps its store alone has none.
    peer: OnceLock<Authority>,
    leaves: Mutex<HashMap<Leaf, Arc<Credential>>>,
}

impl Pki {
    /// Opens the folder, making what is missing: the two authorities and the token key at once, leaves when
    /// they are first asked for.
    ///
    /// # Errors
    /// Files that cannot be read or written, or that do not fit each other; a clock outside the authorities'
    /// validity.
    pub fn open(settings: Settings, now: Timestamp) -> Result<Self, Error> {
        files::private_dir(&settings.dir)?;
        let dir = settings.dir.as_path();
        // The three are independent, and on a first start each waits for the disk.
        let (cluster, front_proxy, service_account) = std::thread::scope(|scope| {
            let front = scope.spawn(|| authority(dir, "front-proxy-ca", "front-proxy-ca", now));
            let token = scope.spawn(|| service_account_key(dir));
            let cluster = authority(dir, "ca", "kubernetes", now);
            let join = "the threads only return errors, they do not panic";
            (cluster, front.join().expect(join), token.join().expect(join))
        });
        let ((cluster, a), (front_proxy, b), (service_account, c)) =
            (cluster?, front_proxy?, service_account?);
        if a || b || c {
            files::sync_dir(dir)?;
        }
        let leaves = Mutex::new(HashMap::new());
        Ok(Self { settings, cluster, front_proxy, service_account, peer: OnceLock::new(), leaves })
    }

    /// All names and addresses for which the API server's certificate is good.
    pub fn apiserver_names(&self) -> Vec<String> {
        let names = Leaf::ApiserverServing.profile(&self.settings).names;
        names.dns.into_iter().chain(names.ip.iter().map(IpAddr::to_string)).collect()
    }

    /// The authority of the cluster: signs servers, nodes and users.
    pub fn cluster_authority(&self) -> &Authority {
        &self.cluster
    }

    /// The authority that only vouches for the aggregator's own client certificate.
    pub fn front_proxy_authority(&self) -> &Authority {
        &self.front_proxy
    }

    /// The key of ServiceAccount tokens.
    pub fn service_account_key(&self) -> &ServiceAccountKey {
        &self.service_account
    }

    /// The credential of one of our parts: the stored one while it is good, else a new one, which is stored.
    ///
    /// # Errors
    /// As [`Pki::open`].
    pub fn credential(&self, leaf: Leaf, now: Timestamp) -> Result<Arc<Credential>, Error> {
        let profile = leaf.profile(&self.settings);
        let mut leaves = self.leaves.lock();
        let authority = match profile.signer {
            Signer::Cluster => &self.cluster,
            Signer::FrontProxy => &self.front_proxy,
            Signer::Peer => self.peer_under_lock(now)?,
        };
        if let Some(held) = leaves.get(&leaf).filter(|held| held.serves(&profile, authority, now)) {
            return Ok(held.clone());
        }
        let stored = stored_credential(&self.settings.dir, profile.file)?;
        let good = match stored.filter(|stored| stored.serves(&profile, authority, now)) {
            Some(stored) => stored,
            None => self.issue(&profile, authority, now)?,
        };
        let good = Arc::new(good);
        leaves.insert(leaf, good.clone());
        Ok(good)
    }

    /// Re-issues every credential in use whose time for renewal has come, and returns which; the holders of
    /// those then ask for them again with [`Pki::credential`].
    ///
    /// # Errors
    /// As [`Pki::open`]; credentials renewed before the failure stay renewed.
    pub fn renew_due(&self, now: Timestamp) -> Result<Vec<Leaf>, Error> {
        let due: Vec<Leaf> = {
            let leaves = self.leaves.lock();
            leaves.iter().filter(|(_, held)| held.renew_at() <= now).map(|(leaf, _)| *leaf).collect()
        };
        for leaf in &due {
            self.credential(*leaf, now)?;
        }
        Ok(due)
    }

    /// When [`Pki::renew_due`] will next have something to do; `None` while no credential is in use.
    pub fn next_renewal(&self) -> Option<Timestamp> {
        self.leaves.lock().values().map(|held| held.renew_at()).min()
    }

    /// The authority of the members of the replicated store, and of nobody else. Made when it is first asked for.
    ///
    /// # Errors
    /// As [`Pki::open`].
    pub fn peer_authority(&self, now: Timestamp) -> Result<&Authority, Error> {
        let _making = self.leaves.lock();
        self.peer_under_lock(now)
    }

    fn peer_under_lock(&self, now: Timestamp) -> Result<&Authority, Error> {
        if let Some(known) = self.peer.get() {
            return Ok(known);
        }
        let dir = &self.settings.dir;
        let (made, written) = authority(dir, "peer-ca", "ironclad-peer-ca", now)?;
        if written {
            files::sync_dir(dir)?;
        }
        Ok(self.peer.get_or_init(|| made))
    }

    fn issue(&self, profile: &Profile, authority: &Authority, now: Timestamp) -> Result<Credential, Error> {
        let name = match profile.signer {
            Signer::Cluster => "ca",
            Signer::FrontProxy => "front-proxy-ca",
            Signer::Peer => "peer-ca",
        };
        check_validity(authority, &certificate_path(&self.settings.dir, name), now)?;
        let credential = Credential::issue(profile, authority, LEAF_LIFE, now)?;
        // Key first: a crash between the two leaves a pair that does not match, which the next start replaces.
        files::replace(&key_path(&self.settings.dir, profile.file), &credential.key_pem(), files::SECRET)?;
        files::replace(
            &certificate_path(&self.settings.dir, profile.file),
            &credential.certificate_pem(),
            files::PUBLIC,
        )?;
        Ok(credential)
    }
}

fn certificate_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.crt"))
}

fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

fn bad_file(path: &Path) -> impl Fn(String) -> Error {
    let path = path.to_owned();
    move |reason| Error::BadFile { path: path.clone(), reason }
}

fn certificate(path: &Path, text: &str) -> Result<Certificate, Error> {
    let mut blocks = pem::decode("CERTIFICATE", text).map_err(bad_file(path))?;
    if blocks.is_empty() {
        return Err(bad_file(path)("it holds no CERTIFICATE block".to_owned()));
    }
    Ok(Certificate::from_der(blocks.swap_remove(0)))
}

/// A leaf's stored pair. What does not parse or match counts as absent: leaves are replaceable.
fn stored_credential(dir: &Path, name: &str) -> Result<Option<Credential>, Error> {
    let path = certificate_path(dir, name);
    let (Some(text), Some(key)) = (files::read(&path)?, files::read(&key_path(dir, name))?) else {
        return Ok(None);
    };
    let pair = certificate(&path, &text).ok().zip(Key::from_pem(&key).ok());
    Ok(pair.and_then(|(certificate, key)| Credential::load(certificate, key).ok()))
}

fn check_validity(authority: &Authority, path: &Path, now: Timestamp) -> Result<(), Error> {
    if now < authority.not_before() {
        return Err(Error::ClockTooEarly { path: path.to_owned(), now, from: authority.not_before() });
    }
    if now >= authority.not_after() {
        return Err(Error::AuthorityExpired { path: path.to_owned(), now, until: authority.not_after() });
    }
    Ok(())
}

/// The authority stored under `name`, renewed where its time has come, or a new one; and whether files were written.
fn authority(dir: &Path, name: &str, common_name: &str, now: Timestamp) -> Result<(Authority, bool), Error> {
    let (certificate_path, key_path) = (certificate_path(dir, name), key_path(dir, name));
    let key = match (files::read(&certificate_path)?, files::read(&key_path)?) {
        (Some(text), Some(key)) => {
            let key = Key::from_pem(&key).map_err(bad_file(&key_path))?;
            let authority = Authority::load(certificate(&certificate_path, &text)?, key)
                .map_err(bad_file(&certificate_path))?;
            // Somebody else's authority (or one below somebody else's) is theirs to renew.
            if now >= authority.renew_at() && authority.is_own(common_name) {
                let authority = authority.renewed(now)?;
                files::replace_durably(&certificate_path, &authority.certificate().pem(), files::PUBLIC)?;
                return Ok((authority, true));
            }
            check_validity(&authority, &certificate_path, now)?;
            return Ok((authority, false));
        }
        (Some(_), None) => {
            return Err(Error::MissingKey { certificate: certificate_path, key: key_path });
        }
        // The first start was cut off between the two files: nothing was signed yet, so go on with the key.
        (None, Some(key)) => Key::from_pem(&key).map_err(bad_file(&key_path))?,
        (None, None) => {
            let key = Key::generate()?;
            files::replace_durably(&key_path, &key.to_pem(), files::SECRET)?;
            key
        }
    };
    let authority = Authority::self_signed(common_name, key, now)?;
    files::replace_durably(&certificate_path, &authority.certificate().pem(), files::PUBLIC)?;
    Ok((authority, true))
}

fn service_account_key(dir: &Path) -> Result<(ServiceAccountKey, bool), Error> {
    let path = key_path(dir, "sa");
    let (text, made) = match files::read(&path)? {
        Some(text) => (text, false),
        None => {
            let text = Key::generate()?.to_pem();
            files::replace_durably(&path, &text, files::SECRET)?;
            (text, true)
        }
    };
    let key = Arc::new(SigningKey::from_pem(&text).map_err(bad_file(&path))?);
    let public = dir.join("sa.pub");
    let text = pem::encode("PUBLIC KEY", &key.public().info());
    if files::read(&public)?.as_deref() != Some(&text) {
        files::replace(&public, &text, files::PUBLIC)?;
    }
    Ok((ServiceAccountKey { key }, made))
}

#[cfg(test)]
mod tests;
