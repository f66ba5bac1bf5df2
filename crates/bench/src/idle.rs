//! Memory and processor time of a cluster that does nothing.
//!
//! Memory is the proportional set size, which counts a page that several processes share once in total, of the server
//! and of every process that it has started.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    IdleOptions,
    instance::{self, Instance},
    report,
};

/// How long a started cluster has to settle: caches fill, memory of the start is given back.
const SETTLE: Duration = Duration::from_secs(5);
/// Clock ticks of `/proc/PID/stat` in a second: fixed in the kernel's interface on all its architectures but Alpha.
const TICKS: f64 = 100.0;

/// Looks at an empty cluster for some time, then at one with four pods.
pub async fn run(options: &IdleOptions, program: &Path) -> anyhow::Result<()> {
    let mut instance = Instance::start(program)?;
    let client = instance.ready().await?;
    tokio::time::sleep(SETTLE).await;
    look(&instance, options, program, "idle cluster").await?;
    instance::accepts_pods(&client).await?;
    let names: Vec<String> = (0..4).map(|number| format!("idle-{number}")).collect();
    instance::start_pods(&client, &names).await?;
    tokio::time::sleep(SETTLE).await;
    look(&instance, options, program, "with 4 pods").await?;
    instance.end()
}

async fn look(instance: &Instance, options: &IdleOptions, program: &Path, what: &str) -> anyhow::Result<()> {
    let from = Instant::now();
    let before = ticks(instance.pid(), program)?;
    tokio::time::sleep(Duration::from_secs(options.seconds.max(1).into())).await;
    let after = ticks(instance.pid(), program)?;
    let spent = after.saturating_sub(before) as f64 / TICKS / from.elapsed().as_secs_f64();
    let family = family(instance.pid(), program)?;
    let mut memory = 0;
    for pid in &family {
        memory += proportional(*pid)?;
    }
    let what_memory = format!("{what}: memory of {} processes", family.len());
    report::line(&what_memory, &format!("{:.1} MiB PSS", memory as f64 / 1024.0), "40 MiB");
    report::line(
        &format!("{what}: processor"),
        &format!("{:.2} % of a core", spent * 100.0),
        "0.2 % of a core",
    );
    Ok(())
}

/// The server and its supervisors: the processes that run this very program from the outside, started by the server or
/// left to the first process by one that ended. Containers run the image's copy of it and do not count.
fn family(server: u32, program: &Path) -> anyhow::Result<Vec<u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Other processes come and go while they are looked at.
        let (Ok(stat), Ok(exe)) =
            (fs::read_to_string(entry.path().join("stat")), fs::read_link(entry.path().join("exe")))
        else {
            continue;
        };
        let root = fs::read_link(entry.path().join("root")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        if exe == program && root == Path::new("/") {
            parents.insert(pid, parent.unwrap_or_default());
        }
    }
    let mut family = vec![server];
    let mut grown = 0;
    while grown < family.len() {
        grown = family.len();
        for (pid, parent) in &parents {
            if family.contains(parent) && !family.contains(pid) {
                family.push(*pid);
            }
        }
    }
    Ok(family)
}

fn ticks(server: u32, program: &Path) -> anyhow::Result<u64> {
    // Some may have ended since.
    Ok(family(server, program)?.into_iter().filter_map(|pid| ticks_of(pid).ok()).sum())
}

fn ticks_of(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // User and system time are the 14th and 15th field; the name before them may hold spaces.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
    Ok(fields.into_iter().flatten().filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// Processor time that a process has spent so far, to a hundredth of a second.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    Ok(Duration::from_secs_f64(ticks_of(pid)? as f64 / TICKS))
}

/// Proportional set size in KiB.
pub fn proportional(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.with_context(|| format!("{path} holds no Pss"))
}
