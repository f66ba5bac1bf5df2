//! Gives out addresses of a range from files on this host.
//!
//! Reads and writes `<dataDir>/<network>/`: one file per address in use, named by it, holding the container
//! and its interface; and `last_reserved_ip.0`, so that an address is not given out again at once. A lock
//! file makes calls wait for each other. Not here: setting the address (`bridge`).
//!
//! Upstream: containernetworking/plugins ipam/host-local, whose files these are.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    cni::{Arguments, Code, Config, Error, Ip, Route, Success},
    plugin::Plugin,
};

/// The plugin.
#[derive(Debug)]
pub struct HostLocal;

#[derive(Deserialize)]
struct Own {
    ipam: Ipam,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    #[serde(default)]
    ranges: Vec<Vec<Range>>,
    #[serde(flatten)]
    single: Option<Range>,
    #[serde(default)]
    routes: Vec<Route>,
    data_dir: Option<PathBuf>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    subnet: String,
    range_start: Option<Ipv4Addr>,
    range_end: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
}

/// A range with its ends worked out; addresses as numbers.
#[derive(Debug, PartialEq, Eq)]
struct Pool {
    first: u32,
    last: u32,
    gateway: u32,
    prefix: u8,
}

impl Range {
    fn pool(&self) -> Result<Pool, Error> {
        let invalid =
            |what: &str| Error::new(Code::InvalidConfig, format!("subnet {:?} {what}", self.subnet));
        let (address, prefix) = self.subnet.split_once('/').ok_or_else(|| invalid("is no network"))?;
        let address: Ipv4Addr =
            address.parse().map_err(|_| invalid("is no IPv4 network; IPv6 ranges are not served yet"))?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 30).ok_or_else(|| invalid("is too small"))?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let network = u32::from(address) & mask;
        let gateway = self.gateway.map_or(network + 1, u32::from);
        let first = self.range_start.map_or(network + 1, u32::from);
        // The last address of the network is its broadcast address.
        let last = self.range_end.map_or((network | !mask) - 1, u32::from);
        if first & mask != network || last & mask != network || first > last {
            return Err(invalid("does not hold the given range"));
        }
        Ok(Pool { first, last, gateway, prefix })
    }
}

impl Pool {
    /// The next free address after the one given out last, around the end of the range.
    fn choose(&self, last: Option<u32>, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let size = u64::from(self.last - self.first) + 1;
        let after =
            last.filter(|last| (self.first..=self.last).contains(last)).map_or(0, |l| l - self.first + 1);
        (0..size)
            .map(|step| self.first + ((u64::from(after) + step) % size) as u32)
            .find(|candidate| *candidate != self.gateway && !taken(*candidate))
    }
}

/// The directory of one network, locked.
struct Ledger {
    directory: PathBuf,
    _lock: File,
}

impl Ledger {
    fn open(config: &Config, ipam: &Ipam) -> Result<Self, Error> {
        let root = ipam.data_dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib/cni/networks"));
        let directory = root.join(&config.name);
        let open = || {
            fs::create_dir_all(&directory)?;
            let lock = File::create(directory.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let lock = open().map_err(|error: io::Error| problem(&directory, &error))?;
        Ok(Self { directory, _lock: lock })
    }

    fn file(&self, address: u32) -> PathBuf {
        self.directory.join(Ipv4Addr::from(address).to_string())
    }

    /// Addresses in use with the text of their owners.
    fn owners(&self) -> Result<Vec<(u32, String)>, Error> {
        let entries = fs::read_dir(&self.directory).map_err(|error| problem(&self.directory, &error))?;
        let mut owners = Vec::new();
        for entry in entries.flatten() {
            let Some(address) = entry.file_name().to_str().and_then(|name| name.parse::<Ipv4Addr>().ok())
            else {
                continue;
            };
            let path = entry.path();
            match fs::read_to_string(&path) {
                // Of somebody who died while writing it (not this program, which writes beside): nobody's address.
                Ok(text) if text.is_empty() => {
                    fs::remove_file(&path).map_err(|error| problem(&path, &error))?
                }
                Ok(text) => owners.push((u32::from(address), text)),
                Err(error) => return Err(problem(&path, &error)),
            }
        }
        Ok(owners)
    }

    fn last(&self) -> Option<u32> {
        let text = fs::read_to_string(self.directory.join("last_reserved_ip.0")).ok()?;
        text.trim().parse::<Ipv4Addr>().ok().map(u32::from)
    }

    fn reserve(&self, address: u32, owner: &str) -> Result<(), Error> {
        let path = self.file(address);
        let write = || {
            // Beside, then under its name: an address never appears without its owner.
            let beside = self.directory.join("reservation.new");
            fs::write(&beside, owner)?;
            fs::hard_link(&beside, &path)?;
            fs::remove_file(&beside)?;
            fs::write(self.directory.join("last_reserved_ip.0"), Ipv4Addr::from(address).to_string())
        };
        write().map_err(|error| problem(&path, &error))
    }

    fn release(&self, address: u32) -> Result<(), Error> {
        let path = self.file(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(problem(&path, &error)),
            _ => Ok(()),
        }
    }
}

fn problem(path: &Path, error: &io::Error) -> Error {
    Error::new(Code::Io, format!("{}: {error}", path.display()))
}

fn owner(arguments: &Arguments) -> String {
    format!("{}\n{}", arguments.container_id, arguments.interface)
}

fn settings(config: &Config) -> Result<(Ipam, Pool), Error> {
    let ipam = config.parse::<Own>()?.ipam;
    let range = ipam.ranges.first().and_then(|set| set.first()).cloned().or_else(|| ipam.single.clone());
    let pool = range.ok_or_else(|| Error::new(Code::InvalidConfig, "no IP ranges specified"))?.pool()?;
    Ok((ipam, pool))
}

impl Plugin for HostLocal {
    fn add(&self, arguments: &Arguments, config: &Config) -> Result<Success, Error> {
        let (ipam, pool) = settings(config)?;
        let ledger = Ledger::open(config, &ipam)?;
        let owner = owner(arguments);
        let taken = ledger.owners()?;
        if taken.iter().any(|(_, other)| *other == owner) {
            return Err(Error::failed(format!(
                "{} has been allocated to {}, duplicate allocation is not allowed",
                config.name, arguments.container_id
            )));
        }
        let in_use = |address| taken.iter().any(|(other, _)| *other == address);
        let address = pool.choose(ledger.last(), in_use).ok_or_else(|| {
            Error::failed(format!(
                "no IP addresses available in range set: {}-{}",
                Ipv4Addr::from(pool.first),
                Ipv4Addr::from(pool.last)
            ))
        })?;
        ledger.reserve(address, &owner)?;
        let address = format!("{}/{}", Ipv4Addr::from(address), pool.prefix);
        let gateway = Some(IpAddr::V4(pool.gateway.into()));
        Ok(Success {
            ips: vec![Ip { address, gateway, interface: None }],
            routes: ipam.routes,
            ..Success::default()
        })
    }

    fn del(&self, arguments: &Arguments, config: &Config) -> Result<(), Error> {
        let (ipam, _) = settings(config)?;
        let ledger = Ledger::open(config, &ipam)?;
        let owner = owner(arguments);
        for (address, other) in ledger.owners()? {
            if other == owner {
                ledger.release(address)?;
            }
        }
        Ok(())
    }

    fn check(&self, arguments: &Arguments, config: &Config) -> Result<(), Error> {
        let (ipam, _) = settings(config)?;
        let owner = owner(arguments);
        if Ledger::open(config, &ipam)?.owners()?.iter().any(|(_, other)| *other == owner) {
            return Ok(());
        }
        Err(Error::failed(format!(
            "host-local: failed to find address added by container {}",
            arguments.container_id
        )))
    }

    fn gc(&self, config: &Config) -> Result<(), Error> {
        let (ipam, _) = settings(config)?;
        let valid: Vec<String> = config.own["cni.dev/valid-attachments"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                Some(format!("{}\n{}", entry["containerID"].as_str()?, entry["ifname"].as_str()?))
            })
            .collect();
        let ledger = Ledger::open(config, &ipam)?;
        for (address, owner) in ledger.owners()? {
            if !valid.contains(&owner) {
                ledger.release(address)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(directory: &Path, subnet: &str) -> Config {
        serde_json::from_value(json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "bridge",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "dataDir": directory,
                     "routes": [{"dst": "0.0.0.0/0"}]},
        }))
        .unwrap()
    }

    fn arguments(id: &str) -> Arguments {
        Arguments { container_id: id.into(), interface: "eth0".into(), ..Arguments::default() }
    }

    #[test]
    fn addresses_are_given_out_once_and_come_back_late() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), "10.9.0.0/29");
        let add = |id: &str| HostLocal.add(&arguments(id), &config).map(|r| r.ips[0].address.clone());
        assert_eq!(add("a").unwrap(), "10.9.0.2/29");
        assert_eq!(add("b").unwrap(), "10.9.0.3/29");
        assert!(add("a").unwrap_err().message.contains("duplicate allocation"));
        HostLocal.check(&arguments("a"), &config).unwrap();
        HostLocal.del(&arguments("a"), &config).unwrap();
        HostLocal.del(&arguments("a"), &config).unwrap();
        assert!(HostLocal.check(&arguments("a"), &config).is_err());
        // The freed address waits until the range has been gone through once.
        let rest: Vec<_> = ["c", "d", "e", "f"].into_iter().map(|id| add(id).unwrap()).collect();
        assert_eq!(rest, ["10.9.0.4/29", "10.9.0.5/29", "10.9.0.6/29", "10.9.0.2/29"]);
        assert!(add("g").unwrap_err().message.starts_with("no IP addresses available in range set"));
    }

    #[test]
    fn an_address_without_an_owner_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), "10.9.0.0/30");
        fs::create_dir_all(directory.path().join("pods")).unwrap();
        fs::write(directory.path().join("pods/10.9.0.2"), "").unwrap();
        HostLocal.add(&arguments("a"), &config).unwrap();
        HostLocal.check(&arguments("a"), &config).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("pods/10.9.0.2")).unwrap(), "a\neth0");
    }

    #[test]
    fn what_no_attachment_owns_is_collected() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path(), "10.9.0.0/24");
        HostLocal.add(&arguments("kept"), &config).unwrap();
        HostLocal.add(&arguments("lost"), &config).unwrap();
        let valid = json!([{"containerID": "kept", "ifname": "eth0"}]);
        config.own.insert("cni.dev/valid-attachments".into(), valid);
        HostLocal.gc(&config).unwrap();
        HostLocal.check(&arguments("kept"), &config).unwrap();
        assert!(HostLocal.check(&arguments("lost"), &config).is_err());
    }

    #[test]
    fn ranges_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        for subnet in ["10.9.0.0", "10.9.0.0/31", "fd00::/64", "x/24"] {
            let error = HostLocal.add(&arguments("a"), &config(directory.path(), subnet)).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig as u32, "{subnet}");
        }
    }
}
