//! Serves an empty cluster's API on loopback, to point kubectl at: `cargo run -p apiserver --example loopback
//! [port]` prints the address, and the path of a kubeconfig whose user may do everything.

use std::sync::Arc;

use arc_swap::ArcSwap;
use foundation::{SystemClock, SystemRandomness, Tasks};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0);
    let directory = tempfile::tempdir()?;
    let tasks = Tasks::new("loopback");
    let store = store::embedded::Engine::open(directory.path(), Default::default(), SystemClock::shared())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;

    let key = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()])?;
    let private = rustls_pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let mut tls = foundation::tls::server()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.into())?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let admin = apiserver::authn::StaticToken {
        token: "loopback".into(),
        user: apiserver::User::new("admin", &[apiserver::User::MASTERS]),
    };
    let options = apiserver::Options {
        authn: apiserver::authn::Options { static_tokens: vec![admin], ..Default::default() },
        advertise: Some((address.ip(), address.port())),
        ..Default::default()
    };
    let started = std::time::Instant::now();
    let server =
        apiserver::ApiServer::new(store, options, &tasks, SystemClock::shared(), SystemRandomness::shared())
            .await?;
    let kubeconfig = directory.path().join("kubeconfig");
    std::fs::write(
        &kubeconfig,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: loopback\n\
             clusters: [{{name: loopback, cluster: {{server: \"https://{address}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: admin, user: {{token: loopback}}}}]\n\
             contexts: [{{name: loopback, context: {{cluster: loopback, user: admin}}}}]\n"
        ),
    )?;
    eprintln!("https://{address} after {:?}\nKUBECONFIG={}", started.elapsed(), kubeconfig.display());
    server.serve(listener, Arc::new(ArcSwap::from_pointee(tls))).await;
    Ok(())
}
