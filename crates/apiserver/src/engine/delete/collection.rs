//! DELETE of a collection: what a list with the same options finds, and no more than that.
//!
//! Who names a limit deletes one piece, and is told how to go on, as by a list. Not here: how one object is deleted.
//! Upstream: `DeleteCollection` in apiserver/pkg/registry/generic/registry/store.go.

use api::Status;
use api::field::{self, Path};

use super::{Options, UNREADABLE, one, refused, warn_of_dependents};
use crate::engine::Call;
use crate::engine::read::{self, Asked, Listed};
use crate::response::Response;

pub(in crate::engine) async fn collection(call: &Call) -> Result<Response, Status> {
    // Upstream reads in pieces, so that a resourceVersion alone means exactly that one.
    let asked = Asked::of(call, true)?;
    let options = Options::read(call)?;
    if options.unreadable {
        let detail = "is not allowed with DELETECOLLECTION, try again after removing the option";
        return Err(refused(vec![field::invalid(&Path::new(UNREADABLE), true, detail)]));
    }
    warn_of_dependents(call, &options);
    let (metadata, objects) = match read::find(call, &asked).await? {
        Listed::Found(metadata, objects) => (metadata, objects),
        Listed::Expired(answer) => return Ok(answer),
    };
    for object in &objects {
        match one(call, object.namespace(), object.name(), &options).await {
            Err(status) if !status.is_not_found() => return Err(status),
            _ => {}
        }
    }
    let items = objects.iter().map(|object| object.value.clone()).collect();
    Ok(call.output().list(metadata, items))
}
