//! Parses an expression, and writes out its macros while it does.
//! Not here: tokens (`lexer`), what the macros become (`macros`), types (`check`).
//! Upstream: cel-go `parser/parser.go`.

pub(super) mod macros;

use super::ast::{Expr, ExprKind, Literal, MAX_DEPTH};
use super::lexer::{self, Mistake, Token, TokenKind};

/// The longest expression, in characters (upstream's default).
const MAX_LENGTH: usize = 100_000;

/// Words that are no names.
const RESERVED: [&str; 22] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
    "__proto__",
];

type Result<T> = std::result::Result<T, Mistake>;

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    next: u32,
    nesting: u16,
    /// Whether `cel.bind` is known.
    binds: bool,
}

/// The tree of an expression and the number of its nodes; `binds` says whether there is `cel.bind`.
pub(super) fn parse(source: &str, binds: bool) -> Result<(Expr, u32)> {
    let length = source.chars().count();
    if length > MAX_LENGTH {
        let message = format!("expression code point size exceeds limit: size: {length}, limit {MAX_LENGTH}");
        return Err(Mistake { position: 0, message });
    }
    let tokens = lexer::tokens(source)?;
    let mut parser = Parser { tokens, at: 0, next: 0, nesting: 0, binds };
    let expr = parser.expression()?;
    match parser.token().kind {
        TokenKind::End => Ok((expr, parser.next)),
        _ => {
            let (text, position) = (parser.token().text.clone(), parser.token().position);
            let message = format!("Syntax error: extraneous input '{text}' expecting <EOF>");
            Err(Mistake { position, message })
        }
    }
}

impl Parser {
    fn token(&self) -> &Token {
        // The last token is the end, and nothing goes past it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn accept(&mut self, symbol: &str) -> Option<u32> {
        match self.token() {
            Token { kind: TokenKind::Symbol(found), position, .. } if *found == symbol => {
                let position = *position;
                self.advance();
                Some(position)
            }
            _ => None,
        }
    }

    fn expect(&mut self, symbol: &str) -> Result<u32> {
        if let Some(position) = self.accept(symbol) {
            return Ok(position);
        }
        Err(self.unexpected(&format!("'{symbol}'")))
    }

    fn unexpected(&self, wanted: &str) -> Mistake {
        let Token { position, text, .. } = self.token();
        let message = match (&self.token().kind, wanted) {
            (TokenKind::End, "") => {
                "Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', \
                 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
                    .to_owned()
            }
            (_, "") => format!("Syntax error: no viable alternative at input '{text}'"),
            (_, wanted) => format!("Syntax error: mismatched input '{text}' expecting {wanted}"),
        };
        Mistake { position: *position, message }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn node(&mut self, position: u32, kind: ExprKind) -> Result<Expr> {
        let mut expr = Expr { id: self.number(), position, depth: 0, kind };
        let below = expr.children().iter().map(|child| child.depth).max();
        expr.depth = below.map_or(0, |depth| depth + 1);
        if expr.depth >= MAX_DEPTH {
            return Err(too_deep(position));
        }
        Ok(expr)
    }

    fn call(&mut self, position: u32, function: &str, arguments: Vec<Expr>) -> Result<Expr> {
        self.node(position, ExprKind::Call { function: function.to_owned(), target: None, arguments })
    }

    fn literal(&mut self, position: u32, literal: Literal) -> Result<Expr> {
        self.node(position, ExprKind::Literal(literal))
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nesting += 1;
        if self.nesting > MAX_DEPTH / 2 {
            return Err(too_deep(self.token().position));
        }
        let condition = self.logical("||", "_||_")?;
        let expr = if let Some(position) = self.accept("?") {
            let truthy = self.logical("||", "_||_")?;
            self.expect(":")?;
            let falsy = self.expression()?;
            self.call(position, "_?_:_", vec![condition, truthy, falsy])?
        } else {
            condition
        };
        self.nesting -= 1;
        Ok(expr)
    }

    /// Chains of `||` and `&&` become balanced trees, so that long ones are not deep.
    fn logical(&mut self, symbol: &str, function: &str) -> Result<Expr> {
        let mut terms = vec![self.term(symbol)?];
        let mut positions = Vec::new();
        while let Some(position) = self.accept(symbol) {
            positions.push(position);
            terms.push(self.term(symbol)?);
        }
        self.balance(terms, &positions, function)
    }

    fn term(&mut self, symbol: &str) -> Result<Expr> {
        if symbol == "||" { self.logical("&&", "_&&_") } else { self.relation() }
    }

    fn balance(&mut self, mut terms: Vec<Expr>, positions: &[u32], function: &str) -> Result<Expr> {
        if terms.len() == 1
            && let Some(term) = terms.pop()
        {
            return Ok(term);
        }
        let middle = positions.len().div_ceil(2) - usize::from(positions.len() % 2 == 1);
        let middle = middle.min(positions.len() - 1);
        let right = terms.split_off(middle + 1);
        let left = self.balance(terms, &positions[..middle], function)?;
        let right = self.balance(right, &positions[middle + 1..], function)?;
        self.call(positions[middle], function, vec![left, right])
    }

    fn relation(&mut self) -> Result<Expr> {
        let mut left = self.sum()?;
        loop {
            let function = match (&self.token().kind, self.token().text.as_str()) {
                (TokenKind::Symbol("<"), _) => "_<_",
                (TokenKind::Symbol("<="), _) => "_<=_",
                (TokenKind::Symbol(">"), _) => "_>_",
                (TokenKind::Symbol(">="), _) => "_>=_",
                (TokenKind::Symbol("=="), _) => "_==_",
                (TokenKind::Symbol("!="), _) => "_!=_",
                (TokenKind::Ident, "in") => "@in",
                _ => return Ok(left),
            };
            let position = self.advance().position;
            let right = self.sum()?;
            left = self.call(position, function, vec![left, right])?;
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        let mut left = self.product()?;
        loop {
            let function = match self.token().kind {
                TokenKind::Symbol("+") => "_+_",
                TokenKind::Symbol("-") => "_-_",
                _ => return Ok(left),
            };
            let position = self.advance().position;
            let right = self.product()?;
            left = self.call(position, function, vec![left, right])?;
        }
    }

    fn product(&mut self) -> Result<Expr> {
        let mut left = self.unary()?;
        loop {
            let function = match self.token().kind {
                TokenKind::Symbol("*") => "_*_",
                TokenKind::Symbol("/") => "_/_",
                TokenKind::Symbol("%") => "_%_",
                _ => return Ok(left),
            };
            let position = self.advance().position;
            let right = self.unary()?;
            left = self.call(position, function, vec![left, right])?;
        }
    }

    /// An even number of signs is none.
    fn unary(&mut self) -> Result<Expr> {
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            let Some(first) = self.accept(symbol) else { continue };
            let mut count = 1;
            while self.accept(symbol).is_some() {
                count += 1;
            }
            if symbol == "-"
                && count % 2 == 1
                && let TokenKind::Literal(Literal::Int(number)) = self.token().kind
            {
                self.advance();
                let literal = self.literal(first, Literal::Int(number.wrapping_neg()))?;
                return self.members(literal);
            }
            if symbol == "-"
                && count % 2 == 1
                && let TokenKind::Literal(Literal::Double(number)) = self.token().kind
            {
                self.advance();
                let literal = self.literal(first, Literal::Double(-number))?;
                return self.members(literal);
            }
            let operand = self.member()?;
            return if count % 2 == 0 { Ok(operand) } else { self.call(first, function, vec![operand]) };
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut operand: Expr) -> Result<Expr> {
        loop {
            let Token { kind, position, .. } = self.token().clone();
            match kind {
                TokenKind::Symbol(".") => {
                    self.advance();
                    if self.accept("?").is_some() {
                        let at = self.token().position;
                        let (field, _) = self.field_name()?;
                        let field = self.literal(at, Literal::String(field.into()))?;
                        operand = self.call(position, "_?._", vec![operand, field])?;
                        continue;
                    }
                    let (field, quoted) = self.field_name()?;
                    if !quoted && let Some(open) = self.accept("(") {
                        let arguments = self.arguments(")")?;
                        operand = self.method(open, operand, field, arguments)?;
                    } else {
                        let kind = ExprKind::Select { operand: Box::new(operand), field, test: false };
                        operand = self.node(position, kind)?;
                    }
                }
                TokenKind::Symbol(open @ ("[" | "[?")) => {
                    self.advance();
                    let index = self.expression()?;
                    self.expect("]")?;
                    let function = if open == "[" { "_[_]" } else { "_[?_]" };
                    operand = self.call(position, function, vec![operand, index])?;
                }
                TokenKind::Symbol("{") => {
                    let Some(name) = qualified(&operand) else { return Ok(operand) };
                    self.advance();
                    let fields = self.fields()?;
                    operand = self.node(position, ExprKind::Struct { name, fields })?;
                }
                _ => return Ok(operand),
            }
        }
    }

    fn method(
        &mut self,
        position: u32,
        target: Expr,
        function: String,
        arguments: Vec<Expr>,
    ) -> Result<Expr> {
        match self.expand_method(position, target, &function, arguments)? {
            macros::Expansion::Done(expr) => Ok(expr),
            macros::Expansion::None(target, arguments) => {
                self.node(position, ExprKind::Call { function, target: Some(Box::new(target)), arguments })
            }
        }
    }

    fn field_name(&mut self) -> Result<(String, bool)> {
        match self.token().kind {
            TokenKind::Ident => {
                let token = self.advance();
                // `in`, `true`, `false` and `null` are tokens of their own upstream.
                if matches!(token.text.as_str(), "in" | "true" | "false" | "null") {
                    let message = format!("Syntax error: no viable alternative at input '.{}'", token.text);
                    return Err(Mistake { position: token.position, message });
                }
                Ok((token.text, false))
            }
            TokenKind::Quoted => Ok((self.advance().text.trim_matches('`').to_owned(), true)),
            TokenKind::End => Err(self.unexpected("IDENTIFIER")),
            _ => {
                let Token { position, text, .. } = self.token();
                let message = format!("Syntax error: no viable alternative at input '.{text}'");
                Err(Mistake { position: *position, message })
            }
        }
    }

    fn primary(&mut self) -> Result<Expr> {
        let token = self.token().clone();
        let position = token.position;
        match token.kind {
            TokenKind::Literal(literal) => {
                self.advance();
                if literal == Literal::Int(i64::MIN) {
                    return Err(Mistake { position, message: "invalid int literal".to_owned() });
                }
                self.literal(position, literal)
            }
            TokenKind::Symbol("(") => {
                self.advance();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            TokenKind::Symbol("[") | TokenKind::Symbol("[?") => self.list(),
            TokenKind::Symbol("{") | TokenKind::Symbol("{?") => self.map(),
            TokenKind::Symbol(".") => {
                self.advance();
                let (name, _) = self.field_name()?;
                self.named(position, format!(".{name}"))
            }
            TokenKind::Ident => {
                self.advance();
                match token.text.as_str() {
                    "true" => self.literal(position, Literal::Bool(true)),
                    "false" => self.literal(position, Literal::Bool(false)),
                    "null" => self.literal(position, Literal::Null),
                    "in" => Err(Mistake {
                        position,
                        message: "Syntax error: extraneous input 'in' expecting {'[', '{', '(', '.', '-', '!', 'true', \
                                  'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"
                            .to_owned(),
                    }),
                    word if RESERVED.contains(&word) => {
                        Err(Mistake { position, message: format!("reserved identifier: {word}") })
                    }
                    _ => self.named(position, token.text),
                }
            }
            _ => Err(self.unexpected("")),
        }
    }

    fn named(&mut self, position: u32, name: String) -> Result<Expr> {
        let Some(open) = self.accept("(") else { return self.node(position, ExprKind::Ident(name)) };
        let arguments = self.arguments(")")?;
        match self.expand_function(open, &name, arguments)? {
            Ok(expr) => Ok(expr),
            Err(arguments) => self.node(open, ExprKind::Call { function: name, target: None, arguments }),
        }
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>> {
        let mut found = Vec::new();
        if self.accept(close).is_some() {
            return Ok(found);
        }
        loop {
            found.push(self.expression()?);
            if self.accept(",").is_some() {
                continue;
            }
            self.expect(close)?;
            return Ok(found);
        }
    }

    fn list(&mut self) -> Result<Expr> {
        let open = self.advance();
        let mut optional = open.kind == TokenKind::Symbol("[?");
        let mut elements = Vec::new();
        loop {
            if !optional && self.accept("]").is_some() {
                break;
            }
            optional = optional || self.accept("?").is_some();
            elements.push((self.expression()?, optional));
            optional = false;
            if self.accept(",").is_none() {
                self.expect("]")?;
                break;
            }
        }
        self.node(open.position, ExprKind::List(elements))
    }

    fn map(&mut self) -> Result<Expr> {
        let open = self.advance();
        let mut optional = open.kind == TokenKind::Symbol("{?");
        let mut entries = Vec::new();
        loop {
            if !optional && self.accept("}").is_some() {
                break;
            }
            optional = optional || self.accept("?").is_some();
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            entries.push((key, value, optional));
            optional = false;
            if self.accept(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.node(open.position, ExprKind::Map(entries))
    }

    fn fields(&mut self) -> Result<Vec<(String, Expr, bool)>> {
        let mut found = Vec::new();
        loop {
            if self.accept("}").is_some() {
                return Ok(found);
            }
            let optional = self.accept("?").is_some();
            let (name, _) = self.field_name()?;
            self.expect(":")?;
            found.push((name, self.expression()?, optional));
            if self.accept(",").is_none() {
                self.expect("}")?;
                return Ok(found);
            }
        }
    }
}

fn too_deep(position: u32) -> Mistake {
    Mistake { position, message: format!("expression recursion limit exceeded: {MAX_DEPTH}") }
}

/// `a.b.c` as one name.
pub(super) fn qualified(expr: &Expr) -> Option<String> {
    match &expr.kind {
        ExprKind::Ident(name) => Some(name.clone()),
        ExprKind::Select { operand, field, test: false } => Some(format!("{}.{field}", qualified(operand)?)),
        _ => None,
    }
}
