//! CRI's ImageService.

use std::collections::HashMap;
use std::pin::Pin;

use cri::v1::{self, image_service_server::ImageService};
use futures::Stream;
use tonic::{Request, Response, Status};

use super::{Service, chain};
use crate::engine::{Error, blocking, now};
use crate::images::registry::Credentials;
use crate::images::{self, Image};

type Answer<T> = Result<Response<T>, Status>;

fn ok<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

fn convert(image: &Image) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.names.iter().cloned().collect(),
        repo_digests: image.digests.iter().cloned().collect(),
        size: image.size.max(1),
        uid: uid.map(|value| v1::Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: None,
        pinned: image.pinned,
    }
}

fn name(spec: Option<v1::ImageSpec>) -> String {
    spec.map(|s| s.image).unwrap_or_default()
}

fn status(error: images::Error) -> Status {
    let text = chain(&error);
    match error {
        images::Error::Registry(images::registry::Error::NotFound { .. }) => Status::not_found(text),
        _ => Status::unknown(text),
    }
}

impl Service {
    async fn images(&self, filter: Option<v1::ImageFilter>) -> Result<Vec<v1::Image>, Status> {
        let wanted = filter.map(|f| name(f.image)).unwrap_or_default();
        let images = self.engine.images.clone();
        Ok(blocking(move || {
            let all =
                if wanted.is_empty() { images.list()? } else { images.find(&wanted)?.into_iter().collect() };
            Ok(all.iter().map(convert).collect())
        })
        .await?)
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, request: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        ok(v1::ListImagesResponse { images: self.images(request.into_inner().filter).await? })
    }

    async fn stream_images(
        &self,
        request: Request<v1::StreamImagesRequest>,
    ) -> Answer<Pin<Box<dyn Stream<Item = Result<v1::StreamImagesResponse, Status>> + Send>>> {
        let images = self.images(request.into_inner().filter).await?;
        let batches: Vec<_> =
            images.chunks(500).map(|c| Ok(v1::StreamImagesResponse { images: c.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(batches))))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let request = request.into_inner();
        let name = name(request.image);
        let images = self.engine.images.clone();
        let (image, info) = blocking(move || {
            let Some(image) = images.find(&name)? else { return Ok((None, HashMap::new())) };
            let mut info = HashMap::new();
            if request.verbose {
                let text = String::from_utf8_lossy(&images.config_json(&image)?).into_owned();
                info.insert("info".to_owned(), format!(r#"{{"imageSpec":{text}}}"#));
            }
            Ok((Some(convert(&image)), info))
        })
        .await?;
        ok(v1::ImageStatusResponse { image, info })
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let request = request.into_inner();
        let name = name(request.image);
        let credentials = request.auth.map(|auth| Credentials {
            username: auth.username,
            password: auth.password,
            auth: auth.auth,
            identity_token: auth.identity_token,
            registry_token: auth.registry_token,
        });
        let hosts = self.engine.options.registry_hosts_dir.clone();
        let image =
            self.engine.images.pull(&name, credentials, &hosts, &self.engine.tasks).await.map_err(status)?;
        ok(v1::PullImageResponse { image_ref: image.id })
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let name = name(request.into_inner().image);
        let engine = self.engine.clone();
        blocking(move || Ok(engine.images.remove(&name, &|| engine.layers_in_use())?)).await?;
        ok(v1::RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        let engine = self.engine.clone();
        let (images, containers) = blocking(move || {
            let containers = crate::stats::disk_usage(&engine.options.root.join("containers"));
            Ok::<_, Error>((engine.images.usage(), containers))
        })
        .await?;
        let usage = |directory: &std::path::Path, (bytes, inodes): (u64, u64)| v1::FilesystemUsage {
            timestamp: now(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: directory.display().to_string() }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            inodes_used: Some(v1::UInt64Value { value: inodes }),
        };
        ok(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage(self.engine.images.directory(), images)],
            container_filesystems: vec![usage(&self.engine.options.root, containers)],
        })
    }
}
