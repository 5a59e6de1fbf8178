//! `when`: conditions by their keys.

use mesh_common::model::{ClaimCondition, HeaderCondition, HttpMatch, Match};

use super::{
    conditions::{TEXT, claim, header, quoted},
    rules::{Context, matching},
    spec::Condition,
};
use crate::status::Fault;

impl Context<'_> {
    pub fn condition(&mut self, field: &str, condition: Condition) -> Match {
        let Condition { key, values, not_values } = condition;
        let (mut matches, mut http) = (Match::default(), HttpMatch::default());
        let (yes, no) = (&*format!("{field}.values"), &*format!("{field}.notValues"));
        if [&values, &not_values].into_iter().flatten().flatten().next().is_none() {
            self.errors.push(Fault::new(field, "has neither values nor notValues"));
        }
        if key.len() > TEXT {
            let why = format!("has {} bytes, {TEXT} are the most", key.len());
            self.errors.push(Fault::new(format!("{field}.key"), why));
            return matches;
        }
        match key.as_str() {
            "source.ip" => {
                matches.source_ips = self.networks(yes, values);
                matches.not_source_ips = self.networks(no, not_values);
            }
            "source.namespace" => {
                matches.namespaces = self.strings(yes, values);
                matches.not_namespaces = self.strings(no, not_values);
            }
            "source.principal" => {
                matches.principals = self.principals(yes, values);
                matches.not_principals = self.principals(no, not_values);
            }
            "source.serviceAccount" => {
                matches.service_accounts = self.accounts(yes, values);
                matches.not_service_accounts = self.accounts(no, not_values);
            }
            "destination.ip" => {
                matches.destination_ips = self.networks(yes, values);
                matches.not_destination_ips = self.networks(no, not_values);
            }
            "destination.port" => {
                matches.destination_ports = self.ports(yes, values);
                matches.not_destination_ports = self.ports(no, not_values);
            }
            "remote.ip" => {
                http.remote_ips = self.networks(yes, values);
                http.not_remote_ips = self.networks(no, not_values);
            }
            "request.auth.principal" => {
                http.request_principals = self.request_principals(yes, values);
                http.not_request_principals = self.request_principals(no, not_values);
            }
            "request.auth.audiences" => {
                http.audiences = self.strings(yes, values);
                http.not_audiences = self.strings(no, not_values);
            }
            "request.auth.presenter" => {
                http.presenters = self.strings(yes, values);
                http.not_presenters = self.strings(no, not_values);
            }
            "connection.sni" => {
                http.server_names = self.hosts(yes, values);
                http.not_server_names = self.hosts(no, not_values);
            }
            key => {
                let read = if let Some(name) = key.strip_prefix("request.headers") {
                    header(name).map(|name| match name.as_str() {
                        "host" | ":authority" => {
                            http.hosts = self.hosts(yes, values);
                            http.not_hosts = self.hosts(no, not_values);
                        }
                        ":method" => {
                            http.methods = self.methods(yes, values);
                            http.not_methods = self.methods(no, not_values);
                        }
                        _ => {
                            let (values, not_values) = (self.strings(yes, values), self.strings(no, not_values));
                            http.headers.push(HeaderCondition { name, values, not_values });
                        }
                    })
                } else if let Some(names) = key.strip_prefix("request.auth.claims") {
                    claim(names).map(|path| {
                        let (values, not_values) = (self.strings(yes, values), self.strings(no, not_values));
                        http.claims.push(ClaimCondition { path, values, not_values });
                    })
                } else if key.starts_with("experimental.envoy.filters.") {
                    Err(format!("{} is not supported: there are no filters of Envoy here", quoted(key)))
                } else {
                    Err(format!("{} is not a known key", quoted(key)))
                };
                if let Err(why) = read {
                    self.errors.push(Fault::new(format!("{field}.key"), why));
                }
            }
        }
        matching(matches, http)
    }
}
