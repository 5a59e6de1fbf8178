//! Protocols in which the server speaks first, and real programs, work without a hint.

use anyhow::Result;

use crate::cast::Cast;

#[test]
fn the_greeting_arrives_before_the_client_says_a_word() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("server first")?;
    for server in [&near, &far] {
        server.serve("greet", 7002)?;
        let report = client.dial_once(server.at(7002), &["--listen-first", "--text", "good-bye"])?;
        let greeting = format!("hello {}:", client.ip);
        assert!(report.text.starts_with(&greeting), "{}: {report:?}", server.name);
        assert!(report.text.ends_with(&format!("this is {}\ngood-bye", server.at(7002))), "{report:?}");
    }
    drop(world);
    Ok(())
}

#[test]
fn redis_and_nginx_serve_and_nginx_logs_the_client() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("real programs")?;
    near.redis(6379)?;
    let nginx = far.nginx(80, "hello from the mesh\n")?;
    let cache = world.service("shop", "cache", 6379, 6379, &[&near])?;
    let web = world.service("shop", "web", 8080, 80, &[&far])?;
    world.settle()?;

    assert_eq!(client.ask(cache.addr(), "PING\\r\\n")?.text, "+PONG\r\n");
    assert_eq!(client.curl(&format!("http://{}/", web.addr()))?, "hello from the mesh\n");
    assert_eq!(nginx.access_log(1)?, [format!("{} \"GET / HTTP/1.1\" 200", client.ip)]);
    Ok(())
}
