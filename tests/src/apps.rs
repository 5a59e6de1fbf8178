//! The programs of pods: the test servers and clients, and real ones.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{Dialled, Knocked, Patience, Place, Process, config, eventually};

/// The rules of one namespace are few.
const NFT_LIMIT: Duration = Duration::from_secs(5);

/// A client whose connection stays open.
#[derive(Debug)]
pub struct Held {
    process: Arc<Process>,
    until: PathBuf,
}

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    pub process: Arc<Process>,
    access_log: PathBuf,
}

/// Servers. Each returns when its port listens, and runs until the world ends.
impl Place {
    /// A verb of mesh-test-app: echo, greet, peer, late, slow, reset, sink.
    pub fn serve(&self, verb: &str, port: u16) -> Result<Arc<Process>> {
        self.serve_at(verb, Ipv4Addr::UNSPECIFIED.into(), port)
    }

    /// The same, on this address; `::` is both address families.
    pub fn serve_at(&self, verb: &str, address: IpAddr, port: u16) -> Result<Arc<Process>> {
        let app = config::built("mesh-test-app")?;
        let options = [verb, "--port", &port.to_string(), "--address", &address.to_string()];
        let process = self.keep(&format!("{verb}-{port}"), &app, &arguments(&options))?;
        process.listens(port)?;
        Ok(process)
    }

    /// One server that answers on each of these ports, over both address families.
    pub fn doors(&self, ports: &[u16]) -> Result<Arc<Process>> {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let options = arguments(&["doors", "--ports", &ports.join(",")]);
        let process = self.keep("doors", &config::built("mesh-test-app")?, &options)?;
        process.says("open", Patience::SHORT)?;
        Ok(process)
    }

    /// nginx on `port`; it answers `content` and logs the client's address.
    pub fn nginx(&self, port: u16, content: &str) -> Result<Nginx> {
        let folder = self.logs.join(format!("nginx-{}", self.next_number()));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let access_log = folder.join("access.log");
        let at = folder.display();
        let quoted = content.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let text = format!(
            "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log stderr notice;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n  log_format client '$remote_addr \"$request\" $status';\n  \
             access_log {at}/access.log client;\n  client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n  \
             fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n  \
             server {{ listen {port}; default_type text/plain; location / {{ return 200 \"{quoted}\"; }} }}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let options = arguments(&["-c", &file.display().to_string(), "-e", "stderr"]);
        let process = self.keep("nginx", &config::installed("nginx")?, &options)?;
        process.listens(port)?;
        Ok(Nginx { process, access_log })
    }

    /// Does with every TCP segment to `port` what the nftables verdict says, as in `drop`.
    pub fn block(&self, port: u16, verdict: &str) -> Result<()> {
        let rules = format!(
            "add table inet block; add chain inet block in {{ type filter hook input priority 0; }}; \
             add rule inet block in tcp dport {port} {verdict}"
        );
        self.nft(&rules)
    }

    /// Runs these commands of nftables in its network namespace.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let output = self.output(&config::installed("nft")?, &arguments(&[rules]), NFT_LIMIT)?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// redis-server on `port`, in memory only.
    pub fn redis(&self, port: u16) -> Result<Arc<Process>> {
        let port_text = port.to_string();
        let options = arguments(&[
            "--port",
            &port_text,
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let process = self.keep("redis", &config::installed("redis-server")?, &options)?;
        process.listens(port)?;
        Ok(process)
    }

    pub(crate) fn keep(&self, name: &str, program: &std::path::Path, options: &[String]) -> Result<Arc<Process>> {
        let process = Arc::new(self.start(name, program, options)?);
        self.crew.join(&process);
        Ok(process)
    }
}

/// Clients. That a connection fails is no error here: see [`Dialled`].
impl Place {
    /// Sends `text`, closes the sending side, reads to the end.
    pub fn say(&self, to: SocketAddr, text: &str) -> Result<Dialled> {
        self.dial_once(to, &["--text", text])
    }

    /// Sends `bytes` bytes of a pattern, closes the sending side, reads to the end.
    pub fn push(&self, to: SocketAddr, bytes: u64) -> Result<Dialled> {
        self.dial_once(to, &["--bytes", &bytes.to_string()])
    }

    /// Sends `text` (`\r` and `\n` as written in Rust's source with two backslashes), waits for one line.
    pub fn ask(&self, to: SocketAddr, text: &str) -> Result<Dialled> {
        self.dial_once(to, &["--text", text, "--line"])
    }

    /// One connection with mesh-test-app's `send` and these options.
    pub fn dial_once(&self, to: SocketAddr, options: &[&str]) -> Result<Dialled> {
        let mut all = self.dial(to, options)?;
        ensure!(all.len() == 1, "{} reports instead of one", all.len());
        all.pop().context("no report")
    }

    /// Connections, one after the other, with mesh-test-app's `send` and these options.
    pub fn dial(&self, to: SocketAddr, options: &[&str]) -> Result<Vec<Dialled>> {
        let to = to.to_string();
        let line = arguments(&[&["send", "--to", &to], options].concat());
        let output = self.output(&config::built("mesh-test-app")?, &line, Duration::from_secs(60))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "send to {to}: {}: {}", output.status, errors.trim());
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a report: {line}")))
            .collect()
    }

    /// One connection to each of these addresses of [`Place::doors`], one after the other.
    pub fn knock(&self, at: &[SocketAddr]) -> Result<Vec<Knocked>> {
        let line: Vec<String> = ["knock".to_owned()].into_iter().chain(at.iter().map(SocketAddr::to_string)).collect();
        let output = self.output(&config::built("mesh-test-app")?, &line, Duration::from_secs(60))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "knock: {}: {}", output.status, errors.trim());
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a report: {line}")))
            .collect()
    }

    /// Sends one SYN with that source address, which is not its own.
    pub fn forge(&self, from: SocketAddr, to: SocketAddr) -> Result<()> {
        let line = arguments(&["forge", "--from", &from.to_string(), "--to", &to.to_string()]);
        let output = self.output(&config::built("mesh-test-app")?, &line, Duration::from_secs(5))?;
        ensure!(output.status.success(), "forge: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// A connection to an echo server that lasts until somebody ends it. The server has answered when this returns.
    pub fn hold(&self, to: SocketAddr) -> Result<Held> {
        let until = self.logs.join(format!("hold-{}.end", self.next_number()));
        let options = arguments(&["hold", "--to", &to.to_string(), "--until", &until.display().to_string()]);
        let process = self.keep("hold", &config::built("mesh-test-app")?, &options)?;
        process.says("answered", Patience::SHORT)?;
        Ok(Held { process, until })
    }

    /// What curl prints for `url`; an error names curl's exit code and message.
    pub fn curl(&self, url: &str) -> Result<String> {
        let options = arguments(&["--silent", "--show-error", "--fail", "--max-time", "5", url]);
        let output = self.output(&config::installed("curl")?, &options, Duration::from_secs(10))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What curl prints for `url` with these options, whatever the answer's status.
    pub fn curl_with(&self, options: &[&str], url: &str) -> Result<String> {
        let options = [&["--silent", "--show-error", "--max-time", "30"], options, &[url]].concat();
        let output = self.output(&config::installed("curl")?, &arguments(&options), Duration::from_secs(60))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The statuses of the answers for `url`, which may be a pattern of curl's as in `http://10.0.0.1/?[1-5]`: one
    /// connection carries all that it can.
    pub fn statuses(&self, url: &str) -> Result<Vec<u16>> {
        let all = self.curl_with(&["--output", "/dev/null", "--write-out", "%{http_code}\n"], url)?;
        all.lines().map(|line| line.parse().with_context(|| format!("not a status: {line}"))).collect()
    }

    /// The remote ends of the established connections of this namespace whose local port is `port`.
    pub fn clients_of(&self, port: u16) -> Result<Vec<SocketAddr>> {
        let filter = format!("sport = :{port}");
        let options = arguments(&["-Htn", "state", "established", &filter]);
        let output = self.output(&config::installed("ss")?, &options, Duration::from_secs(5))?;
        ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr).trim());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let addresses = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        addresses
            .map(|address| {
                let remote: SocketAddr = address.parse().with_context(|| format!("not an address of ss: {address}"))?;
                Ok(SocketAddr::new(remote.ip().to_canonical(), remote.port()))
            })
            .collect()
    }
}

impl Held {
    /// Lets its client end it in order; what the client saw.
    pub fn finish(&self) -> Result<Dialled> {
        fs::write(&self.until, "").with_context(|| format!("write {}", self.until.display()))?;
        self.ended(Patience::SHORT)
    }

    /// How it ended; waits for that.
    pub fn ended(&self, patience: Patience) -> Result<Dialled> {
        eventually("the held connection ends", patience, || Ok(self.process.ended()?.map(drop)))?;
        let log = self.process.log()?;
        let line = log.lines().last().with_context(|| "the client said nothing")?;
        serde_json::from_str(line).with_context(|| format!("not a report: {line}"))
    }

    /// It is still open.
    pub fn is_open(&self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }
}

impl Nginx {
    /// The lines of the access log: client address, request, status. nginx writes each before it answers is done, so
    /// this waits until there are `count`.
    pub fn access_log(&self, count: usize) -> Result<Vec<String>> {
        eventually(format_args!("nginx logs {count} requests"), Patience::SHORT, || {
            let text =
                fs::read_to_string(&self.access_log).with_context(|| format!("read {}", self.access_log.display()))?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            Ok((lines.len() >= count).then_some(lines))
        })
    }
}

fn arguments(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
