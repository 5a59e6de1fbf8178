//! The image as the OCI image specification has it: layer, configuration, manifest and index, each named by its digest,
//! in one archive (oci-layout).

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest as digest_of};
use serde_json::{Value, json};

use super::{
    ENTRYPOINT, USER,
    tar::{self, Entry},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const EPOCH: &str = "1970-01-01T00:00:00Z";

#[derive(Debug)]
pub struct Image {
    pub archive: Vec<u8>,
    /// Of the manifest: by this the image can be pulled.
    pub digest: String,
}

pub fn image(layer: &[u8], architecture: &str) -> Result<Image> {
    let layer_digest = digest(layer);
    let config = bytes(&json!({
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": {
            "User": USER,
            "Env": [format!("PATH={}", mesh_install::PROGRAMS)],
            "Entrypoint": [ENTRYPOINT],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "Node Mesh",
                "org.opencontainers.image.version": VERSION,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        // Not compressed, so that the digests of what is sent and of what is unpacked are one.
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        "history": [{ "created": EPOCH, "created_by": "cargo xtask image" }],
    }));
    let manifest = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", layer)],
    }));
    let mut in_index = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    in_index["platform"] = json!({ "architecture": architecture, "os": "linux" });
    in_index["annotations"] = json!({ "org.opencontainers.image.ref.name": VERSION });
    let index = bytes(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [in_index],
    }));
    let layout = bytes(&json!({ "imageLayoutVersion": "1.0.0" }));
    let file = |path: String, bytes: &[u8]| Entry { path, mode: 0o644, bytes: bytes.to_vec() };
    let mut entries = vec![file("oci-layout".into(), &layout), file("index.json".into(), &index)];
    entries.extend([layer, &config, &manifest].map(|blob| {
        let digest = digest(blob);
        file(format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")), blob)
    }));
    Ok(Image { archive: tar::archive(&entries)?, digest: digest(&manifest) })
}

/// As the specification writes it.
pub fn digest(bytes: &[u8]) -> String {
    let digest = digest_of(&SHA256, bytes);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("sha256:{hex}")
}

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
