//! Whom to ask, and what a failure says.

use super::*;

fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}

#[test]
fn what_is_typed_beats_the_environment() {
    let chosen = |agent, controller| {
        Servers::choose((vec![path("/a")], agent), (Some(path("/c")), controller), String::new())
            .map(|servers| servers.sockets)
    };
    assert_eq!(chosen(true, false).unwrap(), [path("/a")]);
    assert_eq!(chosen(false, true).unwrap(), [path("/c")]);
    assert_eq!(chosen(true, true).unwrap_err().exit_code(), 2);
    assert_eq!(chosen(false, false).unwrap_err().exit_code(), 2);
}

#[test]
fn without_any_socket_both_places_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (agent, controller) = (folder.path().join("agent.sock"), folder.path().join("admin.sock"));
    let failure = default_socket(&agent, &controller).unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    for place in [&agent, &controller] {
        assert!(failure.to_string().contains(&*place.to_string_lossy()), "{failure}");
    }
    std::fs::write(&controller, "").unwrap();
    assert_eq!(default_socket(&agent, &controller).unwrap(), controller);
    std::fs::write(&agent, "").unwrap();
    assert_eq!(default_socket(&agent, &controller).unwrap(), agent);
}

#[test]
fn a_wrong_question_is_not_a_lost_server() {
    let code = |code| Failure::of_status(Path::new("/a"), &Status::new(code, "said")).exit_code();
    assert_eq!(code(Code::InvalidArgument), 2);
    assert_eq!(code(Code::NotFound), 2);
    assert_eq!(code(Code::Unavailable), 3);
    assert_eq!(code(Code::Unimplemented), 3);
}

#[test]
fn a_socket_that_cannot_be_opened_says_what_to_do() {
    let said = |kind| Failure::of_connect(Path::new("/run/x.sock"), &io::Error::from(kind)).to_string();
    assert!(said(io::ErrorKind::NotFound).contains("no socket /run/x.sock: is the agent"));
    assert!(said(io::ErrorKind::PermissionDenied).contains("sudo"));
    assert!(said(io::ErrorKind::ConnectionRefused).contains("has ended"));
}
