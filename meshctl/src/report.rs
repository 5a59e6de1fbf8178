//! `meshctl report`: what the mesh saw, put together to answer one question.

mod judge;
mod mtls;

use std::io::Write;

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::Screen,
};

#[derive(Debug, clap::Subcommand)]
pub enum Subject {
    /// Who speaks plaintext, and who would be refused if PeerAuthentication were STRICT
    Mtls(mtls::Arguments),
}

pub async fn run<W: Write>(servers: &Servers, subject: &Subject, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    match subject {
        Subject::Mtls(arguments) => mtls::run(servers, arguments, screen).await,
    }
}

#[cfg(test)]
mod tests;
