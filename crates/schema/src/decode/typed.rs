//! Decodes by a definition of the table, as Go decodes into the struct the definition was made from.
//! Wrong types are remembered (the first is reported) and reading goes on, so that an error of syntax further on wins.
//! Not here: the wording around an error (`decode`), custom resources (`structural`).
//! Upstream: sigs.k8s.io/json `decode.go`; the `UnmarshalJSON` of the apimachinery's special types.

use api::quantity::Quantity;
use serde_json::{Map, Value};

use super::scalar::{self, Precision};
use super::strict::Findings;
use crate::json::{self, Kind, Observer as _, Reader, Unobserved};
use crate::table::{Definition, JSON_SCHEMA_PROPS, SchemaOr, Type, Zero, table};

/// Why decoding stopped.
#[derive(Debug)]
pub(super) enum Abort {
    /// The text is no JSON.
    Syntax(json::Error),
    /// A value refused itself.
    Value(String),
}

impl From<json::Error> for Abort {
    fn from(error: json::Error) -> Self {
        Self::Syntax(error)
    }
}

/// The decoder.
#[derive(Debug)]
pub(super) struct Typed<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) findings: Findings,
    /// The first value of a wrong type.
    pub(super) mistyped: Option<String>,
    /// Field names on the way to the value at hand; lists and maps leave no trace in it.
    fields: Vec<&'static str>,
    /// The struct that holds the last of them.
    holder: &'static str,
}

impl<'a> Typed<'a> {
    pub(super) fn new(body: &'a [u8], strict: bool) -> Self {
        Self {
            reader: Reader::new(body),
            findings: Findings::new(strict),
            mistyped: None,
            fields: Vec::new(),
            holder: "",
        }
    }

    /// The next value; nothing for null and for values of a wrong type.
    pub(super) fn value(&mut self, r#type: &Type) -> Result<Option<Value>, Abort> {
        let kind = self.reader.peek()?;
        if kind == Kind::Null {
            self.reader.null()?;
            return Ok(None);
        }
        Ok(Some(match (r#type, kind) {
            (Type::Any | Type::Object(_), _) => self.reader.value(&mut Unobserved)?,
            (Type::String, Kind::String) => Value::String(self.reader.string()?.into_owned()),
            (Type::Boolean, Kind::Boolean) => Value::Bool(self.reader.boolean()?),
            (Type::Int32 | Type::Int64, Kind::Number) => return self.integer(r#type),
            (Type::Number, Kind::Number) => json::number(self.reader.number()?),
            (Type::Bytes, Kind::String) => {
                let text = self.reader.string()?;
                match scalar::base64(&text) {
                    Ok(text) => Value::String(text),
                    Err(error) => {
                        self.mistyped.get_or_insert(error);
                        return Ok(None);
                    }
                }
            }
            (Type::Bytes, Kind::Array) => self.byte_list()?,
            (Type::Time, _) => return self.time(kind, Precision::Seconds),
            (Type::MicroTime, _) => return self.time(kind, Precision::Microseconds),
            (Type::Quantity, _) => self.quantity(kind)?,
            (Type::IntOrString, Kind::String) => Value::String(self.reader.string()?.into_owned()),
            (Type::IntOrString, Kind::Number) => {
                let text = self.reader.number()?;
                let number: i32 =
                    text.parse().map_err(|_| Abort::Value(self.wrong(&format!("number {text}"), "int32")))?;
                Value::from(number)
            }
            (Type::IntOrString, _) => return Err(Abort::Value(self.wrong(describe(kind), "int32"))),
            (Type::SchemaOr(alternative), _) => return self.schema_or(*alternative, kind),
            (Type::Array(element), Kind::Array) => self.array(element)?,
            (Type::Map(element), Kind::Object) => self.map(element)?,
            (Type::Definition(reference), Kind::Object) => self.definition(table().get(*reference))?,
            _ => {
                self.mistype(describe(kind), r#type);
                self.reader.skip()?;
                return Ok(None);
            }
        }))
    }

    fn array(&mut self, element: &Type) -> Result<Value, Abort> {
        self.reader.check_kept()?;
        let mut first = self.reader.begin_array()?;
        let mut elements = Vec::new();
        while self.reader.element(&mut first)? {
            self.findings.enter_index(elements.len());
            let value = self.value(element)?;
            self.findings.leave();
            elements.push(value.unwrap_or_else(|| zero(element)));
        }
        Ok(Value::Array(elements))
    }

    fn map(&mut self, element: &Type) -> Result<Value, Abort> {
        self.reader.check_kept()?;
        let mut first = self.reader.begin_object()?;
        let mut object = Map::new();
        while let Some(key) = self.reader.key(&mut first)? {
            if object.contains_key(&*key) {
                self.findings.duplicate(&key);
            }
            self.findings.enter_key(&key);
            let value = self.value(element)?;
            self.findings.leave();
            object.insert(key.into_owned(), value.unwrap_or_else(|| zero(element)));
        }
        Ok(Value::Object(object))
    }

    /// An object of a definition. What is zero is left out where Go's `omitempty` does that.
    pub(super) fn definition(&mut self, definition: &'static Definition) -> Result<Value, Abort> {
        self.reader.check_kept()?;
        let mut first = self.reader.begin_object()?;
        let mut object = Map::new();
        let mut seen: u128 = 0;
        while let Some(key) = self.reader.key(&mut first)? {
            let Ok(index) = definition.fields.binary_search_by(|field| field.name.cmp(&key)) else {
                self.findings.unknown(&key);
                self.reader.skip()?;
                continue;
            };
            let field = &definition.fields[index];
            // No definition has more than 128 fields; a test holds that.
            let bit = 1_u128.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
            if seen & bit != 0 {
                self.findings.duplicate(field.name);
                object.remove(field.name);
            }
            seen |= bit;
            self.findings.enter_key(field.name);
            self.fields.push(field.name);
            let holder = std::mem::replace(&mut self.holder, definition.short_name());
            let value = self.value(&field.r#type)?;
            self.holder = holder;
            self.fields.pop();
            self.findings.leave();
            if let Some(value) = value
                && (field.zero != Zero::Omitted || !is_zero(&value, &field.r#type))
            {
                object.insert(field.name.to_owned(), value);
            }
        }
        Ok(Value::Object(object))
    }

    fn integer(&mut self, r#type: &Type) -> Result<Option<Value>, Abort> {
        let text = self.reader.number()?;
        let number = text.parse::<i64>().ok();
        let number = if *r#type == Type::Int32 {
            number.filter(|number| i32::try_from(*number).is_ok())
        } else {
            number
        };
        if number.is_none() {
            self.mistype(&format!("number {text}"), r#type);
        }
        Ok(number.map(Value::from))
    }

    /// Go also reads a list of small numbers as bytes.
    fn byte_list(&mut self) -> Result<Value, Abort> {
        let mut first = self.reader.begin_array()?;
        let mut bytes = Vec::new();
        while self.reader.element(&mut first)? {
            let kind = self.reader.peek()?;
            if kind == Kind::Number {
                let text = self.reader.number()?;
                match text.parse::<u8>() {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => self.mistype_as(&format!("number {text}"), "uint8"),
                }
            } else {
                self.mistype_as(describe(kind), "uint8");
                self.reader.skip()?;
            }
        }
        Ok(Value::String(scalar::encode_base64(&bytes)))
    }

    fn time(&mut self, kind: Kind, precision: Precision) -> Result<Option<Value>, Abort> {
        if kind != Kind::String {
            return Err(Abort::Value(self.wrong(describe(kind), "string")));
        }
        let text = self.reader.string()?;
        let time = scalar::time(&text, precision).map_err(Abort::Value)?;
        Ok(time.map(Value::String))
    }

    fn quantity(&mut self, kind: Kind) -> Result<Value, Abort> {
        let text = match kind {
            Kind::String => self.reader.string()?,
            Kind::Number => self.reader.number()?.into(),
            _ => {
                self.reader.skip()?;
                "".into()
            }
        };
        let quantity = Quantity::parse(text.trim()).map_err(|error| Abort::Value(error.to_string()))?;
        Ok(Value::String(quantity.to_string()))
    }

    /// A schema inside a CustomResourceDefinition, or what may stand for one. Upstream reads what is inside leniently.
    fn schema_or(&mut self, alternative: SchemaOr, kind: Kind) -> Result<Option<Value>, Abort> {
        let schema = Type::Definition(
            table()
                .reference(JSON_SCHEMA_PROPS)
                .ok_or_else(|| Abort::Value("the table of definitions has no JSON schemas".into()))?,
        );
        let r#type = match (alternative, kind) {
            (_, Kind::Object) => schema,
            (SchemaOr::Bool, Kind::Boolean) => Type::Boolean,
            (SchemaOr::Array, Kind::Array) => Type::Array(Box::new(schema)),
            (SchemaOr::StringArray, Kind::Array) => Type::Array(Box::new(Type::String)),
            (SchemaOr::Bool, _) => return Err(Abort::Value("boolean or JSON schema expected".into())),
            _ => {
                self.reader.skip()?;
                return Ok(None);
            }
        };
        let enabled = self.findings.set_enabled(false);
        let value = self.value(&r#type);
        self.findings.set_enabled(enabled);
        value
    }

    fn mistype(&mut self, value: &str, r#type: &Type) {
        if self.mistyped.is_none() {
            self.mistyped = Some(self.wrong(value, &go_type(r#type)));
        }
    }

    fn mistype_as(&mut self, value: &str, r#type: &str) {
        if self.mistyped.is_none() {
            self.mistyped = Some(self.wrong(value, r#type));
        }
    }

    fn wrong(&self, value: &str, r#type: &str) -> String {
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {value} into Go value of type {type}");
        }
        let fields = self.fields.join(".");
        format!("json: cannot unmarshal {value} into Go struct field {}.{fields} of type {type}", self.holder)
    }
}

/// Whether Go's `omitempty` leaves a value out. It knows nothing of structs, hence not of times, quantities and the like.
fn is_zero(value: &Value, r#type: &Type) -> bool {
    match (value, r#type) {
        (Value::Array(list), Type::Array(_)) => list.is_empty(),
        (Value::Object(map), Type::Map(_)) => map.is_empty(),
        (Value::String(text), Type::String | Type::Bytes) => text.is_empty(),
        (Value::Bool(value), Type::Boolean) => !value,
        (Value::Number(number), Type::Int32 | Type::Int64 | Type::Number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

/// What Go puts where a list or map holds null.
fn zero(r#type: &Type) -> Value {
    match r#type {
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Int32 | Type::Int64 | Type::IntOrString => Value::from(0),
        Type::Number => Value::from(0.0),
        Type::Boolean => Value::Bool(false),
        Type::Quantity => Value::String("0".into()),
        Type::Array(_) => Value::Array(Vec::new()),
        Type::Map(_) | Type::Definition(_) => Value::Object(Map::new()),
        Type::Time | Type::MicroTime | Type::Object(_) | Type::Any | Type::SchemaOr(_) => Value::Null,
    }
}

/// What Go calls a value in errors.
fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Null => "null",
        Kind::Boolean => "bool",
        Kind::Number => "number",
        Kind::String => "string",
        Kind::Array => "array",
        Kind::Object => "object",
    }
}

/// The name of a Go type. The table does not know of Go's named texts (`v1.PullPolicy`): they read `string`.
fn go_type(r#type: &Type) -> String {
    match r#type {
        Type::String => "string".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Number => "float64".into(),
        Type::Boolean => "bool".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::Object(_) => "runtime.RawExtension".into(),
        Type::Any => "interface {}".into(),
        Type::SchemaOr(_) => "v1.JSONSchemaProps".into(),
        Type::Array(element) => format!("[]{}", go_type(element)),
        Type::Map(element) if **element == Type::Quantity => "v1.ResourceList".into(),
        Type::Map(element) => format!("map[string]{}", go_type(element)),
        Type::Definition(reference) => {
            let name = table().name(*reference);
            let package = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
            name[package..].to_owned()
        }
    }
}
