//! Who a container's process is: from the image's user, the pod's security context and the image's
//! `/etc/passwd` and `/etc/group`.
//!
//! Pure, over the two files' texts. Upstream: containerd internal/cri/server (container_create), moby/user.

use sys::container::User;

/// Why nobody could be found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    /// Not in /etc/passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// Not in /etc/group.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
}

/// What the pod asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// `runAsUser`.
    pub uid: Option<u32>,
    /// `runAsGroup`.
    pub gid: Option<u32>,
    /// A user by name.
    pub name: String,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Without the groups the image's /etc/group names.
    pub strict: bool,
}

/// Finds the user; `image` is the image's `user[:group]`.
pub(crate) fn resolve(wanted: &Wanted, image: &str, passwd: &str, group: &str) -> Result<User, Error> {
    let (user, group_part) = match (wanted.uid, wanted.name.as_str()) {
        (Some(uid), _) => (uid.to_string(), None),
        (None, name) if !name.is_empty() => (name.to_owned(), None),
        _ => match image.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group)),
            None => (image.to_owned(), None),
        },
    };
    let user = if user.is_empty() { "0".to_owned() } else { user };
    let entry = lines(passwd).find(|f| f.first() == Some(&user.as_str()) || f.get(2) == Some(&user.as_str()));
    let (name, uid, mut gid) = match &entry {
        Some(fields) => (
            fields[0].to_owned(),
            number(fields.get(2)).unwrap_or_default(),
            number(fields.get(3)).unwrap_or_default(),
        ),
        None => (String::new(), user.parse().map_err(|_| Error::User(user.clone()))?, 0),
    };
    if let Some(wanted) = group_part.filter(|g| !g.is_empty()) {
        let found = lines(group).find(|f| f.first() == Some(&wanted)).and_then(|f| number(f.get(2)));
        gid = match found {
            Some(gid) => gid,
            None => wanted.parse().map_err(|_| Error::Group(wanted.to_owned()))?,
        };
    }
    if let Some(wanted) = wanted.gid {
        gid = wanted;
    }
    // The primary group is among the supplementary ones, as containerd has it.
    let mut groups = vec![gid];
    if !wanted.strict && !name.is_empty() {
        groups.extend(
            lines(group)
                .filter(|f| f.get(3).is_some_and(|members| members.split(',').any(|m| m == name)))
                .filter_map(|f| number(f.get(2))),
        );
    }
    groups.extend(&wanted.groups);
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|g| seen.insert(*g));
    Ok(User { uid, gid, groups })
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(|l| l.split(':').collect())
}

fn number(field: Option<&&str>) -> Option<u32> {
    field?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\naudio:x:29:root,web\n";

    #[test]
    fn users_are_found() {
        let any = Wanted::default;
        for (wanted, image, uid, gid, groups) in [
            (any(), "", 0, 0, vec![0, 29]),
            (any(), "web", 33, 34, vec![34, 29]),
            (any(), "web:root", 33, 0, vec![0, 29]),
            (any(), "1000:1001", 1000, 1001, vec![1001]),
            (Wanted { uid: Some(33), ..any() }, "root", 33, 34, vec![34, 29]),
            (Wanted { uid: Some(1000), gid: Some(7), groups: vec![5, 7], ..any() }, "", 1000, 7, vec![7, 5]),
            (Wanted { uid: Some(33), strict: true, groups: vec![5], ..any() }, "", 33, 34, vec![34, 5]),
        ] {
            let user = resolve(&wanted, image, PASSWD, GROUP).unwrap();
            assert_eq!((user.uid, user.gid, user.groups), (uid, gid, groups), "{wanted:?} {image:?}");
        }
    }

    #[test]
    fn who_is_not_there_is_an_error() {
        let error = resolve(&Wanted::default(), "nobody", PASSWD, GROUP).unwrap_err();
        assert_eq!(error.to_string(), "unable to find user nobody: no matching entries in passwd file");
        let error = resolve(&Wanted::default(), "web:staff", PASSWD, GROUP).unwrap_err();
        assert_eq!(error.to_string(), "unable to find group staff: no matching entries in group file");
    }
}
