//! Sets a sandbox's loopback interface up.
//!
//! Reads and writes the sandbox's network namespace. Upstream: containernetworking/plugins main/loopback.

use std::{fs::File, net::IpAddr};

use sys::netlink::route::RouteSocket;

use super::bridge::open_namespace;
use crate::{
    cni::{Arguments, Config, Error, Interface, Ip, Success},
    plugin::Plugin,
};

/// The plugin.
#[derive(Debug)]
pub struct Loopback;

impl Plugin for Loopback {
    fn add(&self, arguments: &Arguments, config: &Config) -> Result<Success, Error> {
        set_up(&open_namespace(&arguments.netns)?)?;
        if let Some(previous) = config.previous()? {
            return Ok(previous);
        }
        let sandbox = arguments.netns.display().to_string();
        Ok(Success {
            interfaces: vec![Interface { name: "lo".into(), mac: "00:00:00:00:00:00".into(), sandbox }],
            ips: vec![Ip {
                address: format!("{}/8", IpAddr::from([127, 0, 0, 1])),
                gateway: None,
                interface: Some(0),
            }],
            ..Success::default()
        })
    }

    fn del(&self, _: &Arguments, _: &Config) -> Result<(), Error> {
        // The interface dies with its namespace.
        Ok(())
    }

    fn check(&self, arguments: &Arguments, _: &Config) -> Result<(), Error> {
        let mut socket = RouteSocket::open_in(&open_namespace(&arguments.netns)?)?;
        match socket.link("lo")? {
            Some(link) if link.up => Ok(()),
            _ => Err(Error::failed("loopback interface is down")),
        }
    }
}

/// Sets the loopback interface of a namespace up.
pub fn set_up(namespace: &File) -> Result<(), Error> {
    let mut socket = RouteSocket::open_in(namespace)?;
    let link = socket.link("lo")?.ok_or_else(|| Error::failed("there is no loopback interface"))?;
    Ok(socket.set_up(link.index)?)
}
