//! A network namespace for each member, on one bridge, and what can be done to their connections.
//!
//! Everything is inside of the namespaces of the test's process, and vanishes with it.

use std::process::Command;

/// Carries out a command line that must succeed.
fn sh(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

pub struct Network(usize);

impl Network {
    pub fn new(members: usize) -> Self {
        // For the names of namespaces.
        sh("mount -t tmpfs run /run && ip link add br0 type bridge && ip link set br0 up");
        for index in 0..members {
            sh(&format!(
                "ip netns add m{index} && ip link add p{index} type veth peer name eth0 netns m{index} \
                 && ip link set p{index} master br0 up && ip -n m{index} link set lo up \
                 && ip -n m{index} address add {}/24 dev eth0 && ip -n m{index} link set eth0 up \
                 && ip netns exec m{index} nft 'add table inet apart; add chain inet apart in {{ type filter hook input \
                 priority 0; }}; add chain inet apart out {{ type filter hook output priority 0; }}'",
                host(index)
            ));
        }
        Self(members)
    }

    /// Where a member listens.
    pub fn address(&self, index: usize) -> String {
        format!("{}:2380", host(index))
    }

    /// A command in a member's namespace.
    pub fn command(&self, index: usize, arguments: &[String]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("m{index}")]).args(arguments);
        command
    }

    /// Two members do not reach each other: nothing is answered, not even that.
    pub fn part(&self, one: usize, other: usize) {
        for (at, from) in [(one, host(other)), (other, host(one))] {
            sh(&format!(
                "ip netns exec m{at} nft 'add rule inet apart in ip saddr {from} drop; add rule inet apart out ip daddr \
                 {from} drop'"
            ));
        }
    }

    /// A member does not reach anybody.
    pub fn cut(&self, index: usize) {
        (0..self.0).filter(|other| *other != index).for_each(|other| self.part(index, other));
    }

    /// What a member sends goes over a narrow line: it waits, for up to half a second, and more than that is lost.
    pub fn narrow(&self, index: usize) {
        sh(&format!("tc -n m{index} qdisc add dev eth0 root tbf rate 300kbit burst 3kb latency 500ms"));
    }

    /// Everything is as it was.
    pub fn heal(&self) {
        for index in 0..self.0 {
            sh(&format!(
                "ip netns exec m{index} nft 'flush chain inet apart in; flush chain inet apart out' \
                 && (tc -n m{index} qdisc del dev eth0 root 2>/dev/null || true)"
            ));
        }
    }
}

fn host(index: usize) -> String {
    format!("10.99.0.{}", index + 1)
}
