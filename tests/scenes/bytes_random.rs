//! Random conversations: whatever two programs do to a connection, they hear the same with and without a mesh.

use anyhow::{Context, Result};
use mesh_tests::{
    asked,
    talk::{Read, Round, Script, Style, Then, Turn},
};

use crate::{
    bytes_stage::{Stage, Words, idle, script, to_end},
    dice::Dice,
};

/// What a socket takes while nobody reads, on every way.
const UNREAD: u64 = 32 * 1024;

/// Milliseconds, more than the 40 for which a receiver may keep an acknowledgement back and a sender its bytes.
const ARRIVED: u64 = 100;

impl Dice {
    /// More small numbers than large ones.
    fn size(&mut self, below: u64) -> u64 {
        let bits = self.roll(u64::from(below.ilog2()) + 1);
        self.roll(2 << bits).min(below)
    }

    /// With urgent data or with splice(2), which takes an urgent byte in its way for the end of the stream.
    fn style(&mut self, urgent: bool) -> Style {
        let odd = if urgent { Style::Urgent } else { Style::Splice };
        [Style::Plain, Style::Edge, Style::Peek, Style::File, odd][self.roll(5) as usize]
    }
}

/// One direction while a script is written.
#[derive(Clone, Copy, Default)]
struct Stream {
    unread: u64,
    ended: bool,
}

/// A conversation in which nobody waits for what never comes.
fn random(seed: u64) -> Script {
    let mut dice = Dice(seed);
    let mut rounds = Vec::new();
    // From the client, from the server.
    let mut streams = [Stream::default(); 2];
    for _ in 0..=dice.roll(5) {
        let mut turns = [idle(), idle()].map(|turn| turn.with(dice.style(seed.is_multiple_of(2))));
        let mut wrote = [0; 2];
        for side in 0..2 {
            if !streams[side].ended && dice.roll(4) > 0 {
                wrote[side] = dice.size(256 * 1024);
                turns[side].chunk = [0, 0, 1 << 10, 100_000, 1 + dice.roll(100) as usize][dice.roll(5) as usize];
            }
        }
        for side in 0..2 {
            let (reader, there) = (1 - side, streams[side].unread + wrote[side]);
            // What is not read at once must find room, or the round has no end.
            let read = if there > UNREAD { there - dice.size(UNREAD) } else { dice.roll(there + 1) };
            // Tiny writes take long: not many of them.
            turns[side].write = wrote[side];
            if turns[side].chunk > 0 {
                turns[side].chunk = turns[side].chunk.max(wrote[side] as usize / 500 + 1);
            }
            if read > 0 {
                turns[reader].read = Read::Exactly(read);
            }
            turns[reader].pause_ms = [0, 0, 0, 1, 20][dice.roll(5) as usize];
            streams[side].unread = there - read;
        }
        for side in 0..2 {
            if !streams[side].ended && dice.roll(6) == 0 {
                turns[side].then = Then::Fin;
                streams[side].ended = true;
            }
        }
        let [client, server] = turns;
        rounds.push((client, server));
    }
    rounds.extend(ending(&mut dice, streams));
    let Script { rounds, .. } = script("", rounds);
    Script { name: format!("seed {seed}"), urgent_inline: true, rounds }
}

/// Both ends close, or one resets and the other reads what is left.
fn ending(dice: &mut Dice, streams: [Stream; 2]) -> Vec<(Turn, Turn)> {
    let first = dice.roll(2) as usize;
    let pair = |one: Turn, other: Turn| if first == 0 { (one, other) } else { (other, one) };
    match dice.roll(4) {
        // What was written has arrived before it is thrown away: else a reset may overtake it on any network.
        0 => vec![
            (idle().after(ARRIVED), idle().after(ARRIVED)),
            pair(idle().then(Then::Reset), idle()),
            pair(idle(), to_end()),
        ],
        1 if streams[1 - first].unread > 0 => {
            vec![
                (idle().after(ARRIVED), idle().after(ARRIVED)),
                pair(idle().then(Then::Close), idle()),
                pair(idle(), to_end()),
            ]
        }
        2 => vec![
            pair(idle().then(Then::Fin), to_end()),
            pair(to_end(), idle().then(Then::Fin)),
            (idle().then(Then::Close), idle().then(Then::Close)),
        ],
        _ => vec![(idle().then(Then::Fin), idle().then(Then::Fin)), (to_end(), to_end())],
    }
}

#[test]
fn random_conversations_are_heard_alike() -> Result<()> {
    let stage = Stage::new("random")?;
    let (first, count) = (asked("MESH_TEST_SEED").unwrap_or(1), asked("MESH_TEST_SCRIPTS").unwrap_or(300));
    for start in (first..first + count).step_by(1000) {
        let scripts: Vec<Script> = (start..(start + 1000).min(first + count)).map(random).collect();
        let heard = stage.compare(&scripts, 16).context("MESH_TEST_SEED=<seed> MESH_TEST_SCRIPTS=1 plays one again")?;
        // The scripts themselves are sound: nobody waited in vain.
        let late = |one: &&mesh_tests::talk::Played| format!("{one:?}").contains("timeout");
        assert!(heard.iter().find(late).is_none(), "{:?}", heard.iter().find(late));
    }
    Ok(())
}

#[test]
fn a_seed_is_a_script() {
    assert_eq!(random(7), random(7));
    assert_ne!(random(7), Script { name: "seed 7".to_owned(), ..random(8) });
    let rounds: Vec<Round> = (0..300).flat_map(|seed| random(seed).rounds).collect();
    for style in [Style::Plain, Style::Edge, Style::Splice, Style::Peek, Style::File, Style::Urgent] {
        assert!(rounds.iter().any(|round| round.client.style == style && round.client.write > 100_000), "{style:?}");
    }
}
