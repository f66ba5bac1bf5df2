//! Time from the creation of a pod until a watch sees it run: one after another, and many at once.

use std::{path::Path, time::Instant};

use crate::{
    PodStartOptions,
    instance::{self, Instance},
    report,
};

/// Starts pods and reports quantiles.
pub async fn run(options: &PodStartOptions, program: &Path) -> anyhow::Result<()> {
    let mut instance = Instance::start(program)?;
    let client = instance.ready().await?;
    instance::accepts_pods(&client).await?;
    let mut times = Vec::new();
    for number in 0..options.runs.max(1) {
        let names = [format!("single-{number}")];
        times.extend(instance::start_pods(&client, &names).await?);
        instance::delete_pods(&client, &names).await?;
    }
    for (what, share, target) in
        [("pod create to Running, p50", 0.5, "50 ms"), ("pod create to Running, p99", 0.99, "100 ms")]
    {
        report::line(what, &report::milliseconds(report::quantile(&times, share)), target);
    }
    let names: Vec<String> = (0..options.burst).map(|number| format!("burst-{number}")).collect();
    let from = Instant::now();
    instance::start_pods(&client, &names).await?;
    let what = format!("{} pods at once, until the last runs", names.len());
    report::line(&what, &report::milliseconds(from.elapsed()), "2 s for 100");
    instance::delete_pods(&client, &names).await?;
    instance.end()
}
