//! Against a real API, which MESH_KUBE starts (the folder with up.sh).

mod api;
mod enrol;
mod follow;
mod status;
mod traffic;

pub use api::RealApi;
