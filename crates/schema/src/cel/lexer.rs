//! Splits an expression into tokens.
//! Not here: what tokens mean together (`parser`).
//! Upstream: cel-go `parser/gen/CEL.g4`, `parser/unescape.go`.

use std::sync::Arc;

use super::ast::Literal;

/// A token and where it begins, in characters.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it begins.
    pub position: u32,
    /// Its text as written.
    pub text: String,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenKind {
    /// A number, text or bytes.
    Literal(Literal),
    /// A name or a keyword.
    Ident,
    /// A field's name in backticks.
    Quoted,
    /// An operator or a bracket.
    Symbol(&'static str),
    /// The end.
    End,
}

/// What is wrong with the text, and where.
#[derive(Debug)]
pub struct Mistake {
    /// The position in characters.
    pub position: u32,
    /// The message without its place.
    pub message: String,
}

/// Longest first.
const SYMBOLS: [&str; 25] = [
    "==", "!=", "<=", ">=", "&&", "||", "[?", "{?", "<", ">", "!", "?", ":", "+", "-", "*", "/", "%", "(",
    ")", "[", "]", "{", "}", ",",
];

struct Lexer {
    characters: Vec<char>,
    at: usize,
}

/// The tokens of `source`, the last of which is the end.
pub fn tokens(source: &str) -> Result<Vec<Token>, Mistake> {
    let mut lexer = Lexer { characters: source.chars().collect(), at: 0 };
    let mut found = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.kind == TokenKind::End;
        found.push(token);
        if end {
            return Ok(found);
        }
    }
}

impl Lexer {
    fn peek(&self, offset: usize) -> Option<char> {
        self.characters.get(self.at + offset).copied()
    }

    fn mistake(&self, from: usize, message: impl Into<String>) -> Mistake {
        Mistake { position: from as u32, message: message.into() }
    }

    fn skip(&mut self) {
        while let Some(character) = self.peek(0) {
            match character {
                ' ' | '\t' | '\r' | '\n' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == Some('/') => {
                    while self.peek(0).is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn next(&mut self) -> Result<Token, Mistake> {
        self.skip();
        let from = self.at;
        let kind = match self.peek(0) {
            None => TokenKind::End,
            Some(first) if first.is_ascii_digit() || (first == '.' && self.digit(1)) => {
                TokenKind::Literal(self.number(from)?)
            }
            Some('"' | '\'') => TokenKind::Literal(self.quoted(from, false, false)?),
            Some(first) if first.is_ascii_alphabetic() || first == '_' => self.word(from)?,
            Some('`') => {
                self.at += 1;
                while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || "_.-/ ".contains(c)) {
                    self.at += 1;
                }
                if self.peek(0) != Some('`') {
                    return Err(self.mistake(from, "Syntax error: token recognition error at: '`'"));
                }
                self.at += 1;
                TokenKind::Quoted
            }
            Some('.') => {
                self.at += 1;
                TokenKind::Symbol(".")
            }
            Some(_) => {
                let rest: String = self.characters[from..].iter().take(2).collect();
                let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) else {
                    let text = rest.chars().next().map(String::from).unwrap_or_default();
                    return Err(
                        self.mistake(from, format!("Syntax error: token recognition error at: '{text}'"))
                    );
                };
                self.at += symbol.len();
                TokenKind::Symbol(symbol)
            }
        };
        let text = match kind {
            TokenKind::End => "<EOF>".to_owned(),
            _ => self.characters[from..self.at].iter().collect(),
        };
        Ok(Token { kind, position: from as u32, text })
    }

    fn digit(&self, offset: usize) -> bool {
        self.peek(offset).is_some_and(|c| c.is_ascii_digit())
    }

    fn number(&mut self, from: usize) -> Result<Literal, Mistake> {
        if self.peek(0) == Some('0') && matches!(self.peek(1), Some('x' | 'X')) {
            self.at += 2;
            let start = self.at;
            while self.peek(0).is_some_and(|c| c.is_ascii_hexdigit()) {
                self.at += 1;
            }
            let digits: String = self.characters[start..self.at].iter().collect();
            return self.integer(from, &digits, 16);
        }
        let mut float = false;
        while self.digit(0) {
            self.at += 1;
        }
        if self.peek(0) == Some('.') && self.digit(1) {
            float = true;
            self.at += 1;
            while self.digit(0) {
                self.at += 1;
            }
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
            if self.digit(1 + sign) {
                float = true;
                self.at += 1 + sign;
                while self.digit(0) {
                    self.at += 1;
                }
            }
        }
        let digits: String = self.characters[from..self.at].iter().collect();
        if float {
            return match digits.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Literal::Double(number)),
                _ => Err(self.mistake(from, "invalid double literal")),
            };
        }
        self.integer(from, &digits, 10)
    }

    /// The sign is an operator to us; the parser joins `-` and 9223372036854775808.
    fn integer(&mut self, from: usize, digits: &str, radix: u32) -> Result<Literal, Mistake> {
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return u64::from_str_radix(digits, radix)
                .map(Literal::Uint)
                .map_err(|_| self.mistake(from, "invalid uint literal"));
        }
        let number = u64::from_str_radix(digits, radix).ok();
        match number {
            Some(number) if number <= i64::MAX as u64 => Ok(Literal::Int(number as i64)),
            // Only right after a minus: the parser checks.
            Some(number) if number == i64::MAX as u64 + 1 => Ok(Literal::Int(i64::MIN)),
            _ => Err(self.mistake(from, "invalid int literal")),
        }
    }

    fn word(&mut self, from: usize) -> Result<TokenKind, Mistake> {
        let (mut raw, mut bytes) = (false, false);
        for offset in 0..3 {
            match self.peek(offset) {
                Some('r' | 'R') if !raw => raw = true,
                Some('b' | 'B') if !bytes => bytes = true,
                Some('"' | '\'') if offset > 0 => {
                    self.at += offset;
                    return self.quoted(from, raw, bytes).map(TokenKind::Literal);
                }
                _ => break,
            }
        }
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        Ok(TokenKind::Ident)
    }

    fn quoted(&mut self, from: usize, raw: bool, bytes: bool) -> Result<Literal, Mistake> {
        let quote = self.peek(0).unwrap_or('\'');
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        self.at += if triple { 3 } else { 1 };
        let (mut text, mut octets) = (String::new(), Vec::new());
        loop {
            let Some(character) = self.peek(0) else { return Err(self.unclosed(from)) };
            let closes = character == quote
                && (!triple || (self.peek(1) == Some(quote) && self.peek(2) == Some(quote)));
            if closes {
                self.at += if triple { 3 } else { 1 };
                break;
            }
            if !triple && matches!(character, '\n' | '\r') {
                return Err(self.unclosed(from));
            }
            self.at += 1;
            if character == '\\' && !raw {
                match self.escape(from, bytes)? {
                    Escaped::Character(character) => {
                        text.push(character);
                        octets.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    Escaped::Octet(octet) => octets.push(octet),
                }
            } else {
                text.push(character);
                octets.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(if bytes { Literal::Bytes(octets.into()) } else { Literal::String(Arc::from(text)) })
    }

    fn unclosed(&self, from: usize) -> Mistake {
        let rest: String = self.characters[from..].iter().collect();
        self.mistake(from, format!("Syntax error: token recognition error at: '{rest}'"))
    }

    fn escape(&mut self, from: usize, bytes: bool) -> Result<Escaped, Mistake> {
        let Some(character) = self.peek(0) else { return Err(self.unclosed(from)) };
        self.at += 1;
        let simple = |character| Ok(Escaped::Character(character));
        match character {
            'a' => simple('\u{7}'),
            'b' => simple('\u{8}'),
            'f' => simple('\u{c}'),
            'n' => simple('\n'),
            'r' => simple('\r'),
            't' => simple('\t'),
            'v' => simple('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => simple(character),
            'x' | 'X' => self.code(from, 2, 16, bytes),
            'u' if !bytes => self.code(from, 4, 16, false),
            'U' if !bytes => self.code(from, 8, 16, false),
            '0'..='3' => {
                self.at -= 1;
                self.code(from, 3, 8, bytes)
            }
            _ => Err(self.unclosed(from)),
        }
    }

    fn code(&mut self, from: usize, digits: usize, radix: u32, octet: bool) -> Result<Escaped, Mistake> {
        let end = (self.at + digits).min(self.characters.len());
        let text: String = self.characters[self.at..end].iter().collect();
        let number = u32::from_str_radix(&text, radix).ok().filter(|_| text.len() == digits);
        let Some(number) = number else { return Err(self.unclosed(from)) };
        self.at = end;
        if octet {
            return u8::try_from(number).map(Escaped::Octet).map_err(|_| self.unclosed(from));
        }
        char::from_u32(number)
            .map(Escaped::Character)
            .ok_or_else(|| self.mistake(from, "invalid unicode code point"))
    }
}

enum Escaped {
    Character(char),
    Octet(u8),
}
