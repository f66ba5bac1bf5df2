//! Whether one type may stand where another is wanted, and what the type variables become.
//! Upstream: cel-go `checker/types.go`.

use std::collections::HashMap;

use crate::cel::declarations::Overload;
use crate::cel::types::Type;

/// Type variables of overloads are numbered below this; those of an expression begin here.
const FIRST: u32 = 16;

/// What the type variables are known to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Unifier {
    known: HashMap<u32, Type>,
    next: u32,
}

impl Unifier {
    /// A new variable.
    pub fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Var(FIRST + self.next)
    }

    /// A type with what is known put in; what is not becomes dyn, if asked.
    pub fn resolve(&self, found: &Type, to_dyn: bool) -> Type {
        match found {
            Type::Var(number) => match self.known.get(number) {
                Some(known) => self.resolve(known, to_dyn),
                None if to_dyn => Type::Dyn,
                None => found.clone(),
            },
            Type::List(inner) => Type::list(self.resolve(inner, to_dyn)),
            Type::Optional(inner) => Type::optional(self.resolve(inner, to_dyn)),
            Type::Map(inner) => Type::map(self.resolve(&inner.0, to_dyn), self.resolve(&inner.1, to_dyn)),
            other => other.clone(),
        }
    }

    /// The result of an overload for these arguments, if it takes them.
    pub fn apply(&mut self, overload: &Overload, arguments: &[Type]) -> Option<Type> {
        if overload.arguments.len() != arguments.len() {
            return None;
        }
        let before = self.clone();
        let mut fresh: HashMap<u32, Type> = HashMap::new();
        let wanted: Vec<Type> =
            overload.arguments.iter().map(|wanted| self.instance(wanted, &mut fresh)).collect();
        if !arguments.iter().zip(&wanted).all(|(given, wanted)| self.fits(given, wanted)) {
            *self = before;
            return None;
        }
        let result = self.instance(&overload.result, &mut fresh);
        Some(self.resolve(&result, false))
    }

    fn instance(&mut self, found: &Type, fresh: &mut HashMap<u32, Type>) -> Type {
        match found {
            Type::Var(number) => {
                if let Some(known) = fresh.get(number) {
                    return known.clone();
                }
                let made = self.fresh();
                fresh.insert(*number, made.clone());
                made
            }
            Type::List(inner) => Type::list(self.instance(inner, fresh)),
            Type::Optional(inner) => Type::optional(self.instance(inner, fresh)),
            Type::Map(inner) => {
                let key = self.instance(&inner.0, fresh);
                Type::map(key, self.instance(&inner.1, fresh))
            }
            other => other.clone(),
        }
    }

    /// Whether `given` may stand for `wanted`; remembers what that says of variables.
    pub fn assignable(&mut self, given: &Type, wanted: &Type) -> bool {
        let before = self.clone();
        let fits = self.fits(given, wanted);
        if !fits {
            *self = before;
        }
        fits
    }

    fn fits(&mut self, given: &Type, wanted: &Type) -> bool {
        if let Type::Var(number) = wanted {
            match self.substitutes(given, *number) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Var(number) = given {
            return self.substitutes(wanted, *number).0;
        }
        if given.is_dyn() || wanted.is_dyn() {
            return true;
        }
        match (given, wanted) {
            (Type::Null, wanted) => {
                matches!(
                    wanted,
                    Type::Null
                        | Type::Object(_)
                        | Type::Opaque(_)
                        | Type::Optional(_)
                        | Type::Timestamp
                        | Type::Duration
                )
            }
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (a, b) => a.same_kind(b),
        }
    }

    /// Whether variable `number` may be `other`, and whether it was known already.
    fn substitutes(&mut self, other: &Type, number: u32) -> (bool, bool) {
        if let Some(known) = self.known.get(&number).cloned() {
            if *other == known {
                return (true, true);
            }
            if self.fits(other, &known) {
                let general = self.general(other, &known);
                if general != Type::Var(number) {
                    self.known.insert(number, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.absent(number, other) {
            self.known.insert(number, other.clone());
            return (true, false);
        }
        (*other == Type::Var(number), false)
    }

    fn absent(&self, number: u32, within: &Type) -> bool {
        match within {
            Type::Var(other) if *other == number => false,
            Type::Var(other) => self.known.get(other).is_none_or(|known| self.absent(number, known)),
            other => other.parameters().iter().all(|inner| self.absent(number, inner)),
        }
    }

    /// The more general of two types that unify.
    pub fn general(&self, a: &Type, b: &Type) -> Type {
        if less_specific(a, b) { a.clone() } else { b.clone() }
    }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => less_specific(&a.0, &b.0) && less_specific(&a.1, &b.1),
        (a, b) => a.same_kind(b),
    }
}
