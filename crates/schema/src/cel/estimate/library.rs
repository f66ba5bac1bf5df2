//! Estimates of the functions that Kubernetes adds.
//! Upstream: apiserver `pkg/cel/library/cost.go` (`EstimateCallCost`).

use super::{Argument, Estimator, Range, UNKNOWN};
use crate::cel::ast::{ExprKind, Literal};
use crate::cel::cost::{self, LIST, REGEX, STRUCT, TEXT};
use crate::cel::declarations as names;
use crate::cel::functions::format::MAX_NAME_REGEX_SIZE;
use crate::cel::types::Type;

/// The bytes of an address.
const ADDRESS: Range = Range { min: 4, max: 16 };

/// The largest named format.
const MAX_FORMAT_SIZE: u64 = 64;

type Estimate = (Range, Option<Range>);

pub(super) fn call(
    estimator: &Estimator<'_>,
    function: &str,
    overload: &str,
    target: Option<&Argument<'_>>,
    arguments: &[Argument<'_>],
) -> Option<Estimate> {
    let sized = |argument: &Argument<'_>| {
        argument.size.or_else(|| estimator.size_at(&argument.path)).unwrap_or(UNKNOWN)
    };
    let one = Some((Range::fixed(1), None));
    match (function, target, arguments) {
        ("check", ..) => Some((Range::fixed(cost::CHECK), None)),
        (
            "serviceAccount"
            | "path"
            | "group"
            | "resource"
            | "subresource"
            | "namespace"
            | "name"
            | "allowed"
            | "reason"
            | "error"
            | "errored"
            | "masked"
            | "prefixLength"
            | "family"
            | "isUnspecified"
            | "isLoopback"
            | "isLinkLocalMulticast"
            | "isLinkLocalUnicast"
            | "isGlobalUnicast"
            | "format.named"
            | "sign"
            | "asInteger"
            | "isInteger"
            | "asApproximateFloat"
            | "isGreaterThan"
            | "isLessThan"
            | "compareTo"
            | "add"
            | "sub"
            | "major"
            | "minor"
            | "patch"
            | "getScheme"
            | "getHostname"
            | "getHost"
            | "getPort"
            | "getEscapedPath"
            | "getQuery",
            ..,
        ) => one,
        ("fieldSelector" | "labelSelector", _, [text]) => {
            let length = sized(text);
            let requirements = length.scaled(0.5).scaled((LIST + STRUCT) as f64);
            Some((Range::fixed(LIST).add(length.scaled(TEXT)).add(requirements), None))
        }
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
            let count = sized(target);
            let Some(kind) = target.kind.parameters().first().copied() else {
                return Some((count.scaled(TEXT), None));
            };
            let mut each = Range::fixed(1);
            if matches!(kind, Type::String | Type::Bytes) {
                each = each.add(element_size(estimator, target).scaled(TEXT));
            }
            Some((count.times(each), None))
        }
        ("url" | "jsonpatch.escapeKey", _, [text]) => {
            let size = sized(text);
            Some((size.scaled(TEXT), Some(size)))
        }
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
            let size = sized(target);
            Some((size.scaled(TEXT), Some(size)))
        }
        ("replace", Some(target), [from, to, ..]) => {
            let text = sized(target);
            Some((text.scaled(2.0 * TEXT), Some(replaced(text, sized(from), sized(to)))))
        }
        ("split", Some(target), arguments) => {
            let text = sized(target);
            let limit = arguments.get(1).and_then(|limit| match &limit.expr.kind {
                ExprKind::Literal(Literal::Int(limit)) => Some(*limit as u64),
                _ => None,
            });
            let size = Range { min: 0, max: limit.unwrap_or(text.max) };
            Some((text.scaled(2.0 * TEXT), Some(size)))
        }
        ("join", Some(target), arguments) => {
            let count = sized(target);
            let mut size = count.times(element_size(estimator, target));
            if let Some(by) = arguments.first() {
                let gaps = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
                size = size.add(sized(by).times(gaps));
            }
            Some((size.scaled(TEXT), Some(size)))
        }
        ("find" | "findAll", Some(target), [pattern, ..]) => {
            let text = sized(target);
            let walk = text.add(Range::fixed(1)).scaled(TEXT);
            Some((walk.times(sized(pattern).scaled(REGEX)), Some(Range { min: 0, max: text.max })))
        }
        ("ip", Some(_), []) => one,
        ("containsIP" | "containsCIDR", Some(_), [other, ..]) => {
            let mut cost = ADDRESS.add(ADDRESS).scaled(TEXT);
            if function == "containsCIDR" {
                cost = cost.add(ADDRESS.scaled(TEXT)).add(Range::fixed(1));
            }
            if overload.ends_with("_string") {
                cost = cost.add(sized(other).scaled(TEXT));
            }
            Some((cost, None))
        }
        ("validate", Some(_), [text]) => {
            Some((sized(text).scaled(TEXT).scaled(MAX_NAME_REGEX_SIZE * REGEX), None))
        }
        ("_==_", _, [left, right]) if left.kind == right.kind => match left.kind {
            Type::Opaque(name) if *name == names::FORMAT => {
                Some((Range { min: 1, max: MAX_FORMAT_SIZE }.scaled(TEXT), None))
            }
            Type::Opaque(name) if *name == names::URL => {
                let max = right.size.map_or(1, |size| size.max);
                Some((Range { min: 1, max }.scaled(TEXT), None))
            }
            Type::Opaque(_) => one,
            _ => None,
        },
        _ => None,
    }
}

fn element_size(estimator: &Estimator<'_>, list: &Argument<'_>) -> Range {
    if list.path.is_empty() {
        return UNKNOWN;
    }
    let mut path = list.path.clone();
    path.push("@items".to_owned());
    estimator.size_at(&path).unwrap_or(UNKNOWN)
}

/// The sizes that replacing can give: the longest and the shortest.
fn replaced(text: Range, from: Range, to: Range) -> Range {
    let (mut count, mut kept) = (Range::fixed(0), Range::fixed(0));
    if from.min == 0 {
        (count.max, kept.max) = (text.max.saturating_add(1), text.max);
    } else if to.max <= from.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / from.min as f64).ceil() as u64;
    }
    if from.max == 0 {
        (count.min, kept.min) = (text.min.saturating_add(1), text.min);
    } else if from.max <= to.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / from.max as f64).ceil() as u64;
    }
    count.times(to).add(kept)
}
