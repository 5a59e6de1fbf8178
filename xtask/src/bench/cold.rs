//! Ports that nobody has dialled yet, so that no decision about them can be known anywhere: a few for each round.

use anyhow::Result;
use mesh_tests::Process;

use super::{
    figures::Side,
    stage::{Stage, app},
};

/// Ports of a round that are dialled one after the other; one more is dialled by a crowd.
pub const DIALLED: u16 = 200;
const EACH: u16 = DIALLED + 1;
/// Above the ports of the other servers; the end lies below those of agents, and clients' own.
const FIRST: u16 = 9000;
const END: u16 = 15_000;
/// For so many rounds there are ports.
pub const ROUNDS: u32 = ((END - FIRST) / EACH) as u32;

/// Where [`DIALLED`] ports of the round begin.
pub fn first_of(round: u32) -> u16 {
    FIRST + (round % ROUNDS) as u16 * EACH
}

/// The round's port for the crowd.
pub fn last_of(round: u32) -> u16 {
    first_of(round) + DIALLED
}

/// One server a side that echoes on the ports of all rounds; it listens when this returns.
pub fn serve(stage: &Stage, rounds: u32) -> Result<[Process; 2]> {
    let of = |side| {
        let pod = &stage.cast(side).near;
        let ports = u32::from(EACH) * rounds.min(ROUNDS);
        let words = ["bench", "serve", "--echo", &FIRST.to_string(), "--ports", &ports.to_string()].map(str::to_owned);
        let server = pod.start(&format!("cold-{}", pod.name), &app()?, &words)?;
        server.listens(FIRST)?;
        Ok::<_, anyhow::Error>(server)
    };
    Ok([of(Side::Plain)?, of(Side::Mesh)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rounds_share_a_port() {
        for round in 0..ROUNDS {
            assert_eq!(last_of(round) - first_of(round), DIALLED);
            let next = if round + 1 < ROUNDS { first_of(round + 1) } else { END };
            assert!(last_of(round) < next, "round {round}");
        }
    }
}
