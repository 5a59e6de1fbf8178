//! Whom to ask, and what a failure says.

use super::*;
use crate::cluster::Access;

fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}

#[test]
fn what_is_typed_beats_the_environment() {
    let chosen =
        |agent, controller| sockets((vec![path("/a")], agent), (Some(path("/c")), controller)).map(Option::unwrap);
    assert_eq!(chosen(true, false).unwrap(), [path("/a")]);
    assert_eq!(chosen(false, true).unwrap(), [path("/c")]);
    assert_eq!(chosen(true, true).unwrap_err().exit_code(), 2);
    assert_eq!(chosen(false, false).unwrap_err().exit_code(), 2);
}

#[test]
fn without_any_socket_all_places_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, controller) = (folder.path().join("agent.sock"), folder.path().join("admin.sock"));
    assert_eq!(default_socket(&agent, &controller), None);
    std::fs::write(&controller, "").unwrap();
    assert_eq!(default_socket(&agent, &controller).unwrap(), controller);
    std::fs::write(&agent, "").unwrap();
    assert_eq!(default_socket(&agent, &controller).unwrap(), agent);

    let failure = or_socket(Failure::Usage("no kubeconfig".into()), &Cluster::default());
    assert_eq!(failure.exit_code(), 3);
    for place in [AGENT_SOCKET, CONTROLLER_SOCKET, "no kubeconfig", "--kubeconfig"] {
        assert!(failure.to_string().contains(place), "{failure}");
    }
    let named = Cluster { access: Access { kubeconfig: None, context: Some("x".into()) }, ..Cluster::default() };
    assert_eq!(or_socket(Failure::Usage("no such context".into()), &named).to_string(), "no such context");
}

#[tokio::test]
async fn sockets_and_a_cluster_are_not_named_together() {
    let named = Cluster { access: Access { kubeconfig: None, context: Some("x".into()) }, ..Cluster::default() };
    let chosen = Servers::choose((vec![path("/a")], true), (None, false), &named, String::new()).await;
    assert_eq!(chosen.unwrap_err().exit_code(), 2);
}

#[test]
fn a_wrong_question_is_not_a_lost_server() {
    let code = |code| Server::Socket(path("/a")).said(&Status::new(code, "said")).exit_code();
    assert_eq!(code(Code::InvalidArgument), 2);
    assert_eq!(code(Code::NotFound), 2);
    assert_eq!(code(Code::Unavailable), 3);
    assert_eq!(code(Code::Unimplemented), 3);
}

#[test]
fn a_socket_that_cannot_be_opened_says_what_to_do() {
    let said = |kind| server::of_connect(Path::new("/run/x.sock"), &io::Error::from(kind)).to_string();
    assert!(said(io::ErrorKind::NotFound).contains("no socket /run/x.sock: is the agent"));
    assert!(said(io::ErrorKind::PermissionDenied).contains("sudo"));
    assert!(said(io::ErrorKind::ConnectionRefused).contains("has ended"));
}
