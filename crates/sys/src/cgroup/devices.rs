//! Which device files a control group may open or make.
//!
//! Version 1 has a controller with allow and deny files. Version 2 has a BPF program instead, which is
//! written, loaded and attached here.
//!
//! Upstream: runc libcontainer/cgroups/devices; the kernel's bpf_cgroup_dev_ctx.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Cgroup, Error, Layout, fail};

/// Permission to a device, or to a range of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `b`, `c`, or `a` for both.
    pub kind: char,
    /// `None`: any.
    pub major: Option<u32>,
    /// `None`: any.
    pub minor: Option<u32>,
    /// Some of `r`, `w` and `m` (make).
    pub access: String,
}

impl Rule {
    /// Everything: what a privileged container has.
    pub fn all() -> Self {
        Self { kind: 'a', major: None, minor: None, access: "rwm".into() }
    }

    /// A character device with full access.
    pub fn character(major: u32, minor: Option<u32>) -> Self {
        Self { kind: 'c', major: Some(major), minor, access: "rwm".into() }
    }
}

/// What every container may use: making any device node (not opening it), and null, zero, full, random,
/// urandom, tty, console, ptmx and the pseudo terminals.
pub fn defaults() -> Vec<Rule> {
    let make = |kind| Rule { kind, major: None, minor: None, access: "m".into() };
    let mut rules = vec![make('c'), make('b')];
    rules.extend(
        [
            (1, Some(3)),
            (1, Some(5)),
            (1, Some(7)),
            (1, Some(8)),
            (1, Some(9)),
            (5, Some(0)),
            (5, Some(1)),
            (5, Some(2)),
            (136, None),
        ]
        .map(|(major, minor)| Rule::character(major, minor)),
    );
    rules
}

impl Layout {
    /// Whether device files can be kept from the processes of a group. A version 1 host may lack the controller.
    pub fn filters_devices(&self) -> bool {
        self.is_v2() || self.directory("devices", "/").is_some()
    }
}

impl Cgroup {
    /// Allows exactly `rules`. On a version 1 host without the controller nothing is limited.
    pub fn allow_devices(&self, rules: &[Rule]) -> Result<(), Error> {
        match &self.layout {
            Layout::V1(_) => {
                let Some(directory) = self.layout.directory("devices", &self.path) else { return Ok(()) };
                let deny = directory.join("devices.deny");
                fs::write(&deny, "a").map_err(fail("write", &deny))?;
                let allow = directory.join("devices.allow");
                for rule in rules {
                    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
                    let line = match rule.kind {
                        'a' => "a".to_owned(),
                        kind => {
                            format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access)
                        }
                    };
                    fs::write(&allow, line).map_err(fail("write", &allow))?;
                }
                Ok(())
            }
            Layout::V2(mount) => {
                let directory = mount.join(self.path.trim_start_matches('/'));
                attach(&directory, rules).map_err(fail("attach the device filter to", &directory))
            }
        }
    }
}

/// An instruction: opcode, destination and source registers, offset, immediate.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(src << 4 | dst) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

// Opcodes of the kernel's instruction set, named as in its documentation.
const LDXW: u8 = 0x61;
const MOV32_REG: u8 = 0xbc;
const AND32: u8 = 0x54;
const RSH32: u8 = 0x74;
const MOV64: u8 = 0xb7;
const JNE32: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The program: per rule, "if kind, access and numbers fit, return 1"; at the end return 0.
/// Context (r1): u32 access_type (kind in the low, access in the high half), u32 major, u32 minor.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut out = vec![
        instruction(LDXW, 2, 1, 0, 0), // r2 = kind
        instruction(MOV32_REG, 3, 2, 0, 0),
        instruction(AND32, 2, 0, 0, 0xffff),
        instruction(RSH32, 3, 0, 0, 16), // r3 = access
        instruction(LDXW, 4, 1, 4, 0),   // r4 = major
        instruction(LDXW, 5, 1, 8, 0),   // r5 = minor
    ];
    for rule in rules {
        let mut block = Vec::new();
        match rule.kind {
            'b' => block.push(instruction(JNE32, 2, 0, 0, 1)),
            'c' => block.push(instruction(JNE32, 2, 0, 0, 2)),
            _ => {}
        }
        let bits = rule.access.chars().fold(0, |bits, c| {
            bits | match c {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => 0,
            }
        });
        if bits != 7 {
            // Refuse if something is asked for that the rule does not give.
            block.push(instruction(MOV32_REG, 1, 3, 0, 0));
            block.push(instruction(AND32, 1, 0, 0, 7 & !bits));
            block.push(instruction(JNE32, 1, 0, 0, 0));
        }
        if let Some(major) = rule.major {
            block.push(instruction(JNE32, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            block.push(instruction(JNE32, 5, 0, 0, minor as i32));
        }
        block.push(instruction(MOV64, 0, 0, 0, 1));
        block.push(instruction(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (at, i) in block.iter_mut().enumerate() {
            if *i as u8 == JNE32 {
                *i |= ((length - at - 1) as u64) << 16;
            }
        }
        out.extend(block);
    }
    out.extend([instruction(MOV64, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    out
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u64 = 15;
const BPF_CGROUP_DEVICE: u64 = 6;
const BPF_F_ALLOW_MULTI: u64 = 2;

fn bpf(command: libc::c_int, attributes: &[u64]) -> io::Result<i32> {
    // SAFETY: `attributes` is the start of `union bpf_attr`, given with its size in bytes; the pointers
    // in it (program, licence) point to data the callers keep alive over the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn attach(directory: &Path, rules: &[Rule]) -> io::Result<()> {
    let group = fs::File::open(directory)?;
    let program = program(rules);
    let licence = c"Apache-2.0";
    let fd = bpf(
        BPF_PROG_LOAD,
        &[
            BPF_PROG_TYPE_CGROUP_DEVICE | (program.len() as u64) << 32,
            program.as_ptr() as u64,
            licence.as_ptr() as u64,
            0,
            0,
            0,
        ],
    )?;
    // SAFETY: the kernel has just made this descriptor for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    bpf(
        BPF_PROG_ATTACH,
        &[
            group.as_raw_fd() as u64 | (loaded.as_raw_fd() as u64) << 32,
            BPF_CGROUP_DEVICE | BPF_F_ALLOW_MULTI << 32,
        ],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the program as the kernel would.
    fn allowed(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let code = program(rules);
        let context = [kind | access << 16, major, minor];
        let mut r = [0u32; 6];
        let mut at = 0usize;
        loop {
            let i = code[at];
            let (op, dst, src) = (i as u8, (i >> 8 & 15) as usize, (i >> 12 & 15) as usize);
            let (offset, immediate) = ((i >> 16) as u16 as i16, (i >> 32) as u32);
            at += 1;
            match op {
                LDXW => r[dst] = context[offset as usize / 4],
                MOV32_REG => r[dst] = r[src],
                AND32 => r[dst] &= immediate,
                RSH32 => r[dst] >>= immediate,
                MOV64 => r[dst] = immediate,
                JNE32 if r[dst] != immediate => at += offset as usize,
                JNE32 => {}
                EXIT => return r[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    #[test]
    fn the_default_rules_allow_null_and_not_disks() {
        let (block, character, make, read, write) = (1, 2, 1, 2, 4);
        let rules = defaults();
        for (kind, access, major, minor, expected) in [
            (character, read | write, 1, 3, true),
            (character, read, 1, 1, false), // /dev/mem
            (character, make, 1, 1, true),
            (character, read | write, 136, 77, true),
            (block, read, 8, 0, false),
            (block, make, 8, 0, true),
            (block, make | read, 8, 0, false),
        ] {
            assert_eq!(
                allowed(&rules, kind, access, major, minor),
                expected,
                "{kind} {access} {major}:{minor}"
            );
        }
        assert!(allowed(&[Rule::all()], block, read | write | make, 8, 0));
        assert!(!allowed(&[], character, read, 1, 3));
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        // Needs root and a mounted version 2 hierarchy (any: device filters need no controller).
        let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
        let Some(root) = mounts.lines().find_map(|l| {
            let mut f = l.split(' ');
            (f.nth(2) == Some("cgroup2")).then(|| l.split(' ').nth(1).unwrap_or_default().to_owned())
        }) else {
            return;
        };
        let directory = Path::new(&root).join(format!("sys-devices-{}", std::process::id()));
        if fs::create_dir(&directory).is_err() {
            return;
        }
        let result = attach(&directory, &defaults());
        fs::remove_dir(&directory).unwrap();
        result.unwrap();
    }
}
