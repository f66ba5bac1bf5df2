//! Turns a seccomp profile into classic BPF.
//!
//! Shape of the program: check the architecture, then per architecture first the calls that need their
//! arguments looked at, then the others as ranges of numbers (neighbours with one action share a
//! range: the default profile is about 60 ranges rather than 350 comparisons), then the default.
//!
//! Upstream: libseccomp's meaning of conditions; the kernel's Documentation/userspace-api/seccomp_filter.

use std::collections::BTreeMap;

use super::{Action, Comparison, Condition, Error, Profile, Program, Rule, syscalls::SYSCALLS};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JGT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JGE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xC000_003E;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xC000_00B7;

/// The kernel's BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;

/// A jump to the end of the block being built; made a distance when the block is whole.
const FAIL: u8 = 255;

fn op(code: u16, jt: u8, jf: u8, k: u32) -> u64 {
    u64::from(code) << 48 | u64::from(jt) << 40 | u64::from(jf) << 32 | u64::from(k)
}

fn value(action: Action) -> u32 {
    match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::Trap => libc::SECCOMP_RET_TRAP,
        Action::Log => libc::SECCOMP_RET_LOG,
        Action::Trace(value) => libc::SECCOMP_RET_TRACE | u32::from(value),
    }
}

/// The filter for the architecture this was built for, and the 32-bit one its kernel also runs.
pub fn compile(profile: &Profile) -> Result<Program, Error> {
    type Pick = fn(&(&'static str, i32, i32, i32)) -> i32;
    let architectures: &[(u32, Pick)] = if cfg!(target_arch = "aarch64") {
        &[(AUDIT_ARCH_AARCH64, |row| row.3)]
    } else {
        &[(AUDIT_ARCH_X86_64, |row| row.1), (AUDIT_ARCH_I386, |row| row.2)]
    };
    let mut program = vec![op(LOAD, 0, 0, ARCHITECTURE)];
    for (architecture, pick) in architectures {
        let body = body(profile, *pick);
        // A block may be longer than a conditional jump reaches, so "not this architecture" takes an
        // unconditional jump (32 bits) over it.
        program.push(op(JEQ, 1, 0, *architecture));
        program.push(op((libc::BPF_JMP | libc::BPF_JA) as u16, 0, 0, body.len() as u32));
        program.extend(body);
    }
    program.push(op(RETURN, 0, 0, value(profile.default)));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(program.len()));
    }
    Ok(Program(program))
}

fn body(profile: &Profile, pick: fn(&(&'static str, i32, i32, i32)) -> i32) -> Vec<u64> {
    let number = |name: &str| {
        let row = SYSCALLS.binary_search_by(|row| row.0.cmp(name)).ok()?;
        u32::try_from(pick(&SYSCALLS[row])).ok()
    };
    let mut plain: BTreeMap<u32, Action> = BTreeMap::new();
    let mut conditional: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in &profile.rules {
        for number in rule.names.iter().filter_map(|name| number(name)) {
            if rule.conditions.is_empty() {
                plain.entry(number).or_insert(rule.action);
            } else {
                conditional.entry(number).or_default().push(rule);
            }
        }
    }
    let mut out = vec![op(LOAD, 0, 0, NUMBER)];
    for (number, rules) in conditional.iter().filter(|(number, _)| !plain.contains_key(number)) {
        let mut block: Vec<u64> = Vec::new();
        for rule in rules {
            block.extend(conditions(&rule.conditions, rule.action));
        }
        block.push(op(RETURN, 0, 0, value(profile.default)));
        out.push(op(JEQ, 1, 0, *number));
        out.push(op((libc::BPF_JMP | libc::BPF_JA) as u16, 0, 0, block.len() as u32));
        out.extend(block);
    }
    let mut ranges: Vec<(u32, u32, Action)> = Vec::new();
    for (number, action) in plain {
        match ranges.last_mut() {
            Some((_, end, same)) if *end + 1 == number && *same == action => *end = number,
            _ => ranges.push((number, number, action)),
        }
    }
    for (start, end, action) in ranges {
        // Ascending: a number below `start` has no rule of its own; it falls through to the default.
        out.push(op(JGE, 0, 2, start));
        out.push(op(JGT, 1, 0, end));
        out.push(op(RETURN, 0, 0, value(action)));
    }
    out.push(op(RETURN, 0, 0, value(profile.default)));
    out
}

/// Instructions that return `action` if every condition holds, and go on behind themselves if not.
fn conditions(conditions: &[Condition], action: Action) -> Vec<u64> {
    let mut out = Vec::new();
    for condition in conditions {
        let low = ARGUMENTS + 8 * condition.index;
        let high = low + 4; // little-endian
        let (value_high, value_low) = ((condition.value >> 32) as u32, condition.value as u32);
        let (load_high, load_low) = (op(LOAD, 0, 0, high), op(LOAD, 0, 0, low));
        match condition.comparison {
            Comparison::Equal => {
                out.extend([load_high, op(JEQ, 0, FAIL, value_high), load_low, op(JEQ, 0, FAIL, value_low)])
            }
            Comparison::NotEqual => {
                out.extend([load_high, op(JEQ, 0, 2, value_high), load_low, op(JEQ, FAIL, 0, value_low)])
            }
            Comparison::MaskedEqual(mask) => out.extend([
                load_high,
                op(AND, 0, 0, (mask >> 32) as u32),
                op(JEQ, 0, FAIL, value_high),
                load_low,
                op(AND, 0, 0, mask as u32),
                op(JEQ, 0, FAIL, value_low),
            ]),
            Comparison::Greater | Comparison::GreaterOrEqual => {
                let last = if condition.comparison == Comparison::Greater { JGT } else { JGE };
                out.extend([
                    load_high,
                    op(JGT, 3, 0, value_high),
                    op(JEQ, 0, FAIL, value_high),
                    load_low,
                    op(last, 0, FAIL, value_low),
                ]);
            }
            Comparison::Less | Comparison::LessOrEqual => {
                let last = if condition.comparison == Comparison::Less { JGE } else { JGT };
                out.extend([
                    load_high,
                    op(JGT, FAIL, 0, value_high),
                    op(JEQ, 0, 2, value_high),
                    load_low,
                    op(last, FAIL, 0, value_low),
                ]);
            }
        }
    }
    out.push(op(RETURN, 0, 0, value(action)));
    let end = out.len();
    for (at, instruction) in out.iter_mut().enumerate() {
        let distance = (end - at - 1) as u64; // six conditions are at most 37 instructions
        for shift in [40, 32] {
            if (*instruction >> shift) as u8 == FAIL
                && (*instruction >> 48) as u16 & 7 == libc::BPF_JMP as u16
            {
                *instruction = *instruction & !(0xff << shift) | distance << shift;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::capabilities::Set;
    use crate::seccomp::{parse, runtime_default};

    /// What the kernel would answer: an interpreter of the five instructions in use.
    fn run(program: &Program, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&number.to_le_bytes());
        data[4..8].copy_from_slice(&architecture.to_le_bytes());
        for (i, argument) in arguments.iter().enumerate() {
            data[16 + 8 * i..24 + 8 * i].copy_from_slice(&argument.to_le_bytes());
        }
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = program.0[at];
            let (code, jt, jf, k) = ((i >> 48) as u16, (i >> 40) as u8, (i >> 32) as u8, i as u32);
            let jump = |yes: bool| 1 + usize::from(if yes { jt } else { jf });
            at += match code {
                LOAD => {
                    let k = k as usize;
                    a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
                    1
                }
                AND => {
                    a &= k;
                    1
                }
                JEQ => jump(a == k),
                JGT => jump(a > k),
                JGE => jump(a >= k),
                RETURN => return k,
                _ => 1 + k as usize,
            };
        }
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_default_profile_decides_like_containerds() {
        let plain = compile(&runtime_default(Set::default())).unwrap();
        let all = compile(&runtime_default(Set(u64::MAX))).unwrap();
        let none = [0; 6];
        for (call, arguments, without, with) in [
            ("read", none, ALLOW, ALLOW),
            ("openat", none, ALLOW, ALLOW),
            ("ptrace", none, ALLOW, ALLOW),
            ("mount", none, EPERM, ALLOW),
            ("unshare", none, EPERM, ALLOW),
            ("keyctl", none, EPERM, EPERM),
            ("io_uring_setup", none, EPERM, EPERM),
            ("userfaultfd", none, EPERM, EPERM),
            ("clone", [0x11, 0, 0, 0, 0, 0], ALLOW, ALLOW),
            ("clone", [0x1000_0011, 0, 0, 0, 0, 0], EPERM, ALLOW),
            ("clone3", none, libc::SECCOMP_RET_ERRNO | 38, ALLOW),
            ("socket", [2, 1, 0, 0, 0, 0], ALLOW, ALLOW),
            ("socket", [40, 1, 0, 0, 0, 0], EPERM, EPERM),
            ("personality", [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW, ALLOW),
            ("personality", [0x40000, 0, 0, 0, 0, 0], EPERM, EPERM),
            ("reboot", none, EPERM, ALLOW),
        ] {
            let row = SYSCALLS.binary_search_by(|row| row.0.cmp(call)).unwrap();
            let number = SYSCALLS[row].1 as u32;
            assert_eq!(
                run(&plain, AUDIT_ARCH_X86_64, number, arguments),
                without,
                "{call} without capabilities"
            );
            assert_eq!(run(&all, AUDIT_ARCH_X86_64, number, arguments), with, "{call} with all");
        }
        assert_eq!(run(&plain, AUDIT_ARCH_X86_64, 9999, none), EPERM, "a number of the future");
        assert_eq!(run(&plain, AUDIT_ARCH_I386, 3, none), ALLOW, "read of a 32-bit program");
        assert_eq!(run(&plain, 1234, 0, none), EPERM, "a foreign architecture");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn comparisons_look_at_all_64_bits() {
        let big = 0x1_0000_0005u64;
        for (op, argument, holds) in [
            ("NE", big, false),
            ("NE", 5, true),
            ("EQ", big, true),
            ("EQ", 5, false),
            ("LT", 5, true),
            ("LT", big, false),
            ("LT", big - 1, true),
            ("LE", big, true),
            ("LE", big + 1, false),
            ("GE", big, true),
            ("GE", big - 1, false),
            ("GT", big, false),
            ("GT", 0x2_0000_0000, true),
        ] {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{{"names":["read","no_such_call"],
                "action":"SCMP_ACT_ERRNO","errnoRet":7,"args":[{{"index":1,"value":{big},"op":"SCMP_CMP_{op}"}}]}}]}}"#
            );
            let program = compile(&parse(json.as_bytes()).unwrap()).unwrap();
            let expected = if holds { libc::SECCOMP_RET_ERRNO | 7 } else { libc::SECCOMP_RET_KILL_PROCESS };
            let got = run(&program, AUDIT_ARCH_X86_64, 0, [0, argument, 0, 0, 0, 0]);
            assert_eq!(got, expected, "{argument:#x} {op} {big:#x}");
        }
    }

    #[test]
    fn a_profile_that_cannot_be_kept_is_refused() {
        for (json, error) in [
            ("{", "cannot decode seccomp profile"),
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "unsupported seccomp action \"SCMP_ACT_NOTIFY\""),
        ] {
            assert_eq!(parse(json.as_bytes()).unwrap_err().to_string(), error);
        }
    }
}
