//! What an expression may ask of the authorizer, said step by step: `authorizer.group('').resource('pods').check('get')`.
//! The answer may take I/O, which an evaluation does not do: a check that is not decided yet ends the evaluation with
//! [`Error::Undecided`](super::Error), and whoever evaluates decides it and begins again.
//! Upstream: apiserver `pkg/cel/library/authz.go`.

use super::declarations as names;

/// Something to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Check {
    /// Who; `None` for whoever makes the request.
    pub service_account: Option<(String, String)>,
    /// What.
    pub subject: Subject,
    /// The verb; empty while the check is being put together.
    pub verb: String,
}

/// What a check is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Nothing yet: the authorizer itself.
    #[default]
    Nothing,
    /// A path that is no resource.
    Path(String),
    /// A group, of which a resource will be named.
    Group(String),
    /// A resource.
    Resource(Resource),
}

/// The resource of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Its group.
    pub group: String,
    /// Its plural name.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The fields that are selected, as written.
    pub field_selector: Option<String>,
    /// The labels that are selected, as written.
    pub label_selector: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, for people.
    pub reason: String,
    /// What went wrong, if something did.
    pub error: String,
}

/// Who knows answers.
pub trait Authorizer: std::fmt::Debug {
    /// The answer, if it is known already.
    fn decision(&self, check: &Check) -> Option<Decision>;
}

impl Check {
    /// The name of its type in expressions.
    pub(super) fn type_name(&self) -> &'static str {
        match self.subject {
            Subject::Nothing => names::AUTHORIZER,
            Subject::Path(_) => names::PATH_CHECK,
            Subject::Group(_) => names::GROUP_CHECK,
            Subject::Resource(_) => names::RESOURCE_CHECK,
        }
    }
}
