//! The controller: reads the mesh's configuration, signs identities, and tells each node's agent what it must know.
//! A library for the sake of [`analyze`]: who looks at files before they reach a cluster must read them as it does; and
//! of [`dashboard`], which meshctl serves where the controller has replicas.

mod admin;
pub mod analyze;
mod app;
mod audit;
mod ca;
mod config;
pub mod dashboard;
mod enrolment;
mod index;
mod jwks;
mod leader;
mod link;
mod monitoring;
mod names;
mod nodes;
mod publish;
mod refusal;
mod serve;
mod source;
mod status;
mod tokens;
mod translate;

use std::{
    io::{IsTerminal, stderr},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, error::ErrorKind};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use app::App;
use config::{Cli, Command, Run};

/// The program `mesh-controller`.
pub fn main() -> ExitCode {
    // Keys, tokens and sockets: nothing that this process makes is for others.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let outcome = match Cli::parse() {
        Cli { command: Some(Command::JoinToken(config)), .. } => app::join_token(&config),
        Cli { command: None, run: Some(config) } => run(&config),
        Cli { command: None, run: None } => {
            Cli::command().error(ErrorKind::MissingRequiredArgument, "--source and --state are needed").exit()
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Run) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log).with_context(|| format!("--log {}", config.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
    audit::open(&config.audit_log)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let mut told = std::pin::pin!(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("ending");
        });
        let mut app = tokio::select! {
            app = App::start(config) => app?,
            () = &mut told => return Ok(()),
        };
        tracing::info!(address = %app.address, "serving");
        let ended = tokio::select! {
            error = app.failed() => Err(error),
            () = &mut told => Ok(()),
        };
        app.end().await;
        ended
    });
    audit::end();
    served
}
