//! What a reason code or a counter of losses means and what to do about it, in one place for agents, controller and
//! meshctl. Complete over all codes: see the tests of those that have them.

/// What the kernel's programs count and nobody wants to see: a table that was full, a record that is missing. Each has
/// its sentence in [`advice`].
pub const LOSSES: &[&str] = &[
    "PENDING_FULL",
    "ATTEST_FULL",
    "DIRECT_FULL",
    "OBSERVED_FULL",
    "LISTENING_FULL",
    "STORAGE_FULL",
    "TAKEN_STORAGE_FULL",
    "EVENTS_LOST",
    "CLOSED_LOST",
    "AFFINITY_LOST",
    "UDP_UNNAMED",
];

/// One sentence or two; `None` for a code that is not known here.
pub fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        // Policies
        "POLICY_DENY" => "A DENY policy of the destination matches. Change the policy or the client.",
        "POLICY_NO_ALLOW" => {
            "ALLOW policies apply to the destination and none of their rules matches. Add a rule for this client, or \
             remove the ALLOW policies."
        }
        "PLAINTEXT_STRICT" => {
            "The client has no mesh identity, and a PeerAuthentication asks for one. Put the client into the mesh, or \
             make the port PERMISSIVE."
        }
        "POLICY_UNKNOWN" => {
            "A policy that applies is not known to the agent, so it refuses. See `meshctl status` for a configuration \
             that was refused or a controller that is not connected."
        }
        "IDENTITY_REVOKED" => {
            "The ServiceAccount of the client's identity does not exist, so its certificates count no more. Create the \
             account if it is missing by mistake; otherwise somebody uses a key that should be gone."
        }
        // The agent
        "ORIGINAL_DESTINATION_UNKNOWN" => {
            "The connection reached the agent without having been redirected by the kernel: somebody dialled the \
             agent's listener itself, or the kernel had no memory to say what was dialled (see TAKEN_STORAGE_FULL in \
             `meshctl status -v`)."
        }
        "NO_SUCH_PORT" => "The service has no such port. See `meshctl config services`.",
        "NO_HEALTHY_ENDPOINT" => {
            "The service has no ready pod for the port, or none on this node where `internalTrafficPolicy: Local` asks for \
             one, or all of them were ejected after failures (`outlierDetection`). See `meshctl config services` and the \
             readiness of its pods."
        }
        "NO_BACKEND" => {
            "A rule sends the connection to a service, port or subset that is not there. `meshctl analyze` names the \
             object and its field; a subset is defined by a DestinationRule that holds for the client."
        }
        "NO_ROUTE" => {
            "The service has routes, and none is for this: compare the request, or the server name of TLS (SNI) that the \
             client said, with the matches that `meshctl config routes` shows."
        }
        "RULES_UNREADABLE" => {
            "The agent cannot read the rules of the service, and has no earlier version of them, so it refuses. See \
             `meshctl status` for the field; an agent that is older than its controller is the usual cause."
        }
        "OVERFLOW" => {
            "The client has as many connections or requests to the service as its DestinationRule permits \
             (`connectionPool.tcp.maxConnections`, `connectionPool.http`). Raise it, or see why so many are open."
        }
        "CONNECT" => {
            "The destination did not take the connection. Does its program listen on the port, and is there a route or \
             a network policy between the nodes?"
        }
        "REQUEST_MALFORMED" => {
            "The request is none that every server reads alike, so none gets it; the record says what is wrong with it. Let \
             the client write it otherwise."
        }
        "PATH_AMBIGUOUS" => {
            "A policy of the destination asks for paths, and servers would read this one in ways that nobody can decide \
             about (a `%` that begins no escape, a zero byte, escapes within escapes). Let the client write it otherwise."
        }
        "TIMEOUT" => {
            "No answer came in the time that the service's rules give (`timeout`, `retries.perTryTimeout`). See why the \
             endpoint is slow, or give it more time."
        }
        "RETRIES_EXHAUSTED" => {
            "Every answer was one to try again after, and there were as many tries as the service's rules permit \
             (`retries.attempts`). The record has the last answer: see why the endpoints give it."
        }
        "FAULT_INJECTED" => {
            "Nothing is broken: a rule of the service asks that requests fail (`fault.abort`). Remove the fault, or take the \
             client out of its match."
        }
        "UPSTREAM_PROTOCOL" => {
            "The endpoint did not answer in the protocol that it was asked in. Compare the port's `appProtocol` or name with \
             what the program speaks."
        }
        "UPSTREAM_TLS" => {
            "A DestinationRule asks for TLS to the service's endpoints (`trafficPolicy.tls`), and there is none: the \
             record says whether its settings cannot be used, or what the endpoint answered."
        }
        "IDLE_TIMEOUT" => {
            "The connection was idle for as long as the service's DestinationRule permits \
             (`connectionPool.tcp.idleTimeout`). Raise it, or let the client keep its connection busy."
        }
        "DURATION_OVER" => {
            "The connection has lasted as long as the service's DestinationRule permits \
             (`connectionPool.tcp.maxConnectionDuration`); its client opens another."
        }
        "RULES_NEWER" => {
            "The service got routes or other rules for requests after the connection began. It went past them, so it was \
             ended in a quiet moment, or after half a minute; its client opens another."
        }
        "NO_CERTIFICATE" => {
            "There is no valid certificate for the pod on this node. See `meshctl identity`: its state says why."
        }
        "PEER_REFUSED" | "REFUSED" => {
            "The destination's agent refused and named no reason that is known here. Its own record says more."
        }
        "HBONE_ADDRESS_MISMATCH" => {
            "The tunnel asked for another address than that of the pod at which it arrived. The client's configuration \
             may be old: compare `meshctl config workloads` on both nodes."
        }
        "HBONE_PORT" => "Port 15008 of a pod in the mesh belongs to the agents. Use another port.",
        "WORKLOAD_UNKNOWN" => {
            "The destination is not in the agent's configuration (yet), or its address is another pod's. See `meshctl \
             config workloads` and `meshctl status`."
        }
        "DESTINATION_UNKNOWN" => {
            "In a mesh of this size agents ask the controller whose an address is, and it did not answer in time, or the \
             pod dials too many addresses at once that nobody dialled before. Is the controller connected (`meshctl \
             status`)?"
        }
        // Tokens of requests
        "JWT_MALFORMED" | "JWT_ALGORITHM" => {
            "The request's token is no JSON Web Token as RequestAuthentication accepts it: see what the client puts where \
             tokens are looked for. Accepted are RS, PS and ES with 256 or 384 bits, RS512, PS512 and EdDSA."
        }
        "JWT_SEVERAL" => "The request bears two tokens that differ. Let the client send one, in one place.",
        "JWT_ISSUER" => {
            "No RequestAuthentication of the workload accepts tokens of that issuer in that place. Compare `iss` of the \
             token with `jwtRules[].issuer`, and where the rule looks for tokens."
        }
        "JWT_AUDIENCE" => {
            "None of the token's `aud` is among the rule's `audiences`. Ask the issuer for another token."
        }
        "JWT_EXPIRED" | "JWT_NOT_YET_VALID" => {
            "The request's token is over, or of the future. Does the client renew it, and do the clocks of issuer and node \
             agree?"
        }
        "JWT_KEYS" => {
            "The issuer's keys could not be had, so none of its tokens counts. `kubectl describe` the RequestAuthentication \
             and `meshctl analyze` say why."
        }
        "JWT_KEY" => {
            "The issuer's keys have none of the token's `kid` and `alg`. New keys of a `jwksUri` are seen within minutes; \
             otherwise another issuer signed, or the rule's `jwks` is old."
        }
        "JWT_SIGNATURE" => {
            "The token's signature is not by the issuer's key. Somebody changed or forged it, or the rule has another \
             issuer's keys."
        }
        "RESET" => "One end reset the connection. The mesh let it pass: look at the two programs.",
        "INTERNAL" => "A fault of the agent itself. The record's error and the agent's log say more.",
        // TLS and HTTP/2 between agents
        "TLS_FAILURE" => {
            "The TLS handshake between the agents failed. See the record's error, `meshctl config certs`, and the \
             clocks of both nodes."
        }
        "IDENTITY_ERROR" => {
            "The other end proved another identity than the configuration names for it, or none of this mesh. A pod's \
             address may have been handed on: compare `meshctl config workloads` with `meshctl identity`."
        }
        "NO_CLIENT_CERTIFICATE" => {
            "Somebody dialled port 15008 and showed no certificate. Only agents may; who it was is the source address."
        }
        "H2_HANDSHAKE_FAILURE" => {
            "The other end does not speak HTTP/2 as agents do. Is another program listening on port 15008 there?"
        }
        "H2_CONNECTION_FAILURE" => {
            "The connection between the agents broke or its other end stopped answering. See the network between the \
             nodes and the other agent's log."
        }
        "METHOD_NOT_ALLOWED" | "BAD_AUTHORITY" | "BAD_REQUEST" | "HEADERS_TOO_LARGE" => {
            "Somebody with a certificate of the mesh asked for a tunnel as no agent does. Who it was is in the record; an \
             agent of another version may be one reason."
        }
        "TLS_VERSION" | "ALPN_MISMATCH" => {
            "Somebody dialled port 15008 with another TLS than agents speak (TLS 1.3 with HTTP/2). Who it was is the \
             source address."
        }
        "CERT_EXPIRED" | "CERT_NOT_YET_VALID" => {
            "The other end's certificate is over or not valid yet. See `meshctl config certs` there, and the clocks of \
             both nodes."
        }
        "CERT_UNKNOWN_ISSUER" | "CERT_BAD_SIGNATURE" | "CERT_TRUST_DOMAIN" => {
            "The other end's certificate is not one of this mesh. Do both agents use the same controller and its root? If \
             they do, somebody else dialled: the source address says who."
        }
        "CERT_WEAK_KEY" | "CERT_PURPOSE" | "CERT_BAD_IDENTITY" | "CERT_CHAIN_TOO_LONG" | "CERT_INVALID" => {
            "The controller signs no such certificate. Somebody made it with the mesh's key, or an agent's files were \
             changed: the source address says where."
        }
        // The kernel
        "CONNECT_IPV4" | "CONNECT_IPV6" => {
            "The pod has no published address of that family, so it cannot reach such destinations. Use the other family."
        }
        "CONNECT_LINK_LOCAL" => "An IPv6 link-local address names no workload. Use the destination's own address.",
        "STEERED_CLOSED" => "Nobody in the pod listens on that port.",
        "STEERED_ELSEWHERE" => {
            "A connection that was decided for another pod arrived at this one. If that pod did not just go, look which \
             pod answers for its address."
        }
        "LISTENING_FULL" => {
            "The kernel's table of listening ports is full, so closed ports look open until a dial finds them closed. \
             Raise --max-listening of the agent."
        }
        "BOUND_DEVICE" => {
            "The socket is bound to a device, which would lead it past the mesh. Do not bind the program to a device."
        }
        "UNKNOWN_NAMESPACE" => {
            "A process of a pod in the mesh opened a connection in a network namespace that is not the pod's. Take the \
             pod out of the mesh if it must make namespaces."
        }
        "STORAGE_FULL" | "TAKEN_STORAGE_FULL" => {
            "The kernel had no memory for the socket's record. See the node's memory and the cgroup's limits."
        }
        "PENDING_FULL" => {
            "The kernel's table of pending connections is full. Find who opens so many, or raise --max-pending of the \
             agent: after `mesh-agent uninstall`, since a table keeps its size."
        }
        "ATTEST_FOREIGN_ADDRESS" => "The connection did not start at the pod's own address, so it cannot be attested.",
        "ATTEST_TAKEN" => "Another pod's entry stands for the same addresses and ports; the client may try again.",
        "ATTEST_FULL" => {
            "The kernel's table of attested connections is full. Find who opens so many, or raise --max-pending of the \
             agent: after `mesh-agent uninstall`, since a table keeps its size."
        }
        "CONNECT_DENIED" => {
            "A policy denies it, and an agent that has ended since told the kernel so. `meshctl authz check` says which."
        }
        "DIRECT_FULL" => {
            "The kernel's table of direct connections was full; the agent carries what comes until there is room. Raise \
             --max-direct of the agent: after `mesh-agent uninstall`, since a table keeps its size."
        }
        "OBSERVED_FULL" => {
            "A connection of an observed pod goes on and is not recorded, since the kernel's table of them is full or it \
             had no memory. Raise --max-direct of the agent: after `mesh-agent uninstall`, since a table keeps its size."
        }
        "AGENT_DOWN" => {
            "The agent of the node did not listen for the pod, and nothing passes without it. See whether it runs, and \
             whether the pod is joined (`meshctl status`)."
        }
        "EVENTS_LOST" => {
            "More happened than the agent could read from the kernel in time, so records of refusals are missing; nothing \
             was permitted for it. Has the agent the CPU that it asks for?"
        }
        "AFFINITY_LOST" => {
            "The kernel had no memory to keep which endpoint of a service with sessionAffinity a client has: its next \
             connection may go to another one. See the node's memory."
        }
        "UDP_UNNAMED" => {
            "Datagrams passed and are counted without names, since more pairs of pods and peers spoke within a second than \
             the kernel's table has room for. Raise --max-datagrams of the agent: after `mesh-agent uninstall`, since a \
             table keeps its size."
        }
        "CLOSED_LOST" => {
            "More direct connections ended than the agent could read from the kernel in time, so their records and bytes \
             are missing in flows and metrics. Has the agent the CPU that it asks for?"
        }
        // The controller, to agents
        "TOKEN_MISSING" | "TOKEN_INVALID" | "TOKEN_MALFORMED" | "TOKEN_ALGORITHM" => {
            "Somebody dialled the controller without a token that could be an agent's. Who it was is the source address \
             in the controller's log."
        }
        "TOKEN_EXPIRED" => {
            "An agent's token is over. Does the kubelet renew it, and do the clocks of node and API server agree?"
        }
        "TOKEN_AUDIENCE" | "TOKEN_ACCOUNT" | "TOKEN_UNBOUND" => {
            "A token that is valid and no agent's was shown to the controller. If it is an agent, compare its DaemonSet \
             with `meshctl install --dry-run`; otherwise somebody tries another account's token."
        }
        "TOKEN_NODE" | "TOKEN_REJECTED" | "TOKEN_GONE" => {
            "The pod or account of the token is gone, or another one by now. An agent that was just replaced ends so; \
             otherwise somebody uses a token that should be gone."
        }
        "TOKEN_UNCHECKED" => {
            "The Kubernetes API could not say whose token it is, so nobody new is let in. Is the API there, and may the \
             controller create tokenreviews?"
        }
        "RATE_LIMITED" => {
            "More is asked than a limit permits: of requests, the RateLimitPolicy that the record names; of a controller, \
             certificates for one node (--certificate-rate, if so many pods really start there)."
        }
        "AUTHORITY_BUSY" => {
            "The controller signs as much as it may at once; the agent asks again. Raise --concurrent-signing, or run more \
             replicas."
        }
        "IDENTITY_MALFORMED" | "IDENTITY_TRUST_DOMAIN" => {
            "An agent asked for an identity that this mesh does not have. Do agent and controller agree on the trust \
             domain?"
        }
        "IDENTITY_NOT_HERE" => {
            "An agent asked for the identity of a pod that is not on its node. One that just left is the common reason; \
             if it goes on, somebody uses the agent's token."
        }
        "IDENTITY_ACCOUNT" => "The pod's ServiceAccount does not exist. Create it, or name another one in the pod.",
        "CSR_SIZE" | "CSR_MALFORMED" | "CSR_KEY" | "CSR_SIGNATURE" => {
            "A certificate was asked for as no agent does. Is the agent of another version?"
        }
        "CSR_KEY_REUSED" => {
            "A key was shown that is another identity's or node's already. Agents make a key for each: somebody copied one."
        }
        "SIGNING_FAILED" => {
            "The controller could not sign. Its log says why; see whether the certificate of its CA is over."
        }
        "REQUEST_INVALID" => "Somebody called the controller as no agent does. Is the agent of another version?",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Counter;

    #[test]
    fn every_loss_is_counted_somewhere_and_has_its_sentence() {
        for loss in LOSSES {
            assert!(Counter::ALL.iter().any(|counter| counter.name() == *loss), "{loss} is no counter");
            assert!(advice(loss).is_some(), "{loss}");
        }
        let full_or_lost = Counter::ALL
            .iter()
            .map(|counter| counter.name())
            .filter(|name| name.ends_with("_FULL") || name.ends_with("_LOST"));
        for name in full_or_lost {
            assert!(LOSSES.contains(&name), "{name} is a loss that nobody is told of");
        }
    }
}
