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
    /// What is said if it does not hold.
    pub message: String,
}

/// The condition of a rule.
pub enum Check {
    /// A claim has exactly this value.
    Required(String, String),
    /// An expression is true.
    Expression(Program),
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

/// Compiles an expression over `variable`, a map.
///
/// # Errors
/// What is wrong with it.
pub fn compile(expression: &str, variable: &str) -> Result<Program, String> {
    let variables = BTreeMap::from([(variable.to_owned(), Type::map(Type::String, Type::Dyn))]);
    let scope = Scope { variables, ..Scope::default() };
    cel::compile(expression, &scope).map_err(|error| format!("compilation failed: {error}"))
}

fn evaluate<T>(
    program: &Program,
    variable: &str,
    data: &Value,
    read: impl FnOnce(&cel::Value<'_>) -> Result<T, String>,
) -> Result<T, String> {
    let bindings = Bindings(vec![(variable, from_json(data))]);
    match program.evaluate(&bindings, cel::CALL_LIMIT).value {
        Ok(value) => read(&value),
        Err(error) => Err(error.to_string()),
    }
}

/// One text; nothing for null.
fn text(value: &cel::Value<'_>) -> Result<String, String> {
    match value {
        cel::Value::String(text) => Ok(text.to_string()),
        cel::Value::Null => Ok(String::new()),
        other => Err(format!("the expression gives a {}, not a string", other.type_name())),
    }
}

/// One text or many.
fn texts(value: &cel::Value<'_>) -> Result<Vec<String>, String> {
    let list = match value {
        cel::Value::List(list) => list.elements().map_err(|error| error.to_string())?,
        one => return Ok(Some(text(one)?).into_iter().filter(|text| !text.is_empty()).collect()),
    };
    let all: Result<Vec<String>, String> = list.iter().map(text).collect();
    Ok(all?.into_iter().filter(|text| !text.is_empty()).collect())
}

impl Source {
    fn text(&self, claims: &Value) -> Result<String, String> {
        match self {
            Self::Expression(program) => evaluate(program, "claims", claims, text),
            Self::Claim { name, prefix } => {
                let value = claims.get(name).ok_or_else(|| format!("claim not present: {name}"))?;
                let text = value.as_str().ok_or_else(|| format!("claim {name} is not a string"))?;
                Ok(format!("{prefix}{text}"))
            }
        }
    }

    fn texts(&self, claims: &Value) -> Result<Vec<String>, String> {
        match self {
            Self::Expression(program) => evaluate(program, "claims", claims, texts),
            // A user without the claim is in no groups.
            Self::Claim { name, prefix } => match claims.get(name) {
                None => Ok(Vec::new()),
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
    fn holds(&self, variable: &str, data: &Value) -> Result<(), String> {
        match &self.check {
            Check::Required(claim, wanted) => match data[claim].as_str() {
                None => Err(format!("claim {claim} not present")),
                Some(value) if value != wanted => Err(format!(
                    "required claim {claim} value does not match. Got = {value}, want = {wanted}"
                )),
                Some(_) => Ok(()),
            },
            Check::Expression(program) => {
                let holds =
                    evaluate(program, variable, data, |value| Ok(matches!(value, cel::Value::Bool(true))));
                match holds {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(self.message.clone()),
                    Err(error) => Err(error),
                }
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
            let values = evaluate(program, "claims", claims, texts);
            let values = values.map_err(|problem| format!("parse extra {key}: {problem}"))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for rule in &self.claim_rules {
            rule.holds("claims", claims)
                .map_err(|problem| format!("error evaluating claim validation expression: {problem}"))?;
        }
        if !self.user_rules.is_empty() {
            let data =
                json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            for rule in &self.user_rules {
                rule.holds("user", &data)
                    .map_err(|problem| format!("error evaluating user info validation rule: {problem}"))?;
            }
        }
        Ok(user)
    }
}
