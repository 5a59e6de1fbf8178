//! Loads every program of the object into the running kernel and says what each cost the verifier, or why the kernel
//! does not take it. Nothing is attached or pinned: programs and maps are gone when this returns.

use std::io;

use aya::{
    EbpfLoader,
    programs::{Program, ProgramError, ProgramInfo},
};
use mesh_common::abi::{Ip, PodEntry};

use super::programs::{DatapathError, OBJECT};

/// Instructions that the verifier may look at before it gives up: BPF_COMPLEXITY_LIMIT_INSNS, include/linux/bpf.h.
pub const VERIFIER_LIMIT: u32 = 1_000_000;

/// Bytes of one instruction, `struct bpf_insn`.
const INSTRUCTION: u32 = 8;
/// Lines at the end of the verifier's log that say what it refused and where.
const LAST_WORDS: usize = 15;

/// What the kernel made of one program.
#[derive(Debug)]
pub struct Verified {
    pub name: String,
    /// As bpftool calls it.
    pub kind: &'static str,
    pub outcome: Result<Cost, Refusal>,
}

/// A program that the kernel takes, in instructions.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// As it runs, after the kernel's own rewriting; `None`: the kernel does not say.
    pub instructions: Option<u32>,
    /// That the verifier looked at, each as often as a path led there (`verified_insns` of `struct bpf_prog_info`).
    pub verified: Option<u32>,
}

/// A program that the kernel does not take.
#[derive(Debug)]
pub struct Refusal {
    pub why: String,
    /// The end of the verifier's log, line by line; empty if it was not asked.
    pub last_words: Vec<String>,
}

/// Every program, by name, with the constants that an agent gives it. One that is refused stops no other.
///
/// # Errors
/// The object cannot be read, or the kernel makes none of its maps.
pub fn verify_programs() -> Result<Vec<Verified>, DatapathError> {
    // A pod with both families: without an address whole branches are dead, and cost the verifier nothing.
    let (ip4, ip6) = (Ip::v4(u32::from_ne_bytes([10, 0, 0, 1])), Ip([0xfd_u32, 0, 0, 1_u32.to_be()]));
    let pod = PodEntry { ip4, ip6, index: 1, epoch: 1, observed: 0 };
    let (agent_cgroup, netns) = (1_u64, 1_u64);
    let mut ebpf = EbpfLoader::new()
        .override_global("AGENT_CGROUP", &agent_cgroup, true)
        .override_global("POD_IP4", &pod.ip4.0, true)
        .override_global("POD_IP6", &pod.ip6.0, true)
        .override_global("POD_NETNS", &netns, true)
        .override_global("POD_INDEX", &pod.index, true)
        .override_global("POD_EPOCH", &pod.epoch, true)
        .load(OBJECT)
        .map_err(|e| DatapathError::Load(Box::new(e)))?;
    let mut verified: Vec<Verified> = ebpf
        .programs_mut()
        .map(|(name, program)| {
            let (kind, info) = load(program);
            let outcome = info.map(|info| Cost::of(&info)).map_err(|e| Refusal::of(&e));
            Verified { name: name.to_owned(), kind, outcome }
        })
        .collect();
    verified.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(verified)
}

/// The type's name, and what the kernel says of the loaded program.
fn load(program: &mut Program) -> (&'static str, Result<ProgramInfo, ProgramError>) {
    macro_rules! loaded {
        ($kind:literal, $program:expr) => {
            ($kind, $program.load().and_then(|()| $program.info()))
        };
    }
    match program {
        Program::CgroupSockAddr(program) => loaded!("cgroup_sock_addr", program),
        Program::CgroupSock(program) => loaded!("cgroup_sock", program),
        Program::CgroupSockopt(program) => loaded!("cgroup_sockopt", program),
        Program::CgroupSkb(program) => loaded!("cgroup_skb", program),
        Program::SchedClassifier(program) => loaded!("sched_cls", program),
        Program::SkLookup(program) => loaded!("sk_lookup", program),
        Program::SkMsg(program) => loaded!("sk_msg", program),
        Program::SkSkb(program) => loaded!("sk_skb", program),
        Program::SockOps(program) => loaded!("sock_ops", program),
        _ => ("unknown", Err(ProgramError::UnexpectedProgramType)),
    }
}

impl Cost {
    fn of(info: &ProgramInfo) -> Self {
        let instructions = info.size_translated().map(|bytes| bytes / INSTRUCTION);
        Self { instructions, verified: info.verified_instruction_count() }
    }
}

impl Refusal {
    fn of(error: &ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => Self::new(io_error, &verifier_log.to_string()),
            other => Self { why: other.to_string(), last_words: Vec::new() },
        }
    }

    fn new(error: &io::Error, log: &str) -> Self {
        let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last_words = lines[lines.len().saturating_sub(LAST_WORDS)..].iter().map(|line| (*line).to_owned());
        Self { why: error.to_string(), last_words: last_words.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_end_of_what_the_verifier_said() {
        let log: String = (0..100).map(|line| format!("{line}: (b7) r0 = 0\n")).collect();
        let refusal = Refusal::new(&io::Error::from_raw_os_error(libc::EACCES), &format!("{log}\nR1 !read_ok\n\n"));
        assert_eq!(refusal.last_words.len(), LAST_WORDS);
        assert_eq!(refusal.last_words.last().map(String::as_str), Some("R1 !read_ok"));
        assert_eq!(refusal.last_words.first().map(String::as_str), Some("86: (b7) r0 = 0"));
        assert!(refusal.why.starts_with("Permission denied"), "{}", refusal.why);
        assert!(Refusal::new(&io::Error::from_raw_os_error(libc::EPERM), "").last_words.is_empty());
    }
}
