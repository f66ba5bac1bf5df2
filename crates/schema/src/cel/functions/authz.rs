//! Questions to the authorizer, step by step.
//! Upstream: apiserver `pkg/cel/library/authz.go`.

use std::rc::Rc;

use super::Call;
use crate::cel::authorizer::{Check, Resource, Subject};
use crate::cel::value::{Error, Opaque, Result, Value};

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        (function, [Value::Opaque(Opaque::Decision(decision))]) => Ok(match function {
            "allowed" => Value::Bool(decision.allowed),
            "reason" => Value::text(&decision.reason),
            "errored" => Value::Bool(!decision.error.is_empty()),
            "error" => Value::text(&decision.error),
            _ => return Err(call.no_overload()),
        }),
        (function, [Value::Opaque(Opaque::Check(check, authorizer)), Value::String(text), rest @ ..]) => {
            let mut next = Check::clone(check);
            match (function, &mut next.subject, rest) {
                ("serviceAccount", Subject::Nothing, [Value::String(name)]) => {
                    let namespace = api::names::is_dns1123_label(text);
                    let account = api::names::is_dns1123_subdomain(name);
                    if let Some(message) = namespace.first().or(account.first()) {
                        return Err(Error::failed(format!("Invalid service account: {message}")));
                    }
                    next.service_account = Some((text.to_string(), name.to_string()));
                }
                ("path", Subject::Nothing, []) => next.subject = Subject::Path(text.to_string()),
                ("group", Subject::Nothing, []) => next.subject = Subject::Group(text.to_string()),
                ("resource", Subject::Group(group), []) => {
                    let group = std::mem::take(group);
                    let resource = Resource { group, resource: text.to_string(), ..Resource::default() };
                    next.subject = Subject::Resource(resource);
                }
                (function, Subject::Resource(resource), []) if function != "check" => match function {
                    "subresource" => resource.subresource = text.to_string(),
                    "namespace" => resource.namespace = text.to_string(),
                    "name" => resource.name = text.to_string(),
                    "fieldSelector" => resource.field_selector = Some(text.to_string()),
                    "labelSelector" => resource.label_selector = Some(text.to_string()),
                    _ => return Err(call.no_overload()),
                },
                ("check", Subject::Path(_) | Subject::Resource(_), []) => {
                    next.verb = text.to_string();
                    return match authorizer.decision(&next) {
                        Some(decision) => Ok(Value::Opaque(Opaque::Decision(Rc::new(decision)))),
                        None => Err(Error::Undecided(Box::new(next))),
                    };
                }
                _ => return Err(call.no_overload()),
            }
            Ok(Value::Opaque(Opaque::Check(Rc::new(next), *authorizer)))
        }
        _ => Err(call.no_overload()),
    }
}
