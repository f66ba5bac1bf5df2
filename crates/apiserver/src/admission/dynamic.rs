//! What admission webhooks and admission policies share: which requests they match, the expressions among their
//! conditions, configurations kept up to date.
//! Read first: [`matching::Matcher`], [`conditions`], [`configurations::Configurations`], [`reinvocation`].
//! Not here: what is done with a request that matches (`webhook`, `policy`).
//! Upstream: apiserver `pkg/admission/plugin/webhook/{predicates,matchconditions}`, `pkg/admission/plugin/cel`.

pub(crate) mod conditions;
pub(super) mod configurations;
pub(crate) mod expressions;
pub(super) mod matching;
pub(super) mod reinvocation;
pub(super) mod versions;
