//! Which addresses the plugins before this one gave to the pod.

use std::net::IpAddr;

use serde_json::Value;

use super::problem::Problem;

/// The addresses of a result (CNI 0.3.1 to 1.1), in its order: those of devices in the pod's namespace, or of no
/// device in particular. None is no error: a plugin may have made a network without addresses.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>, Problem> {
    let list = match &result["ips"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(Problem::decode("prevResult.ips: is no list")),
    };
    let mut addresses = Vec::new();
    for (i, ip) in list.iter().enumerate() {
        let field = || format!("prevResult.ips[{i}].address");
        let text = ip["address"].as_str().ok_or_else(|| Problem::decode(format!("{}: is no text", field())))?;
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        let address = address.parse().map_err(|e| Problem::decode(format!("{}: `{text}`: {e}", field())))?;
        if in_the_pod(result, &ip["interface"]) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// The device by its place in the result's list. One without a sandbox is the node's.
fn in_the_pod(result: &Value, interface: &Value) -> bool {
    let Some(index) = interface.as_u64().and_then(|index| usize::try_from(index).ok()) else { return true };
    result["interfaces"].get(index).is_none_or(|device| !device["sandbox"].as_str().unwrap_or_default().is_empty())
}
