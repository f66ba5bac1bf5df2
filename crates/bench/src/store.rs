//! The store behind the etcd v3 API, beside a real etcd on the same disk in the same run, under the same load.
//!
//! Starts `ironclad etcd` and the `etcd` that is named, each on a fresh directory, in turn and several times for each
//! measurement, so that what else the machine does meets both; prints the median of each and their ratio. Beside the rates
//! stands the processor time that the store itself took, which a busy machine changes least. Not here: the started programs
//! (`program`), what they are made to do (`load`), the calls (`calls`). To add a figure: a [`Row`] and its value in [`Topic::measure`].

mod calls;
mod load;
mod program;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::{StoreOptions, report};
use program::{Kind, Program};

/// Keys that are written over and over.
const KEYS: usize = 10_000;

/// A figure of a store.
struct Row {
    what: &'static str,
    unit: &'static str,
    target: &'static str,
    is_better: Better,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}
use Better::{Less, More};

const fn row(what: &'static str, unit: &'static str, target: &'static str, is_better: Better) -> Row {
    Row { what, unit, target, is_better }
}

/// What is measured of a store from its start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Topic {
    /// Durable puts
    Puts,
    /// Watches
    Watches,
    /// Bytes on disk
    Disk,
    /// Memory, and the start on what was written
    Memory,
}

impl Topic {
    fn rows(self) -> &'static [Row] {
        const PUTS: &[Row] = &[
            row("durable puts, one client: p50", "us", "250 us", Less),
            row("durable puts, one client: p99", "us", "", Less),
            row("durable puts, one client", "puts/s", "", More),
            row("durable puts, one client: processor time of each", "us", "", Less),
            row("durable puts, 64 clients", "puts/s", "2 x etcd", More),
            row("durable puts, 64 clients: p50", "us", "", Less),
            row("durable puts, 64 clients: p99", "us", "", Less),
            row("durable puts, 64 clients: processor time of each", "us", "", Less),
            row("durable puts, 64 clients: the client's own", "us", "", Less),
        ];
        const WATCHES: &[Row] = &[
            row("watch events delivered", "events/s", "500000/s", More),
            row("watch events: processor time of each", "us", "", Less),
            row("watch lag p99 under churn", "us", "50 ms", Less),
        ];
        const DISK: &[Row] = &[
            row("on disk after updates of 10 k keys", "MiB", "", Less),
            row("the same after compaction", "MiB", "", Less),
        ];
        const MEMORY: &[Row] = &[
            row("memory with many keys of 1 KB", "MiB", "", Less),
            row("killed to serving again, with those keys", "ms", "3 s a GB", Less),
            row("the same: processor time", "ms", "", Less),
        ];
        match self {
            Self::Puts => PUTS,
            Self::Watches => WATCHES,
            Self::Disk => DISK,
            Self::Memory => MEMORY,
        }
    }

    /// How often: what writes for minutes does so once.
    fn rounds(self, options: &StoreOptions) -> usize {
        match self {
            Self::Puts | Self::Watches => options.rounds.max(1),
            Self::Disk | Self::Memory => 1,
        }
    }

    /// The figures of one store, one for each row.
    async fn measure(self, options: &StoreOptions, kind: &Kind) -> anyhow::Result<Vec<f64>> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut started = Program::start(kind).await?;
        let figures = match self {
            Self::Puts => {
                let (from, spent) = (Instant::now(), started.processor_time()?);
                let alone = load::write_alone(&started, options.puts, KEYS).await?;
                let rate_alone = options.puts as f64 / from.elapsed().as_secs_f64();
                let between = started.processor_time()?;
                let spent_alone = micros(between.saturating_sub(spent)) / options.puts.max(1) as f64;
                let (puts, own) = (options.puts * 10, crate::idle::processor_time(std::process::id())?);
                let (rate, many) = load::write(&started, puts, 256, KEYS).await?;
                let each = |spent: Duration| micros(spent) / puts.max(1) as f64;
                let spent = each(started.processor_time()?.saturating_sub(between));
                let own = each(crate::idle::processor_time(std::process::id())?.saturating_sub(own));
                let [alone_p50, alone_p99] = [0.5, 0.99].map(|share| micros(report::quantile(&alone, share)));
                let [p50, p99] = [0.5, 0.99].map(|share| micros(report::quantile(&many, share)));
                vec![alone_p50, alone_p99, rate_alone, spent_alone, rate, p50, p99, spent, own]
            }
            Self::Watches => {
                let spent = started.processor_time()?;
                let (rate, lag) = load::watch(&started, options).await?;
                let spent = started.processor_time()?.saturating_sub(spent);
                vec![rate, micros(spent) / options.events.max(1) as f64, micros(lag)]
            }
            Self::Disk => {
                load::write(&started, options.updates, 256, KEYS).await?;
                let written = started.bytes_on_disk()?;
                load::compact(&started).await?;
                vec![mib(written), mib(started.bytes_on_disk()?)]
            }
            Self::Memory => {
                load::fill(&started, options.keys, 1000).await?;
                let resident = started.resident()?;
                let recovery;
                (started, recovery) = started.restart().await?;
                let spent = started.processor_time()?;
                if let Some(said) = started.said_of_its_start() {
                    report::note(&format!("{kind} {said}"));
                }
                vec![mib(resident), micros(recovery) / 1e3, micros(spent) / 1e3]
            }
        };
        started.end()?;
        Ok(figures)
    }
}

/// Measures everything that is asked for, both stores in turn.
pub async fn run(options: &StoreOptions, program: &Path) -> anyhow::Result<()> {
    let kinds = [Kind::Own(program.to_owned()), Kind::Etcd(program::etcd(options.etcd.as_deref())?)];
    for topic in &options.only {
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..topic.rounds(options) {
            for (kind, found) in kinds.iter().zip(&mut found) {
                let figures = topic.measure(options, kind).await;
                found.push(figures.with_context(|| format!("measuring {kind}"))?);
            }
        }
        for (index, row) in topic.rows().iter().enumerate() {
            let [ours, theirs] = found.each_ref().map(|rounds| {
                let mut values: Vec<f64> = rounds.iter().map(|figures| figures[index]).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            });
            let better = if row.is_better == More { ours / theirs } else { theirs / ours };
            let unit = row.unit;
            let digits = if ours.min(theirs) < 10.0 { 1 } else { 0 };
            let text = format!("{ours:.digits$} {unit}, etcd {theirs:.digits$}: {better:.1} x");
            report::line(row.what, &text, row.target);
        }
    }
    Ok(())
}
