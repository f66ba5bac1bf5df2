//! Optional values.
//! Upstream: cel-go `cel/library.go` (`OptionalTypes`), `common/types/optional.go`.

use super::Call;
use crate::cel::value::{Error, Result, Value};

pub(in crate::cel) fn call<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>> {
    match (call.function, call.arguments) {
        ("optional.of", [value]) => Ok(Value::some(value.clone())),
        ("optional.ofNonZeroValue", [value]) if value.is_zero() => Ok(Value::Optional(None)),
        ("optional.ofNonZeroValue", [value]) => Ok(Value::some(value.clone())),
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("hasValue", [Value::Optional(inner)]) => Ok(Value::Bool(inner.is_some())),
        ("value", [Value::Optional(Some(inner))]) => Ok((**inner).clone()),
        ("value", [Value::Optional(None)]) => Err(Error::failed("optional.none() dereference")),
        ("or", [Value::Optional(None), other]) => Ok(other.clone()),
        ("or", [found @ Value::Optional(_), _]) => Ok(found.clone()),
        ("orValue", [Value::Optional(None), other]) => Ok(other.clone()),
        ("orValue", [Value::Optional(Some(inner)), _]) => Ok((**inner).clone()),
        ("optional.unwrap" | "unwrapOpt", [Value::List(list)]) => {
            let mut found = Vec::new();
            for element in list.elements()? {
                match element {
                    Value::Optional(inner) => found.extend(inner.map(|inner| (*inner).clone())),
                    _ => return Err(call.no_overload()),
                }
            }
            Ok(Value::list(found))
        }
        _ => Err(call.no_overload()),
    }
}
