//! Fills the Secrets in which somebody wants a ServiceAccount's token, and deletes those whose account is gone.
//!
//! Reads Secrets of type `kubernetes.io/service-account-token` and ServiceAccounts; writes the Secrets' token, authority and
//! namespace; takes Secrets that are gone out of the accounts' lists. How a token is signed is handed in.
//! Not here: tokens that end (the API server issues them), judging tokens (it too).
//! Upstream: `pkg/controller/serviceaccount/tokens_controller.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s_openapi::ByteString;
use api::types::core::v1::{Secret, ServiceAccount};
use client::{Endpoint, ListOptions};
use jiff::Timestamp;
use reconcile::{Action, Controller, Key, Plan, View, Watches};

use crate::object;

/// The token of a Secret.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where Secret and account are.
    pub namespace: &'a str,
    /// The Secret's name.
    pub secret: &'a str,
    /// The account's name.
    pub account: &'a str,
    /// The account's UID.
    pub uid: &'a str,
}

/// Makes a token, or says why it cannot.
pub type Sign = Arc<dyn Fn(&Wanted<'_>) -> Result<String, String> + Send + Sync>;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// The controller; its keys are Secrets.
pub struct ServiceAccountTokens {
    sign: Sign,
    authority: String,
}

impl ServiceAccountTokens {
    /// Signs with `sign`, and tells of this authority (PEM).
    pub fn new(sign: Sign, authority: &str) -> ServiceAccountTokens {
        ServiceAccountTokens { sign, authority: authority.to_owned() }
    }

    /// The Secret as it is to be; `None` where it is so. An error is why a token cannot be signed.
    fn filled(&self, secret: &Secret, account: &str, uid: &str) -> Result<Option<Secret>, String> {
        let held = |key: &str| {
            let data: &BTreeMap<String, ByteString> = secret.data.as_ref()?;
            data.get(key).map(|bytes| bytes.0.as_slice()).filter(|bytes| !bytes.is_empty())
        };
        let needs_authority = !self.authority.is_empty() && held("ca.crt") != Some(self.authority.as_bytes());
        let (needs_namespace, needs_token) = (held("namespace").is_none(), held("token").is_none());
        if !needs_authority && !needs_namespace && !needs_token {
            return Ok(None);
        }
        let (namespace, name) = (object::namespace(secret), object::name(secret));
        let mut filled = secret.clone();
        let data = filled.data.get_or_insert_default();
        let mut put =
            |key: &str, text: &str| data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
        if needs_authority {
            put("ca.crt", &self.authority);
        }
        if needs_namespace {
            put("namespace", namespace);
        }
        if needs_token {
            put("token", &(self.sign)(&Wanted { namespace, secret: name, account, uid })?);
        }
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT.to_owned(), account.to_owned());
        annotations.insert(UID.to_owned(), uid.to_owned());
        Ok(Some(filled))
    }
}

/// A Secret that names an account, by the account; an empty UID is any.
fn owner(secret: &Secret) -> Option<(&str, &str)> {
    let account = object::annotation(secret, ACCOUNT).filter(|name| !name.is_empty())?;
    let wanted = secret.type_.as_deref() == Some(TYPE);
    wanted.then(|| (account, object::annotation(secret, UID).unwrap_or_default()))
}

fn lists(account: &ServiceAccount, secret: &str) -> bool {
    account.secrets.iter().flatten().any(|listed| listed.name.as_deref() == Some(secret))
}

/// Takes a Secret that is gone out of the accounts that list it.
fn forget(plan: &mut Plan, view: &View<'_>, key: &Key) {
    let accounts = view.list_namespace::<ServiceAccount>(key.namespace());
    for account in accounts.into_iter().filter(|account| lists(account, key.name())) {
        // A Secret of this name and of another type is none of this controller's caches.
        let path = Endpoint::of::<Secret>().path(Some(key.namespace()), Some(key.name()), None);
        match view.answers().get(&path) {
            None => drop(plan.ask(path)),
            Some(Err(status)) if status.is_not_found() => {
                let mut updated = ServiceAccount::clone(&account);
                updated
                    .secrets
                    .get_or_insert_default()
                    .retain(|listed| listed.name.as_deref() != Some(key.name()));
                plan.act(Action::update(&updated));
            }
            Some(_) => {}
        }
    }
}

impl Controller for ServiceAccountTokens {
    const NAME: &'static str = "serviceaccount-token-controller";

    fn watch(&self, watches: &mut Watches<'_>) {
        watches.select::<Secret>(ListOptions::fields(format!("type={TYPE}")));
        watches.primary::<Secret>();
        watches.map::<ServiceAccount>(|caches, change, wake| {
            let account = &**change.object();
            for secret in caches.list_namespace::<Secret>(object::namespace(account)) {
                if owner(&secret).is_some_and(|(name, _)| name == object::name(account)) {
                    wake(Key::of(&*secret));
                }
            }
        });
    }

    fn plan(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(secret) = view.get_key::<Secret>(key) else {
            forget(&mut plan, view, key);
            return plan;
        };
        let Some((account, wanted)) = owner(&secret) else { return plan };
        if object::deleting(&*secret) {
            return plan;
        }
        let is_it = |uid: &str| wanted.is_empty() || wanted == uid;
        let cached = view.get::<ServiceAccount>(key.namespace(), account);
        let uid = match cached.filter(|found| is_it(object::uid(&**found))) {
            Some(found) => object::uid(&*found).to_owned(),
            // The caches may not show yet an account that was made just before its Secret: ask.
            None => {
                let path = Endpoint::of::<ServiceAccount>().path(Some(key.namespace()), Some(account), None);
                match view.answers().get(&path) {
                    None => {
                        plan.ask(path);
                        return plan;
                    }
                    Some(Ok(found)) if is_it(found["metadata"]["uid"].as_str().unwrap_or_default()) => {
                        found["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
                    }
                    Some(Err(status)) if !status.is_not_found() => {
                        plan.retry = true;
                        return plan;
                    }
                    Some(_) => {
                        plan.act(Action::delete(&*secret));
                        return plan;
                    }
                }
            }
        };
        match self.filled(&secret, account, &uid) {
            Ok(filled) => drop(filled.map(|filled| plan.act(Action::update(&filled)))),
            Err(error) => {
                tracing::error!(key = key.as_str(), error, "the token of a Secret cannot be signed");
                plan.retry = true;
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use reconcile::Fixture;
    use serde_json::{Value, json};

    use super::*;

    fn controller() -> ServiceAccountTokens {
        let sign: Sign = Arc::new(|wanted| {
            Ok(format!("{}/{} of {} ({})", wanted.namespace, wanted.secret, wanted.account, wanted.uid))
        });
        ServiceAccountTokens::new(sign, "authority")
    }

    fn secret(uid: Option<&str>, data: &[(&str, &str)]) -> Secret {
        let mut secret = Secret { type_: Some(TYPE.to_owned()), ..Secret::default() };
        secret.metadata.name = Some("s".to_owned());
        secret.metadata.namespace = Some("a".to_owned());
        secret.metadata.uid = Some("us".to_owned());
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT.to_owned(), "robot".to_owned());
        annotations.extend(uid.map(|uid| (UID.to_owned(), uid.to_owned())));
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        secret.data = Some(data.iter().map(|(key, text)| ((*key).to_owned(), bytes(text))).collect());
        secret
    }

    fn account(secrets: Value) -> ServiceAccount {
        serde_json::from_value(json!({
            "metadata": {"name": "robot", "namespace": "a", "uid": "ur"}, "secrets": secrets,
        }))
        .unwrap()
    }

    const ACCOUNT_PATH: &str = "/api/v1/namespaces/a/serviceaccounts/robot";
    const SECRET_PATH: &str = "/api/v1/namespaces/a/secrets/s";
    const FULL: &[(&str, &str)] = &[("ca.crt", "authority"), ("namespace", "a"), ("token", "t")];

    #[test]
    fn secrets_are_filled_and_go_with_their_account() {
        let here = vec![account(Value::Null)];
        let other = vec![
            serde_json::from_value::<ServiceAccount>(
                json!({"metadata": {"name": "robot", "namespace": "a", "uid": "later"}}),
            )
            .unwrap(),
        ];
        let live = |uid: &str| Ok(json!({"metadata": {"name": "robot", "uid": uid}}));
        let gone = || Err(api::Status::not_found(&api::GroupResource::new("", "serviceaccounts"), "robot"));
        let down = || Err(api::Status::service_unavailable("no"));
        let (update, delete) = (vec!["update secrets a/s"], vec!["delete secrets a/s"]);
        for (what, secret, accounts, answer, want) in [
            ("a new one", secret(None, &[]), here.clone(), None, update.clone()),
            ("it is filled", secret(Some("ur"), FULL), here.clone(), None, vec![]),
            (
                "another authority",
                secret(Some("ur"), &[("ca.crt", "old"), FULL[1], FULL[2]]),
                here,
                None,
                update.clone(),
            ),
            ("an account that the caches do not show", secret(None, &[]), vec![], None, vec![]),
            ("it is there", secret(None, &[]), vec![], Some(live("ur")), update),
            ("no account", secret(Some("ur"), FULL), vec![], Some(gone()), delete.clone()),
            ("another account of that name", secret(Some("ur"), FULL), other, Some(live("later")), delete),
            ("nobody can tell", secret(Some("ur"), FULL), vec![], Some(down()), vec![]),
        ] {
            let mut fixture = Fixture::new(controller()).with(vec![secret]).with(accounts);
            if let Some(answer) = answer {
                fixture = fixture.with_answer(ACCOUNT_PATH, answer);
            }
            assert_eq!(fixture.lines("a", "s", Timestamp::UNIX_EPOCH), want, "{what}");
        }
    }

    #[test]
    fn a_token_that_cannot_be_signed_is_tried_again() {
        let unable = ServiceAccountTokens::new(Arc::new(|_| Err("no entropy".to_owned())), "authority");
        let fixture = Fixture::new(unable).with(vec![secret(None, &[])]).with(vec![account(Value::Null)]);
        let plan = fixture.plan("a", "s", Timestamp::UNIX_EPOCH);
        assert!(plan.retry && plan.actions().count() == 0);
    }

    #[test]
    fn what_is_in_a_filled_secret() {
        let fixture = Fixture::new(controller())
            .with(vec![secret(None, &[("extra", "x")])])
            .with(vec![account(Value::Null)]);
        let plan = fixture.plan("a", "s", Timestamp::UNIX_EPOCH);
        let filled: Secret = plan.actions().next().unwrap().object().unwrap();
        let data = filled.data.unwrap();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
        assert_eq!([text("ca.crt"), text("namespace"), text("extra")], ["authority", "a", "x"]);
        assert_eq!(text("token"), "a/s of robot (ur)");
        assert_eq!(filled.metadata.annotations.unwrap()[UID], "ur");
    }

    #[test]
    fn an_account_forgets_a_secret_that_is_gone() {
        let accounts = vec![account(json!([{"name": "s"}, {"name": "t"}]))];
        let asks = |answer: Option<Result<Value, api::Status>>| {
            let mut fixture = Fixture::new(controller()).with(accounts.clone());
            if let Some(answer) = answer {
                fixture = fixture.with_answer(SECRET_PATH, answer);
            }
            fixture.plan("a", "s", Timestamp::UNIX_EPOCH)
        };
        assert_eq!(asks(None).questions, [SECRET_PATH]);
        assert_eq!(asks(Some(Ok(json!({})))).actions().count(), 0, "there is one of another type");
        let gone = api::Status::not_found(&api::GroupResource::new("", "secrets"), "s");
        let plan = asks(Some(Err(gone)));
        let updated: ServiceAccount = plan.actions().next().unwrap().object().unwrap();
        assert!(!lists(&updated, "s") && lists(&updated, "t"));
    }

    #[test]
    fn an_account_wakes_its_secrets() {
        let fixture = Fixture::new(controller()).with(vec![secret(None, &[])]);
        fixture.woken();
        let fixture = fixture.with(vec![account(Value::Null)]);
        assert_eq!(fixture.woken(), ["a/s"]);
    }
}
