//! The client's side of TLS, from the files that flags name.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::Error;

/// Where Debian and its like keep the authorities that the system trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Trusts the authorities in `authority` (those of the system if not given) and shows the certificate in `certificate`
/// with the key in `key`, if given. All are PEM files.
pub fn client(
    authority: Option<&Path>,
    certificate: Option<&Path>,
    key: Option<&Path>,
) -> Result<Arc<ClientConfig>, Error> {
    let problem = |path: &Path, detail: &dyn std::fmt::Display| Error::Tls {
        detail: format!("{}: {detail}", path.display()),
    };
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, Error> {
        let found = CertificateDer::pem_file_iter(path).map_err(|error| problem(path, &error))?;
        found.map(|found| found.map_err(|error| problem(path, &error))).collect()
    };
    let path = authority.unwrap_or(Path::new(SYSTEM));
    let mut roots = RootCertStore::empty();
    // A system's collection may hold what cannot be used; what the user names must be usable.
    let (_, refused) = roots.add_parsable_certificates(certificates(path)?);
    if roots.is_empty() || (authority.is_some() && refused > 0) {
        return Err(problem(path, &"holds no usable certificate of an authority"));
    }
    let builder = foundation::tls::client_of_others().with_root_certificates(roots);
    let mut config = match (certificate, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| problem(key, &error))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|error| problem(certificate, &error))?
        }
        _ => {
            return Err(Error::Tls { detail: "a client certificate and its key belong together".to_owned() });
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
