//! Against a real API, which MESH_KUBE starts (the folder with up.sh).

mod api;
mod enrol;
mod follow;
mod status;

pub use api::RealApi;
