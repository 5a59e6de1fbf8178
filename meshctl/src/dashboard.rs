//! `meshctl dashboard`: a page in the browser with the graph, the lists and the flows. A controller on this machine
//! serves it itself; of a cluster's controller there are replicas, each with its own agents, so meshctl serves it and
//! asks all.

use std::{io::Write, net::SocketAddr, pin::Pin, process::Command, sync::Arc, time::Duration};

use mesh_common::proto::nodemesh::{DashboardInfo, DashboardQuery, item, query};
use mesh_controller::dashboard::{Dashboard, Said, Source};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{Format, Mood, Screen},
};

/// What has not answered by then is missing, and said to be.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of one answer, however large the mesh is.
const MOST: usize = 500_000;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The address holds a token: whoever has it reads what meshctl reads. A browser's command line shows it to
other users of this machine; --no-open keeps it on this terminal.

Examples:
  meshctl dashboard                                # of the cluster, until Ctrl-C
  meshctl dashboard --no-open --port 8080
  meshctl --controller /var/lib/nodemesh/admin.sock dashboard -o json"
)]
pub struct Arguments {
    /// Only print the address
    #[arg(long)]
    no_open: bool,
    /// Of a cluster: which port of this machine's loopback to take [default: any that is free]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    #[arg(long, env = "DISPLAY", hide = true, default_value = "")]
    display: String,
    #[arg(long, env = "WAYLAND_DISPLAY", hide = true, default_value = "")]
    wayland_display: String,
}

/// All replicas at once.
struct Replicas(Servers);

impl Source for Replicas {
    fn ask(&self, node: String, kind: query::Kind) -> Pin<Box<dyn Future<Output = Said> + Send>> {
        let servers = self.0.about(&node);
        Box::pin(async move {
            let (end, mut said) = (Instant::now() + PATIENCE, Said::default());
            let mut answers = servers.ask(kind);
            loop {
                match timeout_at(end, answers.next()).await {
                    Ok(None) => return said,
                    Ok(Some(Ok(item))) if said.items.len() < MOST => said.items.push(item),
                    Ok(Some(Ok(_))) => {
                        said.errors.push(format!("more than {MOST} answers: the rest is left out"));
                        return said;
                    }
                    Ok(Some(Err(failure))) => said.errors.push(failure.to_string()),
                    Err(_) => {
                        said.errors.push(format!("somebody has not answered within {} s", PATIENCE.as_secs()));
                        return said;
                    }
                }
            }
        })
    }
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    if servers.are_replicas() {
        let dashboard = of_replicas(arguments.port.unwrap_or(0)).await?;
        tell(&dashboard.address.to_string(), dashboard.token.as_text(), arguments, screen)?;
        if screen.format == Format::Table {
            screen.line("served by meshctl until Ctrl-C", Mood::Dim)?;
        }
        dashboard.serve(Arc::new(Replicas(servers.about("")))).await;
        return Ok(Outcome::Fine);
    }
    if arguments.port.is_some() {
        let why = "--port: the controller of this machine has chosen its port already (mesh-controller --dashboard)";
        return Err(Failure::Usage(why.into()));
    }
    let (items, complete) = servers.ask(query::Kind::Dashboard(DashboardQuery {})).all().await;
    let told = items.into_iter().find_map(|(_, kind)| match kind {
        item::Kind::Dashboard(told) => Some(told),
        _ => None,
    });
    complete?;
    let Some(DashboardInfo { address, token }) = told else {
        return Err(Failure::Unreachable("nobody who was asked serves a dashboard: ask the controller".into()));
    };
    tell(&address, &token, arguments, screen)?;
    Ok(Outcome::Fine)
}

/// Listens; the port is taken at once.
async fn of_replicas(port: u16) -> Result<Dashboard, Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Dashboard::listen(address).await.map_err(|error| Failure::Usage(format!("--port: {error:#}")))
}

fn tell<W: Write>(address: &str, token: &str, arguments: &Arguments, screen: &mut Screen<W>) -> Result<(), Failure> {
    let Arguments { no_open, port: _, display, wayland_display } = arguments;
    let url = Dashboard::url(address, token);
    match screen.format {
        Format::Table | Format::Compact => screen.line(&url, Mood::Plain)?,
        Format::Json | Format::Yaml => {
            screen.object(&json!({ "url": url, "address": address, "token": token }))?;
            return Ok(());
        }
    }
    let shows = !(display.is_empty() && wayland_display.is_empty());
    if shows && !no_open {
        // It says what it cannot do by itself, and the address is on the screen.
        if let Err(error) = Command::new("xdg-open").arg(&url).spawn() {
            eprintln!("meshctl: cannot start xdg-open ({error}): open the address in a browser");
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use mesh_common::proto::nodemesh::StatusQuery;
    use tonic::Status;

    use super::*;
    use crate::tests::meshctl;

    /// What the page would be told of the agents behind these servers.
    pub async fn agents(servers: &Servers) -> (Vec<String>, Vec<String>) {
        let said = Replicas(servers.about("")).ask(String::new(), query::Kind::Status(StatusQuery {})).await;
        let agents = said.items.iter().filter(|(_, kind)| matches!(kind, item::Kind::Status(_)));
        let mut agents = agents.map(|(node, _)| node.clone()).collect::<Vec<_>>();
        agents.sort();
        (agents, said.errors)
    }

    #[tokio::test]
    async fn a_controller_says_where_its_dashboard_is() {
        let served = |kind| match kind {
            query::Kind::Dashboard(_) => Ok(vec![item::Kind::Dashboard(DashboardInfo {
                address: "127.0.0.1:15080".into(),
                token: "abc".into(),
            })]),
            _ => Err(Status::internal("another question")),
        };
        let (outcome, text) = meshctl("meshctl dashboard --no-open", served).await;
        assert_eq!((outcome.unwrap(), text.as_str()), (Outcome::Fine, "http://127.0.0.1:15080/#token=abc\n"));
        let (_, text) = meshctl("meshctl dashboard --no-open -o json", served).await;
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&told["address"], &told["token"]), (&"127.0.0.1:15080".into(), &"abc".into()));
        let (outcome, _) = meshctl("meshctl dashboard --no-open --port 1", served).await;
        assert_eq!(outcome.unwrap_err().exit_code(), 2);
    }

    #[tokio::test]
    async fn a_controller_without_one_says_what_to_do() {
        let off = |_| Err(Status::failed_precondition("start it with --dashboard 127.0.0.1:15080"));
        let (outcome, text) = meshctl("meshctl dashboard --no-open", off).await;
        let failure = outcome.unwrap_err();
        assert_eq!((failure.exit_code(), text.as_str()), (3, ""));
        assert!(failure.to_string().contains("--dashboard 127.0.0.1:15080"), "{failure}");
    }
}
