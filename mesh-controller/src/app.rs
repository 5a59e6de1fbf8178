//! Wiring: source -> publisher -> servers.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    admin,
    ca::{self, Authority, roots, rotation, secret},
    config::{AgentAuth, JoinToken, Run, SourceArg},
    link::Links,
    monitoring,
    publish::{Memory, Publisher},
    serve::Agents,
    source::Directory,
    tokens::{Authenticator, Reviews, Tokens, write_private},
};

/// Reports that may wait to be published.
const REPORTS: usize = 64;

/// A running controller; dropping it ends it.
#[derive(Debug)]
pub struct App {
    /// Where agents connect, with the port that was really taken.
    pub address: SocketAddr,
    admin_socket: PathBuf,
    tasks: JoinSet<Result<()>>,
    /// Whether this replica rotates the authority and keeps the agents' roots: one alone does.
    _leader: watch::Sender<bool>,
}

impl App {
    /// Starts everything; on return agents are served.
    ///
    /// # Errors
    /// If the state folder, the source, the socket or the port cannot be used.
    pub async fn start(config: &Run) -> Result<Self> {
        private_folder(&config.state)?;
        let settings = config.settings();
        let mut tasks = JoinSet::new();
        if let Some(address) = config.agents.metrics {
            let served = monitoring::serve(address)?;
            tasks.spawn(async move {
                served.await;
                Ok(())
            });
        }
        let (leader, leads) = watch::channel(true);
        let authority = authority(config, leads, &mut tasks).await?;
        let authenticator = authenticator(config).await?;
        let SourceArg::Directory(path) = &config.source;
        let (directory, first) = Directory::open(path)?;
        let (publisher, published) = Publisher::new(settings, Memory::new(&config.state), &first)?;
        let (trust, follow_trust) = ca::trust(authority.material(), &config.trust_domain);
        let publisher = publisher.trusting(trust);
        tasks.spawn(async move {
            follow_trust.await;
            Err(anyhow!("the roots to trust are no longer followed"))
        });
        let (updates, updated) = watch::channel(first);
        let (reports, reported) = mpsc::channel(REPORTS);
        let links = Links::default();

        let admin_socket = config.admin_socket();
        let admin = admin::serve(admin::listen(&admin_socket)?, links.clone(), published.clone());
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

        tasks.spawn(async move {
            directory.follow(updates).await;
            Err(anyhow!("the configuration is no longer followed"))
        });
        tasks.spawn(async move {
            publisher.run(updated, reported).await;
            Err(anyhow!("nothing is published any more"))
        });
        tasks.spawn(agents);
        tasks.spawn(admin);
        Ok(Self { address, admin_socket, tasks, _leader: leader })
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

impl Drop for App {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.admin_socket);
    }
}

/// How this controller's agents prove themselves.
async fn authenticator(config: &Run) -> Result<Authenticator> {
    let by_source = match config.source {
        SourceArg::Directory(_) => AgentAuth::JoinTokens,
    };
    Ok(match config.agents.agent_auth.unwrap_or(by_source) {
        AgentAuth::JoinTokens => Authenticator::Join(Tokens::new(&config.state)),
        AgentAuth::Kubernetes => {
            Authenticator::Kubernetes(Reviews::new(api().await?, config.agents.reviews(&config.namespace)))
        }
    })
}

/// Where this controller's certificates are signed; what keeps it up to date is added to `tasks`.
async fn authority(config: &Run, leads: watch::Receiver<bool>, tasks: &mut JoinSet<Result<()>>) -> Result<Authority> {
    let by_source = match config.source {
        SourceArg::Directory(_) => None,
    };
    let Some(name) = config.agents.ca_secret.clone().or(by_source) else {
        return Authority::open(&config.state, &config.trust_domain, config.certificate_ttl);
    };
    let client = api().await?;
    let namespace = config.namespace.clone();
    let place = secret::Place { namespace: namespace.clone(), name, trust_domain: config.trust_domain.clone() };
    let secret::Followed { material, secret, task } = secret::open(client.clone(), place.clone()).await?;
    let authority = Authority::following(material.clone(), config.certificate_ttl);
    tasks.spawn(async move {
        task.await;
        Err(anyhow!("the certificate authority is no longer followed"))
    });
    if place.name == secret::OWN {
        let overlap = config.agents.root_overlap.unwrap_or(config.certificate_ttl);
        let rotation = rotation::run(client.clone(), place, overlap, secret, leads.clone());
        tasks.spawn(async move {
            rotation.await;
            Err(anyhow!("roots are no longer rotated"))
        });
    }
    tasks.spawn(async move {
        roots::keep(client, namespace, material, leads).await;
        Err(anyhow!("the agents' roots are no longer kept"))
    });
    Ok(authority)
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
