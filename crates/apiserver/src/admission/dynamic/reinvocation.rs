//! The second round of mutating admission: who has changed what after whom.
//! Upstream: apiserver `pkg/admission/attributes.go` (`ReinvocationContext`), `plugin/webhook/mutating/reinvocationcontext.go`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What the plugins have told each other in one request.
#[derive(Debug, Default)]
pub struct Reinvocation {
    /// Whether this is the second round.
    pub again: bool,
    /// Whether a second round is wanted.
    pub wanted: bool,
    plugins: BTreeMap<&'static str, Rounds>,
}

/// The memory of one plugin.
#[derive(Debug, Default)]
pub(in crate::admission) struct Rounds {
    /// What the plugin left behind.
    output: Option<Value>,
    /// Those that have run and would run again.
    eligible: BTreeSet<String>,
    /// Those that are to run again.
    due: BTreeSet<String>,
}

impl Reinvocation {
    /// The memory of a plugin, as its round begins.
    pub(in crate::admission) fn begin(
        &mut self,
        plugin: &'static str,
        object: Option<&Value>,
    ) -> &mut Rounds {
        let again = self.again;
        let rounds = self.plugins.entry(plugin).or_default();
        if again && rounds.output.as_ref() != object {
            rounds.require();
        }
        rounds
    }

    /// The memory of a plugin.
    pub(in crate::admission) fn rounds(&mut self, plugin: &'static str) -> &mut Rounds {
        self.plugins.entry(plugin).or_default()
    }

    /// One of the plugin's has changed the object: what ran before may have to run again.
    pub(in crate::admission) fn changed(&mut self, plugin: &'static str) {
        self.rounds(plugin).require();
        self.wanted = true;
    }
}

impl Rounds {
    fn require(&mut self) {
        self.due.append(&mut self.eligible);
    }

    /// Whether `id` has its turn in the second round.
    pub fn is_due(&self, id: &str) -> bool {
        self.due.contains(id)
    }

    /// `id` has run, and wants to run again should others change the object.
    pub fn ran(&mut self, id: &str) {
        self.eligible.insert(id.to_owned());
    }

    /// The round is over.
    pub fn end(&mut self, object: Option<&Value>) {
        self.output = object.cloned();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_those_that_ran_before_a_change_run_again() {
        let mut all = Reinvocation::default();
        all.begin("p", Some(&json!(1)));
        all.rounds("p").ran("a");
        all.changed("p");
        all.rounds("p").ran("b");
        all.rounds("p").end(Some(&json!(2)));
        assert!(all.wanted && all.rounds("p").is_due("a") && !all.rounds("p").is_due("b"));
        all.again = true;
        assert!(!all.begin("p", Some(&json!(2))).is_due("b"), "nothing changed in between");
        assert!(all.begin("p", Some(&json!(3))).is_due("b"), "another plugin changed it");
    }
}
