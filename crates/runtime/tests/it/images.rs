//! Images from registries and archives.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use runtime::images::Images;
use runtime::images::registry::Credentials;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

fn tasks() -> foundation::Tasks {
    foundation::Tasks::new("test")
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// An image: manifest, configuration, and blobs by digest (gzip and zstd layers).
struct Published {
    manifest: Vec<u8>,
    config: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
}

fn publish() -> Published {
    let layer = |name: &str, content: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        archive.into_inner().unwrap()
    };
    let plain =
        [layer("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), layer("etc/passwd", "web:x:7:7::/:/bin/sh\n")];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain[0]).unwrap();
    let packed = [gzip.finish().unwrap(), zstd::encode_all(&plain[1][..], 1).unwrap()];
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"User": "web", "Cmd": ["/bin/web"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&plain[0]), digest(&plain[1])]},
    })
    .to_string()
    .into_bytes();
    let descriptor = |bytes: &[u8]| serde_json::json!({"digest": digest(bytes), "size": bytes.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": descriptor(&config),
        "layers": [descriptor(&packed[0]), descriptor(&packed[1])],
    })
    .to_string()
    .into_bytes();
    let mut blobs: BTreeMap<String, Vec<u8>> = packed.into_iter().map(|b| (digest(&b), b)).collect();
    blobs.insert(digest(&config), config.clone());
    Published { manifest, config, blobs }
}

/// A registry that wants a token, which it gives to `user:secret` only.
async fn registry() -> (String, Arc<Mutex<Vec<String>>>) {
    registry_of(publish()).await
}

async fn registry_of(image: Published) -> (String, Arc<Mutex<Vec<String>>>) {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"digest": digest(b"other"), "size": 5, "platform": {"os": "linux", "architecture": "s390x"}},
        {"digest": digest(&image.manifest), "size": image.manifest.len(), "platform": {"os": "linux", "architecture": arch}},
    ]})
    .to_string()
    .into_bytes();
    let mut content: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    content.insert("/v2/team/web/manifests/v1".into(), index);
    content.insert(format!("/v2/team/web/manifests/{}", digest(&image.manifest)), image.manifest);
    content.extend(image.blobs.into_iter().map(|(d, b)| (format!("/v2/team/web/blobs/{d}"), b)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (host, log, content) = (address.clone(), seen.clone(), Arc::new(content));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (host, log, content) = (host.clone(), log.clone(), content.clone());
            let service = hyper::service::service_fn(move |request| {
                log.lock().push(request_line(&request));
                let response = answer(&request, &host, &content);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    (address, seen)
}

fn request_line(request: &Request<Incoming>) -> String {
    format!("{} {}", request.method(), request.uri())
}

fn answer(
    request: &Request<Incoming>,
    host: &str,
    content: &BTreeMap<String, Vec<u8>>,
) -> Response<Full<Bytes>> {
    let authorization = request.headers().get("authorization").map_or("", |h| h.to_str().unwrap());
    let reply = |status: StatusCode, body: &[u8]| {
        let mut response = Response::new(Full::new(Bytes::copy_from_slice(body)));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() == "/token" {
        // base64 of user:secret
        return if authorization == "Basic dXNlcjpzZWNyZXQ=" {
            reply(StatusCode::OK, br#"{"token":"opaque"}"#)
        } else {
            reply(StatusCode::UNAUTHORIZED, b"")
        };
    }
    if authorization != "Bearer opaque" {
        let mut response = reply(StatusCode::UNAUTHORIZED, b"");
        let challenge =
            format!(r#"Bearer realm="http://{host}/token",service="test",scope="repository:team/web:pull""#);
        response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        return response;
    }
    match content.get(request.uri().path()) {
        Some(bytes) => reply(StatusCode::OK, bytes),
        None => reply(StatusCode::NOT_FOUND, b""),
    }
}

fn user() -> Option<Credentials> {
    Some(Credentials { username: "user".into(), password: "secret".into(), ..Credentials::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_with_a_token() {
    let (address, seen) = registry().await;
    let root = tempfile::tempdir().unwrap();
    let hosts = root.path().join("hosts");
    let images = Images::open(root.path()).unwrap();
    let name = format!("{address}/team/web:v1");
    let image = images.pull(&name, user(), &hosts, &tasks()).await.unwrap();
    assert_eq!(image.names.iter().collect::<Vec<_>>(), [&name]);
    assert!(image.digests.first().unwrap().starts_with(&format!("{address}/team/web@sha256:")));
    assert_eq!(
        (image.config.user.as_str(), image.config.cmd.as_slice()),
        ("web", &["/bin/web".to_owned()][..])
    );
    assert_eq!(images.text_of(&image, "etc/passwd"), "web:x:7:7::/:/bin/sh\n", "the upper layer counts");
    assert_eq!(images.find(image.digests.first().unwrap()).unwrap(), Some(image.clone()));
    let layers = |log: &[String]| log.iter().filter(|l| l.contains("/blobs/")).count();
    assert_eq!(layers(&seen.lock()), 3, "two layers and a configuration");
    images.pull(&name, user(), &hosts, &tasks()).await.unwrap();
    assert_eq!(layers(&seen.lock()), 4, "layers that are there are not fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_says_why() {
    let (address, _) = registry().await;
    let root = tempfile::tempdir().unwrap();
    let hosts = root.path().join("hosts");
    let images = Images::open(root.path()).unwrap();
    let wrong =
        Some(Credentials { username: "user".into(), password: "guess".into(), ..Credentials::default() });
    for (name, credentials, expected) in [
        (format!("{address}/team/web:v2"), user(), format!("{address}/team/web:v2: not found")),
        (
            format!("{address}/team/web:v1"),
            wrong,
            "pull access denied, repository does not exist or may require authorization".into(),
        ),
        (format!("{address}/team/web:v1"), None, "pull access denied".into()),
        ("127.0.0.1:1/x:v1".into(), None, "connection refused".into()),
        ("Bad".into(), None, "\"Bad\"".into()),
    ] {
        let error = images.pull(&name, credentials, &hosts, &tasks()).await.unwrap_err().to_string();
        assert!(error.contains(&expected), "{error}");
    }
    assert_eq!(images.list().unwrap(), []);
    assert_eq!(std::fs::read_dir(images.layers_directory()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_sends_is_bounded_and_named_by_digests() {
    for (change, expected) in [
        ("size", "a layer is longer than the 7 bytes stated"),
        ("digest", "invalid layer digest \"sha256:../../../../pki\""),
    ] {
        let mut image = publish();
        let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        if change == "size" {
            manifest["layers"][1]["size"] = 7.into();
        } else {
            let mut config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
            config["rootfs"]["diff_ids"][0] = "sha256:../../../../pki".into();
            let config = config.to_string().into_bytes();
            manifest["config"] = serde_json::json!({"digest": digest(&config), "size": config.len()});
            image.blobs.insert(digest(&config), config);
        }
        image.manifest = manifest.to_string().into_bytes();
        let (address, _) = registry_of(image).await;
        let root = tempfile::tempdir().unwrap();
        let images = Images::open(root.path()).unwrap();
        let name = format!("{address}/team/web:v1");
        let error = images.pull(&name, user(), root.path(), &tasks()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(images.list().unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first() {
    let (address, _) = registry().await;
    let root = tempfile::tempdir().unwrap();
    let hosts = root.path().join("hosts");
    std::fs::create_dir_all(hosts.join("quay.io")).unwrap();
    std::fs::write(hosts.join("quay.io/hosts.toml"), format!("[host.\"http://{address}\"]\n")).unwrap();
    let images = Images::open(root.path()).unwrap();
    let image = images.pull("quay.io/team/web:v1", user(), &hosts, &tasks()).await.unwrap();
    assert!(image.names.contains("quay.io/team/web:v1"));
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, name, &content[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn archives_of_both_kinds_are_imported() {
    let image = publish();
    let blob = |d: &str| format!("blobs/{}", d.replace(':', "/"));
    let index = serde_json::json!({"manifests": [{
        "digest": digest(&image.manifest),
        "size": image.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "example.com/web:v3"},
    }]});
    let mut oci = vec![
        ("oci-layout".to_owned(), b"{}".to_vec()),
        ("index.json".into(), index.to_string().into_bytes()),
        (blob(&digest(&image.manifest)), image.manifest.clone()),
    ];
    oci.extend(image.blobs.iter().map(|(d, b)| (blob(d), b.clone())));
    let parsed: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let layers: Vec<String> =
        parsed["layers"].as_array().unwrap().iter().map(|l| blob(l["digest"].as_str().unwrap())).collect();
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": ["web:v4"], "Layers": layers}]);
    let mut docker = vec![("c.json".to_owned(), image.config.clone())];
    docker.extend(image.blobs.iter().map(|(d, b)| (blob(d), b.clone())));
    docker.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    for (files, name, expected) in [
        (&oci, None, "example.com/web:v3"),
        (&docker, None, "docker.io/library/web:v4"),
        (&docker, Some("mine:1"), "docker.io/library/mine:1"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let packed = zstd::encode_all(&archive(files)[..], 1).unwrap();
        let found = runtime::images::import(root.path(), &packed[..], name).unwrap();
        assert_eq!(found[0].names.iter().collect::<Vec<_>>(), [expected]);
        assert_eq!(found[0].id, digest(&image.config));
        let images = Images::open(root.path()).unwrap();
        assert_eq!(images.text_of(&found[0], "etc/passwd"), "web:x:7:7::/:/bin/sh\n");
    }
    let root = tempfile::tempdir().unwrap();
    let neither = archive(&[("readme".to_owned(), vec![])]);
    let error = runtime::images::import(root.path(), &neither[..], None).unwrap_err();
    assert!(error.to_string().contains("neither an OCI layout"), "{error}");
    // An archive must have all the layers of which its configuration speaks.
    let mut fewer: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    fewer["layers"].as_array_mut().unwrap().pop();
    let fewer = fewer.to_string().into_bytes();
    let index = serde_json::json!({"manifests": [{"digest": digest(&fewer), "size": fewer.len()}]});
    let mut short = oci.clone();
    short[1].1 = index.to_string().into_bytes();
    short.push((blob(&digest(&fewer)), fewer));
    let error = runtime::images::import(root.path(), &archive(&short)[..], None).unwrap_err();
    assert_eq!(error.to_string(), "mismatched image rootfs and manifest layers");
    // A layer that is not what its digest says is refused, and nothing of it stays.
    let mut broken = oci.clone();
    for (name, content) in &mut broken {
        if layers.contains(name) {
            *content = archive(&[("evil".to_owned(), vec![])]);
        }
    }
    let root = tempfile::tempdir().unwrap();
    let error = runtime::images::import(root.path(), &archive(&broken)[..], None).unwrap_err();
    assert!(error.to_string().starts_with("unexpected digest of a layer"), "{error:?}");
    assert_eq!(std::fs::read_dir(root.path().join("images/layers")).unwrap().count(), 0);
}
