//! What is settled, and what is left open.

use super::*;

#[test]
fn what_is_beyond_dispute_is_settled() {
    for (path, expected) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a//b", "/a//b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/../../a", "/a"),
        ("/a//../b", "/a/b"),
        ("/...", "/..."),
        ("/.a", "/.a"),
        ("/a.", "/a."),
        ("/%61dmin", "/admin"),
        ("/%41%7e%2D%5F%30", "/A~-_0"),
        ("/%2e%2e/a", "/a"),
        ("/a/%2E%2e/b", "/b"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%2Fb", "/a%2Fb"),
        ("/%252e%252e/", "/%252e%252e/"),
        ("/a;x=1/b", "/a;x=1/b"),
        ("/a%3b", "/a%3B"),
        ("/%c3%bc", "/%C3%BC"),
        ("/a{b}|[c]", "/a%7Bb%7D%7C%5Bc%5D"),
        ("/..;/a", "/..;/a"),
    ] {
        let found = normal(path).map(Cow::into_owned);
        assert_eq!(found.as_deref(), Ok(expected), "{path}");
        assert_eq!(normal(expected).as_deref(), Ok(expected), "of {path}: not normal yet");
    }
    for (path, fault) in [
        ("/%", PathFault::Escape),
        ("/%2", PathFault::Escape),
        ("/%zz", PathFault::Escape),
        ("/%u002f", PathFault::Escape),
        ("/%+1", PathFault::Escape),
        ("/a%00", PathFault::Zero),
    ] {
        assert_eq!(normal(path), Err(fault), "{path}");
    }
}

#[test]
fn others_may_read_more_into_it() {
    let none: &[&str] = &[];
    for (path, expected) in [
        ("/a/b", none),
        ("/a.b/c", none),
        ("/.a/b", none),
        ("/a/", none),
        ("/a//b", &["/a/b"]),
        ("//a", &["/a"]),
        ("/a%2Fb", &["/a/b"]),
        ("/a%2F..%2Fb", &["/a/../b", "/b"]),
        ("/x/%2F../b", &["/x//../b", "/x/../b", "/x/b", "/b"]),
        ("/a%5Cb", &["/a/b"]),
        ("/%252E%252E/b", &["/../b", "/b"]),
        ("/a;x=1/b", &["/a/b"]),
        ("/a/..;/b", &["/a/../b", "/b"]),
        ("/a%3Bx/b", &["/a;x/b", "/a/b"]),
        ("/a%3Bx%2F../b", &["/a;x/../b", "/a%3Bx/../b", "/a;x%2F../b", "/b", "/a/../b", "/a/b"]),
        ("/a%3Fb", &["/a"]),
        ("/a%23b/c", &["/a"]),
        ("/a%20b%2Fc", &["/a%20b/c"]),
        ("/v1/x%3Adelete", &["/v1/x:delete"]),
        ("/%C0%AFa", &["//a", "/a"]),
        ("/x/%C0%AE%C0%AE/a", &["/x/../a", "/a"]),
        ("/%E0%80%AFa", &["//a", "/a"]),
        ("/%F0%80%80%AFa", &["//a", "/a"]),
        ("/%C3%BC", none),
        ("/%FF", none),
        ("/100%25", none),
    ] {
        let mut found = readings(path).unwrap();
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{path}");
    }
    assert_eq!(readings("/%2500"), Err(PathFault::Zero));
    assert_eq!(readings(&format!("/%{}2f", "25".repeat(MOST))), Err(PathFault::Depth));
    assert_eq!(readings(&"/%2F;".repeat(60_000)), Err(PathFault::Depth));
}

#[test]
fn what_policies_name_is_spelled_like_what_requests_name() {
    for (written_by, expected) in [
        ("/a", "/a"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%7euser/%61", "/~user/a"),
        ("/a/{*}/b[1]", "/a/{*}/b%5B1%5D"),
        ("/a//../b", "/a//../b"),
        // Maybe the beginning of an escape.
        ("/a%2", "/a%2"),
        ("/a b?c#d", "/a b?c#d"),
    ] {
        assert_eq!(written(written_by), expected, "{written_by}");
    }
}

/// Whatever is read, it is read from a slash on, and each reading's readings are among the first one's.
#[test]
fn readings_are_paths() {
    let parts = ["/", "..", ".", "%2e", "%2f", "%5c", "%25", "a", ";x", "%3b", "%c0", "%ae", "%af", "%3f"];
    let mut seed = 7_u64;
    for _ in 0..5_000 {
        let mut path = "/".to_owned();
        for _ in 0..6 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            path.push_str(parts[(seed >> 33) as usize % parts.len()]);
        }
        let Ok(own) = normal(&path) else { continue };
        assert!(!own.split('/').any(|segment| matches!(segment, "." | "..")), "{path} -> {own}");
        assert_eq!(normal(&own).as_deref(), Ok(&*own), "of {path}: not normal yet");
        for reading in readings(&own).unwrap_or_default() {
            assert!(reading.starts_with('/') && reading.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
            assert_eq!(written(&reading), reading, "{path}");
        }
    }
}
