//! Reads what the kernel has, and runs a plan's commands.
//!
//! Works in the network namespace of the thread that opened it, and writes settings below `/proc/sys/net` of the calling
//! thread's. Not here: which commands (`plan`).

use std::{fs, net::IpAddr};

use sys::netlink::{
    self,
    neighbour::{Forwarding, Neighbour},
    route::{NewLink, Route, RouteSocket},
};

use super::{
    Error,
    members::Network,
    plan::{Command, Observed, PROTOCOL, TUNNEL, Way},
};

/// The kernel's routes.
#[derive(Debug)]
pub struct Kernel {
    socket: RouteSocket,
}

impl Kernel {
    /// Opens it.
    pub fn open() -> Result<Kernel, Error> {
        Ok(Kernel { socket: RouteSocket::open()? })
    }

    /// What there is.
    pub fn observe(&mut self) -> Result<Observed, Error> {
        let links = self.socket.links()?;
        let mut observed = Observed { links, ..Observed::default() };
        observed.addresses = self.socket.addresses()?;
        observed.addresses.retain(|address| address.ip.is_ipv4());
        observed.routes = self.socket.routes()?;
        observed.routes.retain(|route| route.destination.is_ipv4());
        observed.forwards = setting("ipv4/ip_forward").is_some_and(|value| value != "0");
        if let Some(tunnel) = observed.tunnel().map(|link| link.index) {
            observed.neighbours = self.socket.neighbours()?;
            observed.neighbours.retain(|neighbour| neighbour.link == tunnel);
            observed.forwardings = self.socket.forwardings()?;
            observed.forwardings.retain(|entry| entry.link == tunnel);
        }
        Ok(observed)
    }

    /// The tunnel's index, if there is a tunnel.
    pub fn tunnel(&mut self) -> Result<Option<u32>, Error> {
        Ok(self.socket.link(TUNNEL)?.map(|link| link.index))
    }

    /// Runs commands in their order. One that fails does not keep the others from being run; the first failure is
    /// returned.
    pub fn apply(&mut self, commands: &[Command]) -> Result<(), Error> {
        let mut outcome = Ok(());
        let mut tunnel = None;
        for command in commands {
            let done = self.run(command, &mut tunnel);
            outcome = outcome.and(done);
        }
        outcome
    }

    fn run(&mut self, command: &Command, known: &mut Option<u32>) -> Result<(), Error> {
        if let Command::Set(name, value) = command {
            return set(name, value);
        }
        if let Command::MakeTunnel { between, mac, mtu } = command {
            *known = None;
            self.socket.create(TUNNEL, *mtu, &NewLink::Vxlan { between: *between, mac: *mac })?;
            return Ok(());
        }
        match command {
            Command::PutRoute(network, Way::Direct { gateway, link }) => {
                let route = Route { gateway: Some((*gateway).into()), link: Some(*link), ..ours(*network) };
                return Ok(self.socket.replace_route(&route)?);
            }
            Command::DeleteRoute(route) => return gone(self.socket.delete_route(route)),
            _ => {}
        }
        let link = match *known {
            Some(link) => link,
            None => self.tunnel()?.ok_or(Error::TunnelVanished)?,
        };
        *known = Some(link);
        let socket = &mut self.socket;
        match command {
            Command::DeleteTunnel => {
                *known = None;
                gone(socket.delete(link))
            }
            Command::TunnelMtu(mtu) => Ok(socket.set_mtu(link, *mtu)?),
            Command::TunnelUp => Ok(socket.set_up(link)?),
            Command::AddTunnelAddress(ip) => Ok(socket.add_address(link, (*ip).into(), 32)?),
            Command::RemoveTunnelAddress(ip, prefix) => gone(socket.delete_address(link, *ip, *prefix)),
            Command::PutNeighbour(ip, mac) => {
                let neighbour = Neighbour { link, ip: (*ip).into(), mac: *mac, permanent: true };
                Ok(socket.put_neighbour(&neighbour)?)
            }
            Command::DeleteNeighbour(ip) => gone(socket.delete_neighbour(link, *ip)),
            Command::PutForwarding(mac, destination) => {
                Ok(socket.put_forwarding(&Forwarding { link, mac: *mac, destination: *destination })?)
            }
            Command::DeleteForwarding(entry) => gone(socket.delete_forwarding(entry)),
            Command::PutRoute(network, _) => {
                let gateway = Some(network.address.into());
                let route = Route { gateway, link: Some(link), onlink: true, ..ours(*network) };
                Ok(socket.replace_route(&route)?)
            }
            // Done above.
            Command::Set(..) | Command::MakeTunnel { .. } | Command::DeleteRoute(_) => Ok(()),
        }
    }
}

fn ours(network: Network) -> Route {
    Route { protocol: PROTOCOL, ..Route::to(IpAddr::V4(network.address), network.prefix) }
}

/// What is gone already need not be deleted.
fn gone(outcome: Result<(), netlink::Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

fn setting(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?.trim().to_owned())
}

fn set(name: &str, value: &'static str) -> Result<(), Error> {
    if setting(name).is_some_and(|now| now == value) {
        return Ok(());
    }
    fs::write(format!("/proc/sys/net/{name}"), value).map_err(|source| Error::Setting {
        name: name.to_owned(),
        value,
        source,
    })
}

/// Removes the tunnel and all routes of ours from the calling thread's network namespace.
pub fn uninstall() -> Result<(), Error> {
    let mut kernel = Kernel::open()?;
    let observed = kernel.observe()?;
    let ours = observed.routes.iter().filter(|route| route.protocol == PROTOCOL);
    let mut commands: Vec<Command> = ours.map(|route| Command::DeleteRoute(*route)).collect();
    commands.extend(observed.tunnel().map(|_| Command::DeleteTunnel));
    kernel.apply(&commands)
}
