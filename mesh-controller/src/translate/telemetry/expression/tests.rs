//! Filters as users write them, and as conditions.

use LogAttribute::{Host, Method, Path, ResponseFlags, SourceNamespace, SourceWorkload};
use LogCondition::{Any, Authenticated, Begins, Is, Not, Status};

use super::*;

fn is(attribute: LogAttribute, value: &str) -> LogCondition {
    Is { attribute, value: value.to_owned() }
}

fn begins(attribute: LogAttribute, value: &str) -> LogCondition {
    Begins { attribute, value: value.to_owned() }
}

fn no(condition: LogCondition) -> LogCondition {
    Not(Box::new(condition))
}

const fn code(from: u16, to: u16) -> LogCondition {
    Status { from, to }
}

const TOP: u16 = u16::MAX;

#[test]
fn each_condition_says_what_it_says_in_cel() {
    let table: Vec<(&str, Vec<LogCondition>)> = vec![
        ("response.code >= 400", vec![code(400, TOP)]),
        ("400 <= response.code", vec![code(400, TOP)]),
        ("response.code > 399 && response.code < 500", vec![code(400, TOP), code(0, 499)]),
        ("response.code <= 299", vec![code(0, 299)]),
        ("response.code == 404", vec![code(404, 404)]),
        ("response.code != 200", vec![Any(vec![code(0, 199), code(201, TOP)])]),
        ("!(response.code == 200)", vec![Any(vec![code(0, 199), code(201, TOP)])]),
        ("!(response.code >= 400)", vec![code(0, 399)]),
        ("response.code < 0", vec![Any(vec![])]),
        ("response.code > 70000", vec![Any(vec![])]),
        ("response.code in [500, 404, 501]", vec![Any(vec![code(404, 404), code(500, 501)])]),
        ("request.method == 'GET'", vec![is(Method, "GET")]),
        (r#""GET" == request.method"#, vec![is(Method, "GET")]),
        (r#"request.method in ["GET", "HEAD"]"#, vec![Any(vec![is(Method, "GET"), is(Method, "HEAD")])]),
        // Of what has no method neither holds.
        ("request.method != 'GET'", vec![begins(Method, ""), no(is(Method, "GET"))]),
        ("request.url_path == '/a'", vec![is(Path, "/a")]),
        ("request.path.startsWith('/health')", vec![begins(Path, "/health")]),
        ("!request.path.startsWith('/health')", vec![begins(Path, ""), no(begins(Path, "/health"))]),
        ("request.host == 'cart'", vec![is(Host, "cart")]),
        ("connection.mtls", vec![Authenticated]),
        ("!connection.mtls", vec![no(Authenticated)]),
        ("connection.mtls == false", vec![no(Authenticated)]),
        ("connection.mtls != false", vec![Authenticated]),
        ("!!connection.mtls", vec![Authenticated]),
        ("response.flags == 'UH'", vec![is(ResponseFlags, "UH")]),
        ("source.workload.name == 'cart'", vec![is(SourceWorkload, "cart")]),
        ("source.workload == 'cart'", vec![is(SourceWorkload, "cart")]),
        ("source.workload.startsWith('ca')", vec![begins(SourceWorkload, "ca")]),
        ("source.workload.namespace == 'shop'", vec![is(SourceNamespace, "shop")]),
        (r"request.path == '/a\'b\\'", vec![is(Path, r"/a'b\")]),
    ];
    for (text, expected) in table {
        assert_eq!(expression(text), Ok(expected), "{text}");
    }
}

#[test]
fn conditions_are_put_together_as_they_bind() {
    let (a, b, c) = (code(500, 500), Authenticated, is(Method, "GET"));
    let text = "response.code == 500 || connection.mtls && request.method == 'GET'";
    // All of several, where only one of several can be said.
    let both = no(Any(vec![no(b.clone()), no(c.clone())]));
    assert_eq!(expression(text), Ok(vec![Any(vec![a.clone(), both])]));
    let text = "(response.code == 500 || connection.mtls) && request.method == 'GET'";
    assert_eq!(expression(text), Ok(vec![Any(vec![a, b.clone()]), c.clone()]));
    let text = "!(response.code < 500 || !(connection.mtls && request.method == 'GET'))";
    assert_eq!(expression(text), Ok(vec![code(500, TOP), b, c]));
}

#[test]
fn what_is_not_understood_is_named_with_its_place() {
    let deep = format!("{}connection.mtls{}", "(".repeat(40), ")".repeat(40));
    let many = vec!["connection.mtls"; 65].join(" && ");
    let long = format!("request.host == '{}'", "a".repeat(3000));
    let table = [
        ("", 1, "an attribute or a value is missing"),
        ("response.code", 14, "a comparison is missing"),
        ("response.code >=", 17, "an attribute or a value is missing"),
        ("response.code >= '400'", 18, "response.code is compared with a number"),
        ("response.code >= 4OO", 18, "is not a whole number"),
        ("response.code >= 400u", 18, "is not a whole number"),
        ("response.code == 400 response.code", 22, "`response` is not understood here"),
        ("request.headers['x'] == 'a'", 1, "`request.headers` is not an attribute"),
        ("request.method", 15, "a comparison is missing"),
        ("request.method < 'a'", 16, "only response.code has an order"),
        ("request.method == 5", 19, "compared with a text"),
        ("request.path == '/a?b'", 17, "without their query"),
        ("request.path.startsWith('/a?')", 25, "without their query"),
        ("request.path.contains('a')", 14, "only startsWith"),
        ("request.path.startsWith(5)", 25, "startsWith takes a text"),
        ("request.path.startsWith('a'", 28, "`)` is missing"),
        ("request.path.matches('a')", 14, "only startsWith"),
        ("response.flags == 4", 19, "as in \"UH\""),
        ("connection.mtls == 'x'", 20, "with true or false"),
        ("'a' == 'b'", 1, "two values are compared"),
        ("true", 5, "a comparison is missing"),
        ("(connection.mtls", 17, "`)` is missing"),
        ("connection.mtls)", 16, "`)` is not understood here"),
        ("connection.mtls & connection.mtls", 17, "'&' is not understood"),
        ("request.path == 'a", 17, "the text has no end"),
        (r"request.path == 'a\n'", 19, "are understood in a text"),
        ("request.path == r'a'", 17, "with a prefix"),
        ("response.code in []", 19, "`]` is not understood"),
        ("response.code in [1, 'a']", 22, "is not what the attribute is compared with"),
        ("connection.mtls in [true]", 21, "is not what the attribute is compared with"),
        ("has(request.method)", 1, "`has` is not an attribute"),
        (&deep, 33, "more than 32 brackets"),
        (&many, 65 * 19 - 18, "more than 64 conditions"),
        (&long, 2049, "more than 2048 characters"),
    ];
    for (text, at, why) in table {
        let wrong = expression(text).expect_err(text);
        assert!(wrong.at == at && wrong.why.contains(why), "{text}: {wrong:?}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_written_ends_the_reader(text in r#"([ !()\[\],.<>=&|'"a-z0-9]|response\.code|request\.path|connection\.mtls| && | \|\| | in ){0,40}"#) {
        let _ = expression(&text);
    }
}
