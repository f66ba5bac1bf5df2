//! The tree of a parsed expression, macros already written out.
//! Not here: its types (`check` keeps them beside the tree, by the nodes' numbers).

use std::sync::Arc;

/// How deep a tree may be: upstream's limit of recursion while parsing, which also bounds the stack of everything
/// that walks the tree.
pub const MAX_DEPTH: u16 = 250;

/// A node.
#[derive(Debug)]
pub struct Expr {
    /// Its number, unique in the tree.
    pub id: u32,
    /// Where it is in the text, in characters.
    pub position: u32,
    /// How many levels are below it.
    pub depth: u16,
    /// What it is.
    pub kind: ExprKind,
}

/// What a node is.
#[derive(Debug)]
pub enum ExprKind {
    /// A constant.
    Literal(Literal),
    /// A name.
    Ident(String),
    /// `operand.field`.
    Select {
        /// What the field is of.
        operand: Box<Expr>,
        /// Its name.
        field: String,
        /// Only whether it is there: `has(…)`.
        test: bool,
    },
    /// A function, an operator or a method.
    Call {
        /// Its name; operators have names such as `_+_`.
        function: String,
        /// What a method is called on.
        target: Option<Box<Expr>>,
        /// The arguments.
        arguments: Vec<Expr>,
    },
    /// `[…]`; the flag says that an element is optional.
    List(Vec<(Expr, bool)>),
    /// `{key: value}`; the flag says that the entry is optional.
    Map(Vec<(Expr, Expr, bool)>),
    /// `Name{field: value}`; the flag says that the field is optional.
    Struct {
        /// The type's name.
        name: String,
        /// The fields.
        fields: Vec<(String, Expr, bool)>,
    },
    /// What macros become.
    Comprehension(Box<Comprehension>),
}

/// A fold over a list or map.
#[derive(Debug)]
pub struct Comprehension {
    /// What is walked.
    pub range: Expr,
    /// The variable of the element (or of the key or index, where there are two).
    pub variable: String,
    /// The variable of the value, where there are two.
    pub second: Option<String>,
    /// The variable of the result so far.
    pub accumulator: String,
    /// What the result begins as.
    pub initial: Expr,
    /// Whether to go on.
    pub condition: Expr,
    /// The next result.
    pub step: Expr,
    /// The value of the whole.
    pub result: Expr,
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `'text'`
    String(Arc<str>),
    /// `b'bytes'`
    Bytes(Arc<[u8]>),
}

impl Expr {
    /// The nodes directly below.
    pub fn children(&self) -> Vec<&Self> {
        match &self.kind {
            ExprKind::Literal(_) | ExprKind::Ident(_) => Vec::new(),
            ExprKind::Select { operand, .. } => vec![operand],
            ExprKind::Call { target, arguments, .. } => {
                target.as_deref().into_iter().chain(arguments).collect()
            }
            ExprKind::List(elements) => elements.iter().map(|(element, _)| element).collect(),
            ExprKind::Map(entries) => entries.iter().flat_map(|(key, value, _)| [key, value]).collect(),
            ExprKind::Struct { fields, .. } => fields.iter().map(|(_, value, _)| value).collect(),
            ExprKind::Comprehension(fold) => {
                vec![&fold.range, &fold.initial, &fold.condition, &fold.step, &fold.result]
            }
        }
    }

    /// Whether the name is used anywhere in the tree.
    pub fn mentions(&self, name: &str) -> bool {
        matches!(&self.kind, ExprKind::Ident(ident) if ident == name)
            || self.children().iter().any(|child| child.mentions(name))
    }

    /// Whether a field is taken of this very name anywhere in the tree.
    pub fn selects(&self, name: &str, field: &str) -> bool {
        let named = |expr: &Self| matches!(&expr.kind, ExprKind::Ident(ident) if ident == name);
        let here = match &self.kind {
            ExprKind::Select { operand, field: taken, .. } => named(operand) && taken == field,
            ExprKind::Call { function, target: None, arguments } if function == "_?._" => {
                matches!(arguments.as_slice(), [operand, taken] if named(operand) && taken.text() == Some(field))
            }
            _ => false,
        };
        here || self.children().iter().any(|child| child.selects(name, field))
    }

    /// The literal text, where it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            ExprKind::Literal(Literal::String(text)) => Some(text),
            _ => None,
        }
    }
}
