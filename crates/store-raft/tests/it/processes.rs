//! Three members as processes, each in a network namespace of its own: they are cut off from each other, slowed down,
//! stopped for a while, killed and started again, their clocks jump; what clients saw has an order that explains it.
//!
//! The test starts itself again twice: inside of new namespaces (`inside`, which is their first process: whatever happens,
//! nothing is left when it ends), and from there once for each member (`member`). Clients talk to members over sockets in
//! the file system, which no namespace of networks keeps them from. Needs root, `ip`, `tc` and `nft`. (Delays are those of
//! a narrow line, by `tbf`: not every kernel has `netem`.)

mod member;
mod network;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foundation::{Randomness, SeededRandomness};
use store::suite::linearizable::{History, client};
use store_raft::{Options, RaftStore};
use tempfile::TempDir;

use super::authority::Authority;
use super::failover::soon;
use member::Remote;
use network::Network;

const MEMBERS: usize = 3;
const ROUNDS: u64 = 9;
const CLIENTS: u64 = 9;
const EACH: u64 = 8;

/// Runs one of the functions below in a process of its own.
fn again(what: &str) -> Vec<String> {
    let program = std::env::current_exe().unwrap().display().to_string();
    let test = format!("it::processes::{what}");
    [&program, "--ignored", "--exact", &test, "--nocapture"].map(str::to_owned).to_vec()
}

#[test]
fn what_clients_see_of_killed_and_separated_processes_has_an_order() {
    let apart = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    // Everything inside has a deadline of its own; this is for what nobody has thought of.
    let all = ["--kill-after=5", "600", "unshare"];
    let ended =
        Command::new("timeout").args(all).args(apart).args(again("inside")).stdin(Stdio::null()).status();
    let ended = ended.expect("timeout(1) and unshare(1) are there");
    assert!(ended.success(), "{ended}: 124 is that it was not done within ten minutes");
}

#[test]
#[ignore = "runs in namespaces, which the test above makes"]
fn inside() {
    tokio::runtime::Runtime::new().unwrap().block_on(judge());
}

#[test]
#[ignore = "is a member's process, which the test above starts"]
fn member() {
    member::run();
}

/// The members' processes.
struct Processes {
    network: Network,
    folder: TempDir,
    running: BTreeMap<usize, Child>,
}

impl Processes {
    fn start() -> Self {
        let network = Network::new(MEMBERS);
        let folder = TempDir::new().unwrap();
        let authority = Authority::default();
        let directory = |index: usize| folder.path().join(index.to_string());
        let options = Options::new("m0", network.address(0));
        let first = RaftStore::found(&directory(0), &options, None).unwrap();
        for index in 0..MEMBERS {
            std::fs::create_dir_all(directory(index)).unwrap();
            let id = first.member.wrapping_add(index as u64).max(1);
            let leaf = authority.leaf(id);
            for (name, content) in [
                ("id", id.to_string().as_bytes()),
                ("ca", &leaf.authority),
                ("certificate", &leaf.certificate),
                ("key", &leaf.key),
            ] {
                std::fs::write(folder.path().join(format!("{index}.{name}")), content).unwrap();
            }
        }
        Self { network, folder, running: BTreeMap::new() }
    }

    fn remote(&self, index: usize) -> Remote {
        Remote(self.socket(index))
    }

    fn socket(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{index}.sock"))
    }

    fn launch(&mut self, index: usize) {
        let arguments = again("member");
        let child = self
            .network
            .command(index, &arguments)
            .env(member::FOLDER, self.folder.path())
            .env(member::INDEX, index.to_string())
            .env(member::ADDRESS, self.network.address(index))
            .env(member::FIRST, self.network.address(0))
            // Its end is the member's.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        self.running.insert(index, child.unwrap());
    }

    /// `kill -9`.
    fn kill(&mut self, index: usize) {
        let mut child = self.running.remove(&index).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn signal(&self, index: usize, signal: &str) {
        let process = self.running[&index].id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Waits until each of the running members knows who leads, and so many voters.
    async fn settled(&mut self, voters: usize) {
        let end = Instant::now() + Duration::from_secs(90);
        for index in self.running.keys().copied().collect::<Vec<_>>() {
            loop {
                let said = self.remote(index).ask("stand").await;
                if said
                    .as_ref()
                    .is_some_and(|said| !said.starts_with("0 ") && said.ends_with(&format!(" {voters}")))
                {
                    break;
                }
                let ended = self.running.get_mut(&index).unwrap().try_wait().unwrap();
                assert!(ended.is_none(), "member {index} has ended: {ended:?}");
                assert!(Instant::now() < end, "member {index} has not settled: {said:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Who leads, as a member knows it.
    async fn leader(&self, seen_by: usize) -> usize {
        let said = self.remote(seen_by).ask("stand").await.unwrap();
        let leader = said.split(' ').next().unwrap();
        let named = |index: &usize| {
            std::fs::read_to_string(self.folder.path().join(format!("{index}.id"))).unwrap() == leader
        };
        (0..MEMBERS).find(named).unwrap()
    }
}

async fn judge() {
    let mut members = Processes::start();
    for index in 0..MEMBERS {
        members.launch(index);
        members.settled(index + 1).await;
    }
    let random = SeededRandomness::new(20_261_122);
    let history = Arc::new(History::default());
    for round in 0..ROUNDS {
        let keys: Vec<String> = (0..3).map(|key| format!("k/{round}/{key}")).collect();
        let leader = members.leader(0).await;
        let victim = if random.below(2) == 0 { leader } else { random.below(3) as usize };
        let (other, third) = ((victim + 1) % 3, (victim + 2) % 3);
        let ask = |member: usize| {
            let random = SeededRandomness::new(random.u64());
            let remote = Arc::new(members.remote(member));
            tokio::spawn(client(remote, history.clone(), random, keys.clone(), EACH))
        };
        let mut asked: Vec<_> =
            (0..CLIENTS).map(|number| (number as usize % 3, ask(number as usize % 3))).collect();
        // Whom clients may wait for until it is over.
        let mut stuck = vec![victim];
        match round % 9 {
            0 => members.network.cut(victim),
            1 => members.network.part(victim, other),
            2 => (0..MEMBERS).for_each(|index| members.network.narrow(index)),
            3 => {
                assert!(members.remote(victim).ask(&format!("jump {}", random.below(90_000))).await.is_some())
            }
            4 => {
                members.network.narrow(other);
                members.network.cut(victim);
            }
            5 => {
                members.signal(victim, "-STOP");
                tokio::time::sleep(Duration::from_millis(2_500)).await;
                members.signal(victim, "-CONT");
            }
            6 => {
                // While another is cut off: the two of them are one too many.
                members.network.cut(other);
                members.kill(victim);
                stuck = vec![victim, other, third];
            }
            7 => {
                for index in 0..MEMBERS {
                    members.kill(index);
                }
                stuck = (0..MEMBERS).collect();
            }
            _ => members.kill(victim),
        }
        // The others go on; what is cut off waits until it is not.
        for (member, asked) in asked.extract_if(.., |(member, _)| !stuck.contains(member)) {
            let done = tokio::time::timeout(Duration::from_secs(60), asked).await;
            done.unwrap_or_else(|_| panic!("round {round}: clients of member {member} do not go on"))
                .unwrap();
        }
        members.network.heal();
        let mut down: Vec<usize> =
            (0..MEMBERS).filter(|index| !members.running.contains_key(index)).collect();
        if random.below(2) == 0 {
            down.reverse();
        }
        for index in down {
            members.launch(index);
        }
        for (_, asked) in asked {
            soon(asked).await.unwrap();
        }
        members.settled(MEMBERS).await;
        // And it can be used: who comes while the lead moves once more may not be told what became of it, and comes again.
        let served = async {
            loop {
                let last = SeededRandomness::new(random.u64());
                let store = Arc::new(members.remote(victim));
                if client(store, history.clone(), last, keys.clone(), 2).await {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let served = tokio::time::timeout(Duration::from_secs(60), served).await;
        assert!(served.is_ok(), "round {round}: member {victim} does not serve after all is over");
    }
    let (known, unknown) = history.counts();
    eprintln!("{known} operations, and {unknown} that nobody knows of");
    assert!(known as u64 > ROUNDS * CLIENTS * EACH / 3, "{known} operations, {unknown} unknown");
    history.judge("three processes");
}
