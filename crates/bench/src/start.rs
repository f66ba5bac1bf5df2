//! Time from the start of the process to a ready node, and to a first running pod.

use std::{path::Path, time::Duration};

use crate::{
    StartOptions,
    instance::{self, Instance},
    report,
};

/// Starts again and again, and reports medians and worst cases.
pub async fn run(options: &StartOptions, program: &Path) -> anyhow::Result<()> {
    let (mut ready, mut running): (Vec<Duration>, Vec<Duration>) = Default::default();
    for _ in 0..options.runs.max(1) {
        let mut instance = Instance::start(program)?;
        let client = instance.ready().await?;
        ready.push(instance.started.elapsed());
        instance::accepts_pods(&client).await?;
        instance::start_pods(&client, &["first".to_owned()]).await?;
        running.push(instance.started.elapsed());
        instance.end()?;
    }
    for (what, times, target) in [
        ("process start to node Ready", ready, "0.3 s"),
        ("process start to first pod Running", running, "0.6 s"),
    ] {
        let median = report::milliseconds(report::quantile(&times, 0.5));
        let worst = report::milliseconds(report::quantile(&times, 1.0));
        report::line(what, &format!("{median} (worst {worst})"), target);
    }
    Ok(())
}
