//! What to do when the majority of the members is lost for good: this one goes on alone.
//!
//! Takes everything that is in its log for agreed on, because what was acknowledged may be there without this member
//! having been told; what was not, may come into being by it, as after any unknown outcome. The result is another
//! cluster: members of the old one are not let in, and join anew with empty directories. Not here: the command.

use std::path::Path;

use store::Error;

use crate::identity::Identity;
use crate::keeper::Keeper;
use crate::look::step;
use crate::member::Options;
use crate::membership::{Member, Membership};

/// Makes the member in a directory, which must not be running, the only one of a new cluster.
pub fn reset(directory: &Path, options: &Options) -> Result<Identity, Error> {
    let identity = Identity::load(directory)?.ok_or(Error::Invalid("there is no member in the directory"))?;
    let recovered = Keeper::open(directory, &options.engine)?;
    let replica = recovered.replica;
    if replica.position().index == 0 {
        return Err(Error::Invalid("the member had not joined its cluster yet: it holds nothing"));
    }
    for entry in recovered.entries {
        // Whoever asked has gone.
        drop(replica.apply(vec![step(entry)?.0]));
    }
    // First: members of the old cluster must not take one that is alone for one of theirs. If it goes no further than
    // this, it is alone in talking to nobody, and can be reset again.
    let identity = Identity { cluster: options.engine.randomness.u64().max(1), ..identity };
    identity.save(directory)?;
    let (name, address) = (options.name.clone(), options.address.clone());
    replica.attach(Membership::alone(Member { id: identity.member, name, address }).encode());
    replica.checkpoint()?;
    Ok(identity)
}
