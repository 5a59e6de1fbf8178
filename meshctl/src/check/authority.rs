//! The CA where cert-manager issues and renews it: its kind is installed, and the Certificate is ready. That the mesh
//! is set so, the controller's arguments say.

use k8s_openapi::api::apps::v1::Deployment;
use mesh_install::AUTHORITY as NAME;
use serde_json::Value;

use super::{Finding, facts::Facts};

const KIND: &str = "certificates.cert-manager.io";
const AREA: &str = "authority";

pub fn judge(facts: &Facts, controller: Option<&Deployment>) -> Option<Finding> {
    let controller = controller.filter(|controller| is_given(controller))?;
    if facts.kinds.as_ref().is_some_and(|kinds| !kinds.iter().any(|kind| kind == KIND)) {
        let hint = "install cert-manager from its project, or choose a CA of the mesh's own: --set certManager.issuer=";
        return Some(Finding::error(AREA, "cert-manager is to issue the CA, and its CRD is not there", hint));
    }
    let namespace = controller.metadata.namespace.as_deref();
    let found = facts
        .certificates
        .iter()
        .find(|one| one.metadata.name.as_deref() == Some(NAME) && one.metadata.namespace.as_deref() == namespace);
    let namespace = namespace.unwrap_or_default();
    let Some(certificate) = found else {
        let what = format!("there is no Certificate {namespace}/{NAME}, which cert-manager is to issue the CA for");
        return Some(Finding::error(AREA, what, "meshctl upgrade makes it anew"));
    };
    let conditions = certificate.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(match ready {
        Some(ready) if ready["status"] == "True" => {
            Finding::ok(AREA, format!("Certificate {namespace}/{NAME} is ready"))
        }
        Some(ready) => Finding::error(
            AREA,
            format!(
                "Certificate {namespace}/{NAME} is not ready: {} {}",
                text(&ready["reason"]),
                text(&ready["message"])
            ),
            format!("kubectl -n {namespace} describe certificate {NAME}, and its issuer"),
        ),
        None => Finding::error(
            AREA,
            format!("Certificate {namespace}/{NAME}: cert-manager says nothing of it"),
            "does cert-manager run?",
        ),
    })
}

/// The controller waits for a CA of somebody else.
fn is_given(controller: &Deployment) -> bool {
    let pod = controller.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let arguments = pod.into_iter().flat_map(|pod| &pod.containers).flat_map(|one| one.args.iter().flatten());
    arguments.into_iter().any(|argument| argument == "--ca-given")
}
