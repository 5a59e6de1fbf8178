//! What happens in the demo, step by step. Each step checks what it shows: a demo that shows something else fails.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, Dialled, Flow, Nginx, NodeId, Pod, Service, World};

use super::screen::Screen;

const CANARY: &str = "canary-4711: the credit card number";
/// Of traffic for pictures: as long as the window that they show, and the slot of it that is not over.
const TRAFFIC: Duration = Duration::from_secs(20);
const TRUST_DOMAIN: &str = "spiffe://cluster.local/";

/// The cast: two nodes, five pods.
pub struct Story<'a> {
    screen: &'a Screen,
    world: World,
    /// curl, on node a.
    cart: Arc<Pod>,
    /// curl too, on node a: whom the policy does not name.
    crawler: Arc<Pod>,
    /// Never in the mesh, on node a.
    batch: Arc<Pod>,
    nginx: Nginx,
    web: Service,
    web_pod: Arc<Pod>,
    cache: Service,
    cache_pod: Arc<Pod>,
}

impl<'a> Story<'a> {
    /// The nodes, the pods with their programs, a controller and two agents. Nobody is in the mesh.
    pub fn begin(screen: &'a Screen) -> Result<Self> {
        let start = Instant::now();
        let mut world = World::new("demo")?;
        world.quiet();
        world.dashboard();
        let cart = world.pod("shop", "cart", A)?;
        let crawler = world.pod("shop", "crawler", A)?;
        let cache_pod = world.pod("shop", "cache", A)?;
        let web_pod = world.pod("shop", "web", B)?;
        let batch = world.pod("legacy", "batch", A)?;
        let nginx = web_pod.nginx(80, &format!("{CANARY}\n"))?;
        cache_pod.redis(6379)?;
        let web = world.service("shop", "web", 80, 80, &[&web_pod])?;
        let cache = world.service("shop", "cache", 6379, 6379, &[&cache_pod])?;
        world.start()?;

        screen.title("Two nodes, five pods, a controller and two agents, on this machine's kernel");
        screen.fact("node a", "shop/cart (curl)  shop/crawler (curl)  shop/cache (redis)  legacy/batch (curl)");
        screen.fact("node b", "shop/web (nginx)");
        screen.note(&format!("started in {:.1} s", start.elapsed().as_secs_f64()));
        Ok(Self { screen, world, cart, crawler, batch, nginx, web, web_pod, cache, cache_pod })
    }

    pub fn before_joining(&mut self) -> Result<()> {
        self.screen.step("Before joining: what pods say is readable between the nodes");
        let capture = self.world.capture()?;
        let page = self.cart.curl(&format!("http://{}/", self.web_pod.at(80)))?;
        ensure!(page.trim() == CANARY, "nginx answered {page:?}");
        ensure!(capture.contains(CANARY.as_bytes())?, "the canary should have been on the link");
        self.screen.fact("cart -> web", "200");
        self.screen.fact("tcpdump on the link", &self.screen.bad(&format!("readable: {CANARY:?}")));
        capture.stop()
    }

    pub fn joining(&mut self) -> Result<()> {
        self.screen.step("Namespace shop gets the label nodemesh.io/mode: mesh");
        let start = Instant::now();
        self.world.mesh("shop")?;
        let joined = self.world.redirected(A)?.len() + self.world.redirected(B)?.len();
        self.screen.fact("joined", &format!("{joined} pods in {:.1} s, none restarted", start.elapsed().as_secs_f64()));

        let capture = self.world.capture()?;
        let page = self.cart.curl(&format!("http://{}/", self.web.addr()))?;
        ensure!(page.trim() == CANARY, "nginx answered {page:?}");
        ensure!(!capture.contains(CANARY.as_bytes())?, "the canary was readable on the link");
        let size = capture.size()?;
        capture.stop()?;
        self.screen.fact(&format!("cart -> service web {}", self.web.addr()), "200, by its cluster IP");
        let unreadable = format!("the canary is nowhere in {size} captured bytes");
        self.screen.fact("tcpdump on the link", &self.screen.good(&unreadable));

        let log = self.nginx.access_log(2)?;
        let last = log.last().context("nginx logged nothing")?;
        ensure!(last.starts_with(&format!("{} ", self.cart.ip)), "nginx logged {last:?}");
        self.screen.fact("nginx logged", &format!("{last}   ({} is cart itself)", self.cart.ip));

        let pong = self.cart.ask(self.cache.addr(), "PING\\r\\n")?;
        ensure!(pong.text == "+PONG\r\n", "redis answered {pong:?}");
        let again = self.cart.ask(self.cache.addr(), "PING\\r\\n")?;
        ensure!(again.text == "+PONG\r\n", "redis answered {again:?}");
        self.screen.fact("cart -> cache, same node", "PING, PONG; once more straight from pod to pod: PING, PONG");
        let page = self.batch.curl(&format!("http://{}/", self.web_pod.at(80)))?;
        ensure!(page.trim() == CANARY, "nginx answered {page:?}");
        self.screen.fact("legacy/batch -> web", "200: not in the mesh, and PERMISSIVE is the default");
        Ok(())
    }

    pub fn policies(&mut self) -> Result<()> {
        self.screen.step("Policies from manifests/demo: web-from-cart (ALLOW by identity), cache-strict (STRICT)");
        for name in ["web-from-cart", "cache-strict"] {
            let file = crate::root().join("manifests/demo").join(format!("{name}.yaml"));
            let yaml = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            self.world.apply(name, &yaml)?;
        }
        let page = self.cart.curl(&format!("http://{}/", self.web.addr()))?;
        ensure!(page.trim() == CANARY, "nginx answered {page:?}");
        self.screen.fact("cart -> web", &self.screen.good("200"));

        let refused = self.crawler.say(self.web.addr(), "GET / HTTP/1.0\r\n\r\n")?;
        self.show_refusal("crawler -> web", &refused, B, &self.crawler, "POLICY_NO_ALLOW")?;
        let refused = self.batch.say(self.cache_pod.at(6379), "PING\r\n")?;
        self.show_refusal("legacy/batch -> cache", &refused, A, &self.batch, "PLAINTEXT_STRICT")
    }

    fn show_refusal(&self, what: &str, seen: &Dialled, node: NodeId, from: &Pod, reason: &str) -> Result<()> {
        ensure!(seen.turned_away(), "{what} should have been refused: {seen:?}");
        let flow = self.world.flow(node, &format!("refused, of {what}"), |flow| {
            flow.verdict == "dropped" && flow.reason == reason && is_from(flow, from)
        })?;
        let why = match (reason, flow.rule) {
            ("PLAINTEXT_STRICT", _) => flow.error.clone(),
            (_, Some(rule)) => format!("{}, rule {rule}", flow.policy),
            (_, None) => format!("{}, none of its rules matches", flow.policy),
        };
        self.screen.fact(what, &self.screen.bad(&format!("refused: {reason}: {why}")));
        Ok(())
    }

    pub fn flows(&mut self) -> Result<()> {
        self.screen.step(&format!("What the agents saw (meshctl flows; identities below {TRUST_DOMAIN})"));
        // The last flows are written when their connections are over.
        let cart_to_web = |flow: &Flow| is_from(flow, &self.cart) && flow.destination.pod == "shop/web";
        for node in [A, B] {
            self.world.flow(node, "of cart to web", cart_to_web)?;
        }
        let mut rows: Vec<[String; 7]> = Vec::new();
        for node in [A, B] {
            for flow in self.world.flows(node)? {
                let row = row(&flow);
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        let tunnelled = rows.iter().filter(|row| row[5] == "mutual_tls").count();
        ensure!(tunnelled >= 2, "both agents should have recorded mutual TLS: {rows:?}");
        self.screen.table(["NODE", "DIRECTION", "SOURCE", "DESTINATION", "PATH", "SECURITY", "VERDICT"], &rows);
        Ok(())
    }

    /// For pictures: with the example's Telemetry agents read requests where a port is no TCP's by its name, so that
    /// there is something to see of them.
    pub fn traffic(&mut self) -> Result<()> {
        let file = crate::root().join("manifests/example/telemetry.yaml");
        let yaml = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let ports = "[{ name: http, port: 80, targetPort: 80 }]";
        self.world.change_service(&self.web, &[&self.web_pod], &[("ports", ports)])?;
        self.world.apply("telemetry", &yaml)?;
        let (start, web) = (Instant::now(), format!("http://{}/", self.web.addr()));
        while start.elapsed() < TRAFFIC && !mesh_tests::interrupted() {
            let served = self.cart.statuses(&format!("{web}?[1-40]"))?;
            ensure!(served.iter().all(|status| *status == 200), "nginx answered {served:?}");
            self.cart.ask(self.cache.addr(), "PING\\r\\n")?;
            // Whom the policy does not name.
            self.crawler.say(self.web.addr(), "GET / HTTP/1.0\r\n\r\n")?;
            self.batch.say(self.web_pod.at(80), "GET / HTTP/1.0\r\n\r\n")?;
        }
        Ok(())
    }

    /// Of `meshctl top`.
    pub fn picture_of_top(&self, file: &Path) -> Result<()> {
        let name = file.display().to_string();
        let window = ["--window", "20s", "--width", "126", "--height", "10"];
        self.world.ask_controller(&[&["top", "edges", "--snapshot", &name], &window[..]].concat())?;
        Ok(())
    }

    /// Of the dashboard.
    pub fn picture(&self, file: &Path) -> Result<()> {
        let mut browser = self.world.browser()?;
        browser.resize(1280, 720)?;
        browser.open(&self.world.dashboard_url()?)?;
        browser.until("!!document.querySelector('canvas[data-placed]')")?;
        browser.click("aside button", "shop/web")?;
        browser.shows("in the mesh")?;
        browser.screenshot(file)
    }

    pub fn what_to_try(&self) -> Result<()> {
        let programs = mesh_tests::programs_dir()?;
        let app = programs.join("mesh-test-app");
        let inside = |pod: &Pod| {
            format!("{} exec --netns {} --cgroup {} --", app.display(), pod.netns.display(), pod.cgroup.display())
        };
        let socket = self.world.controller()?.admin_socket();
        self.world.forget_marker()?;
        self.screen.title("It keeps running. In another terminal:");
        let lines = [
            format!("alias cart='{}'", inside(&self.cart)),
            format!("alias crawler='{}'", inside(&self.crawler)),
            format!("alias meshctl='{} --controller {}'", programs.join("meshctl").display(), socket.display()),
            String::new(),
            "meshctl flows -f".to_owned(),
            format!("cart curl -s http://{}/", self.web.addr()),
            format!("crawler curl -s http://{}/", self.web.addr()),
            "meshctl authz check shop/crawler shop/web --port 80".to_owned(),
            "meshctl status; meshctl config workloads; meshctl config certs".to_owned(),
            format!("ls {}   # change a manifest, and see", self.world.manifests.folder().display()),
        ];
        for line in lines {
            self.screen.line(&format!("   {line}"));
        }
        self.screen.line("");
        self.screen.note("Ctrl-C removes everything");
        Ok(())
    }
}

fn is_from(flow: &Flow, pod: &Pod) -> bool {
    flow.source.pod == pod.full_name() || flow.source.address.starts_with(&format!("{}:", pod.ip))
}

fn row(flow: &Flow) -> [String; 7] {
    let party = |identity: &str, address: &str| match identity.strip_prefix(TRUST_DOMAIN) {
        Some(rest) => rest.to_owned(),
        None if identity.is_empty() => {
            format!("{} (no identity)", address.rsplit_once(':').map_or(address, |(ip, _)| ip))
        }
        None => identity.to_owned(),
    };
    let verdict =
        if flow.reason.is_empty() { flow.verdict.clone() } else { format!("{} {}", flow.verdict, flow.reason) };
    [
        flow.node.clone(),
        flow.direction.clone(),
        party(&flow.source.identity, &flow.source.address),
        party(&flow.destination.identity, &flow.destination.address),
        flow.path.clone(),
        flow.security.clone(),
        verdict,
    ]
}
