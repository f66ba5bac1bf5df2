//! The promises that the simulation judges, each broken on purpose: it must object.
//!
//! What is wrong is done by the executor and the network around a sound [`Core`](store_raft::core::Core), by [`Broken`]:
//! it says that something is durable which is not, or tells a member what nobody has said. So there is no hook in what is
//! shipped. That the same schedules and scenes pass when nothing is broken is what the other tests here ask. Not here:
//! the promises whose breaking takes another program (`docs/decisions/0011-faults-of-the-store.md` says how each of them was broken).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use raft::eraftpb::{Message, MessageType};
use store_raft::core::Persist;

use super::{Simulation, scenes};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    NotAtAll,
    /// Term and vote are said to be durable as soon as they are known.
    VotesAtOnce,
    /// Entries are.
    AcknowledgesAtOnce,
    /// Who never got an entry is said to have it.
    CountsTheAbsent,
    /// What leaders send, and are answered, passes for that of the receiver's term, whatever term it is of.
    FollowsOldLeaders,
    /// Everybody is said to have answered the leader's question of whether it leads.
    AsksNobody,
    /// Everybody is said to want an election.
    GrantsPreVotes,
    /// What a checkpoint replaces goes before it is durable.
    TrustsTheCheckpoint,
    /// A proposal may arrive twice.
    ProposesTwice,
    /// Everybody is said to understand all.
    OverratesOthers,
    /// Nobody is told that the disk refuses.
    KeepsQuietAboutTheDisk,
}

impl Broken {
    /// Whether what is yet to be written is said to be durable. (A checkpoint that has come is not: it is not there yet.)
    pub(super) fn says_that_it_is_durable(self, persist: &Persist, before: &VecDeque<Persist>) -> bool {
        let replaces = |persist: &Persist| persist.snapshot.is_some();
        match self {
            Self::VotesAtOnce => persist.entries.is_empty() && !replaces(persist) && before.is_empty(),
            Self::AcknowledgesAtOnce => !replaces(persist) && !before.iter().any(replaces),
            _ => false,
        }
    }

    /// What the receiver of a message is said to have answered, though it has not.
    pub(super) fn forged(self, message: &Message, lost: bool) -> Option<Message> {
        use MessageType::{
            MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgRequestPreVote,
            MsgRequestPreVoteResponse,
        };
        let kind = match (self, message.get_msg_type()) {
            (Self::CountsTheAbsent, MsgAppend) if lost => MsgAppendResponse,
            (Self::AsksNobody, MsgHeartbeat) => MsgHeartbeatResponse,
            (Self::GrantsPreVotes, MsgRequestPreVote) => MsgRequestPreVoteResponse,
            _ => return None,
        };
        let mut forged = Message {
            from: message.to,
            to: message.from,
            term: message.term,
            index: message.index + message.entries.len() as u64,
            context: message.context.clone(),
            ..Message::default()
        };
        forged.set_msg_type(kind);
        Some(forged)
    }

    /// A message as it arrives at a member in this term.
    pub(super) fn twisted(self, mut message: Message, term: u64) -> Message {
        use MessageType::{MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse};
        let leads = matches!(
            message.get_msg_type(),
            MsgAppend | MsgAppendResponse | MsgHeartbeat | MsgHeartbeatResponse
        );
        if self == Self::FollowsOldLeaders && leads {
            message.term = term;
        }
        message
    }
}

/// How a promise is broken, where, and how that is noticed.
struct Row {
    promise: &'static str,
    broken: Broken,
    play: fn(u64, Broken),
    /// Of these, one is in what is said.
    objections: &'static [&'static str],
}

fn schedule(seed: u64, broken: Broken) {
    let mut simulation = Simulation::new(seed);
    simulation.broken = broken;
    simulation.run();
}

/// What is said where the members have lost something, or have come apart: by the judges, or by the consensus itself.
const LOST: &[&str] = &[
    "was acknowledged",
    "was seen",
    "the histories of members",
    "no order explains",
    "is out of range",
    "conflict with committed",
];

const ROWS: &[Row] = &[
    Row {
        promise: "a_vote_is_durable_before_it_is_sent",
        broken: Broken::VotesAtOnce,
        play: scenes::votes_twice_at_the_most_for_one,
        objections: &["has voted twice"],
    },
    Row {
        promise: "an_entry_is_durable_before_it_is_acknowledged",
        broken: Broken::AcknowledgesAtOnce,
        play: schedule,
        objections: LOST,
    },
    Row {
        promise: "commitment_needs_a_majority",
        broken: Broken::CountsTheAbsent,
        play: schedule,
        objections: LOST,
    },
    Row {
        promise: "a_leader_of_an_older_term_commits_nothing",
        broken: Broken::FollowsOldLeaders,
        play: scenes::an_old_leader_is_none,
        objections: LOST,
    },
    Row {
        promise: "a_read_has_the_leadership_confirmed",
        broken: Broken::AsksNobody,
        play: scenes::an_old_leader_is_none,
        objections: &["was seen", "no order explains"],
    },
    Row {
        promise: "who_was_cut_off_raises_no_term",
        broken: Broken::GrantsPreVotes,
        play: scenes::comes_back_unnoticed,
        objections: &["the term was raised"],
    },
    Row {
        promise: "a_checkpoint_replaces_the_log_once_it_is_durable",
        broken: Broken::TrustsTheCheckpoint,
        play: schedule,
        objections: &["cannot be opened"],
    },
    Row {
        promise: "a_proposal_is_handed_over_at_most_once",
        broken: Broken::ProposesTwice,
        play: schedule,
        objections: &["was acknowledged", "is there twice"],
    },
    Row {
        promise: "nothing_is_written_that_a_member_does_not_understand",
        broken: Broken::OverratesOthers,
        play: schedule,
        objections: &["is not understood by this version"],
    },
    Row {
        promise: "who_cannot_write_does_not_keep_the_lead",
        broken: Broken::KeepsQuietAboutTheDisk,
        play: scenes::gives_the_lead_away_when_its_disk_is_full,
        objections: &["it leads on"],
    },
];

/// As many as are tried until one is noticed.
const SEEDS: u64 = 100;

/// What objects, and with which seed first.
fn noticed(row: &Row) -> Result<String, String> {
    for seed in 0..SEEDS {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| (row.play)(seed, row.broken))) else { continue };
        let plain = || panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = panic.downcast_ref::<String>().cloned().or_else(plain).unwrap_or_default();
        let told = format!("{}, seed {seed}: {}", row.promise, said.lines().next().unwrap_or_default());
        let fits = row.objections.iter().any(|objection| said.contains(objection));
        return if fits { Ok(told) } else { Err(format!("something else fails: {told}")) };
    }
    Err(format!("{} is broken ({:?}), and nobody notices", row.promise, row.broken))
}

#[test]
fn the_simulation_notices_what_is_broken() {
    let (noticed, not): (Vec<_>, Vec<_>) = ROWS.iter().map(noticed).partition(Result::is_ok);
    println!("{noticed:#?}");
    assert!(not.is_empty(), "{not:#?}");
}

#[test]
fn the_prose_and_the_table_agree() {
    let prose = include_str!("../../../PROMISES.md")
        .split("\n## ")
        .find(|part| part.starts_with("Broken in the simulation"));
    let names: Vec<_> = prose
        .unwrap()
        .lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .map(|line| line.split('`').nth(1).unwrap())
        .collect();
    let promises: Vec<_> = ROWS.iter().map(|row| row.promise).collect();
    assert_eq!(names, promises);
}
