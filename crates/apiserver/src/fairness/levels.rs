//! How the server's seats are shared out among the priority levels.
//!
//! Each level has its nominal share by its `nominalConcurrencyShares`; of that it may lend a part, and may
//! borrow from others up to its borrowing limit.
//! Upstream: apiserver/pkg/util/flowcontrol/apf_controller.go (finishQueueSetReconfigsLocked).

use api::types::flowcontrol::v1::{PriorityLevelConfiguration, PriorityLevelConfigurationSpec};

use super::seats::{Limits, Queuing};

/// The widest request of a level may use this part of its seats (upstream: 15 %).
const WIDEST_PERCENT: u32 = 15;

/// The limits of every level when the server has `seats` in all, in the order of `levels`.
pub fn share(levels: &[PriorityLevelConfiguration], seats: u32) -> Vec<Limits> {
    let shares: u64 = levels.iter().map(|level| u64::from(shares(&level.spec))).sum();
    let nominal = |spec: &PriorityLevelConfigurationSpec| {
        let exact = u64::from(seats) * u64::from(self::shares(spec));
        // Not above `seats`, which is a u32: a share is no more than their sum.
        if shares == 0 { 0 } else { exact.div_ceil(shares) as u32 }
    };
    let total: u32 = levels.iter().map(|level| nominal(&level.spec)).sum();
    levels.iter().map(|level| limits(&level.spec, nominal(&level.spec), total)).collect()
}

/// The most seats that one request of a level may have; `None`: the level holds nobody up.
pub fn widest(limits: &Limits) -> Option<u32> {
    (!limits.exempt).then(|| (limits.nominal * WIDEST_PERCENT).div_ceil(100).max(1))
}

fn limits(spec: &PriorityLevelConfigurationSpec, nominal: u32, total: u32) -> Limits {
    let Some(limited) = &spec.limited else {
        let lendable = spec.exempt.as_ref().and_then(|exempt| exempt.lendable_percent);
        let lower = nominal - percent(nominal, lendable.unwrap_or(0));
        return Limits { nominal, lower, upper: total, exempt: true, queuing: None };
    };
    let borrowed = limited.borrowing_limit_percent.map(|limit| percent(nominal, limit));
    let queuing = limited.limit_response.queuing.as_ref().map(|queuing| Queuing {
        queues: positive(queuing.queues, 64),
        hand: positive(queuing.hand_size, 8),
        length: positive(queuing.queue_length_limit, 50),
    });
    Limits {
        nominal,
        lower: nominal - percent(nominal, limited.lendable_percent.unwrap_or(0)).min(nominal),
        upper: borrowed.map_or(total, |borrowed| nominal.saturating_add(borrowed)),
        exempt: false,
        queuing,
    }
}

fn shares(spec: &PriorityLevelConfigurationSpec) -> u32 {
    let of_limited = spec.limited.as_ref().map(|limited| limited.nominal_concurrency_shares.unwrap_or(30));
    let of_exempt = || spec.exempt.as_ref().and_then(|exempt| exempt.nominal_concurrency_shares);
    u32::try_from(of_limited.or_else(of_exempt).unwrap_or(0)).unwrap_or(0)
}

fn positive(number: Option<i32>, default: u32) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}

/// The part of `number`, rounded to the nearest.
fn percent(number: u32, percent: i32) -> u32 {
    let percent = u64::try_from(percent).unwrap_or(0);
    u32::try_from((u64::from(number) * percent + 50) / 100).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_levels_have_upstreams_seats() {
        let levels: Vec<PriorityLevelConfiguration> = crate::fairness::bootstrap::levels()
            .into_iter()
            .map(|object| serde_json::from_value(object.0).unwrap())
            .collect();
        let limits = share(&levels, 600);
        let of = |name: &str| {
            let at = levels.iter().position(|level| level.metadata.name.as_deref() == Some(name)).unwrap();
            (limits[at].nominal, limits[at].lower)
        };
        // 245 shares in all: 600 × 100 / 245 and so on, of which 90 %, 50 %, … may be lent.
        for (name, want) in [
            ("workload-low", (245, 24)),
            ("workload-high", (98, 49)),
            ("node-high", (98, 73)),
            ("system", (74, 50)),
            ("global-default", (49, 24)),
            ("leader-election", (25, 25)),
            ("catch-all", (13, 13)),
            ("exempt", (0, 0)),
        ] {
            assert_eq!(of(name), want, "{name}");
        }
        assert_eq!(limits.iter().filter_map(widest).max(), Some(37));
        assert_eq!(limits.iter().filter(|limits| widest(limits).is_none()).count(), 1, "exempt");
    }
}
