//! Objects of every kind, drawn from bytes: the same bytes give the same object, fewer bytes a simpler one.
//! Also compiled into the fuzz targets, hence on its own two feet.
//! Not here: what is done with the objects.

use schema::table::{Definition, SchemaOr, Type, table};
use schema::{FieldValidation, Schema, decode_value};
use serde_json::{Map, Value, json};

/// How deeply definitions are filled in: the schemas of CustomResourceDefinitions hold themselves.
const DEPTH: u8 = 9;

/// Numbers out of bytes. All that are drawn after the last byte are 0, which always means the simplest choice.
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// Draws from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`, which is at most 65536.
    pub fn below(&mut self, bound: usize) -> usize {
        let high = if bound > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (high | usize::from(self.byte())) % bound.max(1)
    }

    /// One of a list.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// The built-in kinds that have a protobuf form, in the order of the table.
pub fn kinds() -> &'static [&'static Definition] {
    static KINDS: std::sync::OnceLock<Vec<&'static Definition>> = std::sync::OnceLock::new();
    KINDS.get_or_init(|| {
        let all = table().names().filter_map(|name| table().definition(name));
        all.filter(|definition| {
            !definition.kinds.is_empty()
                && definition.field("metadata").is_some()
                && definition.field("items").is_none()
                && schema::protobuf::supports(&Schema::BuiltIn(definition))
        })
        .collect()
    })
}

/// A canonical object, of a kind that is drawn too.
pub fn object(source: &mut Source<'_>) -> (Schema, Value) {
    let definition = kinds()[source.below(kinds().len())];
    let schema = Schema::BuiltIn(definition);
    let Value::Object(mut object) = message(definition, source, DEPTH) else { return (schema, json!({})) };
    let kind = schema.kind();
    let group = if kind.group.is_empty() { String::new() } else { format!("{}/", kind.group) };
    object.insert("apiVersion".into(), format!("{group}{}", kind.version).into());
    object.insert("kind".into(), kind.kind.into());
    let decoded = decode_value(&object.into(), &schema, FieldValidation::Strict);
    let decoded = decoded.expect("what is made by the schema is read by it");
    (schema, decoded.value)
}

fn message(definition: &'static Definition, source: &mut Source<'_>, depth: u8) -> Value {
    let mut object = Map::new();
    let Some(depth) = depth.checked_sub(1) else { return object.into() };
    // In protobuf, an object within another does not say what it is.
    let tells = |name: &str| !definition.kinds.is_empty() && matches!(name, "apiVersion" | "kind");
    for field in definition.fields.iter().filter(|field| !tells(field.name)) {
        if source.below(3) == 1 {
            object.insert(field.name.to_owned(), value(&field.r#type, source, depth));
        }
    }
    object.into()
}

fn value(r#type: &Type, source: &mut Source<'_>, depth: u8) -> Value {
    match r#type {
        Type::String => source.pick(&["a", "", "b", "web-1", "ü\u{1f600}\u{0}\"", "0"]).into(),
        Type::Bytes => source.pick(&["AP8=", "", "aGVsbG8="]).into(),
        Type::Int32 => source.pick(&[1, 0, -1, 80, i64::from(i32::MAX), i64::from(i32::MIN)]).into(),
        Type::Int64 => source.pick(&[1, 0, -1, 1 << 53, i64::MAX, i64::MIN]).into(),
        Type::Number => source.pick(&[1.5, 0.0, -2.0, 1e300, 0.1]).into(),
        Type::Boolean => (source.below(2) == 0).into(),
        Type::Quantity => source.pick(&["1", "0", "100m", "1Gi", "-3k", "1e3"]).into(),
        Type::Time => source.pick(&["2024-02-29T12:30:15Z", "1969-12-31T23:59:59Z"]).into(),
        Type::MicroTime => {
            source.pick(&["2024-02-29T12:30:15.000001Z", "1960-01-01T00:00:00.999999Z"]).into()
        }
        Type::IntOrString => source.pick_value(&[json!(80), json!("http"), json!(0), json!("")]),
        // Upstream's JSON of these is free, but an object nearly always.
        Type::Object(_) => {
            source.pick_value(&[json!({"a": 1}), json!({"kind": "X", "list": [null, 1.5, "é"]})])
        }
        Type::Any => source.pick_value(&[json!(1), json!("x"), json!([true, {}]), json!({"a": null})]),
        Type::SchemaOr(other) => schema_or(*other, source, depth),
        Type::Definition(reference) => message(table().get(*reference), source, depth),
        Type::Array(item) => {
            let length = source.below(3) + 1;
            (0..length).map(|_| value(item, source, depth)).collect()
        }
        Type::Map(item) => {
            let length = source.below(3) + 1;
            let entries = (0..length).map(|at| (format!("k{at}"), value(item, source, depth)));
            Value::Object(entries.collect())
        }
    }
}

fn schema_or(other: SchemaOr, source: &mut Source<'_>, depth: u8) -> Value {
    let props = table().definition(schema::table::JSON_SCHEMA_PROPS).expect("the table has it");
    match (other, source.below(2)) {
        (SchemaOr::Bool, 0) => (source.below(2) == 0).into(),
        (SchemaOr::Array, 0) => vec![message(props, source, depth)].into(),
        (SchemaOr::StringArray, 0) => json!(["a", ""]),
        _ => message(props, source, depth),
    }
}

impl Source<'_> {
    fn pick_value(&mut self, list: &[Value]) -> Value {
        list[self.below(list.len())].clone()
    }
}
