//! The classic BPF program that keeps a capture to one connection, so that a busy node's other packets do not push
//! its own out. It lets through more where it cannot tell (tags of VLANs, extension headers of IPv6); who reads looks
//! again.

use std::net::{IpAddr, SocketAddr};

use libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_W, SKF_AD_OFF,
    SKF_AD_PROTOCOL,
};
use socket2::SockFilter;

use super::{
    Ends,
    packet::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6},
};

/// One instruction; jumps go to labels.
enum Step {
    Load(u32, u32),
    /// The length of the IPv4 header into the index register.
    Header,
    /// Equal, and not equal.
    Is(u32, Label, Label),
    Label(Label),
    Return(u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Next,
    Ours,
    Others,
    ClientsDestination,
    ClientsPort,
    NotClients,
    ServersDestination,
    ServersPort,
    Ip,
}

/// For a socket of packets without their link's header, at whose beginning the network header lies.
pub fn of(ends: Ends) -> Vec<SockFilter> {
    use Label::{ClientsDestination, ClientsPort, Ip, Next, NotClients, Others, Ours, ServersDestination, ServersPort};
    // Of an IPv6 address the last four bytes; which pods of a node differ in.
    let last = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(ip) => (u128::from(ip) & u128::from(u32::MAX)) as u32,
    };
    let v4 = ends.client.is_ipv4();
    let (client, server, port) = (last(ends.client), last(ends.server), u32::from(ends.client.port()));
    let (source, destination) = if v4 { (12, 16) } else { (20, 36) };
    let word = |at| Step::Load(BPF_LD | BPF_W | BPF_ABS, at);
    let protocol = (SKF_AD_OFF + SKF_AD_PROTOCOL) as u32;
    let mut steps = vec![
        Step::Load(BPF_LD | BPF_W | BPF_ABS, protocol),
        Step::Is(u32::from(ETH_P_8021Q), Ours, Next),
        Step::Is(u32::from(ETH_P_8021AD), Ours, Next),
        Step::Is(u32::from(if v4 { ETH_P_IP } else { ETH_P_IPV6 }), Ip, Others),
        Step::Label(Ip),
        word(source),
        Step::Is(client, ClientsDestination, NotClients),
        Step::Label(ClientsDestination),
        word(destination),
        Step::Is(server, ClientsPort, Others),
        Step::Label(NotClients),
        Step::Is(server, ServersDestination, Others),
        Step::Label(ServersDestination),
        word(destination),
        Step::Is(client, ServersPort, Others),
    ];
    for (label, offset) in [(ClientsPort, 0), (ServersPort, 2)] {
        steps.push(Step::Label(label));
        if v4 {
            steps.extend([Step::Header, Step::Load(BPF_LD | BPF_H | BPF_IND, offset)]);
        } else {
            steps.extend([
                Step::Load(BPF_LD | BPF_B | BPF_ABS, 6),
                Step::Is(6, Next, Ours),
                Step::Load(BPF_LD | BPF_H | BPF_ABS, 40 + offset),
            ]);
        }
        steps.push(Step::Is(port, Ours, Others));
    }
    steps.extend([Step::Label(Others), Step::Return(0), Step::Label(Ours), Step::Return(u32::MAX)]);
    assembled(&steps)
}

fn assembled(steps: &[Step]) -> Vec<SockFilter> {
    let is_code = |step: &&Step| !matches!(step, Step::Label(_));
    let place = |label: Label| {
        let before = steps.iter().take_while(|step| !matches!(step, Step::Label(found) if *found == label));
        before.filter(is_code).count()
    };
    let code = |(at, step): (usize, &Step)| {
        let jump = |label: Label| if label == Label::Next { 0 } else { (place(label) - at - 1) as u8 };
        match *step {
            Step::Load(code, k) => SockFilter::new(code as u16, 0, 0, k),
            Step::Header => SockFilter::new((BPF_LDX | BPF_B | BPF_MSH) as u16, 0, 0, 0),
            Step::Is(value, yes, no) => SockFilter::new((BPF_JMP | BPF_JEQ | BPF_K) as u16, jump(yes), jump(no), value),
            Step::Return(k) => SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, k),
            Step::Label(_) => unreachable!("labels are left out"),
        }
    };
    steps.iter().filter(is_code).enumerate().map(code).collect()
}
