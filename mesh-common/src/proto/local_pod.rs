//! `nodemesh.v1.LocalPod` <-> [`LocalPod`].

use super::{WireError, ip_from_bytes, ip_to_bytes, nodemesh as wire};
use crate::model::{LocalPod, Mode, SameNode};

impl TryFrom<wire::LocalPod> for LocalPod {
    type Error = WireError;

    fn try_from(message: wire::LocalPod) -> Result<Self, WireError> {
        for (field, value) in [("uid", &message.uid), ("namespace", &message.namespace), ("name", &message.name)] {
            if value.is_empty() {
                return Err(WireError::new(field, "is empty"));
            }
        }
        let mode = mode_from_wire(message.mode)?;
        let addresses =
            message.addresses.iter().map(|bytes| ip_from_bytes("addresses", bytes)).collect::<Result<_, _>>()?;
        let strict_by = match message.strict_by.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e| WireError::new("strict_by", e))?),
        };
        let probe_ports = message.probe_ports.iter().enumerate().map(|(i, port)| {
            let port = u16::try_from(*port).ok().filter(|port| *port != 0);
            port.ok_or_else(|| WireError::new(format!("probe_ports[{i}]"), "is not a port (1 to 65535)"))
        });
        Ok(Self {
            probe_ports: probe_ports.collect::<Result<_, _>>()?,
            strict_by,
            uid: message.uid,
            pod_uid: message.pod_uid,
            namespace: message.namespace,
            name: message.name,
            service_account: message.service_account,
            addresses,
            mode,
            inbound: super::traffic::inbound(&message.inbound)?,
            telemetry: super::traffic::telemetry(&message.telemetry)?,
            same_node: if message.same_node_tls { SameNode::Tls } else { SameNode::Direct },
        })
    }
}

impl From<&LocalPod> for wire::LocalPod {
    fn from(pod: &LocalPod) -> Self {
        let LocalPod {
            uid,
            pod_uid,
            namespace,
            name,
            service_account,
            addresses,
            mode,
            strict_by,
            probe_ports,
            same_node,
            inbound,
            telemetry,
        } = pod;
        Self {
            uid: uid.clone(),
            pod_uid: pod_uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            service_account: service_account.clone(),
            addresses: addresses.iter().copied().map(ip_to_bytes).collect(),
            mode: wire::Mode::from(*mode).into(),
            strict_by: strict_by.as_ref().map(ToString::to_string).unwrap_or_default(),
            probe_ports: probe_ports.iter().copied().map(u32::from).collect(),
            same_node_tls: *same_node == SameNode::Tls,
            inbound: super::traffic::wire_inbound(inbound),
            telemetry: super::traffic::wire_telemetry(telemetry),
        }
    }
}

pub(super) fn mode_from_wire(mode: i32) -> Result<Mode, WireError> {
    match wire::Mode::try_from(mode) {
        Ok(wire::Mode::None) => Ok(Mode::None),
        Ok(wire::Mode::Mesh) => Ok(Mode::Mesh),
        Ok(wire::Mode::Observe) => Ok(Mode::Observe),
        Err(e) => Err(WireError::new("mode", e)),
    }
}

impl From<Mode> for wire::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::None => Self::None,
            Mode::Mesh => Self::Mesh,
            Mode::Observe => Self::Observe,
        }
    }
}
