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
    let devices = devices(result)?;
    let mut addresses = Vec::new();
    for (i, ip) in list.iter().enumerate() {
        let field = |name: &str| format!("prevResult.ips[{i}].{name}");
        let wrong = |name: &str, why: String| Problem::decode(format!("{}: {why}", field(name)));
        let text = ip["address"].as_str().ok_or_else(|| wrong("address", "is no text".to_owned()))?;
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|e| wrong("address", format!("`{text}`: {e}")))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix.is_some_and(|prefix| prefix.parse::<u8>().map_or(true, |prefix| prefix > longest)) {
            return Err(wrong("address", format!("`{text}`: has no prefix length up to {longest}")));
        }
        let device = match &ip["interface"] {
            Value::Null => None,
            index => Some(
                index
                    .as_u64()
                    .and_then(|index| usize::try_from(index).ok())
                    .ok_or_else(|| wrong("interface", format!("{index} is no place in prevResult.interfaces")))?,
            ),
        };
        let in_the_pod = match (device, &devices) {
            (Some(index), Some(devices)) => *devices
                .get(index)
                .ok_or_else(|| wrong("interface", format!("prevResult.interfaces has no place {index}")))?,
            _ => true,
        };
        if in_the_pod {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Whether each device of the result is in the pod: one without a sandbox is the node's. `None`: it names none.
fn devices(result: &Value) -> Result<Option<Vec<bool>>, Problem> {
    let list = match &result["interfaces"] {
        Value::Null => return Ok(None),
        Value::Array(list) => list,
        _ => return Err(Problem::decode("prevResult.interfaces: is no list")),
    };
    let in_the_pod = |(i, device): (usize, &Value)| match &device["sandbox"] {
        Value::Null => Ok(false),
        Value::String(sandbox) => Ok(!sandbox.is_empty()),
        _ => Err(Problem::decode(format!("prevResult.interfaces[{i}].sandbox: is no text"))),
    };
    list.iter().enumerate().map(in_the_pod).collect::<Result<_, _>>().map(Some)
}
