//! What a token's claims mean: the user, and what must hold of both.
//!
//! Each part of the user is a claim or a CEL expression over `claims`; rules are required values or expressions,
//! over `claims` for the token and over `user` for the result.
//! Upstream: apiserver/plugin/pkg/authenticator/token/oidc/oidc.go, apiserver/pkg/authentication/cel.

use std::collections::BTreeMap;

use schema::cel::value::from_json;
use schema::cel::{self, Bindings, Program, Scope, Type};
use serde_json::{Value, json};

use crate::request::User;

/// Where a text or a list of texts comes from.
pub enum Source {
    /// A claim, with something put in front.
    Claim {
        /// The claim.
        name: String,
        /// The prefix.
        prefix: String,
    },
    /// An expression.
    Expression(Program),
}

/// What must hold.
pub struct Rule {
    /// What to look at.
    pub check: Check,
    /// What is said if it does not hold, beside the expression.
    pub message: String,
}

/// The condition of a rule.
pub enum Check {
    /// A claim has exactly this value.
    Required(String, String),
    /// An expression, which is also told as it was written, is true.
    Expression(String, Program),
}

/// What the claims of one provider mean.
pub struct Mapping {
    /// The user's name.
    pub username: Source,
    /// The groups.
    pub groups: Option<Source>,
    /// The UID.
    pub uid: Option<Source>,
    /// Extra keys and their values.
    pub extra: Vec<(String, Program)>,
    /// What must hold of the claims.
    pub claim_rules: Vec<Rule>,
    /// What must hold of the user.
    pub user_rules: Vec<Rule>,
}

/// What an expression is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// `claims`: what the token says, of any type.
    Claims,
    /// `user`: what came out of it, with the fields that a user has.
    User,
}

impl Over {
    fn name(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::User => "user",
        }
    }

    fn scope(self) -> Scope {
        let texts = Type::list(Type::String);
        let kind = match self {
            Self::Claims => Type::map(Type::String, Type::Dyn),
            Self::User => Type::object(
                "kubernetes.UserInfo",
                BTreeMap::from([
                    ("username".to_owned(), Type::String),
                    ("uid".to_owned(), Type::String),
                    ("groups".to_owned(), texts.clone()),
                    ("extra".to_owned(), Type::map(Type::String, texts)),
                ]),
            ),
        };
        Scope { variables: BTreeMap::from([(self.name().to_owned(), kind)]), ..Scope::default() }
    }
}

/// Compiles an expression. What it gives is seen when it is evaluated: claims may have any type.
///
/// # Errors
/// What is wrong with it.
pub fn compile(expression: &str, over: Over) -> Result<Program, String> {
    cel::compile(expression, &over.scope()).map_err(|error| format!("compilation failed: {error}"))
}

/// Compiles the expression of a rule, which is true or false.
///
/// # Errors
/// What is wrong with it.
pub fn compile_rule(expression: &str, over: Over) -> Result<Program, String> {
    let program = compile(expression, over)?;
    if *program.result_type() == Type::Bool { Ok(program) } else { Err("must evaluate to bool".to_owned()) }
}

fn evaluate<T>(
    program: &Program,
    over: Over,
    data: &Value,
    read: impl FnOnce(&cel::Value<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let bindings = Bindings(vec![(over.name(), from_json(data))]);
    match program.evaluate(&bindings, cel::CALL_LIMIT).value {
        Ok(value) => read(&value),
        Err(error) => Err(error.to_string()),
    }
}

/// One text.
fn text(value: &cel::Value<'_>) -> Result<String, String> {
    match value {
        cel::Value::String(text) => Ok(text.to_string()),
        _ => Err("expression must return a string".to_owned()),
    }
}

/// One text or many, without the empty ones; none for null.
fn texts(value: &cel::Value<'_>) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let list = match value {
        cel::Value::Null => return Ok(Vec::new()),
        cel::Value::List(list) => list.elements().map_err(|error| error.to_string())?,
        one => {
            let one = text(one).map_err(|_| wrong())?;
            return Ok(Some(one).into_iter().filter(|text| !text.is_empty()).collect());
        }
    };
    let all: Result<Vec<String>, String> = list.iter().map(|one| text(one).map_err(|_| wrong())).collect();
    Ok(all?.into_iter().filter(|text| !text.is_empty()).collect())
}

impl Source {
    fn text(&self, claims: &Value) -> Result<String, String> {
        match self {
            Self::Expression(program) => evaluate(program, Over::Claims, claims, text),
            Self::Claim { name, prefix } => {
                let value = claims.get(name).ok_or_else(|| format!("claim not present: {name}"))?;
                let text = value.as_str().ok_or_else(|| format!("claim {name} is not a string"))?;
                Ok(format!("{prefix}{text}"))
            }
        }
    }

    fn texts(&self, claims: &Value) -> Result<Vec<String>, String> {
        match self {
            Self::Expression(program) => evaluate(program, Over::Claims, claims, texts),
            // A user without the claim is in no groups.
            Self::Claim { name, prefix } => match claims.get(name) {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::String(one)) => Ok(vec![format!("{prefix}{one}")]),
                Some(Value::Array(many)) => many
                    .iter()
                    .map(|value| value.as_str().map(|text| format!("{prefix}{text}")))
                    .collect::<Option<_>>()
                    .ok_or_else(|| format!("claim {name} is not a list of strings")),
                Some(_) => Err(format!("claim {name} is not a string or a list of strings")),
            },
        }
    }
}

impl Rule {
    fn holds(&self, over: Over, data: &Value) -> Result<(), String> {
        match &self.check {
            Check::Required(claim, wanted) => match data.get(claim) {
                None => Err(format!("required claim {claim} not present in ID token")),
                Some(Value::String(value)) if value == wanted => Ok(()),
                Some(Value::String(value)) => Err(format!(
                    "required claim {claim} value does not match. Got = {value}, want = {wanted}"
                )),
                Some(_) => Err(format!("parse claim {claim}: it is not a string")),
            },
            Check::Expression(written, program) => {
                let holds = evaluate(program, over, data, |value| match value {
                    cel::Value::Bool(holds) => Ok(*holds),
                    _ => Err("validation expression must return a boolean".to_owned()),
                });
                if holds? {
                    return Ok(());
                }
                Err(format!("validation expression '{written}' failed: {}", self.message))
            }
        }
    }
}

impl Mapping {
    /// The user whom the claims describe.
    ///
    /// # Errors
    /// A sentence about what is missing or does not hold.
    pub fn user(&self, claims: &Value) -> Result<User, String> {
        let name = self.username.text(claims).map_err(|problem| format!("parse username: {problem}"))?;
        // An address is only as good as the provider's word for it.
        if let Source::Claim { name: claim, .. } = &self.username
            && claim == "email"
            && claims.get("email_verified").is_some_and(|verified| verified != &Value::Bool(true))
        {
            return Err("email not verified".to_owned());
        }
        if name.is_empty() {
            return Err("username is empty".to_owned());
        }
        let mut user = User { name, ..User::default() };
        if let Some(groups) = &self.groups {
            user.groups = groups.texts(claims).map_err(|problem| format!("parse groups: {problem}"))?;
        }
        if let Some(uid) = &self.uid {
            user.uid = uid.text(claims).map_err(|problem| format!("parse uid: {problem}"))?;
        }
        for (key, program) in &self.extra {
            let values = evaluate(program, Over::Claims, claims, texts);
            let values = values.map_err(|problem| format!("parse extra {key}: {problem}"))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        let (claims_first, expressions): (Vec<_>, Vec<_>) =
            self.claim_rules.iter().partition(|rule| matches!(rule.check, Check::Required(..)));
        for rule in claims_first {
            rule.holds(Over::Claims, claims)?;
        }
        for rule in expressions {
            rule.holds(Over::Claims, claims)
                .map_err(|problem| format!("error evaluating claim validation expression: {problem}"))?;
        }
        if !self.user_rules.is_empty() {
            let data =
                json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            for rule in &self.user_rules {
                rule.holds(Over::User, &data)
                    .map_err(|problem| format!("error evaluating user info validation rule: {problem}"))?;
            }
        }
        Ok(user)
    }
}
