//! The controllers, each with the rights of its own ServiceAccount.

use std::{collections::BTreeSet, sync::Arc};

use ::apiserver::authn::token::{self, Keys, legacy};
use client::{EventRecorder, RecorderOptions};
use foundation::Tasks;

use super::{Api, Context, SERVICE_ACCOUNT_GROUPS, apiserver};

/// Starts all controllers.
pub fn start(context: &Context, api: &Api, tasks: &Tasks) {
    let events = api.client("system:kube-controller-manager", &[]);
    let options = RecorderOptions::component("controller-manager");
    let identities = api.clone();
    let pki = context.pki.clone();
    // The issuer is not that of these tokens, which name none.
    let key = context.config.apiserver.service_accounts.signing_key(pki.service_account_key().signing_key());
    let tokens = key.map(|key| Keys::new(&token::Options::new(legacy::ISSUER, key)));
    let tokens = tokens.map_err(|error| format!("{error:#}"));
    controllers::start(&controllers::Options {
        informers: api.informers.clone(),
        tasks: tasks.clone(),
        clock: context.clock.clone(),
        recorder: EventRecorder::new(events, tasks, context.clock.clone(), options),
        client_for: Arc::new(move |user| match user.starts_with("system:serviceaccount:") {
            true => identities.client(user, &SERVICE_ACCOUNT_GROUPS),
            false => identities.client(user, &[]),
        }),
        root_ca_pem: context.pki.cluster_authority().certificate().pem(),
        sign: Arc::new(move |request, terms| pki::csr::sign(pki.cluster_authority(), request, terms)),
        signing_duration: context.config.cluster_signing_duration,
        sign_token: Arc::new(move |wanted| {
            let claims = legacy::Claims::new(wanted.namespace, wanted.secret, wanted.account, wanted.uid);
            tokens.as_ref().map_err(Clone::clone)?.sign(&claims)
        }),
        cluster_cidrs: vec![context.config.cluster_cidr.to_string()],
        node_cidr_mask_v4: 24,
        node_cidr_mask_v6: 64,
        api_server_names: apiserver::names(context),
        disabled: BTreeSet::new(),
    });
}
