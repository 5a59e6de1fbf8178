//! The command line of the mesh: asks agents and the controller over their local sockets, and prints what they
//! answer. It decides nothing itself and needs neither a cluster nor the kernel parts of the mesh.

mod analyze;
mod authz;
mod bugreport;
mod bypass;
mod check;
mod client;
mod cluster;
mod config;
mod cost;
mod dashboard;
mod diff;
mod doctor;
mod edges;
mod errand;
mod explain;
mod flows;
mod foretold;
mod identity;
mod install;
mod output;
mod report;
mod routes;
mod stat;
mod status;
mod tap;
mod top;
mod uninstall;
mod verify;
mod whom;
mod words;

use std::{io, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, builder::FalseyValueParser};

use crate::{
    client::{Cluster, Failure, Servers},
    install::How,
    output::{Format, Screen},
    whom::Whom,
};

const EXIT_CODES: &str = "Examples:
  meshctl status                                      # what runs, and what is wrong
  meshctl flows -f --verdict dropped                  # refusals as they happen
  meshctl stat -n shop                                # rates, errors, latencies of the last minute
  meshctl top                                         # the same, live
  meshctl tap --to shop/web --http-status 5xx         # requests as they pass
  meshctl analyze -f canary.yaml                      # what of a file would not be honoured
  meshctl policy test -f new.yaml --since 1h          # whom would it refuse?
  meshctl explain 4711 --node node-a                  # why one of them was refused
  meshctl authz check shop/cart shop/web --port 80    # would it be permitted?

Exit codes:
  0  as it should be, or permitted
  1  denied, or something found that somebody should look at
  2  the question was wrong
  3  no answer, or permitted but not by the node that decides, or permitted only for some requests";

/// Ask the mesh: its state, its connections, its configuration and what it permits
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Common {
    /// Socket of an agent to ask; may be given several times [default: /run/nodemesh/agent.sock if it is there]
    #[arg(
        long,
        global = true,
        help_heading = "Whom to ask",
        env = "MESH_AGENT_SOCKET",
        value_name = "PATH",
        value_delimiter = ','
    )]
    agent: Vec<PathBuf>,
    /// Socket of the controller to ask, which asks every agent in turn
    #[arg(long, global = true, help_heading = "Whom to ask", env = "MESH_CONTROLLER_SOCKET", value_name = "PATH")]
    controller: Option<PathBuf>,
    #[command(flatten)]
    cluster: Cluster,
    /// Only this node
    #[arg(
        long,
        global = true,
        help_heading = "Whom to ask",
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    node: String,
    /// How to write the answer
    #[arg(short, long, global = true, help_heading = "Output", value_enum, default_value_t)]
    output: Format,
    /// No colours, although a terminal shows them
    #[arg(long, global = true, help_heading = "Output", env = "NO_COLOR", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    no_color: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// What runs, what is connected, which pods are redirected, and what could not be honoured
    Status(status::Arguments),
    /// Connections and requests: who, to whom, by which path, and which policy decided
    Flows(flows::Arguments),
    /// Requests and connections of late, by workload, service, route or edge: rates, errors, latencies
    Stat(stat::Arguments),
    /// The same, live on a terminal
    Top(top::Arguments),
    /// Requests as they pass
    Tap(tap::Arguments),
    /// The configuration as a node sees it
    #[command(subcommand)]
    Config(config::Kind),
    /// What each route of a service took: requests, answers, retries
    Routes(routes::Arguments),
    /// What of the configuration is not honoured as it was written: of files before they are applied, or of the mesh
    Analyze(analyze::Arguments),
    /// What a change would touch: services, workloads, live connections
    Diff(diff::Arguments),
    /// What a change of policies would mean for the connections and requests of late
    #[command(subcommand)]
    Policy(foretold::Question),
    /// Ask the policies
    #[command(subcommand)]
    Authz(authz::Question),
    /// How one connection or request was decided: every policy that was asked, and why each rule matched or not
    Explain(explain::Arguments),
    /// A page in the browser: the graph of services, lists, flows and why they were decided so
    Dashboard(dashboard::Arguments),
    /// Who speaks to whom: connections, refusals and bytes since the agents started, and the requests of late
    Edges(edges::Arguments),
    /// What each pod lets the agents do: connections, requests, bytes, CPU, memory
    Cost(cost::Arguments),
    /// What the agents saw, put together: who speaks plaintext, and who would be refused under STRICT
    #[command(subcommand)]
    Report(report::Subject),
    /// Show what is on the wire
    #[command(subcommand)]
    Verify(verify::Subject),
    /// Which pod speaks as whom, and how it stands with its certificate
    Identity(identity::Arguments),
    /// Put the mesh on a cluster, and wait until it runs
    Install(install::Arguments),
    /// Bring the mesh of a cluster to this version, with the values chosen before
    Upgrade(install::Arguments),
    /// Take the mesh from a cluster, hooks and CNI files of its nodes included
    Uninstall(uninstall::Arguments),
    /// Would the mesh work on this cluster, and does it?
    Check(check::Arguments),
    /// What is wrong with the mesh that runs, and what to do about it
    Doctor(doctor::Arguments),
    /// One archive with what somebody needs who looks for a fault from afar; no secrets
    Bugreport(bugreport::Arguments),
    /// Take a namespace out of the mesh for some time
    Bypass(bypass::Arguments),
    /// A script for the shell that completes meshctl's verbs and options
    #[command(after_help = "Examples:
  source <(meshctl completion bash)
  meshctl completion zsh > ~/.zfunc/_meshctl
  meshctl completion fish > ~/.config/fish/completions/meshctl.fish")]
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// What a question found, as the exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fine,
    /// Denied, or a state that somebody should look at.
    Found,
    /// Permitted by what somebody knows who does not decide.
    Unsure,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let typed = |id: &str| matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
    let (agent_typed, controller_typed) = (typed("agent"), typed("controller"));
    match run(arguments, agent_typed, controller_typed).await {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::from(1),
        Ok(Outcome::Unsure) => ExitCode::from(3),
        // The reader has seen enough: `meshctl flows | head`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("meshctl: {}", output::plain(&failure.to_string()));
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(arguments: Arguments, agent_typed: bool, controller_typed: bool) -> Result<Outcome, Failure> {
    let Arguments { common: Common { agent, controller, cluster, node, output, no_color }, verb } = arguments;
    if let Verb::Completion { shell } = verb {
        // Into memory first: clap would panic where a pipe's reader is gone.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "meshctl", &mut script);
        io::Write::write_all(&mut io::stdout(), &script)?;
        return Ok(Outcome::Fine);
    }
    let mut screen = Screen::stdout(output, no_color);
    // These ask a cluster, and no socket.
    match &verb {
        Verb::Install(arguments) => return install::run(How::Install, arguments, &cluster.access, &mut screen).await,
        Verb::Upgrade(arguments) => return install::run(How::Upgrade, arguments, &cluster.access, &mut screen).await,
        Verb::Check(arguments) => return check::run(arguments, &cluster.access, &mut screen).await,
        Verb::Bypass(arguments) => return bypass::run(arguments, &cluster.access, &mut screen).await,
        Verb::Uninstall(arguments) => return uninstall::run(arguments, &cluster.access, &mut screen).await,
        Verb::Analyze(arguments) if arguments.is_of_files() => {
            return analyze::files(arguments, &cluster, &mut screen).await;
        }
        Verb::Doctor(_) | Verb::Bugreport(_) => {
            let whom = Whom::choose((agent, agent_typed), (controller, controller_typed), &cluster, node).await?;
            return match &verb {
                Verb::Bugreport(arguments) => bugreport::run(arguments, &whom, &mut screen).await,
                Verb::Doctor(arguments) => doctor::run(arguments, &whom, &mut screen).await,
                _ => Ok(Outcome::Fine),
            };
        }
        _ => {}
    }
    let servers = Servers::choose((agent, agent_typed), (controller, controller_typed), &cluster, node).await;
    if let Verb::Diff(arguments) = &verb {
        return diff::run(arguments, servers, &cluster, &mut screen).await;
    }
    let servers = servers?;
    if let Verb::Policy(foretold::Question::Test(arguments)) = &verb {
        return foretold::test(arguments, &servers, &cluster, &mut screen).await;
    }
    answer(verb, &servers, &mut screen).await
}

async fn answer<W: io::Write>(verb: Verb, servers: &Servers, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    match verb {
        Verb::Status(arguments) => status::run(servers, &arguments, screen).await,
        Verb::Flows(arguments) => flows::run(servers, &arguments, screen).await,
        Verb::Config(kind) => config::run(servers, &kind, screen).await,
        Verb::Routes(arguments) => routes::run(servers, &arguments, screen).await,
        Verb::Analyze(_) => analyze::run(servers, screen).await,
        Verb::Authz(question) => authz::run(servers, &question, screen).await,
        Verb::Explain(arguments) => explain::run(servers, &arguments, screen).await,
        Verb::Dashboard(arguments) => dashboard::run(servers, &arguments, screen).await,
        Verb::Edges(arguments) => edges::run(servers, &arguments, screen).await,
        Verb::Stat(arguments) => stat::run(servers, &arguments, screen).await,
        Verb::Top(arguments) => top::run(servers, &arguments, screen).await,
        Verb::Tap(arguments) => tap::run(servers, &arguments, screen).await,
        Verb::Cost(arguments) => cost::run(servers, &arguments, screen).await,
        Verb::Report(subject) => report::run(servers, &subject, screen).await,
        Verb::Verify(subject) => verify::run(servers, &subject, screen).await,
        Verb::Identity(arguments) => identity::run(servers, &arguments, screen).await,
        // Answered before any server was chosen.
        Verb::Completion { shell: _ }
        | Verb::Install(_)
        | Verb::Upgrade(_)
        | Verb::Uninstall(_)
        | Verb::Check(_)
        | Verb::Doctor(_)
        | Verb::Bugreport(_)
        | Verb::Bypass(_)
        | Verb::Diff(_)
        | Verb::Policy(_) => Ok(Outcome::Fine),
    }
}

#[cfg(test)]
mod tests;
