//! Wiring: source -> publisher -> servers.

use std::{
    fs, future::Future, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration,
};

use anyhow::{Context, Result, anyhow};
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    admin::{self, AdminService},
    audit,
    ca::{self, Authority, secret},
    config::{AgentAuth, JoinToken, Run, SourceArg},
    dashboard::Dashboard,
    enrolment::Writer,
    index,
    jwks::{Fetcher, Keeper as KeySets, Pace, Wanted},
    leader::{self, Duties, Election, Leading},
    link::Links,
    monitoring,
    nodes::Keeper,
    publish::{Memory, Publisher},
    serve::Agents,
    source::{self, Directory, Kubernetes, Update},
    tokens::{Authenticator, Reviews, Tokens, write_private},
};

/// Reports that may wait to be published.
const REPORTS: usize = 64;

/// How long a start waits for keys of issuers of tokens.
const FIRST_KEYS: Duration = Duration::from_secs(10);

/// A running controller; dropping it ends it.
#[derive(Debug)]
pub struct App {
    /// Where agents connect, with the port that was really taken.
    pub address: SocketAddr,
    admin_socket: PathBuf,
    tasks: JoinSet<Result<()>>,
    /// With replicas only.
    election: Option<leader::Part>,
}

impl App {
    /// Starts everything; on return agents are served. Waits for a Kubernetes API as long as that takes.
    ///
    /// # Errors
    /// If the state folder, the source, the socket or the port cannot be used.
    pub async fn start(config: &Run) -> Result<Self> {
        private_folder(&config.state)?;
        let settings = config.settings();
        let (source, memory, mut first) = Source::open(config).await?;
        let replica = leader::replica()?;
        let mut tasks = JoinSet::new();
        let standing = monitoring::Standing::default();
        if let Some(address) = config.agents.metrics {
            tasks.spawn(ending(monitoring::serve(address, standing.clone())?, "metrics are no longer served"));
        }
        let (election, leading) = match &source {
            Source::Kubernetes(client, _) => {
                let (election, leading) =
                    Election::new(client.clone(), &config.namespace, &replica, config.leader_term);
                (Some(election.start()), leading)
            }
            Source::Directory(_) => (None, Leading::alone()),
        };
        standing.leads(leading.clone());
        let (authority, duties) = authority(config, &mut tasks).await?;
        standing.signs(authority.material());
        if let Some(duties) = duties {
            tasks.spawn(ending(duties.run(leading.clone()), "the certificate authority is no longer looked after"));
        }
        let authenticator = authenticator(config).await?;
        let fetcher = Fetcher::new(source.api_host().await, config.jwks_ca.as_deref())?;
        let pace = Pace { refresh: config.jwks_refresh, ..Pace::default() };
        let (mut key_sets, fetched) = KeySets::new(fetcher, pace);
        // Agents that were told of keys by another replica shall not lose them for a moment.
        key_sets.first(&index::wanted(&settings, &first), FIRST_KEYS).await;
        first.key_sets = fetched.borrow().clone();
        let (publisher, published) = Publisher::new(settings, memory, &first)?;
        let (want, wanted) = watch::channel(Wanted::default());
        let publisher = publisher.fetching(fetched, want);
        standing.serves(published.clone());
        tasks.spawn(ending(key_sets.run(wanted), "the keys of issuers are no longer fetched"));
        let (trust, follow_trust) = ca::trust(authority.material(), &config.trust_domain);
        let publisher = publisher.trusting(trust).on_demand_above(config.on_demand_above);
        tasks.spawn(async move {
            follow_trust.await;
            Err(anyhow!("the roots to trust are no longer followed"))
        });
        let (updates, updated) = watch::channel(first);
        let told = audit::follow(updated.clone(), published.clone());
        tasks.spawn(ending(told, "nothing is told of changes any more"));
        let (reports, reported) = mpsc::channel(REPORTS);
        let links = Links::default();

        if let Source::Kubernetes(client, kubernetes) = &source {
            let keeper = Keeper::new(client.clone(), &config.namespace, links.clone(), updated.clone());
            tasks.spawn(ending(keeper.run(), "the Leases of nodes are no longer kept"));
            let (told, all) = (updated.clone(), published.clone());
            let duties =
                Duties::new(client.clone(), &config.namespace, leading.clone(), told, all, kubernetes.standings());
            tasks.spawn(ending(duties.run(), "statuses are no longer written"));
            let (told, all) = (updated.clone(), published.clone());
            let writer = Writer::new(client.clone(), &replica, links.clone(), leading, told, all);
            tasks.spawn(ending(writer.run(), "pods are no longer annotated"));
        }

        let admin_socket = config.admin_socket();
        let mut questions = AdminService::new(links.clone(), published.clone());
        if let Some(address) = config.dashboard {
            let dashboard = Dashboard::listen(address).await?;
            dashboard.keep_token(&config.state)?;
            let source = Arc::new(questions.clone());
            questions = questions.with_dashboard(dashboard.address, dashboard.token.as_text());
            tasks.spawn(ending(dashboard.serve(source), "the dashboard is no longer served"));
        }
        let admin = admin::serve(admin::listen(&admin_socket)?, questions.clone());
        let forwarded = config.admin_listen.map(|at| admin::serve_at(at, questions)).transpose()?;
        let agents = Agents {
            listen: config.listen,
            server_name: &config.server_name,
            trust_domain: &config.trust_domain,
            authority,
            limits: config.agents.limits(),
            authenticator,
            links,
            reports,
            published,
        };
        let (address, agents) = agents.serve()?;

        let follow = async move {
            match source {
                Source::Directory(directory) => directory.follow(updates).await,
                Source::Kubernetes(_, kubernetes) => kubernetes.follow(updates).await,
            }
        };
        tasks.spawn(ending(follow, "the configuration is no longer followed"));
        tasks.spawn(ending(publisher.run(updated, reported), "nothing is published any more"));
        tasks.spawn(agents);
        tasks.spawn(admin);
        if let Some(forwarded) = forwarded {
            tasks.spawn(forwarded);
        }
        Ok(Self { address, admin_socket, tasks, election })
    }

    /// Ends it, and lets another replica lead at once.
    pub async fn end(mut self) {
        if let Some(election) = self.election.take() {
            election.end().await;
        }
    }

    /// Waits until a part fails; all others end with it.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a part of the controller crashed"),
            Some(Ok(Ok(()))) | None => anyhow!("a part of the controller ended"),
        }
    }
}

/// A part that never ends by itself; what it means if it does.
async fn ending(part: impl Future<Output = ()>, meaning: &'static str) -> Result<()> {
    part.await;
    Err(anyhow!(meaning))
}

/// What is followed.
enum Source {
    Directory(Directory),
    Kubernetes(Client, Box<Kubernetes>),
}

impl Source {
    /// The source, where it is remembered which of its pods are redirected, and what it says first.
    async fn open(config: &Run) -> Result<(Self, Memory, Update)> {
        match &config.source {
            SourceArg::Directory(path) => {
                let (directory, first) = Directory::open(path)?;
                Ok((Self::Directory(directory), Memory::file(&config.state), first))
            }
            SourceArg::Kubernetes => {
                let client = source::client().await?;
                let (kubernetes, first) = Kubernetes::open(client.clone()).await;
                Ok((Self::Kubernetes(client, Box::new(kubernetes)), Memory::annotations(), first))
            }
        }
    }
}

impl Source {
    /// Of the Kubernetes API, if there is one.
    async fn api_host(&self) -> Option<String> {
        match self {
            Self::Directory(_) => None,
            // It was found when the source was opened.
            Self::Kubernetes(..) => kube::Config::infer().await.ok()?.cluster_url.host().map(str::to_owned),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.admin_socket);
    }
}

/// How this controller's agents prove themselves.
async fn authenticator(config: &Run) -> Result<Authenticator> {
    let by_source = match config.source {
        SourceArg::Directory(_) => AgentAuth::JoinTokens,
        SourceArg::Kubernetes => AgentAuth::Kubernetes,
    };
    Ok(match config.agents.agent_auth.unwrap_or(by_source) {
        AgentAuth::JoinTokens => Authenticator::Join(Tokens::new(&config.state)),
        AgentAuth::Kubernetes => {
            Authenticator::Kubernetes(Reviews::new(api().await?, config.agents.reviews(&config.namespace)))
        }
    })
}

/// Where this controller's certificates are signed, and what the leader does for that; what keeps it up to date is
/// added to `tasks`.
async fn authority(config: &Run, tasks: &mut JoinSet<Result<()>>) -> Result<(Authority, Option<ca::Duties>)> {
    let by_source = match config.source {
        SourceArg::Directory(_) => None,
        SourceArg::Kubernetes => Some(secret::OWN.to_owned()),
    };
    let Some(name) = config.agents.ca_secret.clone().or(by_source) else {
        let authority = Authority::open(&config.state, &config.trust_domain, config.certificate_ttl)?;
        return Ok((authority, None));
    };
    let client = api().await?;
    let place = secret::Place {
        namespace: config.namespace.clone(),
        name,
        trust_domain: config.trust_domain.clone(),
        given: config.agents.ca_given,
    };
    let secret::Followed { material, secret, task } = secret::open(client.clone(), place.clone()).await?;
    tasks.spawn(async move {
        task.await;
        Err(anyhow!("the certificate authority is no longer followed"))
    });
    let overlap = config.agents.root_overlap.unwrap_or(config.certificate_ttl);
    let duties = ca::Duties { client, place, overlap, secret, material: material.clone() };
    Ok((Authority::following(material, config.certificate_ttl), Some(duties)))
}

/// By KUBECONFIG, or as a pod of the cluster.
async fn api() -> Result<kube::Client> {
    kube::Client::try_default().await.context("no Kubernetes API is configured: KUBECONFIG, or run as a pod")
}

/// Makes a token and hands it over.
pub fn join_token(config: &JoinToken) -> Result<()> {
    private_folder(&config.state)?;
    let token = Tokens::new(&config.state).create(&config.node)?;
    match &config.out {
        Some(path) => write_private(path, token.as_bytes()),
        None => {
            println!("{token}");
            Ok(())
        }
    }
}

fn private_folder(path: &std::path::Path) -> Result<()> {
    let place = || format!("--state {}", path.display());
    fs::create_dir_all(path).with_context(place)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).with_context(place)
}

#[cfg(test)]
mod tests;
